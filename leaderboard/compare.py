"""Judges compared on the same rows: paired bootstrap, Holm's correction, McNemar's test.

The leaderboard, the gate and the robustness runs all compare through :func:`score_results` and
:func:`compare`. Axis suffixes as in :mod:`mtrl_judge.metrics.bootstrap`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.metrics.bootstrap import (
    RESAMPLES,
    Estimate,
    cluster_tallies,
    estimate,
    resampled,
)
from mtrl_judge.metrics.rates import RATES, Rates
from mtrl_judge.metrics.records import Record, tally
from mtrl_judge.metrics.significance import McNemar, difference_p_value, holm, mcnemar

from .runs import TaskResult

ALPHA = 0.05
PERTURBATION_SEED = 0  # of the resamples; lmms-eval has a --seed of its own


class Score(NamedTuple):
    """A rate, and its value in each of B resamples where the rows are known."""

    estimate: Estimate
    draws_B: Rates | None = None

    @classmethod
    def of(cls, value: float | None, draws_B: Rates) -> Score:
        return cls(estimate(value, draws_B), draws_B)

    @property
    def value(self) -> float | None:
        return self.estimate.value


UNKNOWN = Score(Estimate(None))


class Comparison(NamedTuple):
    """Two judges on the same rows."""

    column: str
    """The task, or the role for the mean over its tasks."""
    first: str
    second: str
    difference: Estimate
    """First minus second, from the same resamples of both."""
    p_value: float
    """Two-sided, by the bootstrap."""
    adjusted: float
    """The same after Holm's correction over all pairs of judges of the column."""
    mcnemar: McNemar | None
    """Counts rows (or pairs judged in both orders) that only one judge gets right; its p-value is
    Holm-adjusted too. None for means. It assumes independent rows, which ranks do not."""

    @property
    def significant(self) -> bool:
        return self.adjusted < ALPHA


def score_results(
    results: Mapping[str, TaskResult],
    rates: Collection[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, Score]]:
    """Rates of several judges on one task, by judge and rate.

    Judges of the same rows share their resamples, so that their differences are paired. A judge
    without rows keeps the estimates that its file reports, without resamples.
    """
    scores = {
        name: {rate: Score(value) for rate, value in result.rates.items()}
        for name, result in results.items()
    }
    panels: defaultdict[object, list[str]] = defaultdict(list)
    for name, result in results.items():
        if result.samples:
            panels[result.rows, tuple(result.verdicts), result.paired].append(name)
    for names in panels.values():
        panel = [results[name] for name in names]
        first = panel[0]
        tallies = cluster_tallies(
            [result.records for result in panel],
            [sample.cluster for sample in first.samples],
            first.verdicts,
            paired=first.paired,
        )
        draws = resampled(tallies, list(rates), resamples=resamples, seed=seed)
        for index, (name, result) in enumerate(zip(names, panel, strict=True)):
            counts = tally(result.records, result.verdicts, result.paired)
            values = {rate: float(RATES[rate](counts)) for rate in rates}
            scores[name] = {
                rate: Score.of(None if np.isnan(value) else value, draws[rate][:, index])
                for rate, value in values.items()
            }
    return scores


def minus(first: Score, second: Score) -> Score:
    """The paired difference of two scores that have values."""
    value = (first.value or 0.0) - (second.value or 0.0)
    if first.draws_B is None or second.draws_B is None:
        return Score(Estimate(value))
    return Score.of(value, first.draws_B - second.draws_B)


def mean(scores: Sequence[Score], weights: Sequence[float]) -> Score:
    """The weighted mean of scores that have values."""
    value = float(np.average([score.value or 0.0 for score in scores], weights=weights))
    draws = [score.draws_B for score in scores if score.draws_B is not None]
    if len(draws) < len(scores):
        return Score(Estimate(value))
    return Score.of(value, np.average(np.stack(draws), axis=0, weights=weights))


