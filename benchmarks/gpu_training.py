"""Training on a GPU with random weights: updates, whole steps, generation and a recipe's memory."""

from __future__ import annotations

import gc
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from unittest.mock import patch

import torch
from accelerate import Accelerator
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import (
    split_pixel_values_by_grid,
    split_tensor_dict,
    unsplit_pixel_values_by_grid,
)

from mtrl_judge.common.plain_yaml import yaml_mapping
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.models.transformers_judge import TransformersJudge
from mtrl_judge.rl import memory, self_check
from mtrl_judge.rl.generation_batch import forward_inputs
from mtrl_judge.rl.grpo_trainer import JudgeGRPOTrainer
from mtrl_judge.rl.passes import packed_groups
from mtrl_judge.rl.recipes import find_recipe
from mtrl_judge.rl.settings import build_settings
from mtrl_judge.rl.train import train

from .random_models import never_sampled, random_model, random_processor, random_prompts
from .timing import Spans, step_seconds, timed

Figures: TypeAlias = Iterator[tuple[str, Any]]
GIB = 2**30
TRAINERS: dict[str, type] = {"stock": GRPOTrainer, "ours": JudgeGRPOTrainer}
PARTS = {
    "step": "training_step",
    "generation": "_generate",
    "rewards": "_calculate_rewards",
    "logprobs": "_get_per_token_logps_and_entropies",
}
RECIPE = "qwen3_vl_4b_lora_1gpu"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Work(NamedTuple):
    """A model and a batch of prompts with their completions."""

    size: str
    group: int
    prompts: int
    completion: int  # tokens, exactly
    edge: int  # pixels of the square image's edge; 32 × 32 of them are a token
    text: int = 100  # characters, each a token
    lora: bool = False
    attention: str = "sdpa"

    @property
    def cuda(self) -> bool:
        return self.size != "tiny"

    @property
    def rows(self) -> int:
        return self.prompts * self.group


def update(work: Work) -> Figures:
    """Log-probabilities, forward and backward: stock TRL's time and memory over ours.

    Each is timed at micro-batches of 4, 8, 16, … rows, ours of whole groups. ``passes`` is ours
    with ``micro_batch_tokens``: the whole batch, in passes of 1, 2, 4, … groups. Completions are
    drawn, not generated.
    """
    rates: dict[str, dict[int, float]] = {}
    extra: dict[str, float] = {}
    for name, kind in TRAINERS.items():
        with grpo_trainer(kind, work) as trainer:
            batch = drawn_batch(trainer, work)
            ways = {name: {n: Try(n) for n in micro_batches(work, whole_groups=name == "ours")}}
            if name == "ours":
                ways["passes"] = {n: Try(work.rows, n) for n in limits(batch, work)}
            for way, tries in ways.items():
                rates[way], peaks = rows_per_s(trainer, batch, tries, work)
                yield f"{way}_rows_per_s", rates[way]
                if work.group in peaks and work.cuda:
                    extra[way] = round(peaks[work.group] / GIB, 2)
            trainer.model.zero_grad(set_to_none=True)
            del batch
    fastest = {way: max(of_sizes.values()) for way, of_sizes in rates.items()}
    yield "update_ratio", round(fastest["ours"] / fastest["stock"], 2)
    yield "passes_ratio", round(fastest["passes"] / fastest["stock"], 2)
    if len(extra) == len(TRAINERS):
        yield "memory_gib", extra
        yield "memory_ratio", round(extra["stock"] / extra["ours"], 2)


class Try(NamedTuple):
    """How to cut a batch."""

    rows: int
    """Of a micro-batch."""
    tokens: int | None = None
    """``micro_batch_tokens``."""


def limits(batch: dict[str, Any], work: Work) -> list[int]:
    """Tokens of 1, 2, 4, … of the largest groups, up to all."""
    largest = max(group.tokens for group in packed_groups(forward_inputs(batch)))
    return [2**n * largest for n in range(work.prompts.bit_length()) if 2**n <= work.prompts]


