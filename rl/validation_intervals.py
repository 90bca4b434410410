"""The intervals of validation scores, by the statistics of the leaderboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.leaderboard.compare import score_results
from mtrl_judge.leaderboard.runs import Sample, TaskResult
from mtrl_judge.metrics.records import Record

_JUDGE = "judge"


def validation_intervals(
    tasks: Sequence[JudgeTask],
    records: Sequence[Sequence[Record]],
    clusters: Sequence[Sequence[str]],
) -> dict[str, dict[str, Any]]:
    """The labeled rows of each task, and the ends of the 95 % interval of its headline metric.

    A validation that chose a checkpoint flatters it; intervals know nothing of that.

    Args:
        records: by task and row.
        clusters: for each of these rows, the name of its cluster.

    Returns:
        By task ``rows``, ``low`` and ``high``; the ends are None where there is no interval.
    """
    results = {
        task.task: {_JUDGE: _result(task, of_task, names)}
        for task, of_task, names in zip(tasks, records, clusters, strict=True)
    }
    scored = score_results(results, {task.kind.headline for task in tasks})
    known = {}
    for task in tasks:
        estimate = scored[task.task].scores[_JUDGE][task.kind.headline].estimate
        rows = results[task.task][_JUDGE].n_labeled
        known[task.task] = {"rows": rows, "low": estimate.low, "high": estimate.high}
    return known


def _result(task: JudgeTask, records: Sequence[Record], clusters: Sequence[str]) -> TaskResult:
    metadata: Mapping[str, Any] = {
        "kind": task.judge.kind,
        "role": task.judge.role,
        "verdicts": task.judge.verdicts,
        "swap": task.judge.swap,
        "paired": task.paired,
        "fixed_labels": True,  # items are chosen by label
    }
    samples = [
        Sample(f"{number:09d}", record, cluster)
        for number, (record, cluster) in enumerate(zip(records, clusters, strict=True))
    ]
    return TaskResult(task.task, metadata, samples)
