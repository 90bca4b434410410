"""Metrics of kinds that compute them from rows instead of counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.metrics.bootstrap import RESAMPLES
from mtrl_judge.metrics.drawn import JudgedRows

from .runs import TaskResult
from .scores import Score, TaskScores


def with_drawn(
    scored: Mapping[str, TaskScores],
    results: Mapping[str, Mapping[str, TaskResult]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, TaskScores]:
    """The scores of each task with every metric of its kind's
    :attr:`~mtrl_judge.judge_tasks.kinds.Kind.drawn_metrics`."""
    of_kind: defaultdict[str, list[tuple[str, str, TaskResult]]] = defaultdict(list)
    for task, judges in results.items():
        for name, result in judges.items():
            if result.samples and not result.kind.counted:
                of_kind[result.kind.name].append((task, name, result))
    scores = {task: dict(known.scores) for task, known in scored.items()}
    for kind, judged in of_kind.items():
        rows = [judged_rows(task, result) for task, _, result in judged]
        drawn = KINDS[kind].drawn(rows, resamples=resamples, seed=seed)
        for (task, name, _), metrics in zip(judged, drawn, strict=True):
            known = {metric: Score.drawn(value) for metric, value in metrics.items()}
            scores[task][name] = {**scores[task][name], **known}
    return {task: known._replace(scores=scores[task]) for task, known in scored.items()}


def judged_rows(task: str, result: TaskResult) -> JudgedRows:
    """The rows of a judge as a kind's metrics take them."""
    clusters = [sample.cluster for sample in result.samples]
    return JudgedRows(task, result.records, clusters, result.verdicts)
