"""Open a judge on an engine: check all of its arguments, then load the model.

The backend of lmms-eval and :class:`mtrl_judge.Judge` take the same arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from mtrl_judge.common.booleans import boolean
from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.files import expanded

from .base_judge import WINDOW, Answer, BaseJudge, Batch
from .checkpoint import (
    check_config,
    end_tokens,
    load_model,
    load_processor,
    model_revision,
    read_checkpoint_card,
    unmerged,
)
from .openai_judge import OpenAIJudge
from .token_budget import TokenBudget, token_budget
from .transformers_judge import TransformersJudge
from .vllm_judge import VLLMJudge, require_vllm

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

AUTO = "auto"
ENGINES = ("transformers", "vllm", "openai")
# Arguments that only one engine takes; they are passed on under their own names.
OPTIONS = {
    "transformers": ("attn_implementation", "device", "device_map"),
    "vllm": (
        "tensor_parallel_size",
        "gpu_memory_utilization",
        "max_model_len",
        "max_num_seqs",
        "enforce_eager",
    ),
    "openai": ("base_url",),
}
ARGUMENTS = (
    "pretrained",
    "engine",
    "revision",
    "dtype",
    "batch_size",
    "min_pixels",
    "max_pixels",
    "trust_remote_code",
    "system_prompt",
    *(name for names in OPTIONS.values() for name in names),
)
_BATCHES_AT_ONCE = 8  # of a server, which is idle while the last requests of so many are answered


@dataclass(frozen=True)
class EngineArguments:
    """Where a judge's model is and what runs it, checked; see :func:`engine_arguments`."""

    pretrained: str
    engine: str
    revision: str | None
    dtype: str
    batch_size: int | None  # None: as many as fit
    min_pixels: int | None
    max_pixels: int | None
    trust_remote_code: bool
    system_prompt: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Those of the engine that are given, by their names in :data:`OPTIONS`."""


@dataclass
class OpenedJudge:
    """A judge and what is known of its model."""

    engine: str
    judge: BaseJudge
    device: torch.device
    prompts_at_once: int | TokenBudget
    """How many prompts the engine is given together."""
    style: str | None
    """The prompt style that the checkpoint was trained with, if its card names one."""
    revision: str | None
    """What identifies the weights; None behind a server."""

    @property
    def encode_image(self) -> Callable[[Image.Image], NDArray[Any]] | None:
        """The judge's vision tower; None where another process or engine has it."""
        return self.judge.encode_image if isinstance(self.judge, TransformersJudge) else None

    def answers(self, batch: Batch, answer: Callable[[Batch], list[Answer]]) -> list[Answer]:
        """The answers to a batch, in halves where its size was a guess that was too large."""
        budget = self.prompts_at_once
        try:
            with torch.inference_mode():
                return answer(batch)
        except torch.OutOfMemoryError:
            if not isinstance(budget, TokenBudget) or len(batch.prompts) == 1:
                raise
        # Here, the exception no longer holds the tensors of the failed attempt.
        from loguru import logger

        torch.cuda.empty_cache()
        budget.tokens //= 2
        logger.info(f"batch_size=auto: {len(batch.prompts)} prompts do not fit; trying halves")
        return [each for half in self.judge.halves(batch) for each in self.answers(half, answer)]


def engine_arguments(
    pretrained: str | None = None,
    engine: str = "transformers",
    revision: str | None = None,
    dtype: str = AUTO,
    batch_size: int | str = 1,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    trust_remote_code: bool | int | str = False,
    system_prompt: str | None = None,
    **options: Any,
) -> EngineArguments:
    """Check the arguments that a judge is opened with; nothing is loaded.

    Args:
        pretrained: a checkpoint folder, a hub id, or with engine=openai the model's name there.
        engine: transformers, vllm or openai.
        dtype: by default ("auto") bfloat16 on a GPU and float32 on a CPU.
        batch_size: prompts answered together; auto is as many as fit into a GPU's memory with their
            answers.
        min_pixels: lower bound of width × height of each image as the model sees it.
        max_pixels: upper bound, likewise; by default the checkpoint's own, at most 12.8 megapixels.
        options: those of :data:`OPTIONS` that the engine takes; None is not given.

    Raises:
        JudgeError: an argument is unknown, of another engine, or has no possible value.
    """
    if unknown := options.keys() - set(ARGUMENTS):
        hints = (f"unknown key {key!r}; {did_you_mean(key, ARGUMENTS)}" for key in sorted(unknown))
        raise JudgeError("\n".join(hints))
    if pretrained is None:
        raise JudgeError("pretrained: missing; expected pretrained=FOLDER_OR_HUB_ID")
    if pretrained.startswith("~"):
        pretrained = str(expanded(pretrained))
    size = None if batch_size == AUTO else positive("batch_size", batch_size)
    if options.get("enforce_eager") is not None:
        options["enforce_eager"] = boolean("enforce_eager", options["enforce_eager"])
    options = _options(engine, options)
    if engine == "vllm":
        require_vllm()
    min_pixels = min_pixels and positive("min_pixels", min_pixels)
    max_pixels = max_pixels and positive("max_pixels", max_pixels)
    if min_pixels and max_pixels and min_pixels > max_pixels:
        raise JudgeError(f"min_pixels: {min_pixels} is more than max_pixels, {max_pixels}")
    if engine == "openai":
        local = {"revision": revision, "trust_remote_code": trust_remote_code or None}
        local["dtype"] = None if dtype == AUTO else dtype
        for name, value in local.items():
            if value is not None:
                raise JudgeError(f"{name}: not with engine=openai, whose server decides it")
        if size is None:
            raise JudgeError(
                "batch_size: auto is not supported with engine=openai; expected the number of "
                "requests at a time"
            )
    trusted = boolean("trust_remote_code", trust_remote_code)
    return EngineArguments(
        pretrained,
        engine,
        revision,
        dtype,
        size,
        min_pixels,
        max_pixels,
        trusted,
        system_prompt,
        options,
    )


