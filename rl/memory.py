"""What training takes of each device, in GiB by part, before anything is loaded.

Parameters are counted, on torch's meta device; states follow from their number and type. What the
passes take is an estimate from the sizes of the tensors that are kept for the backward pass
(Korthikanti et al., arXiv 2205.05198, section 4), and marked as such.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from mtrl_judge.common.files import expanded
from mtrl_judge.common.plain_yaml import yaml_mapping

from .recipes import RECIPES, find_accelerate_config
from .settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ARCHITECTURES = RECIPES / "architectures.yaml"
GIB = 2**30
DEVICE_GIB = 79.0  # what an H100 of 80 GB has
ASSUMED_PROMPT_TOKENS = 1280  # a megapixel at Qwen3-VL's 32 x 32 pixels a token, and 256 of text
# Tiles of TRL's fused head (trl/kernels/chunked_logprob.py, trl/trainer/utils.py of 1.16).
_HEAD_TOKENS, _HEAD_VOCABULARY = 4096, 32768


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
    """The parts, and their sums while training, generating and validating."""

    counts: Counts
    parts: list[Part]
    peaks: list[Part]


class _Sharding(NamedTuple):
    """Over how many processes each state is spread, and by which engine."""

    engine: str | None
    weights: int = 1
    gradients: int = 1
    optimizer: int = 1
    offloads: bool = False


def architecture(name: str, revision: str = "main") -> tuple[PreTrainedConfig, str] | None:
    """A model's configuration, and where it was read: its folder, our recipes' file, or the hub.

    Returns:
        None where there is no configuration.
    """
    from transformers import AutoConfig

    folder = expanded(name)
    if folder.is_dir():
        return AutoConfig.from_pretrained(folder), str(folder)
    known = yaml_mapping(ARCHITECTURES)
    if name in known:
        fields = dict(known[name])
        return AutoConfig.for_model(fields.pop("model_type"), **fields), ARCHITECTURES.name
    try:
        return AutoConfig.from_pretrained(name, revision=revision), "the hub"
    except (OSError, ValueError):
        return None


def count_parameters(settings: Settings, config: PreTrainedConfig) -> Counts:
    """Exact numbers of parameters; no weight is allocated."""
    import torch
    from transformers import AutoModelForImageTextToText

    from .model import adapter_config, freeze_vision

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
        of_model, names = count(model), model._no_split_modules or ()
        blocks = [count(module) for module in model.modules() if type(module).__name__ in names]
        adapter = adapter_config(settings, model)
        if settings.judge.freeze_vision:
            freeze_vision(model, adapter)
        if adapter is not None:
            from peft import get_peft_model

            if settings.judge.adapter == "mixlora":
                adapter.bind(model)
            model = get_peft_model(model, adapter)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Counts(of_model, trained, max(blocks, default=of_model))


def estimate(settings: Settings, config: PreTrainedConfig, prompt_tokens: int) -> Estimate:
    """Memory of one device by part, for prompts of so many tokens."""
    device = _Device(settings, config, prompt_tokens)
    states, passes = device.states(), device.passes()
    generating, validating = device.generating(), device.validating()
    held = sum(part.gib for part in states)
    sleeps = getattr(settings.trainer, "vllm_enable_sleep_mode", False)
    resident = held + (0.0 if sleeps else device.vllm_gib)
    if device.keeps_cache:
        resident += generating[0].gib
    peaks = [Part("while training", resident + sum(part.gib for part in passes), "")]
    if generating:
        peaks.append(Part("while generating", held + sum(part.gib for part in generating), ""))
    peaks.append(Part("while validating", resident + sum(part.gib for part in validating), ""))
    return Estimate(device.counts, [*states, *passes, *generating, *validating], peaks)


class _Pass(NamedTuple):
    """Tokens of a forward and backward pass, in words and numbers; parts are upper bounds."""

    counted: str
    tokens: int
    of_prompts: int
    of_answers: int


class _Device:
    """One device of a run."""

    def __init__(self, settings: Settings, config: Any, prompt_tokens: int) -> None:
        self.settings, self.judge, self.trainer = settings, settings.judge, settings.trainer
        self.model, self.adapters = settings.model, settings.model.use_peft
        self.config, self.text = config, config.get_text_config()
        self.prompt_tokens = prompt_tokens
        longest = getattr(self.trainer, "max_completion_length", None)
        self.answer_tokens = int(longest or settings.answer_tokens)
        self.counts = count_parameters(settings, config)

    # How numbers are kept

    @cached_property
    def sharding(self) -> _Sharding:
        if self.judge.accelerate is None:
            return _Sharding(None)
        path = find_accelerate_config(self.judge.accelerate)
        launcher = yaml_mapping(path)
        processes = self.judge.processes
        if launcher.get("distributed_type") == "FSDP":
            offloads = bool(launcher.get("fsdp_config", {}).get("fsdp_offload_params"))
            return _Sharding("FSDP", processes, processes, processes, offloads)
        if launcher.get("distributed_type") == "DEEPSPEED":
            deepspeed = launcher.get("deepspeed_config", {})
            stage = int(deepspeed.get("zero_stage", 2))
            weights, gradients, optimizer = (processes if stage >= n else 1 for n in (3, 2, 1))
            offloads = deepspeed.get("offload_optimizer_device", "none") != "none"
            return _Sharding("DeepSpeed", weights, gradients, optimizer, offloads)
        return _Sharding(None)

    @cached_property
    def compute_bytes(self) -> int:
        mixed = self.trainer.bf16 or self.trainer.fp16
        return 2 if mixed or self.model.dtype in ("bfloat16", "float16") else 4

    @cached_property
    def half_under_deepspeed(self) -> bool:
        """DeepSpeed keeps weights in the type it computes in, and those in float32 itself."""
        return self.sharding.engine == "DeepSpeed" and self.compute_bytes == 2

    @cached_property
    def weight_bytes(self) -> float:
        """Bytes of a weight on the device."""
        if self.model.load_in_4bit or self.model.load_in_8bit:
            return 0.5 if self.model.load_in_4bit else 1.0
        if self.half_under_deepspeed:
            return 2.0
        return 4.0 if self.model.dtype in (None, "float32") else 2.0

    @cached_property
    def trained_bytes(self) -> int:
        """Bytes of a trained weight and of its gradient.

        PEFT keeps adapters in float32, except under ZeRO-3, where TRL keeps them as the model is.
        """
        if self.half_under_deepspeed:
            return 2
        if self.adapters or self.sharding.engine == "FSDP":
            return 4
        return int(self.weight_bytes)

    @cached_property
    def vllm_gib(self) -> float:
        """What vLLM claims of the device, 0 where it is on another or not used."""
        trainer = self.trainer
        if self.settings.method == "sft" or not trainer.use_vllm or trainer.vllm_mode == "server":
            return 0.0
        return float(trainer.vllm_gpu_memory_utilization * DEVICE_GIB)

    @property
    def keeps_cache(self) -> bool:
        """Whether the cache of generation stays, because compiled decoding refers to it."""
        trainer = self.trainer
        static = getattr(trainer, "cache_implementation", None) == "static"
        return static and not trainer.use_vllm and self.sharding.engine is None

    # What it holds

    def states(self) -> list[Part]:
        """Weights, gradients and optimizer states, which are there all the time."""
        counts, shards = self.counts, self.sharding
        model = counts.model * self.weight_bytes / shards.weights
        trained = counts.trained * self.trained_bytes
        weights = model + (trained / shards.weights if self.adapters else 0)
        gradients_note = f"{self.trained_bytes} bytes each of {counts.trained:,}"
        parts = [
            _part("weights", weights, f"{self.weight_bytes:g} bytes each", shards.weights),
            _part("gradients", trained / shards.gradients, gradients_note, shards.gradients),
            self._optimizer(),
        ]
        if getattr(self.trainer, "beta", 0.0) and not self.adapters:
            parts.append(_part("reference model", model, "beta above 0", shards.weights))
        return parts

    def _optimizer(self) -> Part:
        name, shards = "optimizer states", self.sharding
        if shards.offloads:
            return Part(name, 0.0, "in the memory of the host")
        bytes_each, note = 2 * self.trained_bytes, "AdamW's two moments"
        if "8bit" in str(self.trainer.optim):
            bytes_each = 2
        if shards.engine == "DeepSpeed" and self.trained_bytes == 2:
            bytes_each, note = 12, "AdamW's two moments and the weights in float32"
        size = self.counts.trained * bytes_each / shards.optimizer
        return _part(name, size, note, shards.optimizer)

    def passes(self) -> list[Part]:
        """What the forward and backward pass of one micro-batch add."""
        width, text, largest = self.compute_bytes, self.text, self._largest_pass()
        checkpointed = self.trainer.gradient_checkpointing
        layers, per_token = text.num_hidden_layers, self._block_width()
        kept = layers * text.hidden_size + per_token if checkpointed else layers * per_token
        activations = largest.tokens * kept * width
        if self.adapters and self.trained_bytes > width:
            inputs = self._adapted_width() * (1 if checkpointed else layers)
            activations += largest.tokens * inputs * self.trained_bytes
        if self.judge.adapter == "mixlora":
            # Of each of a block's seven projections: what comes in, the gates, and their product.
            factors = 7 * 3 * self.judge.mixlora_factors
            kept = factors * (1 if checkpointed else layers)
            activations += largest.tokens * kept * self.trained_bytes
        if not (self.adapters or self.judge.freeze_vision):
            activations += self._vision_numbers(largest.of_prompts, checkpointed) * width
        tiles = min(largest.of_answers, _HEAD_TOKENS) * min(text.vocab_size, _HEAD_VOCABULARY)
        head = tiles * 4 * 2
        if not self.adapters:
            head += text.vocab_size * text.hidden_size * 4
        how = "with" if checkpointed else "without"
        return [
            _part(
                "activations",
                activations,
                f"estimate: {largest.counted} tokens, {how} checkpointing",
            ),
            _part("head", head, "estimate: tiles of the logits, gradient of the head"),
            *self._gathered_block(),
        ]

    def _largest_pass(self) -> _Pass:
        """The tokens of the largest forward and backward pass.

        Without a limit, prompts are counted as if they were not shared: whether they can be is not
        known before the model is loaded.
        """
        rows, limit = self.trainer.per_device_train_batch_size, self.judge.micro_batch_tokens
        prompt, answer = self.prompt_tokens, self.answer_tokens
        if limit is None:
            counted = f"{rows} x ({prompt} + {answer})"
            return _Pass(counted, rows * (prompt + answer), rows * prompt, rows * answer)
        group = self.trainer.num_generations if self.judge.share_prompt else 1
        if prompt + group * answer > limit:
            counted = f"one group of {prompt} + {group} x {answer}"
            return _Pass(counted, prompt + group * answer, prompt, group * answer)
        tokens = min(limit, math.ceil(rows / group) * prompt + rows * answer)
        return _Pass(f"{tokens:,}", tokens, tokens, tokens)

    def generating(self) -> list[Part]:
        """What sampling completions adds."""
        trainer = self.trainer
        if self.settings.method == "sft" or (trainer.use_vllm and trainer.vllm_mode == "server"):
            return []
        if trainer.use_vllm:
            asleep = ", asleep otherwise" if trainer.vllm_enable_sleep_mode else ", all the time"
            share = f"{trainer.vllm_gpu_memory_utilization:g} of {DEVICE_GIB:g} GiB{asleep}"
            return [Part("vLLM", self.vllm_gib, f"{share}; the weights and its cache")]
        # TRL generates a process's whole generation batch at once (`_generate_single_turn`).
        rows = trainer.per_device_train_batch_size * trainer.steps_per_generation
        cache = self._cache("cache of generation", rows, self.answer_tokens)
        gathered = trainer.ds3_gather_for_generation
        return [cache, *(self._gathered_model() if gathered else self._gathered_block())]

    def validating(self) -> list[Part]:
        """What greedy answers by the training processes add."""
        rows = self.trainer.per_device_eval_batch_size
        cache = self._cache("cache of validation", rows, self.settings.answer_tokens)
        return [cache, *self._gathered_model()]

    def _cache(self, name: str, rows: int, answer_tokens: int) -> Part:
        text, tokens = self.text, self.prompt_tokens + answer_tokens
        per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * self._head_size()
        note = f"keys and values of {rows} x ({self.prompt_tokens} + {answer_tokens}) tokens"
        return _part(name, rows * tokens * per_token * self.compute_bytes, note)

    def _gathered_block(self) -> list[Part]:
        if self.sharding.weights == 1:
            return []
        size = 2 * self.counts.largest_block * self.compute_bytes
        return [_part("gathered blocks", size, "estimate: one in use, one on its way")]

    def _gathered_model(self) -> list[Part]:
        """ZeRO-3 gathers all weights to generate (trl/models/utils.py); FSDP2 a block at a time."""
        if self.sharding.weights == 1 or self.sharding.engine != "DeepSpeed":
            return []
        size = self.counts.model * self.weight_bytes
        return [_part("gathered weights", size, "ZeRO-3 gathers them to generate")]

    # Sizes of the model

    def _head_size(self) -> int:
        head_dim = getattr(self.text, "head_dim", None)
        return int(head_dim or self.text.hidden_size // self.text.num_attention_heads)

    def _block_width(self) -> int:
        """Numbers per token that one block keeps for its backward pass; attention keeps no matrix.

        The inputs and outputs of the two norms, queries and the result of attention, keys and
        values, and the four tensors of a gated feed-forward layer; of experts those that a token
        goes to.
        """
        text = self.text
        width = 4 * text.hidden_size
        width += 2 * (text.num_attention_heads + text.num_key_value_heads) * self._head_size()
        experts = getattr(text, "num_experts_per_tok", None)
        if experts:
            return int(width + experts * (4 * text.moe_intermediate_size + 2 * text.hidden_size))
        return int(width + 4 * text.intermediate_size)

    def _adapted_width(self) -> int:
        """Inputs per token of one block's projections, all taken as adapted.

        PEFT casts them to the precision of the adapters, each projection for itself, and keeps them
        for the backward pass (`peft/tuners/lora/layer.py`, `_cast_input_dtype`). Expert layers have
        no adapters.
        """
        text = self.text
        attention = 3 * text.hidden_size + text.num_attention_heads * self._head_size()
        if getattr(text, "num_experts_per_tok", None):
            return int(attention)
        return int(attention + 2 * text.hidden_size + text.intermediate_size)

    def _vision_numbers(self, image_tokens: int, checkpointed: bool) -> int:
        """Numbers that the vision tower keeps for its backward pass."""
        vision = getattr(self.config, "vision_config", None)
        if vision is None or not hasattr(vision, "depth"):
            return 0
        patches = image_tokens * vision.spatial_merge_size**2
        block = 8 * vision.hidden_size + 2 * vision.intermediate_size
        kept = vision.depth * vision.hidden_size + block if checkpointed else vision.depth * block
        return int(patches * kept)


def _part(name: str, size: float, note: str, processes: int = 1) -> Part:
    """A part of so many bytes, as much as one of the processes holds of it."""
    over = f", over {processes} processes" if processes > 1 else ""
    return Part(name, size / GIB, note + over)
