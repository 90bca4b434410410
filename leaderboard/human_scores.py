"""Agreement of judges' scores with people's ratings."""

from __future__ import annotations

from collections.abc import Mapping

from mtrl_judge.metrics.bootstrap import RESAMPLES
from mtrl_judge.metrics.human import RatedRow, human_agreement

from .runs import TaskResult
from .scores import Score, TaskScores


def with_human(
    scored: Mapping[str, TaskScores],
    results: Mapping[str, Mapping[str, TaskResult]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, TaskScores]:
    """The scores of each task with every rate of
    :data:`~mtrl_judge.metrics.human.HUMAN_RATES` that its rows allow."""
    rated = [
        (task, name, result)
        for task, judges in results.items()
        for name, result in judges.items()
        if any(sample.human is not None for sample in result.samples)
    ]
    agreements = human_agreement(
        [rated_rows(result) for _, _, result in rated],
        [result.verdicts for _, _, result in rated],
        [task for task, _, _ in rated],
        resamples=resamples,
        seed=seed,
    )
    found = dict(scored)
    for (task, name, _), agreement in zip(rated, agreements, strict=True):
        known = {rate: Score.drawn(drawn) for rate, drawn in agreement.items()}
        scores = {**found[task].scores[name], **known}
        found[task] = found[task]._replace(scores={**found[task].scores, name: scores})
    return found


def rated_rows(result: TaskResult) -> list[RatedRow]:
    """The rows of a judge with what people thought of them."""
    return [
        RatedRow(sample.score, sample.human, sample.record.label, sample.cluster)
        for sample in result.samples
    ]