def compare(
    column: str, scores: Mapping[str, Score], results: Mapping[str, TaskResult] | None = None
) -> list[Comparison]:
    """Each pair of judges that have the metric on the same rows, after Holm over all pairs.

    Args:
        scores: the metric of each judge.
        results: what each judge judged; None for means over tasks.
    """
    comparisons = []
    for (first, score), (second, baseline) in combinations(scores.items(), 2):
        if score.draws_B is None or baseline.draws_B is None:
            continue
        if score.value is None or baseline.value is None:
            continue
        test = None
        if results is not None:
            if results[first].rows != results[second].rows:
                continue
            test = mcnemar(results[first].correct, results[second].correct)
        p_value = difference_p_value(score.draws_B, baseline.draws_B)
        difference = minus(score, baseline).estimate
        comparisons.append(Comparison(column, first, second, difference, p_value, p_value, test))
    adjusted = holm([comparison.p_value for comparison in comparisons])
    tests = holm([c.mcnemar.p_value if c.mcnemar else None for c in comparisons])
    return [
        comparison._replace(
            adjusted=p_value,
            mcnemar=comparison.mcnemar and comparison.mcnemar._replace(p_value=test or 0.0),
        )
        for comparison, p_value, test in zip(comparisons, adjusted, tests, strict=True)
    ]


class PerturbationEffect(NamedTuple):
    """One task under one perturbation, beside the same task unchanged."""

    task: str
    perturbation: str
    metric: str
    """The headline metric of the task's kind."""
    rows: int
    n: int
    """Labeled rows, which the metric is computed from."""
    unchanged: float | None
    perturbed: float | None
    difference: Estimate
    """Of the metric, perturbed minus unchanged."""
    p_value: float | None
    """Two-sided, that both have the same score."""
    p_value_holm: float | None
    """The same, adjusted for all tasks and perturbations of the command."""
    changed: Estimate
    """Share of all rows with another verdict; gaining or losing one counts too."""
    null_rate: float | None
    null_rate_perturbed: float | None


def compare_perturbation(
    perturbation: str,
    unchanged: TaskResult,
    perturbed: TaskResult,
    *,
    resamples: int = RESAMPLES,
    seed: int = PERTURBATION_SEED,
) -> PerturbationEffect:
    """What a perturbation does to one task; the p-value is not adjusted yet.

    Raises:
        JudgeError: the rows are not the same, or there are none.
    """
    if unchanged.rows != perturbed.rows or not unchanged.samples:
        raise JudgeError(f"{perturbation}: {unchanged.task}: other rows than in the unchanged run")
    metric = unchanged.kind.headline
    # The share of changed verdicts is 1 - accuracy, if a row that keeps its verdict is correct.
    same = [
        before.verdict == after.verdict
        for before, after in zip(unchanged.records, perturbed.records, strict=True)
    ]
    kept = [
        sample._replace(record=Record("kept", "kept" if unmoved else None))
        for sample, unmoved in zip(unchanged.samples, same, strict=True)
    ]
    # Only rates of single rows are compared; the rows of a pair share their cluster all the same.
    metadata = {**unchanged.metadata, "paired": False}
    results = {
        "perturbed": replace(perturbed, metadata=metadata),
        "unchanged": replace(unchanged, metadata=metadata),
        "kept": replace(unchanged, metadata={**metadata, "verdicts": ["kept"]}, samples=kept),
    }
    scores = score_results(
        results, (metric, "null_rate", "accuracy"), resamples=resamples, seed=seed
    )
    draws_B = scores["kept"]["accuracy"].draws_B
    assert draws_B is not None  # there are rows
    of_metric = {name: scores[name][metric] for name in ("perturbed", "unchanged")}
    comparisons = compare(unchanged.task, of_metric)
    return PerturbationEffect(
        task=unchanged.task,
        perturbation=perturbation,
        metric=metric,
        rows=len(same),
        n=sum(record.label is not None for record in unchanged.records),
        unchanged=of_metric["unchanged"].value,
        perturbed=of_metric["perturbed"].value,
        difference=comparisons[0].difference if comparisons else Estimate(None),
        p_value=comparisons[0].p_value if comparisons else None,
        p_value_holm=None,
        changed=estimate(same.count(False) / len(same), 1 - draws_B),
        null_rate=scores["unchanged"]["null_rate"].value,
        null_rate_perturbed=scores["perturbed"]["null_rate"].value,
    )


def adjust_p_values(effects: Sequence[PerturbationEffect]) -> list[PerturbationEffect]:
    """The effects of one command with `p_value_holm`."""
    adjusted = holm([effect.p_value for effect in effects])
    return [
        effect._replace(p_value_holm=p_value)
        for effect, p_value in zip(effects, adjusted, strict=True)
    ]
