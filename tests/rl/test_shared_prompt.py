"""A group's shared work done once: the same numbers as TRL's own, and the work that it saves."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import datasets
import pytest
import torch
from datasets import Dataset, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from PIL import Image
from support import tiny_models
from support.adapters import mixlora, shaken
from support.flash_on_cpu import flash_on_cpu
from support.images import random_image
from support.vllm_stand_in import vllm_stand_in
from torch import Tensor
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    CompileConfig,
    Qwen3VLMoeTextConfig,
    TrainerCallback,
)
from transformers.image_utils import make_flat_list_of_images
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from trl import GRPOConfig, GRPOTrainer

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.models import packing, shared_prefill
from mtrl_judge.models.packed_linear_attention import Fork
from mtrl_judge.rl import grpo_trainer, passes, self_check
from mtrl_judge.rl.generation_batch import shuffle_groups
from mtrl_judge.rl.grpo_trainer import JudgeGRPOTrainer
from mtrl_judge.rl.image_cache import processed_once
from mtrl_judge.rl.sampler_check import SamplerCheck

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
    (tiny_models.tiny_llava_onevision, 1),  # TRL does not support several images per prompt here
    (tiny_models.tiny_qwen3_5, 1),
    (tiny_models.tiny_qwen3_5, 2),
    (tiny_models.tiny_gemma3, 2),
    (tiny_models.tiny_internvl, 2),
]
PROMPTS, TOKENS = 8, 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Build], Path]:
    root = tmp_path_factory.mktemp("checkpoints")

    def folder(build: Build) -> Path:
        path = root / build.__name__
        return path if path.exists() else build(path)

    return folder


def images_of(count: int, random: Random) -> list[Image.Image]:
    sizes = [(random.choice([32, 48, 64, 96]), random.choice([32, 64, 80])) for _ in range(count)]
    return [random_image(random.getrandbits(32), size) for size in sizes]


def prompts(images: int, *, count: int = PROMPTS, both_orders: bool = False) -> Dataset:
    """Prompts of unequal length with images of unequal size.

    With both orders every second prompt has the images of the one before in reverse.
    """
    random = Random(0)
    rows: dict[str, list[Any]] = {"prompt": [], "images": []}
    for index in range(count):
        text = f"Is it {'so ' * random.randint(1, 9)}{index}?"
        rows["prompt"].append([{"role": "user", "content": text}])
        reverse = both_orders and index % 2
        rows["images"].append(rows["images"][-1][::-1] if reverse else images_of(images, random))
    columns = {"task": "t", "kind": "pointwise", "label": "Yes", "verdicts": ["Yes", "No"]}
    features = {
        "prompt": [{"role": Value("string"), "content": Value("string")}],
        "images": List(datasets.Image()),
        **dict.fromkeys(("task", "kind", "label"), Value("string")),
        "verdicts": List(Value("string")),
    }
    rows |= {name: [value] * count for name, value in columns.items()}
    return Dataset.from_dict(rows, features=Features(features))


class Distinct:
    """Rewards distinct tokens, and keeps the completions."""

    __name__ = "distinct"

    def __init__(self) -> None:
        self.completions: list[list[int]] = []

    def __call__(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
        self.completions += map(list, completion_ids)
        return [len(set(ids)) / len(ids) for ids in completion_ids]


def trainer_of(
    folder: Path, out: Path, *, kind: Any = JudgeGRPOTrainer, images: int = 1, **fields: Any
) -> Any:
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    own = {
        name: fields.pop(name)
        for name in ("share_prompt_check", "micro_batch_tokens")
        if name in fields
    }
    reward = fields.pop("reward", None) or Distinct()
    rows = fields.pop("rows", None) or prompts(images)
    model = fields.pop("model", None) or AutoModelForImageTextToText.from_pretrained(folder)
    names = ("image_token_id", "video_token_id", "image_token_index", "video_token_index")
    # TRL stops at a sampled image token, which has no image.
    never = {getattr(model.config, name) for name in names if hasattr(model.config, name)}
    # So that completions are of unequal length.
    model.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, *range(30, 80)]
    arguments = GRPOConfig(
        **{
            "output_dir": str(out),
            "use_cpu": True,
            "bf16": False,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "max_steps": 1,
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
        reward_funcs=[reward],
        peft_config=fields.get("peft_config"),
        **own,
    )


# The same numbers


class Compared(JudgeGRPOTrainer):
    """Trains, and holds every micro-batch against stock TRL."""

    def __init__(self, **named: Any) -> None:
        self.found: list[tuple[Tensor, Tensor | None]] = []
        self.rows: list[tuple[int, int]] = []
        self.random = torch.Generator().manual_seed(0)
        super().__init__(**named)
        self.model.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, _: Any, __: Any, named: dict[str, Any]) -> None:
        self.rows.append(named["input_ids"].shape)

    # TRL returns them to nothing but its loss.
    def _get_per_token_logps_and_entropies(self, *arguments: Any, **named: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*arguments, **named)
        self.found.append(found[:2])
        return found

    def results(self, inputs: dict[str, Any], *, share: bool, tokens: int | None = None) -> Any:
        self.share_prompt, self.micro_batch_tokens = share, tokens
        self.rows.clear()
        self.model.zero_grad()  # of the micro-batch before
        loss = super().compute_loss(self.model, inputs)
        loss.backward()
        named = self.model.named_parameters()
        gradients = {name: part.grad for name, part in named if part.requires_grad}
        self.model.zero_grad()
        self.share_prompt, self.micro_batch_tokens = True, None
        return loss.detach(), gradients, *self.found[-1], [r * t for r, t in self.rows]

    def compute_loss(self, model: Any, inputs: dict[str, Any], **_: Any) -> Tensor:
        inputs["advantages"] = torch.randn(len(inputs["advantages"]), generator=self.random)
        # The first time, the self-check's passes follow.
        loss, gradients, logps, entropies, (tokens, *_) = self.results(inputs, share=True)
        theirs = self.results(inputs, share=False)
        assert tokens < 0.8 * theirs[4][0], "nothing was shared"
        torch.testing.assert_close(loss, theirs[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(logps, theirs[2], rtol=0, atol=1e-5)
        torch.testing.assert_close(entropies, theirs[3], rtol=0, atol=1e-4)
        assert_same_gradients(gradients, theirs[1])
        loss, gradients, *_, each = self.results(inputs, share=True, tokens=tokens // 2)
        assert len(each) > 1
        torch.testing.assert_close(loss, theirs[0], rtol=1e-5, atol=1e-6)
        assert_same_gradients(gradients, theirs[1])
        return super().compute_loss(model, inputs)


def assert_same_gradients(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Equal within 1e-4 of their norms; 0 up to rounding, as of a key's bias, counts as 0."""
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
    "KL term, two in a group": {"beta": 0.1, "num_generations": 2},
    "KL term of an adapter": {"peft_config": LORA, "beta": 0.1},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "gradient checkpointing of an adapter": {"gradient_checkpointing": True, "peft_config": LORA},
    "twenty in a group, padded to a multiple": {
        "num_generations": 20,
        "per_device_train_batch_size": 40,
        "pad_to_multiple_of": 16,
    },
    "groups cut by micro-batches": {
        "per_device_train_batch_size": 6,
        "steps_per_generation": 4,
        "gradient_accumulation_steps": 4,
    },
    "several updates, truncated completions masked": {
        "num_iterations": 2,
        "max_steps": 3,
        "mask_truncated_completions": True,
    },
}


