"""A group's shared work done once: stock TRL's numbers, and as little work as promised."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import datasets
import pytest
import torch
from datasets import Dataset, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from PIL import Image
from support import tiny_models
from support.images import random_image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import GRPOConfig, GRPOTrainer

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.models import packing as shared_prompt
from mtrl_judge.models import shared_prefill as prefill
from mtrl_judge.models.packed_attention import LAYOUT, build_layout, packed_attention
from mtrl_judge.models.packing import (
    Prefix,
    join_images,
    packing_unsupported_reason,
    prefix_unsupported_reason,
    split_images,
    unique_prefixes,
)
from mtrl_judge.rl import shared_prompt_trainer as training
from mtrl_judge.rl.image_cache import processed_once
from mtrl_judge.rl.shared_prompt_trainer import SharedPromptGRPOTrainer, shuffle_groups

pytestmark = pytest.mark.usefixtures("one_thread")

Build = Callable[..., Path]
QWEN3 = tiny_models.tiny_qwen3_vl
FAMILIES = [
    (QWEN3, 1),
    (QWEN3, 2),
    (tiny_models.tiny_qwen2_5_vl, 1),
    (tiny_models.tiny_qwen2_5_vl, 2),
    (tiny_models.tiny_qwen3_vl_moe, 1),
    (tiny_models.tiny_llava, 2),
    (tiny_models.tiny_llava_onevision, 1),  # of several images TRL drops what tells them apart
]
PROMPTS, TOKENS = 8, 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Build], Path]:
    root = tmp_path_factory.mktemp("checkpoints")

    def folder(build: Build) -> Path:
        path = root / build.__name__
        return path if path.exists() else build(path)

    return folder


def pictures(images: int, draw: Random) -> list[Image.Image]:
    sizes = [(draw.choice([32, 48, 64, 96]), draw.choice([32, 64, 80])) for _ in range(images)]
    return [random_image(draw.getrandbits(32), size) for size in sizes]


def prompts(images: int, *, both_orders: bool = False) -> Dataset:
    """Prompts of unequal length with pictures of unequal size.

    With both orders every second prompt has the pictures of the one before, turned round.
    """
    draw = Random(0)
    rows: dict[str, list[Any]] = {"prompt": [], "images": []}
    for place in range(PROMPTS):
        text = f"Is it {'so ' * draw.randint(1, 9)}{place}?"
        rows["prompt"].append([{"role": "user", "content": text}])
        turned = both_orders and place % 2
        rows["images"].append(rows["images"][-1][::-1] if turned else pictures(images, draw))
    messages = [{"role": Value("string"), "content": Value("string")}]
    features = Features({"prompt": messages, "images": List(datasets.Image())})
    return Dataset.from_dict(rows, features=features)


def distinct(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [len(set(ids)) / len(ids) for ids in completion_ids]


def trainer_of(
    folder: Path, out: Path, *, kind: Any = SharedPromptGRPOTrainer, images: int = 1, **fields: Any
) -> Any:
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    own = {name: fields.pop(name) for name in ("share_prompt_check",) if name in fields}
    rows = fields.pop("rows", None) or prompts(images)
    model = fields.pop("model", None) or AutoModelForImageTextToText.from_pretrained(folder)
    images_of = ("image_token_id", "video_token_id", "image_token_index", "video_token_index")
    # TRL stops at a sampled image token, which has no image.
    never = {getattr(model.config, name) for name in images_of if hasattr(model.config, name)}
    # So that completions are of unequal length.
    model.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, *range(30, 80)]
    arguments = GRPOConfig(
        **{
            "output_dir": str(out),
            "use_cpu": True,
            "bf16": False,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "max_steps": 2,
            "per_device_train_batch_size": 16,
            "num_generations": 4,
            "max_completion_length": TOKENS,
            "router_aux_loss_coef": 0.0 if "moe" in folder.name else None,
            "gradient_checkpointing": False,
            "generation_kwargs": {"suppress_tokens": sorted(never)},
            "report_to": [],
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
            **{k: v for k, v in fields.items() if k != "peft_config"},
        }
    )
    return kind(
        model=model,
        args=arguments,
        train_dataset=rows,
        processing_class=processor,
        reward_funcs=[distinct],
        peft_config=fields.get("peft_config"),
        **own,
    )


# The same numbers


class Compared(SharedPromptGRPOTrainer):
    """Trains, and holds every micro-batch against stock TRL."""

    def __init__(self, **named: Any) -> None:
        self.found: list[tuple[Tensor, Tensor | None]] = []
        self.rows: list[tuple[int, int]] = []
        super().__init__(**named)
        self.model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, __: Any, named: dict[str, Any]) -> None:
        self.rows.append(named["input_ids"].shape)

    def _get_per_token_logps_and_entropies(self, *arguments: Any, **named: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*arguments, **named)
        self.found.append(found[:2])
        return found

    def _way(self, inputs: dict[str, Any], share: bool) -> Any:
        self._share_prompt = share
        self.rows.clear()
        loss = self._compute_loss(self.model, inputs)
        named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        self._share_prompt = True
        return loss, dict(zip(named, gradients, strict=True)), *self.found[-1], self.rows[0]

    def compute_loss(self, model: Any, inputs: dict[str, Any], **_: Any) -> Tensor:
        draw = torch.Generator().manual_seed(self._step)
        inputs["advantages"] = torch.randn(len(inputs["advantages"]), generator=draw)
        loss, gradients, logps, entropies, shape = self._way(inputs, share=True)
        theirs = self._way(inputs, share=False)
        assert shape[0] * shape[1] < 0.8 * theirs[4][0] * theirs[4][1], "nothing was shared"
        torch.testing.assert_close(loss, theirs[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(logps, theirs[2], rtol=0, atol=1e-5)
        torch.testing.assert_close(entropies, theirs[3], rtol=0, atol=1e-4)
        assert_same_gradients(gradients, theirs[1])
        return self._compute_loss(model, inputs)


def assert_same_gradients(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Within 1e-4 of each one's size; what is 0 but for roundings, as of a key's bias, is 0."""
    assert {n for n, g in ours.items() if g is None} == {n for n, g in theirs.items() if g is None}
    sizes = {name: float(g.norm()) for name, g in theirs.items() if g is not None}
    assert any(sizes.values()), "no gradient"
    for name, size in sizes.items():
        off = float((ours[name] - theirs[name]).norm())
        assert off <= max(1e-4 * size, 1e-7 * max(sizes.values())), name


