"""What training takes of each device, in GiB by part, before anything is loaded.

Parameters are counted, on torch's meta device; states follow from their number and type. What the
passes take is an estimate from the sizes of the tensors that are kept for the backward pass
(Korthikanti et al., arXiv 2205.05198, section 4), and marked as such.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from .recipes import RECIPES, find_accelerate_config
from .settings import Settings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

ARCHITECTURES = RECIPES / "architectures.yaml"
GIB = 2**30
DEVICE_GIB = 79.0  # what an H100 of 80 GB has
ASSUMED_PROMPT_TOKENS = 1280  # a megapixel at Qwen3-VL's 32 x 32 pixels a token, and 256 of text
# Tiles of TRL's fused head (trl/kernels/chunked_logprob.py, trl/trainer/utils.py of 1.16).
_HEAD_TOKENS, _HEAD_VOCABULARY = 4096, 32768


class Architecture(NamedTuple):
    """A model's configuration, and where it was read."""

    config: PreTrainedConfig
    source: str


class Counts(NamedTuple):
    """Parameters of the model without adapters, of what is trained, and of its largest block."""

    model: int
    trained: int
    largest_block: int


class Part(NamedTuple):
    """One thing that a device must hold."""

    name: str
    gib: float
    note: str


class Estimate(NamedTuple):
    """The parts, and what they come to while training, drawing completions and validating."""

    counts: Counts
    parts: list[Part]
    peaks: list[Part]


class _Sharding(NamedTuple):
    """What is spread over the processes, and how."""

    engine: str | None
    weights: int = 1
    gradients: int = 1
    optimiser: int = 1
    offloads: bool = False


def architecture(name_or_path: str, revision: str = "main") -> Architecture | None:
    """The model's configuration: of a folder, else as shipped for our recipes, else the hub's.

    Returns:
        None where no configuration is to be had.
    """
    from transformers import AutoConfig

    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return Architecture(AutoConfig.from_pretrained(folder), str(folder))
    known = yaml.safe_load(ARCHITECTURES.read_text(encoding="utf-8"))
    if name_or_path in known:
        fields = dict(known[name_or_path])
        config = AutoConfig.for_model(fields.pop("model_type"), **fields)
        return Architecture(config, f"{ARCHITECTURES.name}, shipped")
    try:
        config = AutoConfig.from_pretrained(name_or_path, revision=revision)
    except (OSError, ValueError):
        return None
    return Architecture(config, "the hub")