@pytest.mark.parametrize("fields", OPTIONS.values(), ids=OPTIONS)
def test_every_option_gives_trls_numbers(
    checkpoint: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, fields: dict[str, Any]
) -> None:
    caplog.set_level(logging.INFO, logger="mtrl_judge")
    fields = {"images": 2, "share_prompt_check": False, **fields}  # every family is checked above
    trainer_of(checkpoint(QWEN3), tmp_path, kind=Compared, **fields).train()
    shared = [line for line in caplog.messages if line.startswith("share_prompt: log-prob")]
    under = " under gradient checkpointing" if "gradient_checkpointing" in fields else ""
    assert shared.count(f"share_prompt: log-probabilities{under}: each prompt once") == 1


MIXLORA: dict[str, dict[str, Any]] = {
    "packed": {"beta": 0.1},
    "packed, gradient checkpointing": {"gradient_checkpointing": True, "share_prompt_check": True},
    "a row for each prompt": {"attention": "eager"},
}


@pytest.mark.parametrize("fields", MIXLORA.values(), ids=MIXLORA)
def test_adapters_selected_by_the_prompt_give_trls_numbers(
    checkpoint: Any, tmp_path: Path, fields: dict[str, Any]
) -> None:
    folder = checkpoint(QWEN3)
    attention = fields.get("attention", "sdpa")
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation=attention)
    named = {"share_prompt_check": False, **fields, "peft_config": mixlora(folder, model)}
    named.pop("attention", None)
    trainer = trainer_of(folder, tmp_path, kind=Compared, model=model, images=2, **named)
    before = shaken(trainer.model, spread=0.1).state_dict()
    before = {name: weight.clone() for name, weight in before.items() if "lora_router" in name}
    trainer.train()
    after = trainer.model.state_dict()
    assert before
    assert all(not torch.equal(after[name], weight) for name, weight in before.items())


