"""`mtrl_judge`: any image-text-to-text checkpoint as a judge inside lmms-eval.

`lmms-eval --model mtrl_judge --model_args pretrained=PATH --tasks mtrl_judge_*`

The model runs on transformers or, with `engine=vllm`, on vLLM; prompts and answers are the same.
With `engine=openai`, a server with an OpenAI-compatible API runs it.
Requests of all tasks are batched together by length and answered greedily unless a task asks for
sampling. Answers are returned whole, reasoning included, because the task's scorer reads it. With
`scoring=logprob` the verdict is not generated: the answer is the most probable one, right after a
prompt that asks for the verdict alone or after the judge's reasoning (see
:mod:`mtrl_judge.models.logprob`). With `samples=K` several answers to an item vote (see
:mod:`mtrl_judge.models.votes`).
"""

from __future__ import annotations

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

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.exits import exit_of_host
from mtrl_judge.models.base_judge import Answer, Batch, Prompt
from mtrl_judge.models.engines import (
    ARGUMENTS,
    AUTO,
    EngineArguments,
    engine_arguments,
    open_judge,
    positive,
)
from mtrl_judge.models.generation import generation_settings
from mtrl_judge.models.logprob import LogprobScorer, check_calibration, check_scoring
from mtrl_judge.models.openai_judge import OpenAIJudge
from mtrl_judge.models.vllm_judge import VLLMJudge
from mtrl_judge.models.votes import ARGUMENTS as SAMPLING_ARGUMENTS
from mtrl_judge.models.votes import Sampling, Voter, check_vote, sampling

