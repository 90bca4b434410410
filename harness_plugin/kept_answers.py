"""Any backend of lmms-eval, with its answers to judge tasks kept as they arrive.

Where a store is named (see :mod:`.answer_store`), a model's class is replaced by a subclass whose
`generate_until` gives known answers from the store and asks its own for the others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.exits import exit_of_host

from .answer_keys import ModelIdentity, Questions
from .answer_store import (
    STORE_VARIABLE,
    AnswerStore,
    Keeping,
    Question,
    Stored,
    StoredAnswer,
    answer_line,
    failure_line,
    keeping_from_environment,
)
from .clean_answers import clean, is_failed_request

# A backend of lmms-eval's own returns its answers only when it has all of them, so it is asked in
# parts. Between two parts its slowest request is waited for; what a kill can lose is one part.
PART_SECONDS = 120.0
FIRST_PART = 4  # times the requests that a backend works on at once

Received = Callable[[Sequence[int], Sequence[Any]], None]
"""Called with places among the requests, and the backend's answers to these."""


def with_kept_answers(model_class: Any, backend: str) -> Any:
    """The class itself, or if answers are to be kept, a subclass that keeps them.

    Args:
        backend: its name in lmms-eval.
    """
    keeping = keeping_from_environment()
    if keeping is None:
        return model_class

    def create_from_arg_string(
        cls: Any, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> Any:
        from lmms_eval.utils import simple_parse_args_string

        model = super(kept, cls).create_from_arg_string(arg_string, additional_config)
        arguments = {**(additional_config or {}), **simple_parse_args_string(arg_string)}
        model.kept_answers = KeptAnswers(model, backend, arguments, keeping)
        return model

    def generate_until(self: Any, requests: Sequence[Any]) -> list[Any]:
        try:
            answers: list[Any] = self.kept_answers.generate_until(requests, super(kept, self))
        except JudgeError as error:  # lmms-eval would print a traceback and exit 0
            raise exit_of_host(str(error)) from None
        return answers

    namespace = {
        "__module__": model_class.__module__,  # results name the backend by its class
        "__qualname__": model_class.__qualname__,
        "create_from_arg_string": classmethod(create_from_arg_string),
        "generate_until": generate_until,
    }
    kept: Any = type(model_class.__name__, (model_class,), namespace)
    return kept


class KeptAnswers:
    """The answers of one model, from the store or from the model itself."""

    def __init__(
        self, model: Any, backend: str, arguments: Mapping[str, Any], keeping: Keeping
    ) -> None:
        self._reports = getattr(model, "reports_answers", False)
        if model.world_size > 1 and not self._reports:
            # Some communicate in `generate_until`, so all processes have to ask equally often.
            raise SystemExit(
                f"{STORE_VARIABLE}: not supported with several processes of --model {backend}; "
                "unset it, or start one process"
            )
        self._model, self._keeping = model, keeping
        self._store = AnswerStore(keeping.folder, keeping.session)
        self._questions = Questions(ModelIdentity(model, backend, arguments))

    def generate_until(self, requests: Sequence[Any], stock: Any) -> list[Any]:
        """Answers to all requests, in their order.

        Args:
            stock: the model, whose own `generate_until` is asked.

        Raises:
            JudgeError: the store cannot be read or written; or failed requests are to be repeated,
                and something that answers depend on has changed.
        """
        questions = self._questions.of(self._model, requests)
        answers: list[Any] = [None] * len(requests)
        judged = [index for index, question in enumerate(questions) if question is not None]
        others = [index for index, question in enumerate(questions) if question is None]
        if others:
            for index, answer in zip(
                others, stock.generate_until([requests[index] for index in others]), strict=True
            ):
                answers[index] = answer
        pending = self._restore(questions, judged, answers)

        def receive(places: Sequence[int], received: Sequence[Any]) -> None:
            for place, answer in zip(places, received, strict=True):
                answers[pending[place]] = answer
            self._keep([questions[pending[place]] for place in places], received)

        if pending:
            self._ask([requests[index] for index in pending], stock, receive)
        return answers

    def _restore(
        self, questions: Sequence[Question | None], judged: Sequence[int], answers: list[Any]
    ) -> list[int]:
        """Fill in the answers that the store has; the indices of the others."""
        from loguru import logger

        keys = {question.key for question in questions if question is not None}
        stored = Stored({}, (), {})
        if self._keeping.reuse:
            stored = self._store.read(keys, self._keeping.retried)
        if self._keeping.retried is not None:
            self._refuse_changes([q for q in questions if q is not None], stored)
        self._store.append(
            {"task": task, "depends_on": parts}
            for task, parts in self._questions.depends_on.items()
        )
        pending = []
        for index in judged:
            question = questions[index]
            assert question is not None
            if question.key in stored.answers:
                answers[index] = _generation_result(stored.answers[question.key])
            else:
                pending.append(index)
        if self._keeping.reuse:
            logger.info(
                f"{len(judged) - len(pending)} of {len(judged)} answers are in "
                f"{self._keeping.folder}; {len(pending)} requests to make"
            )
        return pending

    def _refuse_changes(self, questions: Sequence[Question], stored: Stored) -> None:
        """Nothing but the failed requests may be asked again."""
        unknown = [
            question
            for question in questions
            if question.key not in stored.answers and question.key not in stored.failed
        ]
        if not unknown:
            return
        lines = []
        for task in dict.fromkeys(question.task for question in unknown):
            now, before = self._questions.depends_on[task], stored.depends_on.get(task)
            changed = [name for name in now if before is not None and before.get(name) != now[name]]
            what = ", ".join(changed) or "prompts or generation settings"
            lines.append(f"{task}: changed since then: {what if before else 'the task is new'}")
        raise JudgeError(
            "\n".join(
                [
                    f"--retry-failed: {len(unknown)} of {len(questions)} requests are not those of "
                    "the earlier run, so its answers cannot be completed; evaluate again",
                    *lines,
                ]
            )
        )

    def _ask(self, requests: list[Any], stock: Any, receive: Received) -> None:
        if self._reports:
            stock.generate_until(requests, receive)
            return
        size = FIRST_PART * _at_once(self._model)
        start = 0
        while start < len(requests):
            part = requests[start : start + size]
            began = time.monotonic()
            received = stock.generate_until(part)
            seconds = time.monotonic() - began
            receive(range(start, start + len(part)), received)
            start += len(part)
            size = _next_size(len(part) / max(seconds, 1e-3), _at_once(self._model))

    def _keep(self, questions: Sequence[Question | None], answers: Sequence[Any]) -> None:
        self._store.append(_lines(zip(questions, answers, strict=True)))


def _lines(received: Any) -> Iterator[dict[str, Any]]:
    from lmms_eval.api.instance import unwrap_generation_output

    for question, answer in received:
        text, tokens = unwrap_generation_output(answer)
        if not isinstance(text, str):
            continue
        if is_failed_request(text):
            yield failure_line(question)
        else:
            counts = tokens.to_dict() if tokens else {}
            yield answer_line(question, StoredAnswer(clean(text), counts))


def _generation_result(answer: StoredAnswer) -> Any:
    from lmms_eval.api.instance import GenerationResult, TokenCounts

    return GenerationResult(answer.text, TokenCounts(**answer.tokens) if answer.tokens else None)


def _at_once(model: Any) -> int:
    """How many requests a backend works on at once: its batch size, or its open connections."""
    names = ("batch_size_per_gpu", "num_concurrent", "num_cpus")
    sizes = [getattr(model, name, None) for name in names]
    if getattr(model, "adaptive_concurrency", False):
        sizes.append(model.adaptive_config.max_concurrency)
    return max((size for size in sizes if isinstance(size, int) and size > 0), default=1)


def _next_size(requests_per_second: float, at_once: int) -> int:
    """A part of about PART_SECONDS, in whole batches."""
    return max(1, math.ceil(requests_per_second * PART_SECONDS / at_once)) * at_once