def count_parameters(settings: Settings, config: PreTrainedConfig) -> Counts:
    """Exact numbers of parameters; no weight is made."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
        in_model = _count(model)
        blocks = [_count(each) for each in model.modules() if _is_block(model, each)]
        model = _as_trained(model, settings)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Counts(in_model, trained, max(blocks, default=in_model))


def estimate(settings: Settings, config: PreTrainedConfig, prompt_tokens: int) -> Estimate:
    """Memory of one device by part, for prompts of so many tokens."""
    counts = count_parameters(settings, config)
    states = _states(settings, counts)
    passes = _passes(settings, config, counts, prompt_tokens)
    drawing = _drawing(settings, config, counts, prompt_tokens)
    validating = _validating(settings, config, counts, prompt_tokens)
    held = sum(part.gib for part in states)
    resident = (
        0.0 if getattr(settings.trainer, "vllm_enable_sleep_mode", False) else _vllm(settings)
    )
    peaks = [Part("while training", held + sum(p.gib for p in passes) + resident, "")]
    if drawing:
        peaks.append(Part("while drawing", held + sum(p.gib for p in drawing), ""))
    validated = held + sum(p.gib for p in validating) + resident
    peaks.append(Part("while validating", validated, ""))
    return Estimate(counts, [*states, *passes, *drawing, *validating], peaks)


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _is_block(model: Any, module: torch.nn.Module) -> bool:
    return type(module).__name__ in (model._no_split_modules or ())


def _as_trained(model: Any, settings: Settings) -> Any:
    """The model with the adapters and the frozen parameters that training gives it."""
    from trl import get_peft_config

    from .model import freeze_vision

    adapter = get_peft_config(settings.model)
    if settings.judge.freeze_vision:
        freeze_vision(model, adapter)
    if adapter is None:
        return model
    from peft import get_peft_model

    return get_peft_model(model, adapter)


def _states(settings: Settings, counts: Counts) -> list[Part]:
    """Weights, gradients and optimiser states, which are there all the time."""
    shards, width = _sharding(settings), _weight_bytes(settings)
    trained_width = _trained_bytes(settings)
    adapters = settings.model.use_peft
    weights = counts.model * width / shards.weights
    if adapters:
        weights += counts.trained * trained_width / shards.weights
    parts = [
        Part("weights", weights / GIB, f"{width:g} bytes each{_over(shards.weights)}"),
        Part(
            "gradients",
            counts.trained * trained_width / shards.gradients / GIB,
            f"{trained_width} bytes each of {counts.trained:,}{_over(shards.gradients)}",
        ),
        _optimiser(settings, counts, shards, trained_width),
    ]
    if getattr(settings.trainer, "beta", 0.0) and not adapters:
        note = f"beta above 0{_over(shards.weights)}"
        parts.append(Part("reference model", counts.model * width / shards.weights / GIB, note))
    return parts


def _optimiser(settings: Settings, counts: Counts, shards: _Sharding, trained_width: int) -> Part:
    if shards.offloads:
        return Part("optimiser states", 0.0, "in the memory of the host")
    moment = 1 if "8bit" in str(settings.trainer.optim) else trained_width
    each, note = 2 * moment, "AdamW's two moments"
    if shards.engine == "DeepSpeed" and trained_width == 2:
        each, note = 12, "AdamW's two moments and the weights in float32"
    gib = counts.trained * each / shards.optimiser / GIB
    return Part("optimiser states", gib, f"{note}{_over(shards.optimiser)}")


def _over(processes: int) -> str:
    return f", over {processes} processes" if processes > 1 else ""


def _passes(settings: Settings, config: Any, counts: Counts, prompt_tokens: int) -> list[Part]:
    """What the forward and backward pass of one micro-batch add."""
    trainer = settings.trainer
    batch, answer = trainer.per_device_train_batch_size, _answer_tokens(settings)
    width, tokens = _compute_bytes(settings), batch * (prompt_tokens + answer)
    text = config.get_text_config()
    layers, per_token = text.num_hidden_layers, _block_width(text)
    checkpointed = trainer.gradient_checkpointing
    kept = layers * text.hidden_size + per_token if checkpointed else layers * per_token
    activations = tokens * kept * width
    if not (settings.model.use_peft or settings.judge.freeze_vision):
        activations += _vision_bytes(config, batch * prompt_tokens, width, checkpointed)
    how = "with" if checkpointed else "without"
    note = f"estimate: {batch} x ({prompt_tokens} + {answer}) tokens, {how} checkpointing"
    scored = min(batch * answer, _HEAD_TOKENS)
    head = scored * min(text.vocab_size, _HEAD_VOCABULARY) * 4 * 2
    if not settings.model.use_peft:
        head += text.vocab_size * text.hidden_size * 4
    parts = [
        Part("activations", activations / GIB, note),
        Part("head", head / GIB, "estimate: tiles of the logits, gradient of the head"),
    ]
    return [*parts, *_gathered_block(settings, counts)]


def _drawing(settings: Settings, config: Any, counts: Counts, prompt_tokens: int) -> list[Part]:
    """What drawing completions adds."""
    trainer = settings.trainer
    if settings.method == "sft" or (trainer.use_vllm and trainer.vllm_mode == "server"):
        return []
    if trainer.use_vllm:
        share = trainer.vllm_gpu_memory_utilization
        asleep = ", asleep otherwise" if trainer.vllm_enable_sleep_mode else ", all the time"
        note = f"{share:g} of {DEVICE_GIB:g} GiB{asleep}; the weights and its cache"
        return [Part("vLLM", _vllm(settings), note)]
    # TRL draws a process's whole generation batch at once (`_generate_single_turn`).
    rows = trainer.per_device_train_batch_size * trainer.steps_per_generation
    cache = _cache(settings, config, "cache of drawing", rows, prompt_tokens)
    gathers = trainer.ds3_gather_for_generation
    return [cache, *(_gathered_model if gathers else _gathered_block)(settings, counts)]


def _validating(settings: Settings, config: Any, counts: Counts, prompt_tokens: int) -> list[Part]:
    """What greedy answers by the training processes add."""
    rows = settings.trainer.per_device_eval_batch_size
    cache = _cache(settings, config, "cache of validation", rows, prompt_tokens)
    return [cache, *_gathered_model(settings, counts)]


def _cache(settings: Settings, config: Any, name: str, rows: int, prompt_tokens: int) -> Part:
    text = config.get_text_config()
    answer = settings.answer_tokens if "validation" in name else _answer_tokens(settings)
    each = 2 * text.num_hidden_layers * text.num_key_value_heads * _head_size(text)
    size = rows * (prompt_tokens + answer) * each * _compute_bytes(settings)
    return Part(
        name, size / GIB, f"keys and values of {rows} x ({prompt_tokens} + {answer}) tokens"
    )


def _gathered_block(settings: Settings, counts: Counts) -> list[Part]:
    if _sharding(settings).weights == 1:
        return []
    size = 2 * counts.largest_block * _compute_bytes(settings)
    return [Part("gathered blocks", size / GIB, "estimate: one in use, one on its way")]


def _gathered_model(settings: Settings, counts: Counts) -> list[Part]:
    """ZeRO-3 gathers all weights to generate (trl/models/utils.py); FSDP2 a block at a time."""
    shards = _sharding(settings)
    if shards.weights == 1 or shards.engine != "DeepSpeed":
        return []
    size = counts.model * _weight_bytes(settings)
    return [Part("gathered weights", size / GIB, "ZeRO-3 gathers them to generate")]


def _vllm(settings: Settings) -> float:
    trainer = settings.trainer
    if settings.method == "sft" or not trainer.use_vllm or trainer.vllm_mode == "server":
        return 0.0
    return float(trainer.vllm_gpu_memory_utilization * DEVICE_GIB)


def _answer_tokens(settings: Settings) -> int:
    longest = getattr(settings.trainer, "max_completion_length", None)
    return int(longest or settings.answer_tokens)


def _sharding(settings: Settings) -> _Sharding:
    if settings.judge.accelerate is None:
        return _Sharding(None)
    path = find_accelerate_config(settings.judge.accelerate)
    launcher = yaml.safe_load(path.read_text(encoding="utf-8"))
    processes = settings.judge.processes
    if launcher.get("distributed_type") == "FSDP":
        offloads = bool(launcher.get("fsdp_config", {}).get("fsdp_offload_params"))
        return _Sharding("FSDP", processes, processes, processes, offloads)
    if launcher.get("distributed_type") == "DEEPSPEED":
        deepspeed = launcher.get("deepspeed_config", {})
        stage = int(deepspeed.get("zero_stage", 2))
        weights, gradients, optimiser = (processes if stage >= n else 1 for n in (3, 2, 1))
        offloads = deepspeed.get("offload_optimizer_device", "none") != "none"
        return _Sharding("DeepSpeed", weights, gradients, optimiser, offloads)
    return _Sharding(None)


def _weight_bytes(settings: Settings) -> float:
    """Bytes of a weight as it lies on the device."""
    if settings.model.load_in_4bit or settings.model.load_in_8bit:
        return 0.5 if settings.model.load_in_4bit else 1.0
    if _sharding(settings).engine == "DeepSpeed" and _compute_bytes(settings) == 2:
        return 2.0
    return 4.0 if settings.model.dtype in (None, "float32") else 2.0


def _trained_bytes(settings: Settings) -> int:
    """Bytes of a trained weight and of its gradient.

    PEFT keeps adapters in float32, except under ZeRO-3, where TRL keeps them as the model is.
    """
    sharding = _sharding(settings)
    if sharding.engine == "DeepSpeed" and _compute_bytes(settings) == 2:
        return 2
    if settings.model.use_peft or sharding.engine == "FSDP":
        return 4
    return int(_weight_bytes(settings))


def _compute_bytes(settings: Settings) -> int:
    mixed = settings.trainer.bf16 or settings.trainer.fp16
    return 2 if mixed or settings.model.dtype in ("bfloat16", "float16") else 4


def _head_size(text: Any) -> int:
    own = getattr(text, "head_dim", None)
    return int(own or text.hidden_size // text.num_attention_heads)


def _block_width(text: Any) -> int:
    """Numbers a token that one block keeps for its backward pass, attention not materialised.

    The two norms' inputs and outputs, queries and what attention makes of them, keys and values,
    and the four tensors of a gated feed-forward layer; of experts those that a token goes to.
    """
    around = 4 * text.hidden_size
    around += 2 * (text.num_attention_heads + text.num_key_value_heads) * _head_size(text)
    experts = getattr(text, "num_experts_per_tok", None)
    if experts:
        return int(around + experts * (4 * text.moe_intermediate_size + 2 * text.hidden_size))
    return int(around + 4 * text.intermediate_size)


def _vision_bytes(config: Any, image_tokens: int, width: int, checkpointed: bool) -> int:
    vision = getattr(config, "vision_config", None)
    if vision is None or not hasattr(vision, "depth"):
        return 0
    patches = image_tokens * vision.spatial_merge_size**2
    block = 8 * vision.hidden_size + 2 * vision.intermediate_size
    kept = vision.depth * vision.hidden_size + block if checkpointed else vision.depth * block
    return int(patches * kept * width)