def open_judge(arguments: EngineArguments, device: torch.device | None = None) -> OpenedJudge:
    """Load the model, or connect to its server.

    Args:
        device: of the engine transformers; it wins over the argument of this name.

    Raises:
        JudgeError: the checkpoint cannot be used, or the server does not answer.
    """
    options = dict(arguments.options)
    named = options.pop("device", None)
    limits: dict[str, Any] = {
        "min_pixels": arguments.min_pixels,
        "max_pixels": arguments.max_pixels,
        "system_prompt": arguments.system_prompt,
    }
    seed = torch.initial_seed() % 2**32  # lmms-eval's --seed
    pretrained, size = arguments.pretrained, arguments.batch_size
    if arguments.engine == "openai":
        assert size is not None
        server = OpenAIJudge(pretrained, concurrency=size, seed=seed, **limits, **options)
        at_once = min(WINDOW, _BATCHES_AT_ONCE * size)
        return OpenedJudge("openai", server, torch.device("cpu"), at_once, None, None)
    device = device or torch.device(named or ("cuda" if torch.cuda.is_available() else "cpu"))
    card = read_checkpoint_card(pretrained)
    source: dict[str, Any] = {
        "revision": arguments.revision,
        "trust_remote_code": arguments.trust_remote_code,
    }
    check_config(pretrained, **source)
    processor = load_processor(pretrained, **source)
    dtype = _torch_dtype(arguments.dtype, device)
    judge: BaseJudge
    prompts_at_once: int | TokenBudget
    if arguments.engine == "vllm":
        if (adapters := unmerged(pretrained)) is not None:
            raise JudgeError(
                f"pretrained: {pretrained} has adapters that cannot be merged ({adapters}), which "
                "vLLM cannot run; use engine=transformers"
            )
        prompts_at_once = WINDOW
        judge = VLLMJudge(
            pretrained,
            processor,
            **source,
            dtype=dtype,
            eos_token_id=end_tokens(pretrained, **source),
            seed=seed,
            **limits,
            **options,
        )
    else:
        model = load_model(
            pretrained, **source, **{"device_map": {"": device}, **options}, dtype=dtype
        )
        judge = TransformersJudge(model, processor, **limits)
        device = model.device
        # A checkpoint's own sampling settings would make greedy decoding warn, or sample.
        model.generation_config = GenerationConfig()
        prompts_at_once = size or token_budget(model)
    revision = model_revision(pretrained, arguments.revision)
    return OpenedJudge(
        arguments.engine, judge, device, prompts_at_once, card.get("style"), revision
    )


def positive(name: str, value: object) -> int:
    """A positive integer, as an argument or a flag says it.

    Raises:
        JudgeError: it is none.
    """
    if isinstance(value, bool) or not str(value).isdecimal() or int(str(value)) < 1:
        raise JudgeError(f"{name}: found {value!r}; expected a positive integer")
    return int(str(value))


def _options(engine: str, options: Mapping[str, object]) -> dict[str, Any]:
    """The options that are given, all of them of this engine."""
    if engine not in ENGINES:
        raise JudgeError(f"engine: unknown engine {engine!r}; {did_you_mean(engine, ENGINES)}")
    given = {name: value for name, value in options.items() if value is not None}
    for other in ENGINES:
        for name in OPTIONS[other]:
            if other != engine and name in given:
                raise JudgeError(f"{name}: only with engine={other}, but the engine is {engine}")
    return given


def _torch_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == AUTO:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise JudgeError(f"dtype: found {name!r}; expected auto, float32, bfloat16 or float16")
    return dtype
