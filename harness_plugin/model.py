"""`mtrl_judge`: any image-text-to-text checkpoint as a judge inside lmms-eval.

`lmms-eval --model mtrl_judge --model_args pretrained=PATH --tasks mtrl_judge_*`

The model runs on transformers or, with `engine=vllm`, on vLLM; prompts and answers are the same.
With `engine=openai`, a server with an OpenAI-compatible API runs it.
Requests of all tasks are batched together by length and answered greedily unless a task asks for
sampling. Answers are returned whole, reasoning included, because the task's scorer reads it. With
`scoring=logprob` the verdict is not generated: the answer is the most probable one, right after a
prompt that asks for the verdict alone or after the judge's reasoning (see :mod:`.logprob`).
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
from typing import Any, NamedTuple, NoReturn, TypeVar

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.utils import simple_parse_args_string
from PIL import Image
from tqdm import tqdm
from transformers import GenerationConfig

from mtrl_judge.common.booleans import boolean
from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.exits import exit_of_host
from mtrl_judge.common.files import expanded
from mtrl_judge.judge_tasks.spec import GENERATION_KEYS
from mtrl_judge.models.base_judge import WINDOW, Answer, BaseJudge, Batch, Prompt
from mtrl_judge.models.checkpoint import (
    check_config,
    end_tokens,
    load_model,
    load_processor,
    model_revision,
    read_checkpoint_card,
)
from mtrl_judge.models.judge import Judge
from mtrl_judge.models.openai_judge import OpenAIJudge
from mtrl_judge.models.token_budget import TokenBudget, token_budget
from mtrl_judge.models.vllm_judge import VLLMJudge, require_vllm

from .hooks import hooks_behind
from .kept_answers import Received
from .logprob import LogprobScorer
from .prompt_style import (
    Backend,
    check_calibration,
    check_scoring,
    evaluation_style,
    set_backend,
)

DEFAULT_MAX_NEW_TOKENS = 1024
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
_BATCHES_AT_ONCE = 8  # of a server, which is idle while the last requests of so many are answered

T = TypeVar("T")


@contextmanager
def _exit_on_error() -> Iterator[None]:
    """Turn a JudgeError into a SystemExit with its message.

    For any other exception lmms-eval prints a traceback and then exits with code 0.
    """
    try:
        yield
    except JudgeError as error:
        raise exit_of_host(str(error)) from None


class Work(NamedTuple):
    """A batch of requests that are answered alike."""

    requests: Sequence[int]  # indices among all requests
    batch: Batch
    answer: Callable[[Batch], list[Answer]]


class MtrlJudge(lmms):  # type: ignore[misc]  # lmms-eval is untyped
    """Chat backend for judges: `AutoModelForImageTextToText` with `AutoProcessor`, or vLLM.

    Every argument is a `--model_args` key; a wrong one is a SystemExit with a message.

    Args:
        engine: transformers, vllm or openai.
        dtype: by default ("auto") bfloat16 on a GPU and float32 on a CPU.
        batch_size: prompts answered together; auto is as many as fit into a GPU's memory with their
            answers.
        min_pixels: lower bound of width × height of each image as the model sees it.
        max_pixels: upper bound, likewise; by default the checkpoint's own, at most 12.8 megapixels.
        max_new_tokens: overrides the tasks' own.
        scoring: generation or logprob.
        calibration: temperature (the default) or bias; of scoring=logprob.
    """

    is_simple = False
    reports_answers = True

    @_exit_on_error()
    def __init__(
        self,
        pretrained: str | None = None,
        engine: str = "transformers",
        revision: str | None = None,
        dtype: str = "auto",
        attn_implementation: str | None = None,
        device_map: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        max_new_tokens: int | None = None,
        trust_remote_code: bool | int | str = False,
        system_prompt: str | None = None,
        scoring: str = "generation",
        calibration: str | None = None,
        tensor_parallel_size: int | None = None,
        gpu_memory_utilization: float | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        enforce_eager: bool | int | str | None = None,
        base_url: str | None = None,
        max_batch_size: int | None = None,
        **unknown: object,
    ) -> None:
        super().__init__()
        if unknown:
            known = inspect.signature(MtrlJudge).parameters.keys() - {"max_batch_size", "unknown"}
            hints = (f"unknown key {key!r}; {did_you_mean(key, sorted(known))}" for key in unknown)
            raise JudgeError("\n".join(f"model_args: {hint}" for hint in hints))
        if pretrained is None:
            raise JudgeError("pretrained: missing; expected pretrained=FOLDER_OR_HUB_ID")
        if pretrained.startswith("~"):
            pretrained = str(expanded(pretrained))
        if max_batch_size is not None:  # one of lmms-eval's flags
            raise JudgeError("max_batch_size: not supported by this backend; set batch_size")
        size = None if batch_size == AUTO else _positive("batch_size", batch_size)
        self.batch_size = size or AUTO
        options = _options(
            engine,
            attn_implementation=attn_implementation,
            device=device,
            device_map=device_map,
            tensor_parallel_size=tensor_parallel_size,
            gpu_memory_utilization=gpu_memory_utilization,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            enforce_eager=None
            if enforce_eager is None
            else boolean("enforce_eager", enforce_eager),
            base_url=base_url,
        )
        device = options.pop("device", None)
        if engine == "vllm":
            require_vllm()
        self._max_new_tokens = max_new_tokens and _positive("max_new_tokens", max_new_tokens)
        min_pixels = min_pixels and _positive("min_pixels", min_pixels)
        max_pixels = max_pixels and _positive("max_pixels", max_pixels)
        if min_pixels and max_pixels and min_pixels > max_pixels:
            raise JudgeError(f"min_pixels: {min_pixels} is more than max_pixels, {max_pixels}")
        self._scoring = check_scoring(scoring)
        self._calibration = check_calibration(calibration, self._scoring)
        self._scorers: dict[str, LogprobScorer] = {}

        self.accelerator = Accelerator()
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        if self._world_size > 1:
            if engine == "vllm":
                raise JudgeError(
                    "engine=vllm: not supported with several processes; start one, and give "
                    "tensor_parallel_size the number of GPUs"
                )
            if engine == "openai":
                raise JudgeError(
                    "engine=openai: not supported with several processes; start one, and set "
                    "batch_size to the number of requests at a time"
                )
            if "device_map" in options:
                raise JudgeError("device_map: not supported with several processes; leave it out")
            # Even where `device` is given: lmms-eval gathers results on accelerate's device.
            self.device = self.accelerator.device
        else:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

        self._prompts_at_once: int | TokenBudget
        limits: dict[str, Any] = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        self.judge: BaseJudge
        if engine == "openai":
            local = {"revision": revision, "trust_remote_code": trust_remote_code or None}
            local["dtype"] = None if dtype == "auto" else dtype
            for name, value in local.items():
                if value is not None:
                    raise JudgeError(f"{name}: not with engine=openai, whose server decides it")
            if size is None:
                raise JudgeError(
                    "batch_size: auto is not supported with engine=openai; expected the number of "
                    "requests at a time"
                )
            self.device = torch.device("cpu")
            self._prompts_at_once = min(WINDOW, _BATCHES_AT_ONCE * size)
            server = OpenAIJudge(
                pretrained,
                base_url=base_url,
                concurrency=size,
                seed=torch.initial_seed() % 2**32,  # lmms-eval's --seed
                **limits,
                system_prompt=system_prompt,
            )
            self.judge = server
            # As in lmms-eval's own clients: answers are kept by the server that gave them.
            self.client = server.client
            self._announce(engine, style=None, system_prompt=system_prompt, weights=None)
            return
        card = read_checkpoint_card(pretrained)
        source: dict[str, Any] = {"revision": revision}
        source["trust_remote_code"] = boolean("trust_remote_code", trust_remote_code)
        check_config(pretrained, **source)
        processor = load_processor(pretrained, **source)
        torch_dtype = _torch_dtype(dtype, self.device)
        if engine == "vllm":
            self._prompts_at_once = WINDOW
            self.judge = VLLMJudge(
                pretrained,
                processor,
                **source,
                dtype=torch_dtype,
                eos_token_id=end_tokens(pretrained, **source),
                seed=torch.initial_seed() % 2**32,  # lmms-eval's --seed
                **limits,
                system_prompt=system_prompt,
                **options,
            )
        else:
            options = {"device_map": {"": self.device}, **options}
            self.model = load_model(pretrained, **source, **options, dtype=torch_dtype)
            self.device = self.model.device
            self.judge = Judge(self.model, processor, **limits, system_prompt=system_prompt)
            # A checkpoint's own sampling settings would make greedy decoding warn, or sample.
            self.model.generation_config = GenerationConfig()
            self._prompts_at_once = size or token_budget(self.model)
        weights = model_revision(pretrained, revision)
        self._announce(
            engine, style=card.get("style"), system_prompt=system_prompt, weights=weights
        )

    def _announce(
        self, engine: str, *, style: str | None, system_prompt: str | None, weights: str | None
    ) -> None:
        """Pass on what is known of the model to where the prompts are built."""
        set_backend(
            Backend(
                engine,
                self._scoring,
                style,
                self.judge.min_and_max_pixels,
                system_prompt or "",
                weights,
                self._generation_settings,
                self._calibration,
            )
        )

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, object] | None = None
    ) -> MtrlJudge:
        """Build from `--model_args`, which win over the flags lmms-eval adds (`--batch_size`)."""
        flags = {k: v for k, v in (additional_config or {}).items() if v is not None}
        return cls(**{**flags, **simple_parse_args_string(arg_string)})

    @_exit_on_error()
    def generate_until(
        self, requests: list[Instance], received: Received | None = None
    ) -> list[GenerationResult]:
        """Answer all requests; answers are in the order of the requests.

        Args:
            received: called with the answers of each batch when they are there.
        """
        results: dict[int, GenerationResult] = {}
        work = self._work(requests)
        if isinstance(self.judge, VLLMJudge) and self.device.type != "cpu":
            work = prefetched(work)
        tokens, seconds = 0, 0.0
        with tqdm(total=len(requests), disable=self.rank != 0, desc="Judging") as progress:
            for part in work:
                started = time.perf_counter()
                answers = self._answers(part.batch, part.answer)
                seconds += time.perf_counter() - started
                for index, answer in zip(part.requests, answers, strict=True):
                    counts = TokenCounts(answer.input_tokens, answer.output_tokens)
                    results[index] = GenerationResult(answer.text, counts)
                    tokens += answer.output_tokens
                if received is not None:
                    received(part.requests, [results[index] for index in part.requests])
                progress.update(len(part.requests))
        for scorer in self._scorers.values():
            scorer.report_ties()
        self._report_scaled_down()
        log_metrics(
            total_gen_tokens=tokens,
            total_elapsed_time=seconds,
            avg_speed=tokens / seconds if seconds else 0.0,
            additional_metrics={"rank": self.rank, "total_requests": len(requests)},
        )
        return [results[index] for index in range(len(requests))]

    def _answers(self, batch: Batch, answer: Callable[[Batch], list[Answer]]) -> list[Answer]:
        """The answers to a batch, in halves where its size was a guess that was too large."""
        budget = self._prompts_at_once
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
        return [each for half in self.judge.halves(batch) for each in self._answers(half, answer)]

    def _report_scaled_down(self) -> None:
        from loguru import logger

        judge = self.judge
        if judge.images_scaled_down:
            logger.info(
                f"{judge.images_scaled_down} of {judge.images_seen} images shown to the judge had "
                f"more than max_pixels ({judge.min_and_max_pixels[1]:,}) and were scaled down"
            )

    @_exit_on_error()
    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Not supported: a judge's verdict is read from the text it generates."""
        raise JudgeError("mtrl_judge: only tasks with output_type generate_until are supported")

    generate_until_multi_round = loglikelihood

    def _work(self, requests: Sequence[Instance]) -> Iterator[Work]:
        """Group requests that are answered alike and cut each group into batches."""
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            _, _, generation_kwargs, _, task, _ = request.args
            key = json.dumps(generation_kwargs, sort_keys=True, default=str)
            groups[task if self._scoring == "logprob" else key].append(index)
        for indices in groups.values():
            first = requests[indices[0]]
            settings = self._generation_settings(first.args[2])
            if self._scoring == "logprob":
                answer = self._scorer(first).answer
            else:
                answer = partial(self.judge.generate, **settings)
            prompts = (self._prompt(requests[index]) for index in indices)
            for batch in self.judge.batches(
                prompts, self._prompts_at_once, answer_tokens=settings["max_new_tokens"]
            ):
                yield Work([indices[index] for index in batch.indices], batch, answer)

    def _prompt(self, request: Instance) -> Prompt:
        _, doc_to_messages, _, doc_id, task, split = request.args
        messages = doc_to_messages(self.task_dict[task][split][doc_id])
        images = []
        for part in (part for message in messages for part in message["content"]):
            if part["type"] == "image" and isinstance(part["url"], Image.Image):
                images.append(part["url"])
            elif part["type"] != "text":
                raise JudgeError(
                    f"{task}, item {doc_id}: found {part['type']} "
                    f"({type(part.get('url')).__name__}); expected text and PIL images"
                )
        return self.judge.prompt(messages, images)

    def _generation_settings(self, requested: Mapping[str, Any]) -> dict[str, Any]:
        """`Judge.generate`'s arguments for a task's `generation_kwargs`; greedy by default."""
        for key in requested:
            if key not in GENERATION_KEYS:
                raise JudgeError(
                    f"generation_kwargs: unknown key {key!r}; {did_you_mean(key, GENERATION_KEYS)}"
                )
        sample = boolean("do_sample", requested.get("do_sample") or False)
        temperature = requested.get("temperature")
        if temperature is None:
            temperature = 1.0 if sample else 0.0
        until = requested.get("until") or []
        settings = {
            "do_sample": temperature > 0,
            "max_new_tokens": self._max_new_tokens
            or requested.get("max_new_tokens")
            or DEFAULT_MAX_NEW_TOKENS,
            "num_beams": requested.get("num_beams") or 1,
            "repetition_penalty": requested.get("repetition_penalty") or 1.0,
            "until": [stop for stop in ([until] if isinstance(until, str) else until) if stop],
        }
        if temperature > 0:
            # transformers' default top_k is 50; 0 keeps the whole vocabulary.
            settings |= {
                "temperature": temperature,
                "top_p": requested.get("top_p") or 1.0,
                "top_k": requested.get("top_k") or 0,
            }
        return settings

    def _scorer(self, request: Instance) -> LogprobScorer:
        _, doc_to_messages, generation_kwargs, _, task, _ = request.args
        hooks = hooks_behind(doc_to_messages)
        if hooks is None:
            raise JudgeError(f"{task}: not a judge task; scoring=logprob needs a task's verdicts")
        if task not in self._scorers:
            self._scorers[task] = LogprobScorer(
                self.judge,
                hooks.task,
                hooks.calibration_rows,
                calibration=self._calibration,
                style=evaluation_style(hooks.task),
                verdicts=hooks.perturbation.verdicts,
                batch_size=self._prompts_at_once,
                generation=self._generation_settings(generation_kwargs),
            )
        return self._scorers[task]


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """Prepare the next item in a background thread while the caller works on the current one.

    Only for vLLM on a GPU, which decodes in a process of its own. The loop of transformers, which
    launches kernels, waits for the thread whenever that holds the interpreter's lock: a batch took
    up to three times as long on an H100.
    """
    with ThreadPoolExecutor(max_workers=1) as background:
        upcoming = background.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = background.submit(next, items, None)
            yield item


def _options(engine: str, **options: object) -> dict[str, Any]:
    """The options that are given, all of them of this engine."""
    if engine not in ENGINES:
        raise JudgeError(f"engine: unknown engine {engine!r}; {did_you_mean(engine, ENGINES)}")
    given = {name: value for name, value in options.items() if value is not None}
    for other in ENGINES:
        for name in OPTIONS[other]:
            if other != engine and name in given:
                raise JudgeError(f"{name}: only with engine={other}, but the engine is {engine}")
    return given


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not str(value).isdecimal() or int(str(value)) < 1:
        raise JudgeError(f"{name}: found {value!r}; expected a positive integer")
    return int(str(value))


def _torch_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise JudgeError(f"dtype: found {name!r}; expected auto, float32, bfloat16 or float16")
    return dtype