@pytest.mark.parametrize(("build", "images"), FAMILIES)
def test_every_family_gives_trls_numbers(
    checkpoint: Any, tmp_path: Path, build: Build, images: int
) -> None:
    trainer_of(checkpoint(build), tmp_path, kind=Compared, images=images).train()


LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", lora_dropout=0.0)
OPTIONS: dict[str, dict[str, Any]] = {
    "KL term": {"beta": 0.1},
    "adapter": {"peft_config": LORA},
    "adapter and KL term": {"peft_config": LORA, "beta": 0.1},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "gradient checkpointing of an adapter": {"gradient_checkpointing": True, "peft_config": LORA},
    "two in a group": {"num_generations": 2},
    "twenty in a group": {"num_generations": 20, "per_device_train_batch_size": 40},
    "groups cut by micro-batches": {
        "per_device_train_batch_size": 6,
        "steps_per_generation": 4,
        "gradient_accumulation_steps": 4,
    },
    "several updates": {"num_iterations": 2, "max_steps": 4},
    "truncated completions are masked": {"mask_truncated_completions": True},
    "padded to a multiple": {"pad_to_multiple_of": 16},
}


@pytest.mark.parametrize("fields", OPTIONS.values(), ids=OPTIONS)
def test_every_option_gives_trls_numbers(
    checkpoint: Any, tmp_path: Path, fields: dict[str, Any]
) -> None:
    trainer_of(checkpoint(QWEN3), tmp_path, kind=Compared, images=2, **fields).train()


def test_completions_that_are_all_masked_give_trls_numbers(checkpoint: Any, tmp_path: Path) -> None:
    fields = {"mask_truncated_completions": True, "generation_kwargs": {"min_new_tokens": TOKENS}}
    with pytest.raises(AssertionError, match="no gradient"):  # and all else is as TRL's
        trainer_of(checkpoint(QWEN3), tmp_path, kind=Compared, **fields).train()


