"""Whether a judge gives the same verdict again, as results that are scored like any others.

A row counts as correct if it keeps its verdict, so the accuracy of these results is the share of
rows that do, with the intervals and tests of every other rate. No verdict is a verdict of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mtrl_judge.metrics.records import Record

from .runs import Sample, TaskResult

KEPT = "kept"
KEPT_RATE = "accuracy"


def kept_verdicts(before: TaskResult, after: TaskResult) -> TaskResult:
    """Which rows have the same verdict in two runs; those of a failed request count in neither.

    Both runs judged the same rows in the same order.
    """
    samples = [
        first._replace(
            record=_kept(
                first.record.verdict == second.record.verdict,
                failed=first.record.failed or second.record.failed,
            )
        )
        for first, second in zip(before.samples, after.samples, strict=True)
    ]
    return _result(before, samples)


def agreeing_votes(result: TaskResult) -> TaskResult:
    """In which rows the first two of several answers have the same verdict."""
    samples = [
        sample._replace(record=_kept(len(set(sample.votes[:2])) == 1, failed=len(sample.votes) < 2))
        for sample in result.samples
    ]
    return _result(result, samples)


def _kept(same: bool, *, failed: bool) -> Record:
    return Record(KEPT, KEPT if same else None, failure="failed" if failed else None)


def _result(of: TaskResult, samples: Sequence[Sample]) -> TaskResult:
    # Single rows are compared; the two rows of a pair share their cluster all the same. Whatever
    # the kind of task, this is a verdict for each row.
    about = {"kind": "pointwise", "paired": False, "verdicts": [KEPT], "swap": {}}
    return replace(of, metadata={**of.metadata, **about}, samples=samples)