# Every loss of TRL 1.16 (``GRPOTrainer._compute_loss``), and ratios of whole completions with the
# losses for which it recommends or requires them.
LOSSES = [
    *((loss, "token") for loss in ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "vespo")),
    *((loss, "sequence") for loss in ("grpo", "sapo", "luspo")),
]


@pytest.mark.parametrize(("loss", "level"), LOSSES)
def test_every_loss_gives_trls_numbers(
    checkpoint: Any, tmp_path: Path, loss: str, level: str
) -> None:
    """In the second of two updates, where ratios are no longer 1."""
    trainer = trainer_of(
        checkpoint(QWEN3),
        tmp_path,
        kind=Compared,
        loss_type=loss,
        importance_sampling_level=level,
        num_iterations=2,
        max_steps=2,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        share_prompt_check=False,
    )
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.parametrize("build", [QWEN3, tiny_models.tiny_qwen3_5, tiny_models.tiny_gemma3])
def test_completions_that_are_all_masked_give_trls_numbers(
    checkpoint: Any, tmp_path: Path, build: Build
) -> None:
    fields = {"mask_truncated_completions": True, "generation_kwargs": {"min_new_tokens": TOKENS}}
    with pytest.raises(AssertionError, match="no gradient"):  # and all else is as TRL's
        trainer_of(checkpoint(build), tmp_path, kind=Compared, **fields).train()


def test_a_frozen_vision_tower_gives_trls_numbers(checkpoint: Any, tmp_path: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(checkpoint(QWEN3))
    model.model.visual.requires_grad_(False)
    trainer_of(checkpoint(QWEN3), tmp_path, kind=Compared, model=model).train()


@pytest.mark.parametrize("attention", ["eager", "sdpa over several devices"])
def test_masks_alone_give_trls_numbers(checkpoint: Any, tmp_path: Path, attention: str) -> None:
    model = AutoModelForImageTextToText.from_pretrained(
        checkpoint(QWEN3), attn_implementation=attention.partition(" ")[0]
    )
    trainer = trainer_of(checkpoint(QWEN3), tmp_path, kind=Compared, model=model)
    if attention != "eager":  # as far as packing can see
        model.hf_device_map = {"model.visual": 0, "model.language_model": 1}
    trainer.train()


class Flash:
    """flash_attention_2 as the stock path sees it; its package runs on GPUs only."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self, module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, **named: Any
    ) -> Any:
        assert mask is None or mask.dim() == 2, "flash_attention_2 takes no masks of token pairs"
        self.calls += 1
        if mask is not None:
            causal_T_T = torch.ones(k.shape[2], k.shape[2], dtype=torch.bool).tril()
            mask = (mask.bool()[:, None, None] & causal_T_T)[:, :, -q.shape[2] :]
            mask = mask | ~mask.any(dim=-1, keepdim=True)
        return sdpa_attention_forward(module, q, k, v, mask, **named)


@pytest.mark.parametrize("kernels", [True, False])
def test_flash_attention_shares_the_prompt(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: bool
) -> None:
    """With PyTorch's flash kernels for the packed rows, and without them."""
    stock, name = Flash(), "flash_attention_2"
    monkeypatch.setitem(AttentionInterface._global_mapping, name, stock)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint(QWEN3))
    model.config.text_config._attn_implementation = name
    with flash_on_cpu() if kernels else nullcontext([]) as calls:
        trainer_of(checkpoint(QWEN3), tmp_path, kind=Compared, model=model, images=2).train()
    assert stock.calls
    assert bool(calls) == kernels