from .hooks import JudgeHooks, hooks_behind
from .kept_answers import Received
from .prompt_style import Backend, evaluation_style, set_backend

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
        scoring: generation or logprob.
        calibration: temperature (the default) or bias; of scoring=logprob.
        max_new_tokens: overrides the tasks' own.
        samples: answers to each item, which vote; 1 by default.
        vote: majority (the default), mean or verified; of several samples.
        temperature: of the samples; by default the tasks' own where they sample, else 1.
        arguments: of :func:`~mtrl_judge.models.engines.engine_arguments`.
    """

    is_simple = False
    reports_answers = True

    @_exit_on_error()
    def __init__(
        self,
        scoring: str = "generation",
        calibration: str | None = None,
        max_new_tokens: int | None = None,
        samples: int | str = 1,
        vote: str | None = None,
        temperature: float | str | None = None,
        max_batch_size: int | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        if max_batch_size is not None:  # one of lmms-eval's flags
            raise JudgeError("max_batch_size: not supported by this backend; set batch_size")
        known = ("scoring", "calibration", "max_new_tokens", *SAMPLING_ARGUMENTS, *ARGUMENTS)
        if unknown := arguments.keys() - {*ARGUMENTS}:
            hints = (f"unknown key {key!r}; {did_you_mean(key, known)}" for key in sorted(unknown))
            raise JudgeError("\n".join(f"model_args: {hint}" for hint in hints))
        checked = engine_arguments(**arguments)
        self.batch_size = checked.batch_size or AUTO
        self._max_new_tokens = max_new_tokens and positive("max_new_tokens", max_new_tokens)
        self._scoring = check_scoring(scoring)
        self._calibration = check_calibration(calibration, self._scoring)
        seed = torch.initial_seed()  # lmms-eval's --seed
        self._sampling = sampling(samples, vote, temperature, seed, self._scoring)
        self._scorers: dict[str, LogprobScorer] = {}

        self.accelerator = Accelerator()
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        device = None
        if self._world_size > 1:
            _check_for_several_processes(checked)
            # Even where `device` is given: lmms-eval gathers results on accelerate's device.
            device = self.accelerator.device
        self.opened = opened = open_judge(checked, device)
        self.judge, self.device = opened.judge, opened.device
        if isinstance(self.judge, OpenAIJudge):
            # As in lmms-eval's own clients: answers are kept by the server that gave them.
            self.client = self.judge.client
        set_backend(
            Backend(
                opened.engine,
                self._scoring,
                opened.style,
                self.judge.min_and_max_pixels,
                checked.system_prompt or "",
                opened.revision,
                lambda requested: self.judge.recorded(self._generation_settings(requested)),
                self._calibration,
                opened.encode_image,
                self._sampling,
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
                answers = self.opened.answers(part.batch, part.answer)
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
        by_task = self._scoring == "logprob" or self._sampling is not None
        for index, request in enumerate(requests):
            _, _, generation_kwargs, _, task, _ = request.args
            key = json.dumps(generation_kwargs, sort_keys=True, default=str)
            groups[task if by_task else key].append(index)
        for indices in groups.values():
            first = requests[indices[0]]
            settings = self._generation_settings(first.args[2])
            self._refuse_copies([requests[index] for index in indices], settings)
            if self._scoring == "logprob":
                answer = self._scorer(first).answer
            elif self._sampling is not None:
                answer = self._voter([requests[index] for index in indices], self._sampling).answer
            else:
                answer = partial(self.judge.generate, **settings)
            prompts = (self._prompt(requests[index]) for index in indices)
            for batch in self.judge.batches(
                prompts,
                self.opened.prompts_at_once,
                answer_tokens=settings["max_new_tokens"],
                answers=1 if self._sampling is None else self._sampling.samples,
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
        settings = generation_settings(requested, self._max_new_tokens)
        return settings if self._sampling is None else self._sampling.applied(settings)

    def _refuse_copies(self, requests: Sequence[Instance], settings: Mapping[str, Any]) -> None:
        """
        Raises:
            JudgeError: requests are repeated, and all answers to one would be the same.
        """
        repeated = next((each for each in requests if (each.repeats or 1) > 1), None)
        if repeated is None:
            return
        task, repeats = repeated.args[4], repeated.repeats
        if self._sampling is not None:
            raise JudgeError(
                f"{task}: repeats={repeats} beside samples={self._sampling.samples}: the repeats "
                "would be identical copies, since samples follow from the seed and the prompt; "
                "raise samples, or evaluate once for each --seed"
            )
        if not settings["do_sample"]:
            raise JudgeError(
                f"{task}: repeats={repeats} at temperature 0: the answers would be identical "
                "copies; add --gen_kwargs do_sample=True,temperature=1.0, give the model argument "
                "samples, or leave repeats out"
            )

    def _voter(self, requests: Sequence[Instance], sampling: Sampling) -> Voter:
        """What answers the requests of one task."""
        _, doc_to_messages, generation_kwargs, _, task, split = requests[0].args
        hooks = self._hooks(doc_to_messages, task, "samples")
        style = evaluation_style(hooks.task)
        check_vote(hooks.task, sampling.vote, style)
        about = self.task_dict[task][split].with_format(None)  # without images
        return Voter(
            self.judge,
            sampling,
            [hooks.asked(about[request.args[3]]) for request in requests],
            style=style,
            generation=self._generation_settings(generation_kwargs),
        )

    def _hooks(self, doc_to_messages: Callable[..., Any], task: str, argument: str) -> JudgeHooks:
        """
        Args:
            argument: of the model, for the message.
        """
        hooks = hooks_behind(doc_to_messages)
        if hooks is None:
            raise JudgeError(f"{task}: not a judge task; {argument} needs a task's verdicts")
        return hooks

    def _scorer(self, request: Instance) -> LogprobScorer:
        _, doc_to_messages, generation_kwargs, _, task, _ = request.args
        hooks = self._hooks(doc_to_messages, task, "scoring=logprob")
        if task not in self._scorers:
            self._scorers[task] = LogprobScorer(
                self.judge,
                hooks.task,
                hooks.calibration_rows,
                calibration=self._calibration,
                style=evaluation_style(hooks.task),
                verdicts=hooks.perturbation.verdicts,
                batch_size=self.opened.prompts_at_once,
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


def _check_for_several_processes(arguments: EngineArguments) -> None:
    """
    Raises:
        JudgeError: an argument is for one process.
    """
    if arguments.engine == "vllm":
        raise JudgeError(
            "engine=vllm: not supported with several processes; start one, and give "
            "tensor_parallel_size the number of GPUs"
        )
    if arguments.engine == "openai":
        raise JudgeError(
            "engine=openai: not supported with several processes; start one, and set "
            "batch_size to the number of requests at a time"
        )
    if "device_map" in arguments.options:
        raise JudgeError("device_map: not supported with several processes; leave it out")
