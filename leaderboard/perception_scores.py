"""How well judges see: facts in their reasoning, and the ranking by their probabilities."""

from __future__ import annotations

from collections.abc import Mapping

from mtrl_judge.metrics.bootstrap import RESAMPLES
from mtrl_judge.metrics.perception import PERCEPTION_RATES, drawn_perception

from .runs import TaskResult
from .scores import Score, TaskScores


def with_perception(
    scored: Mapping[str, TaskScores],
    results: Mapping[str, Mapping[str, TaskResult]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, TaskScores]:
    """The scores of each task with every rate of
    :data:`~mtrl_judge.metrics.perception.PERCEPTION_RATES` that its rows allow.

    The rows of a leaderboard file hold neither facts nor probabilities; then the rates that the
    file reports stay, without draws.
    """
    found = dict(scored)
    for task, judges in results.items():
        scores = dict(found[task].scores)
        for name, result in judges.items():
            reported = {r: v for r, v in result.rates.items() if r in PERCEPTION_RATES}
            drawn = drawn_perception(
                result.records,
                [sample.cluster for sample in result.samples],
                result.verdicts if result.kind.counted else (),
                task,
                resamples=resamples,
                seed=seed,
            )
            scores[name] = {
                **scores[name],
                **{rate: Score(value) for rate, value in reported.items()},
                **{
                    rate: Score.of(known.value, known.draws_B, known.clusters)
                    for rate, known in drawn.items()
                },
            }
        found[task] = found[task]._replace(scores=scores)
    return found
