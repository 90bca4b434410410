"""`mtrl_judge`: any image-text-to-text checkpoint as a judge inside lmms-eval.

`lmms-eval --model mtrl_judge --model_args pretrained=PATH --tasks mtrl_judge_*`

Requests of all tasks are batched together by length and answered greedily unless a task asks for
sampling; the answer is handed on whole, reasoning included, because the task's scorer reads it.
With `scoring=logprob` nothing is generated: the verdict is the most probable one right after the
prompt that asks for it alone (see `logprob`). While a GPU works on one batch, a background thread
prepares the next.
"""

from __future__ import annotations

import inspect
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias, TypeVar

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.utils import simple_parse_args_string
from PIL import Image
from tqdm import tqdm
from transformers import GenerationConfig

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.models.checkpoint import (
    check_config,
    load_model,
    load_processor,
    read_checkpoint_card,
)
from mtrl_judge.models.judge import Batch, Judge, Prompt

from .hooks import hooks_behind
from .logprob import LogprobScorer
from .prompt_style import checked_scoring, set_checkpoint_style

NO_MODEL_ARGS = ("max_batch_size", "unknown")
DEFAULT_MAX_NEW_TOKENS = 1024
GENERATION_KEYS = (
    "do_sample",
    "max_new_tokens",
    "num_beams",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
    "until",
)

T = TypeVar("T")


@contextmanager
def _told() -> Iterator[None]:
    """Make a fault of the caller's a SystemExit with the message.

    For everything else lmms-eval prints a traceback and goes on to exit 0.
    """
    try:
        yield
    except JudgeError as error:
        raise SystemExit(str(error)) from None


Answering: TypeAlias = Callable[[Batch], list[GenerationResult]]


class Work(NamedTuple):
    """A batch of requests that are answered alike."""

    requests: Sequence[int]  # the place of each among all requests
    batch: Batch
    answer: Answering


