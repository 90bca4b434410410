"""What a training log says in a few numbers: how long it took, and how its figures changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple

FIGURES = ("loss", "reward", "accuracy", "format", "null_rate", "length", "entropy", "kl")
"""Those that are summarized, overall and of each task; docs/training.md explains them."""
_SHARE = 0.1  # of the steps, at the start and at the end, that a figure is the mean of


class Change(NamedTuple):
    """A figure at the start and at the end."""

    start: float
    end: float


class LogSummary(NamedTuple):
    """A training log in short."""

    hours: float | None
    """Wall-clock time of training with its validations, without pauses; None where unknown."""
    tokens: int | None
    """Of prompts and completions, as TRL counts them; None where it does not."""
    window: int
    """Steps that the start and the end are the mean of."""
    changes: Mapping[str, Mapping[str, Change]]
    """By task ("" is all) and figure."""
    validations: Sequence[tuple[int, float]]
    """Step and mean score."""


def summarize_log(
    lines: Sequence[Mapping[str, Any]],
    tasks: Sequence[str],
    headline: str | None,
    started: Sequence[str] = (),
) -> LogSummary:
    """
    Args:
        lines: of ``log.jsonl``.
        headline: the name of the mean validation score; None without validation.
        started: when the run was started, and resumed.
    """
    last = max((line["step"] for line in lines), default=0)
    window = max(1, round(_SHARE * last))
    changes: dict[str, dict[str, Change]] = {}
    for task in ("", *tasks):
        for figure in FIGURES:
            name = f"{task}/{figure}" if task else figure
            points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
            if points:
                start = [v for step, v in points if step <= points[0][0] + window - 1]
                end = [v for step, v in points if step > points[-1][0] - window]
                changes.setdefault(task, {})[figure] = Change(fmean(start), fmean(end))
    tokens = [line["num_tokens"] for line in lines if line.get("num_tokens") is not None]
    scores = [(line["step"], line.get(f"eval_{headline}")) for line in lines]
    return LogSummary(
        _hours([line["time"] for line in lines], started),
        int(tokens[-1]) if tokens else None,
        window,
        changes,
        [(step, float(score)) for step, score in scores if score is not None],
    )


def _hours(logged: Sequence[str], started: Sequence[str]) -> float | None:
    """The time from each log, or from a start since then, to the next log.

    >>> _hours(["2026-01-01T01:00", "2026-01-02T01:00"], ["2026-01-01T00:30", "2026-01-02T00:00"])
    1.5
    """
    try:
        times = sorted([*((datetime.fromisoformat(t), False) for t in logged),
                        *((datetime.fromisoformat(t), True) for t in started)])  # fmt: skip
    except (TypeError, ValueError):
        return None
    seconds = (
        (after - before).total_seconds()
        for (before, _), (after, is_start) in pairwise(times)
        if not is_start
    )
    return sum(seconds) / 3600 if logged else None