def rows_per_s(
    trainer: Any, batch: dict[str, Any], tries: dict[int, Try], work: Work
) -> tuple[dict[int, float], dict[int, int]]:
    """Speed and peak memory by try, smallest first.

    It ends when they are no faster, or do not fit into what weights, gradients and optimizer leave
    of the memory.
    """
    rates: dict[int, float] = {}
    peaks: dict[int, int] = {}
    model = trainer.accelerator.prepare_model(trainer.model)
    trainer.current_gradient_accumulation_steps = 1
    by_row = split_pixel_values_by_grid(batch)
    with memory_for_optimizer(trainer.model, cuda=work.cuda):
        for key, (rows, tokens) in tries.items():
            part = split_tensor_dict(by_row, work.rows // rows)[0]
            trainer.micro_batch_tokens = tokens
            try:
                seconds, peaks[key] = loss_and_backward(
                    trainer, model, unsplit_pixel_values_by_grid(part), cuda=work.cuda
                )
            except torch.OutOfMemoryError:
                break
            best = max(rates.values(), default=0.0)
            rates[key] = round(rows / seconds, 3)
            if rows >= work.group and rows / seconds < 1.02 * best:
                break
    return rates, peaks


def micro_batches(work: Work, *, whole_groups: bool) -> list[int]:
    """Rows of the micro-batches to try."""
    sizes = [size for size in (4, 8, 16, 32, 64) if size <= work.rows]
    return [size for size in sizes if size % work.group == 0] if whole_groups else sizes


def loss_and_backward(
    trainer: Any, model: Any, inputs: dict[str, Any], *, cuda: bool
) -> tuple[float, int]:
    """Median seconds, and the peak of memory beside what is held before: gradients included."""

    def run() -> float:
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        with trainer.compute_loss_context_manager():
            loss = trainer._compute_loss(model, inputs)
        trainer.accelerator.backward(loss)
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    run()  # allocates the gradients
    before = 0
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    seconds = statistics.median(run() for _ in range(2))
    return seconds, torch.cuda.max_memory_allocated() - before if cuda else 0


@contextmanager
def memory_for_optimizer(model: Any, *, cuda: bool) -> Iterator[None]:
    """Within the context, as much memory is free as AdamW's moments would leave."""
    if not cuda:
        yield
        return
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    moments = 2 * sum(parameter.numel() * parameter.element_size() for parameter in trained)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(1 - moments / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def step(work: Work, ways: dict[str, Try], steps: int) -> Figures:
    """Whole steps, generation by transformers included: stock TRL's time over ours.

    Args:
        ways: how a batch is cut for stock TRL, for ours, and for ours with ``micro_batch_tokens``.
    """
    medians: dict[str, dict[str, float]] = {}
    for name, (rows, tokens) in ways.items():
        count, kind = work.rows // rows, TRAINERS["ours" if name == "passes" else name]
        fields = {"max_steps": steps, "gradient_accumulation_steps": count}
        fields["per_device_train_batch_size"] = rows
        with grpo_trainer(kind, work, **fields) as trainer:
            trainer.micro_batch_tokens = tokens
            with timed_parts(kind, cuda=work.cuda) as spans:
                trainer.train()
            trainer.optimizer = None
        medians[name] = medians_of(whole_steps(spans, count))
        yield f"{name}_seconds", medians[name]
        if name != "stock":
            ratio = "step_ratio" if name == "ours" else f"{name}_step_ratio"
            yield ratio, round(medians["stock"]["step"] / medians[name]["step"], 2)


def timed_parts(kind: type, *, cuda: bool) -> AbstractContextManager[Spans]:
    """Record the parts of a trainer's steps."""
    methods: dict[str, tuple[type, str]] = {part: (kind, name) for part, name in PARTS.items()}
    methods["backward"] = (Accelerator, "backward")
    return timed(methods, torch.cuda.synchronize if cuda else None)


def whole_steps(spans: Any, micro_batches: int) -> list[dict[str, float]]:
    """Seconds of each method in each step after the first, which has several micro-batches."""
    spans = {**spans, "step": spans["step"][::micro_batches]}
    return step_seconds(spans, 1)


def medians_of(steps: list[dict[str, float]]) -> dict[str, float]:
    """Of each part, over steps."""
    return {part: round(statistics.median(step[part] for step in steps), 3) for part in steps[0]}


def generation(work: Work) -> Figures:
    """Seconds a token of generation by transformers, in each of the ways there are."""
    with grpo_trainer(JudgeGRPOTrainer, work) as trainer, checked_figures() as checks:
        tokens: dict[str, list[list[int]]] = {}

        def sample(name: str) -> float:
            torch.manual_seed(0)
            with timed({"generation": (JudgeGRPOTrainer, "_generate_single_turn")}) as spans:
                trainer._generate_and_score_completions(prompt_rows(trainer, work))
            tokens[name] = trainer.reward_funcs[0].completions
            return sum(seconds for _, seconds in spans["generation"])

        trainer.model.train()
        trainer.share_prompt = False
        first = sample("stock")
        yield "stock_s_per_token", round(min(first, sample("stock")) / work.completion, 4)
        trainer.share_prompt = True
        sample("shared")  # with its self-check
        yield "self_check", checks
        yield "shared_s_per_token", round(sample("shared") / work.completion, 4)
        trainer.args.cache_implementation = "static"
        trainer._static = trainer._static_decoding()
        yield "static_first_s", round(sample("static"), 1)  # compiles
        yield "static_s_per_token", round(sample("static") / work.completion, 4)
        for name in ("shared", "static"):
            same = [a == b for a, b in zip(tokens["stock"], tokens[name], strict=True)]
            yield f"{name}_same_as_stock", round(sum(same) / len(same), 3)
        judge = TransformersJudge(trainer.model, trainer.processing_class)
        started = time.perf_counter()
        judge.judge(judge_rows(work), "direct", batch_size=16, max_new_tokens=work.completion)
        yield "validation_s_per_token", round((time.perf_counter() - started) / work.completion, 4)


def judge_rows(work: Work) -> list[JudgeRow]:
    """16 rows, which random weights answer with all tokens there are."""
    rows = random_prompts(16, edge=work.edge, text=work.text)
    verdicts = ("Yes", "No")
    return [
        JudgeRow(
            str(n),
            "t",
            "pointwise",
            row["prompt"][0]["content"],
            verdicts,
            "Yes",
            1,
            images=tuple(row["images"]),
        )
        for n, row in enumerate(rows)
    ]


@contextmanager
def grpo_trainer(kind: type, work: Work, **fields: Any) -> Iterator[Any]:
    """A trainer to run, with a learning rate of 0."""
    processor = random_processor(work.size, work.edge)
    model = random_model(work.size, processor.tokenizer, attention=work.attention)
    steps = fields.get("max_steps", 1)
    with tempfile.TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            **{
                "output_dir": folder,
                "use_cpu": not work.cuda,
                "bf16": work.cuda,
                "learning_rate": 0.0,
                "max_steps": steps,
                "per_device_train_batch_size": work.rows,
                "num_generations": work.group,
                "max_completion_length": work.completion,
                "generation_kwargs": {
                    "min_new_tokens": work.completion,
                    "suppress_tokens": never_sampled(processor.tokenizer),
                },
                "gradient_checkpointing": True,
                "report_to": [],
                "save_strategy": "no",
                "logging_steps": 1000,
                "disable_tqdm": True,
                "seed": 0,
                **fields,
            }
        )
        trainer = kind(
            model=model,
            args=arguments,
            train_dataset=random_prompts(work.prompts * steps, edge=work.edge, text=work.text),
            processing_class=processor,
            reward_funcs=[Distinct()],
            peft_config=recipe_adapter() if work.lora else None,
        )
        del model
        yield trainer
    del trainer
    gc.collect()
    if work.cuda:
        torch.cuda.empty_cache()


def recipe_adapter() -> LoraConfig:
    """The adapters of the recipe."""
    recipe = yaml_mapping(find_recipe(RECIPE, "grpo"))
    names = ("lora_r", "lora_alpha", "lora_target_modules")
    r, alpha, modules = (recipe[name] for name in names)
    return LoraConfig(r=r, lora_alpha=alpha, target_modules=modules, lora_dropout=0.0)


class Distinct:
    """Rewards distinct tokens, and keeps the last completions."""

    __name__ = "distinct"

    def __init__(self) -> None:
        self.completions: list[list[int]] = []

    def __call__(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
        self.completions = list(map(list, completion_ids))
        return [len(set(ids)) / len(ids) for ids in completion_ids]


def prompt_rows(trainer: Any, work: Work) -> list[dict[str, Any]]:
    """The rows of a generation batch, as the data loader gives them."""
    rows = [trainer.train_dataset[index] for index in range(work.prompts)]
    return [row for row in rows for _ in range(work.group)]


def drawn_batch(trainer: Any, work: Work) -> dict[str, Any]:
    """A generation batch as TRL prepares it, with drawn completions."""
    trainer.model.train()
    with drawn_completions(type(trainer), trainer.processing_class.tokenizer, work.completion):
        batch: dict[str, Any] = trainer._generate_and_score_completions(prompt_rows(trainer, work))
    return batch


@contextmanager
def drawn_completions(kind: type, tokenizer: Any, tokens: int) -> Iterator[list[int]]:
    """Within the context, completions are random letters; the lengths of their prompts."""
    lengths: list[int] = []
    letters = torch.tensor(tokenizer.convert_tokens_to_ids(list(LETTERS)))

    def draw(self: Any, prompt_ids: Any, *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        lengths.extend(map(len, prompt_ids))
        generator = torch.Generator().manual_seed(0)
        shape = (len(prompt_ids), tokens)
        return letters[torch.randint(len(letters), shape, generator=generator)].tolist(), None

    with patch.object(kind, "_generate_single_turn", draw):
        yield lengths


def recipe(checkpoint: Path, root: Path, out: Path, *, cuda: bool, tokens: int) -> Figures:
    """Some steps of the recipe, with drawn completions: the self-check, and its memory.

    ``peak_gib`` is what training takes, which ``estimated_gib`` predicts; a recipe with vLLM that
    sleeps takes no more while it trains.
    """
    values: dict[str, Any] = {
        "model_name_or_path": str(checkpoint),
        "data_root": str(root),
        "output_dir": str(out),
        "use_vllm": False,
        "vllm_enable_sleep_mode": False,
        "max_steps": 3,
        "per_device_train_batch_size": 64,
        "max_completion_length": tokens,
        "eval_strategy": "no",
        "patience": 0,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": not cuda,
    }
    settings = build_settings("grpo", values, recipe=RECIPE)
    found = memory.architecture(str(checkpoint))
    assert found is not None
    tokenizer = random_processor("tiny", 64).tokenizer
    with (
        checked_figures() as checks,
        drawn_completions(JudgeGRPOTrainer, tokenizer, tokens) as lengths,
        timed_parts(JudgeGRPOTrainer, cuda=cuda) as spans,
    ):
        train(settings)
    yield "self_check", checks
    yield "seconds", medians_of(whole_steps(spans, 1))
    if cuda:
        yield "peak_gib", round(torch.cuda.max_memory_allocated() / GIB, 2)
    peaks = memory.estimate(settings, found[0], max(lengths)).peaks
    yield "estimated_gib", {peak.name: round(peak.gib, 2) for peak in peaks}


@contextmanager
def checked_figures() -> Iterator[dict[str, dict[str, float]]]:
    """The figures of self-checks within the context."""
    checked, logger = Checked(), logging.getLogger(self_check.__name__)
    logger.setLevel(logging.INFO)
    logger.addHandler(checked)
    try:
        yield checked.found
    finally:
        logger.removeHandler(checked)


class Checked(logging.Handler):
    """Keeps the figures of the self-check's messages."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, dict[str, float]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == self_check.AGREE and isinstance(record.args, tuple):
            where, *figures = record.args
            names = ("mean", "row", "rounding_mean", "rounding_row")
            self.found[str(where)] = dict(zip(names, figures, strict=True))  # type: ignore[arg-type]