def test_a_whole_run_is_stock_trls(checkpoint: Any, tmp_path: Path) -> None:
    """Same seed, same completions, same weights in the end."""
    runs, completions = {}, []
    for kind in (GRPOTrainer, JudgeGRPOTrainer):
        reward = Distinct()
        completions.append(reward.completions)
        rows = prompts(1, count=16)  # one epoch: TRL's order of the second one differs
        fields = {"rows": rows, "reward": reward, "max_steps": 4, "beta": 0.05}
        fields["learning_rate"] = 1e-3
        runs[kind] = trainer_of(checkpoint(QWEN3), tmp_path / kind.__name__, kind=kind, **fields)
        runs[kind].train()
    stock, ours = runs.values()
    assert completions[0] == completions[1] != []
    for theirs, own in zip(stock.model.parameters(), ours.model.parameters(), strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-3, atol=1e-5)
    names = ("loss", "reward", "entropy", "kl", "grad_norm")
    for line, other in zip(ours.state.log_history, stock.state.log_history, strict=True):
        figures = {name: line[name] for name in names if name in line}
        assert figures == pytest.approx({n: other[n] for n in figures}, rel=1e-3, abs=1e-6)


class Unshared(Compared):
    """Compares passes of TRL's own computation with the whole micro-batch."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], **_: Any) -> Tensor:
        inputs["advantages"] = torch.randn(len(inputs["advantages"]), generator=self.random)
        loss, gradients, *_, (tokens,) = self.results(inputs, share=False)
        ours = self.results(inputs, share=False, tokens=tokens // 3)
        assert len(ours[4]) > 3, "of as many tokens, but whole rows"
        assert max(ours[4]) <= tokens // 3
        torch.testing.assert_close(ours[0], loss, rtol=1e-5, atol=1e-6)
        assert_same_gradients(ours[1], gradients)
        return JudgeGRPOTrainer.compute_loss(self, model, inputs)


def test_passes_without_sharing_give_trls_numbers(checkpoint: Any, tmp_path: Path) -> None:
    trainer_of(checkpoint(QWEN3), tmp_path, kind=Unshared, images=2).train()


def test_a_run_in_passes_trains_the_same(checkpoint: Any, tmp_path: Path) -> None:
    """With log-probabilities before the loss, of the old policy and of the reference model."""
    # SGD, as AdamW makes steps of full size of gradients that are nothing but rounding.
    fields: dict[str, Any] = {"optim": "sgd", "learning_rate": 0.05, "beta": 0.05}
    fields |= {"num_iterations": 2, "max_steps": 4}
    fields |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    runs, packed = [], dict[int | None, list[int]]()

    def count(_: Any, __: Any, named: dict[str, Any], counted: list[int]) -> None:
        if named["attention_mask"].dim() == 4:
            counted.append(named["input_ids"].numel())

    for tokens in (None, 100):
        packed[tokens] = []
        out = tmp_path / str(tokens)
        run = trainer_of(checkpoint(QWEN3), out, micro_batch_tokens=tokens, **fields)
        for model in (run.model, run.ref_model):
            hook = partial(count, counted=packed[tokens])
            model.register_forward_pre_hook(hook, with_kwargs=True)
        run.train()
        runs.append(run.model)
    assert max(packed[100]) <= 100 < min(packed[None])
    start = AutoModelForImageTextToText.from_pretrained(checkpoint(QWEN3))
    models = (model.parameters() for model in (*runs, start))
    moved = 0.0
    for one, other, before in zip(*models, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
        moved = max(moved, float((one - before).abs().max()))
    assert moved > 1e-3


GROUPS = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 60)).map(
        lambda drawn: passes.Group([0] * drawn[0], drawn[1])
    ),
    min_size=1,
    max_size=12,
)


@given(GROUPS, st.integers(1, 100), st.integers(1, 12))
def test_passes_hold_whole_groups_within_their_budget(
    groups: list[passes.Group], budget: int, count: int
) -> None:
    rows = iter(range(100))
    groups = [passes.Group([next(rows) for _ in group.rows], group.tokens) for group in groups]
    filled = passes.fill_passes(groups, budget)
    assert sorted(group for each in filled for group in each) == sorted(groups)
    for each in filled:
        assert len(each) == 1 or sum(group.tokens for group in each) <= budget
    every = sorted(row for group in groups for row in group.rows)
    count = min(count, len(every))
    cut = passes.rows_of_passes(filled, count)
    assert len(cut) == max(count, len(filled))
    assert all(cut)
    assert sorted(row for each in cut for row in each) == every
    together = {frozenset(group.rows) for group in groups}
    whole = {frozenset(rows) for rows in together if any(rows <= set(each) for each in cut)}
    assert whole == together or len(cut) > len(groups)


def test_decoding_into_a_static_cache_samples_the_same(checkpoint: Any, tmp_path: Path) -> None:
    """It is compiled once for prompts of several lengths."""
    graphs: list[Any] = []

    def compiler(graph: Any, *_: Any, **__: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = CompileConfig(backend=compiler)
    compiled._compile_all_devices = True
    samples, numbers = [], []
    for name, fields in (("dynamic", {}), ("static", {"cache_implementation": "static"})):
        reward = Distinct()
        trainer = trainer_of(
            checkpoint(QWEN3),
            tmp_path / name,
            reward=reward,
            max_steps=3,
            learning_rate=0.0,
            **fields,
        )
        trainer.generation_config.compile_config = compiled if fields else None
        trainer.add_callback(_EachStep(lambda: numbers.append(len(graphs))))
        trainer.train()
        samples.append(reward.completions)
    assert samples[0] == samples[1]
    assert numbers[:3] == [0, 0, 0]
    assert 0 < numbers[3] == numbers[5]


class _EachStep(TrainerCallback):  # type: ignore[misc]
    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.call()


def test_log_probabilities_are_shared_where_vllm_generates(
    checkpoint: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, logger="mtrl_judge")
    # A random model gives a share to image tokens, which vLLM never samples.
    monkeypatch.setattr(SamplerCheck, "FLOOR", math.inf)
    fields = {"images": 2, "use_vllm": True, "generation_kwargs": {}}
    with vllm_stand_in(monkeypatch):
        trainer = trainer_of(checkpoint(QWEN3), tmp_path, kind=Compared, **fields)
        trainer.train()
    assert "share_prompt: log-probabilities: each prompt once" in caplog.messages
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
    stock_process = type(processor).preprocess

    def process(self: Any, images: Sequence[Any], *arguments: Any, **named: Any) -> Any:
        processed.append(len(make_flat_list_of_images(images)))
        return stock_process(self, images, *arguments, **named)

    seen: list[int] = []
    monkeypatch.setattr(Dataset, "__getitems__", read_rows)
    monkeypatch.setattr(type(processor), "preprocess", process)
    trainer.model.model.visual.register_forward_pre_hook(
        lambda _, __, named: seen.append(len(named["grid_thw"])), with_kwargs=True
    )
    trainer.train()
    images = 4 * 2  # 16 completions of 4 prompts of two images
    assert set(read.values()) == {1}  # the loader is one batch ahead
    assert sum(processed) == images
    assert sum(seen) == images + images  # once in generation, once in training


def test_an_image_of_several_prompts_is_seen_once(checkpoint: Any, tmp_path: Path) -> None:
    """As in the two orders of a pair."""
    fields = {"rows": prompts(2, both_orders=True), "shuffle_dataset": False}
    fields |= {"max_steps": 1, "share_prompt_check": False}
    seen: list[int] = []
    trainer = trainer_of(checkpoint(QWEN3), tmp_path, kind=Compared, **fields)
    trainer.model.model.visual.register_forward_pre_hook(
        lambda _, __, named: seen.append(len(named["grid_thw"])), with_kwargs=True
    )
    trainer.train()
    # 16 completions of two pairs, first in one pass; then in passes of one pair each.
    assert (seen[0], min(seen)) == (2 * 2, 2)
    assert max(seen) == 16 * 2  # as stock TRL, which it was held against


@pytest.mark.parametrize(("build", "images"), FAMILIES)
def test_a_processor_that_takes_equal_rows_together_returns_the_same(
    checkpoint: Any, build: Build, images: int
) -> None:
    processor = AutoProcessor.from_pretrained(checkpoint(build))
    processor.tokenizer.padding_side = "left"
    draw = Random(1)
    rows = [(f"{'so ' * n}?", images_of(images, draw)) for n in (1, 4, 2)]
    rows.append((rows[0][0], rows[1][1]))  # the same text with other images
    rows = [rows[k] for k in (0, 0, 1, 3, 2, 1, 3)]
    conversations = [
        [{"role": "user", "content": [*({"type": "image", "image": i} for i in own), part(text)]}]
        for text, own in rows
    ]
    texts = processor.apply_chat_template(conversations, add_generation_prompt=True)
    given = {"text": texts, "images": [own for _, own in rows]}
    config = AutoConfig.from_pretrained(checkpoint(build))
    with processed_once(processor, config) as once:
        found = once(**given, padding=True, return_tensors="pt")
        first = once.apply_chat_template(conversations, tokenize=True, return_dict=True)
    assert_equal(found, processor(**given, padding=True, return_tensors="pt"))
    assert_equal(
        first, processor.apply_chat_template(conversations, tokenize=True, return_dict=True)
    )


def test_tiles_of_equal_images_are_counted_once(
    checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As TRL counts them for InternVL: for the images of all rows."""
    processor = AutoProcessor.from_pretrained(checkpoint(tiny_models.tiny_internvl))
    stock = processor.image_processor
    processed: list[int] = []
    stock_process = type(stock).preprocess

    def process(self: Any, images: Sequence[Any], *arguments: Any, **named: Any) -> Any:
        processed.append(len(make_flat_list_of_images(images)))
        return stock_process(self, images, *arguments, **named)

    monkeypatch.setattr(type(stock), "preprocess", process)
    first, second = images_of(2, Random(1))
    rows = [[first, second], [first, second], [second, first], [first]]
    named = {"crop_to_patches": True, "return_tensors": "pt"}
    with processed_once(processor, None) as once:
        found = once.image_processor(rows, **named)
    assert_equal(found, stock(rows, **named))
    assert processed == [2, 7]


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
        f"share_prompt: {what}: as in TRL, {why}" for what in ("generation", "log-probabilities")
    ]