class MtrlJudge(lmms):  # type: ignore[misc]  # lmms-eval has no types
    """Chat backend for judges: `AutoModelForImageTextToText` with `AutoProcessor`.

    Every argument is a `--model_args` key. `dtype` is bfloat16 on a GPU and float32 on a CPU unless
    named; `min_pixels` and `max_pixels` bound width × height of each picture as the model sees it;
    `max_new_tokens` overrides the tasks' own; `scoring` is generation or logprob. A fault of the
    caller's is a SystemExit with the message.
    """

    is_simple = False

    @_told()
    def __init__(
        self,
        pretrained: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        attn_implementation: str | None = None,
        device_map: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        max_new_tokens: int | None = None,
        trust_remote_code: bool = False,
        system_prompt: str | None = None,
        scoring: str = "generation",
        max_batch_size: int | None = None,
        **unknown: object,
    ) -> None:
        super().__init__()
        _refuse_unknown(unknown)
        if pretrained is None:
            _stop("pretrained: missing; would be right: --model_args pretrained=FOLDER_OR_HUB_ID")
        pretrained = str(Path(pretrained).expanduser()) if pretrained[:1] == "~" else pretrained
        if max_batch_size is not None:
            _stop("max_batch_size: this backend does not search for a batch size; leave it out")
        self._batch_size = _positive("batch_size", batch_size)
        self._max_new_tokens = max_new_tokens and _positive("max_new_tokens", max_new_tokens)
        self._scoring = checked_scoring(scoring)
        self._scorers: dict[str, LogprobScorer] = {}
        min_pixels = min_pixels and _positive("min_pixels", min_pixels)
        max_pixels = max_pixels and _positive("max_pixels", max_pixels)
        if min_pixels and max_pixels and min_pixels > max_pixels:
            _stop(f"min_pixels: {min_pixels} is more than max_pixels, {max_pixels}")

        self.accelerator = Accelerator()
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        self._device = self._choose_device(device, device_map)

        card = read_checkpoint_card(pretrained)
        source = {"revision": revision, "trust_remote_code": bool(trust_remote_code)}
        check_config(pretrained, **source)
        processor = load_processor(pretrained, **source)
        self._model: Any = load_model(
            pretrained,
            **source,
            dtype=_torch_dtype(dtype, self._device),
            device_map=device_map or {"": self._device},
            attn_implementation=attn_implementation,
        )
        self._device = self._model.device
        self.judge = Judge(
            self._model,
            processor,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            system_prompt=system_prompt,
        )
        # A checkpoint's own sampling settings would make greedy judging warn, or not be greedy.
        self._model.generation_config = GenerationConfig()

        set_checkpoint_style(card.get("style"), scoring=self._scoring)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, object] | None = None
    ) -> MtrlJudge:
        """Build from `--model_args`, which win over the flags lmms-eval adds (`--batch_size`)."""
        flags = {k: v for k, v in (additional_config or {}).items() if v is not None}
        return cls(**{**flags, **simple_parse_args_string(arg_string)})

    @property
    def config(self) -> Any:
        """The checkpoint's transformers config."""
        return self._model.config

    @property
    def model(self) -> Any:
        """The loaded model."""
        return self._model

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return self._device

    @property
    def batch_size(self) -> int:
        """Prompts generated together."""
        return self._batch_size

    @_told()
    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer every request; answers come back in the order of the requests."""
        results: dict[int, GenerationResult] = {}
        work = self._work(requests)
        if self._device.type != "cpu":
            work = _one_ahead(work)
        seconds = 0.0
        with tqdm(total=len(requests), disable=self.rank != 0, desc="Judging") as progress:
            for part in work:
                started = time.perf_counter()
                results.update(self._answer(part))
                seconds += time.perf_counter() - started
                progress.update(len(part.requests))
        tokens = sum(result.token_counts.output_tokens for result in results.values())
        log_metrics(
            total_gen_tokens=tokens,
            total_elapsed_time=seconds,
            avg_speed=tokens / seconds if seconds else 0.0,
            additional_metrics={"rank": self.rank, "total_requests": len(requests)},
        )
        return [results[index] for index in range(len(requests))]

    @_told()
    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Refuse: a judge's verdict is read from what it writes."""
        _stop("mtrl_judge: a judge generates its verdict; it runs tasks of generate_until only")

    @_told()
    def generate_until_multi_round(self, requests: list[Instance]) -> NoReturn:
        """Refuse: a judge answers once."""
        _stop("mtrl_judge: a judge answers in one round; it runs tasks of generate_until only")

    def _choose_device(self, device: str | None, device_map: str | None) -> torch.device:
        if self._world_size > 1:
            if device_map is not None:
                _stop("device_map: several processes hold one copy of the model each; leave it out")
            # Also where a device is named: lmms-eval gathers over accelerate's own device.
            own: torch.device = self.accelerator.device
            return own
        if device is not None:
            return torch.device(device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def _work(self, requests: Sequence[Instance]) -> Iterator[Work]:
        """Group by how they are answered, and cut each group into batches."""
        grouped = self._by_task if self._scoring == "logprob" else self._by_settings
        for indices, answer in grouped(requests):
            prompts = (self._prompt(requests[index]) for index in indices)
            for batch in self.judge.batches(prompts, self.batch_size):
                yield Work([indices[index] for index in batch.indices], batch, answer)

    def _by_settings(self, requests: Sequence[Instance]) -> Iterator[tuple[list[int], Answering]]:
        groups: dict[str, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[json.dumps(request.args[2], sort_keys=True, default=str)].append(index)
        for indices in groups.values():
            generation = self._generation(requests[indices[0]].args[2])
            yield indices, partial(self._generate, generation)

    def _by_task(self, requests: Sequence[Instance]) -> Iterator[tuple[list[int], Answering]]:
        groups: dict[str, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[request.args[4]].append(index)
        for indices in groups.values():
            yield indices, partial(self._score, self._scorer(requests[indices[0]]))

    def _scorer(self, request: Instance) -> LogprobScorer:
        _, doc_to_messages, _, _, task, _ = request.args
        hooks = hooks_behind(doc_to_messages)
        if hooks is None:
            _stop(
                f"{task}: is no judge task, so there are no verdicts to score; "
                "would be right: scoring=generation"
            )
        if task not in self._scorers:
            self._scorers[task] = LogprobScorer(
                self.judge,
                hooks.task,
                hooks.calibration_rows,
                asked=hooks.perturbation.verdicts,
                batch_size=self.batch_size,
            )
        return self._scorers[task]

    def _prompt(self, request: Instance) -> Prompt:
        _, doc_to_messages, _, doc_id, task, split = request.args
        messages = doc_to_messages(self.task_dict[task][split][doc_id])
        images = []
        for part in (part for message in messages for part in message["content"]):
            if part["type"] == "image" and isinstance(part["url"], Image.Image):
                images.append(part["url"])
            elif part["type"] != "text":
                found = f"{part['type']} ({type(part.get('url')).__name__})"
                _stop(f"{task}, item {doc_id}: {found}; mtrl_judge takes text and PIL images")
        return self.judge.prompt(messages, images)

    def _generation(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Turn a task's `generation_kwargs` into arguments of `generate`, greedy by default."""
        for key in asked:
            if key not in GENERATION_KEYS:
                near = did_you_mean(key, GENERATION_KEYS)
                _stop(f"generation_kwargs: unknown key {key!r}; {near}")
        temperature = asked.get("temperature")
        if temperature is None:
            temperature = 1.0 if asked.get("do_sample") else 0.0
        generation = {
            "do_sample": temperature > 0,
            "max_new_tokens": self._max_new_tokens
            or asked.get("max_new_tokens")
            or DEFAULT_MAX_NEW_TOKENS,
            "num_beams": asked.get("num_beams") or 1,
            "repetition_penalty": asked.get("repetition_penalty") or 1.0,
            "until": _stop_strings(asked.get("until")),
        }
        if temperature > 0:
            # transformers takes the 50 likeliest tokens unless told; 0 is all of them.
            generation |= {
                "temperature": temperature,
                "top_p": asked.get("top_p") or 1.0,
                "top_k": asked.get("top_k") or 0,
            }
        return generation

    @torch.inference_mode()
    def _answer(self, work: Work) -> dict[int, GenerationResult]:
        return dict(zip(work.requests, work.answer(work.batch), strict=True))

    def _generate(self, generation: Mapping[str, Any], batch: Batch) -> list[GenerationResult]:
        results = []
        answers = self.judge.generate(batch.inputs, **generation)
        for prompt, answer in zip(batch.prompts, answers, strict=True):
            counts = TokenCounts(
                input_tokens=answer.input_tokens, output_tokens=answer.output_tokens
            )
            results.append(GenerationResult(answer.text, counts))
            self.cache_hook.add_partial("generate_until", (prompt.text, generation), answer.text)
        return results

    def _score(self, scorer: LogprobScorer, batch: Batch) -> list[GenerationResult]:
        counts_B = batch.inputs["attention_mask"].sum(dim=1).tolist()
        return [
            GenerationResult(text, TokenCounts(input_tokens=count, output_tokens=0))
            for text, count in zip(scorer.answer(batch), counts_B, strict=True)
        ]


def _stop_strings(until: object) -> list[str]:
    strings = [until] if isinstance(until, str) else list(until or [])  # type: ignore[call-overload]
    return [string for string in strings if string]


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Make the next item in a background thread while the caller works on the last one.

    For a model on a GPU. On a CPU the thread takes the cores that the model computes on: two cores
    generated half as fast with it.
    """
    with ThreadPoolExecutor(max_workers=1) as background:
        ahead = background.submit(next, items, None)
        while (item := ahead.result()) is not None:
            ahead = background.submit(next, items, None)
            yield item


def _stop(message: str) -> NoReturn:
    raise JudgeError(message)


def _refuse_unknown(unknown: Mapping[str, object]) -> None:
    known = [key for key in inspect.signature(MtrlJudge).parameters if key not in NO_MODEL_ARGS]
    if unknown:
        wrong = (f"model_args: unknown key {key!r}; {did_you_mean(key, known)}" for key in unknown)
        _stop("\n".join(wrong))


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not str(value).isdecimal() or int(str(value)) < 1:
        _stop(f"{name}: {value!r}; would be right: a whole number from 1 up")
    return int(str(value))


def _torch_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        _stop(f"dtype: {name!r}; would be right: auto, float32, bfloat16 or float16")
    return dtype
