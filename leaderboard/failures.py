"""Requests that failed: which runs have too many of them for a comparison, and why."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isfinite

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.request_failures import by_message

from .runs import Run, TaskResult

MAX_FAILURES = 0.005
"""The share of a task's rows whose request may have failed, unless told otherwise."""


def require_few_failures(runs: Sequence[Run], most: float = MAX_FAILURES) -> None:
    """
    Args:
        most: the share of a task's rows whose request may have failed.

    Raises:
        JudgeError: a task of a run has more; the message names all of them.
    """
    check_most(most)
    found = [(run, result) for run in runs for result in with_too_many_failures(run, most)]
    if not found:
        return
    lines = [f"  {run.name}: {result.task}: {failure_text(result)}" for run, result in found]
    allowed = ceil(1000 * max(result.failure_rate for _, result in found)) / 1000
    raise JudgeError(
        "\n".join(
            [
                f"too many requests failed (more than {most:.1%} of a task's rows):",
                *lines,
                "The other rows may be easier or harder than all of them. Repeat the requests with "
                f"mtrl-judge eval --retry-failed RUN, or give --max-failures {allowed:g}",
            ]
        )
    )


def with_too_many_failures(run: Run, most: float = MAX_FAILURES) -> list[TaskResult]:
    return [result for result in run.tasks.values() if result.failure_rate > most]


def check_most(most: float) -> None:
    """
    Raises:
        JudgeError: it is not a share.
    """
    if not (isfinite(most) and 0 <= most <= 1):
        raise JudgeError(f"--max-failures: is {most}; expected a share from 0 to 1, such as 0.01")


def failure_text(result: TaskResult) -> str:
    """How many requests of a task failed, and the most frequent message, if it is known."""
    known = by_message((f for sample in result.samples for f in sample.failures), "failed")
    text = f"{result.n_failed:,} of {result.n_rows:,} requests failed ({result.failure_rate:.1%})"
    message = next(iter(known), None)
    return text if message is None else f"{text}, most often: {message}"