@pytest.mark.skipif(
    not hasattr(Qwen3VLMoeTextConfig(), "output_router_logits"),
    reason="this version of Qwen3-VL-MoE has no auxiliary loss that TRL can read",
)
def test_the_auxiliary_loss_of_experts_is_computed_as_in_trl(
    checkpoint: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mtrl_judge")
    experts = checkpoint(tiny_models.tiny_qwen3_vl_moe)
    trainer_of(experts, tmp_path / "experts", router_aux_loss_coef=0.01, max_steps=2).train()
    assert (
        caplog.messages.count(
            "share_prompt: log-probabilities: as in TRL, because the auxiliary loss counts a "
            "prompt in every row"
        )
        == 1
    )


# The self-check


def off_by_one(model: Any, prompts: Any, answers: Any) -> Any:
    packed = packing.pack(model, prompts, answers)
    packed.inputs["position_ids"] += packed.labels_R_T != packing.IGNORED
    return packed


def positions_of_padding(model: Any, prompts: Any, answers: Any) -> Any:
    """Answers continue from the number of tokens, padding and all of an image's included."""
    packed = packing.pack(model, prompts, answers)
    answered_R_T = packed.labels_R_T != packing.IGNORED
    start = packed.inputs["position_ids"].masked_fill(~answered_R_T, 10_000).amin(-1, keepdim=True)
    longest = max(len(prompt.ids_P) for prompt in prompts)
    packed.inputs["position_ids"] += (longest - 1 - start) * answered_R_T
    return packed


def prompts_of_others(model: Any, prompts: Any, answers: Any) -> Any:
    return packing.pack(model, prompts[1:] + prompts[:1], answers)


def images_of_others(model: Any, prompts: Any, answers: Any) -> Any:
    turned = [{**p.images, "pixel_values": p.images["pixel_values"].flip(0, -1)} for p in prompts]
    moved = [p._replace(images=i) for p, i in zip(prompts, turned, strict=True)]
    return packing.pack(model, moved, answers)


def seen_padding(model: Any, prompts: Any, answers: Any) -> Any:
    return with_seen(model, prompts, answers, lambda prompt_length: slice(0, prompt_length))


def seen_future(model: Any, prompts: Any, answers: Any) -> Any:
    return with_seen(model, prompts, answers, lambda prompt_length: slice(prompt_length, None))


def with_seen(model: Any, prompts: Any, answers: Any, columns: Callable[[int], slice]) -> Any:
    """Answers also attend to columns that they must not attend to."""
    packed = packing.pack(model, prompts, answers)
    masks = packed.inputs["attention_mask"]
    length = max(len(prompt.ids_P) for prompt in prompts) - 1
    for mask in masks.values() if isinstance(masks, dict) else [masks]:
        if isinstance(mask, Fork):
            mask.mask_M_P[:, columns(length)] = True
        elif hasattr(mask, packing.LAYOUT):
            getattr(mask, packing.LAYOUT).masked.mask_N_1_C_Q[..., columns(length)] = True
        else:
            mask[:, :, length:, columns(length)] = True
    return packed


def cache_of_others(model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
    prefilled = stock_prefill(model, inputs, *rest)
    for layer in prefilled["past_key_values"].layers:
        if hasattr(layer, "_keys"):
            layer._keys, layer._values = layer._keys.flip(0), layer._values.flip(0)
        else:
            layer.reorder_cache(torch.arange(len(inputs["input_ids"])).flip(0))
    return prefilled


def attended_padding(model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
    prefilled = stock_prefill(model, inputs, *rest)
    return {**prefilled, "attention_mask": torch.ones_like(prefilled["attention_mask"])}


def delta_off_by_one(model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
    prefilled = stock_prefill(model, inputs, *rest)
    model.base_model.rope_deltas = model.base_model.rope_deltas + 1
    return prefilled


stock_prefill = shared_prefill.prefill
PACKING_FAULTS = (
    off_by_one,
    positions_of_padding,
    prompts_of_others,
    images_of_others,
    seen_padding,
    seen_future,
)


STOPS = pytest.raises(JudgeError, match="differ from TRL's by")


def test_the_last_place_of_a_logit_does_not_stop_the_run() -> None:
    """Those of a nearly certain answer, whose logit is 40, next to those of the next float32."""
    logit = torch.tensor(40.0)
    theirs_B_C = (logit - 40.01).expand(2, 3)
    next_B_C = (torch.nextafter(logit, torch.tensor(0.0)) - 40.01).expand(2, 3)
    everything = torch.ones(2, 3, dtype=torch.bool)
    rest = (theirs_B_C, theirs_B_C, everything, torch.float32)
    self_check.check("log-probabilities", next_B_C, *rest)
    with STOPS:
        self_check.check("log-probabilities", theirs_B_C + 1e-5, *rest)


class Planted(JudgeGRPOTrainer):
    """Makes every mistake in turn, which must stop the run, and then goes on without one."""

    def _generate_single_turn(self, *arguments: Any, **named: Any) -> Any:
        generate = super()._generate_single_turn
        faults = [cache_of_others, attended_padding]
        if self.model.config.model_type in packing.MROPE:
            faults.append(delta_off_by_one)
        for fault in faults:
            with patch.object(shared_prefill, "prefill", fault), STOPS:
                generate(*arguments, **named)
        return generate(*arguments, **named)

    def _get_per_token_logps_and_entropies(self, *arguments: Any, **named: Any) -> Any:
        compute = super()._get_per_token_logps_and_entropies
        for fault in PACKING_FAULTS:
            self._checks_logps = True
            with patch.object(grpo_trainer, "pack", fault), STOPS:
                compute(*arguments, **named)
        self._checks_logps = True
        return compute(*arguments, **named)


# A family of each kind of layers and positions. With a mask in one of its two layers, which
# bfloat16 may hide, Qwen3.5 is tested in float32.
PLANTED = [
    *((QWEN3, dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)),
    (tiny_models.tiny_qwen3_vl_moe, torch.bfloat16),
    (tiny_models.tiny_qwen2_5_vl, torch.bfloat16),
    (tiny_models.tiny_llava, torch.bfloat16),
    (tiny_models.tiny_llava_onevision, torch.bfloat16),
    (tiny_models.tiny_gemma3, torch.bfloat16),
    (tiny_models.tiny_qwen3_5, torch.float32),
]


@pytest.mark.parametrize(
    ("build", "dtype"), PLANTED, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_a_mistake_stops_the_run_in_every_type(
    checkpoint: Any, tmp_path: Path, build: Build, dtype: torch.dtype
) -> None:
    model = AutoModelForImageTextToText.from_pretrained(checkpoint(build), dtype=dtype)
    trainer = trainer_of(checkpoint(build), tmp_path, kind=Planted, model=model)
    trainer.train()
    assert trainer.state.global_step == 1


def test_a_run_that_is_not_checked_goes_on(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpo_trainer, "pack", off_by_one)
    trainer_of(checkpoint(QWEN3), tmp_path, share_prompt_check=False).train()


ROUNDED: dict[str, dict[str, Any]] = {
    "bfloat16": {"dtype": torch.bfloat16},
    "another seed": {"dtype": torch.bfloat16, "seed": 1},
    "float16": {"dtype": torch.float16},
    "autocast, adapter, checkpointing": {
        "bf16": True,
        "peft_config": LORA,
        "gradient_checkpointing": True,
    },
}


@pytest.mark.parametrize("fields", ROUNDED.values(), ids=ROUNDED)
def test_the_rounding_of_a_deep_model_does_not_stop_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fields: dict[str, Any]
) -> None:
    caplog.set_level(logging.INFO, logger="mtrl_judge")
    folder = tiny_models.deep_llava(tmp_path / "deep", fields.get("seed", 0))
    dtype = fields.get("dtype", torch.float32)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    rest = {name: value for name, value in fields.items() if name != "dtype"}
    trainer_of(folder, tmp_path / "run", model=model, learning_rate=0.0, **rest).train()
    rounding = [record.args[3] for record in caplog.records if record.msg == self_check.AGREE]
    assert len(rounding) == 2
    assert min(rounding) > (0.005 if dtype == torch.float16 else 0.05), "no model to test this with"


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