def test_a_frozen_vision_tower_gives_trls_numbers(checkpoint: Any, tmp_path: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(checkpoint(QWEN3))
    model.model.visual.requires_grad_(False)
    trainer_of(checkpoint(QWEN3), tmp_path, kind=Compared, model=model).train()


def test_other_attention_and_long_groups_give_trls_numbers(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mask alone is right as well, and a group may take several rows."""
    model = AutoModelForImageTextToText.from_pretrained(
        checkpoint(QWEN3), attn_implementation="eager"
    )
    trainer_of(checkpoint(QWEN3), tmp_path / "eager", kind=Compared, model=model).train()
    monkeypatch.setattr(shared_prompt, "LONGEST_ROW", 150)
    fields = {"num_generations": 16, "per_device_train_batch_size": 16}
    trainer_of(checkpoint(QWEN3), tmp_path / "long", kind=Compared, **fields).train()


def test_a_whole_run_is_stock_trls(checkpoint: Any, tmp_path: Path) -> None:
    """Same seed, same completions, same weights in the end."""
    runs = {}
    for kind in (GRPOTrainer, SharedPromptGRPOTrainer):
        fields = {"max_steps": 4, "beta": 0.05, "learning_rate": 1e-3}
        runs[kind] = trainer_of(checkpoint(QWEN3), tmp_path / kind.__name__, kind=kind, **fields)
        runs[kind].train()
    stock, ours = runs.values()
    assert list(ours._logs["completion"]) == list(stock._logs["completion"])
    for theirs, own in zip(stock.model.parameters(), ours.model.parameters(), strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-3, atol=1e-5)
    names = ("loss", "reward", "entropy", "kl", "grad_norm")
    for line, other in zip(ours.state.log_history, stock.state.log_history, strict=True):
        figures = {name: line[name] for name in names if name in line}
        assert figures == pytest.approx({n: other[n] for n in figures}, rel=1e-3, abs=1e-6)


class Engine:
    """Stands where TRL keeps vLLM; its answers are drawn, its log-probabilities made up."""

    def sync_weights(self) -> None:
        pass

    def generate(self, prompts: list[list[int]], **_: Any) -> Any:
        draw = Random(len(prompts))
        answers = [draw.choices(range(90, 200), k=draw.randint(2, TOKENS)) for _ in prompts]
        return prompts, answers, [[[-5.0] for _ in answer] for answer in answers], None


def test_log_probabilities_are_shared_where_vllm_generates(
    checkpoint: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mtrl_judge")
    trainer = trainer_of(checkpoint(QWEN3), tmp_path, kind=Compared, images=2)
    trainer.use_vllm, trainer.vllm_generation, trainer._last_loaded_step = True, Engine(), -1
    trainer.train()
    assert "share_prompt: log-probabilities read each prompt once" in caplog.messages
    assert any("sampling/importance_sampling_ratio/mean" in m for m in trainer.state.log_history)


# As little work


def test_each_image_is_decoded_preprocessed_and_seen_once(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Counter[int] = Counter()
    stock_read = Dataset.__getitems__

    def read_rows(self: Any, places: list[int]) -> Any:
        read.update(places)
        return stock_read(self, places)

    fields = {
        "images": 2,
        "max_steps": 1,
        "per_device_train_batch_size": 8,
        "steps_per_generation": 2,
        "gradient_accumulation_steps": 2,
        "share_prompt_check": False,
    }
    trainer = trainer_of(checkpoint(QWEN3), tmp_path, **fields)
    processed: list[int] = []
    processor = trainer.processing_class.image_processor
    stock_process = type(processor)._preprocess

    def process(self: Any, images: Sequence[Any], *arguments: Any, **named: Any) -> Any:
        processed.append(len(images))
        return stock_process(self, images, *arguments, **named)

    seen: list[int] = []
    monkeypatch.setattr(Dataset, "__getitems__", read_rows)
    monkeypatch.setattr(type(processor), "_preprocess", process)
    trainer.model.model.visual.register_forward_pre_hook(
        lambda _, __, named: seen.append(len(named["grid_thw"])), with_kwargs=True
    )
    trainer.train()
    own = 4 * 2  # 16 completions of 4 prompts of two pictures
    assert set(read.values()) == {1}  # the loader is one batch ahead
    assert sum(processed) == own
    assert sum(seen) == own + own  # once in generation, once in training


def test_an_image_of_several_prompts_is_seen_once(checkpoint: Any, tmp_path: Path) -> None:
    """As in the two orders of a pair."""
    fields = {"rows": prompts(2, both_orders=True), "shuffle_dataset": False}
    seen: list[int] = []
    trainer = trainer_of(checkpoint(QWEN3), tmp_path, kind=Compared, max_steps=1, **fields)
    trainer.model.model.visual.register_forward_pre_hook(
        lambda _, __, named: seen.append(len(named["grid_thw"])), with_kwargs=True
    )
    trainer.train()
    assert min(seen) == 2 * 2  # 16 completions of two pairs
    assert max(seen) == 16 * 2  # as stock TRL, which it was held against


@pytest.mark.parametrize(("build", "images"), FAMILIES)
def test_a_processor_that_takes_equal_rows_together_returns_the_same(
    checkpoint: Any, build: Build, images: int
) -> None:
    processor = AutoProcessor.from_pretrained(checkpoint(build))
    processor.tokenizer.padding_side = "left"
    draw = Random(1)
    rows = [(f"{'so ' * n}?", pictures(images, draw)) for n in (1, 4, 2)]
    rows.append((rows[0][0], rows[1][1]))  # known text, other pictures
    rows = [rows[k] for k in (0, 0, 1, 3, 2, 1, 3)]
    conversations = [
        [{"role": "user", "content": [*({"type": "image", "image": i} for i in own), part(text)]}]
        for text, own in rows
    ]
    texts = processor.apply_chat_template(conversations, add_generation_prompt=True)
    given = {"text": texts, "images": [own for _, own in rows]}
    with processed_once(processor) as once:
        found = once(**given, padding=True, return_tensors="pt")
        first = once.apply_chat_template(conversations, tokenize=True, return_dict=True)
    assert_equal(found, processor(**given, padding=True, return_tensors="pt"))
    assert_equal(
        first, processor.apply_chat_template(conversations, tokenize=True, return_dict=True)
    )


def part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def assert_equal(ours: Any, theirs: Any) -> None:
    assert dict(ours).keys() == dict(theirs).keys()
    for name in theirs:
        one, other = ours[name], theirs[name]
        same = zip(one, other, strict=True)
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in same), name


# Where it cannot be done


def test_it_says_once_what_it_cannot_share_and_why(
    checkpoint: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mtrl_judge")
    dropout = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.05)
    trainer_of(checkpoint(QWEN3), tmp_path / "dropout", peft_config=dropout).train()
    why = "because it has dropout (0.05), which is sampled anew for each copy of a prompt"
    assert caplog.messages == [
        f"share_prompt: {what} as TRL does it, {why}"
        for what in ("generation", "log-probabilities")
    ]
    caplog.clear()
    experts = checkpoint(tiny_models.tiny_qwen3_vl_moe)
    trainer_of(experts, tmp_path / "experts", router_aux_loss_coef=0.01, max_steps=2).train()
    assert (
        caplog.messages.count(
            "share_prompt: log-probabilities as TRL does it, because the auxiliary loss counts a "
            "prompt in every row"
        )
        == 1
    )


def test_it_says_that_it_shares_under_gradient_checkpointing(
    checkpoint: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mtrl_judge")
    trainer_of(checkpoint(QWEN3), tmp_path, gradient_checkpointing=True).train()
    said = "share_prompt: log-probabilities under gradient checkpointing read each prompt once"
    assert caplog.messages.count(said) == 1


def test_what_cannot_be_shared_is_known(checkpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def model() -> Any:
        return AutoModelForImageTextToText.from_pretrained(checkpoint(QWEN3))

    assert packing_unsupported_reason(model()) is None
    sliding = model()
    sliding.config.text_config.layer_types = ["full_attention", "sliding_attention"]
    assert packing_unsupported_reason(sliding) == "it has layers of sliding_attention"
    linear = model()
    linear.config.text_config.layer_types = ["linear_attention"] * 2
    assert "linear_attention" in str(packing_unsupported_reason(linear))
    flash = model()
    flash.config.text_config._attn_implementation = "flash_attention_2"
    assert "only sdpa and eager accept a custom mask" in str(packing_unsupported_reason(flash))
    assert prefix_unsupported_reason(flash) is None
    dropping = model()
    dropping.config.text_config.attention_dropout = 0.1
    assert "dropout (0.1)" in str(packing_unsupported_reason(dropping))
    monkeypatch.setattr(shared_prompt, "MROPE", ("qwen2_vl",))
    assert str(packing_unsupported_reason(model())).startswith(
        "its family, qwen3_vl, is not among qwen2_vl"
    )


def test_a_wrong_log_probability_stops_the_run(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(*arguments: Any) -> Any:
        packed = shared_prompt.pack(*arguments)
        packed.inputs["position_ids"] += 3 * (packed.labels_R_T != shared_prompt.IGNORED)
        return packed

    monkeypatch.setattr(training, "pack", shifted)
    with pytest.raises(JudgeError, match="of the first micro-batch differ from TRL's own: mean"):
        trainer_of(checkpoint(QWEN3), tmp_path / "checked").train()
    trainer_of(checkpoint(QWEN3), tmp_path / "trusted", share_prompt_check=False).train()


def test_a_wrong_cache_stops_the_run(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(prefill.PreallocatedLayer):
        def __init__(self, keys: Tensor, values: Tensor, room: int) -> None:
            super().__init__(keys, values.flip(0), room)

    monkeypatch.setattr(prefill, "PreallocatedLayer", Wrong)
    with pytest.raises(JudgeError, match="first generated tokens differ from TRL's own: next"):
        trainer_of(checkpoint(QWEN3), tmp_path).train()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_roundings_of_half_precision_do_not_stop_the_run(
    checkpoint: Any, tmp_path: Path, dtype: torch.dtype
) -> None:
    model = AutoModelForImageTextToText.from_pretrained(checkpoint(QWEN3), dtype=dtype)
    trainer_of(checkpoint(QWEN3), tmp_path, model=model, learning_rate=0.0).train()


# Parts


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 1000))
def test_groups_stay_together_and_draw_as_many_numbers(groups: int, size: int, seed: int) -> None:
    rows = groups * size
    batch = {"prompt_ids": torch.arange(rows) // size, "text": [str(n) for n in range(rows)]}
    torch.manual_seed(seed)
    shuffled = shuffle_groups(batch, size)
    after = torch.rand(1)
    torch.manual_seed(seed)
    torch.randperm(rows)
    assert torch.equal(torch.rand(1), after)
    blocks = shuffled["prompt_ids"].view(groups, size)
    assert (blocks == blocks[:, :1]).all()
    assert sorted(map(int, shuffled["text"])) == list(range(rows))
    assert [int(t) // size for t in shuffled["text"]] == shuffled["prompt_ids"].tolist()


GRIDS = st.lists(st.tuples(st.integers(1, 2), st.integers(1, 3)), min_size=1, max_size=3)


@given(st.lists(GRIDS, min_size=1, max_size=4), st.booleans())
def test_images_are_cut_by_prompt_and_joined_again(grids: list[list[Any]], patched: bool) -> None:
    counts = [len(own) for own in grids]
    grid = torch.tensor([[1, *edges] for own in grids for edges in own])
    patches = torch.arange(int(grid.prod(dim=1).sum()))[:, None]
    fields: dict[str, Any] = {"image_grid_thw": grid, "pixel_values": patches}
    if not patched:
        fields = {"pixel_values": torch.arange(sum(counts))[:, None], "sizes": list(grid)}
    pieces = split_images(fields, counts)
    assert len(pieces) == len(counts)
    assert [len(piece[list(fields)[-1 if not patched else 0]]) for piece in pieces] == counts
    joined = join_images(pieces)
    assert joined.keys() == fields.keys()
    assert torch.equal(joined["pixel_values"], fields["pixel_values"])


def test_prompts_are_the_same_only_with_their_images() -> None:
    ids = torch.tensor([1, 2, 3])
    one, other = ({"pixel_values": torch.full((2, 4), value)} for value in (0.0, 1.0))
    twice = [Prefix(ids, None, dict(one)), Prefix(ids.clone(), None, dict(one))]
    rows = [*twice, Prefix(ids, None, other), Prefix(ids[:2], None, one), Prefix(ids, None, {})]
    assert unique_prefixes(rows) == ([0, 2, 3, 4], [0, 0, 1, 2, 3])


SIZES = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), min_size=1, max_size=3)
SIZES = SIZES.filter(lambda sizes: any(map(sum, sizes)))


@given(SIZES, st.data())
def test_attention_skips_only_what_the_mask_forbids(sizes: list[list[int]], data: Any) -> None:
    bodies = [data.draw(st.integers(1, 5)) for _ in sizes]
    branches = []
    for body, row in zip(bodies, sizes, strict=True):
        padding = [shared_prompt.PADDING] * (max(bodies) - body)
        numbers = [number for k, n in enumerate(row) for number in [k + 1] * n]
        branches.append(torch.tensor([0] * body + padding + numbers))
    padded = torch.nn.utils.rnn.pad_sequence(
        branches, batch_first=True, padding_value=shared_prompt.PADDING
    )
    mask = shared_prompt.branch_mask(padded, "sdpa", torch.float32)
    torch.manual_seed(0)
    rows, width = padded.shape
    query = torch.randn(rows, 4, width, 8)
    key, value = torch.randn(2, rows, 2, width, 8)
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = 2, True  # type: ignore[assignment]
    dense, _ = packed_attention(module, query, key, value, mask)
    setattr(mask, LAYOUT, build_layout(bodies, sizes, "cpu"))
    ours, _ = packed_attention(module, query, key, value, mask)
    real = padded != shared_prompt.PADDING
    torch.testing.assert_close(ours[real], dense[real], rtol=1e-5, atol=1e-6)
