"""Judges compared on the same rows: intervals of differences and randomization tests.

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
from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.metrics.bootstrap import (
    RESAMPLES,
    Estimate,
    Panel,
    draw_rates,
    estimate,
    information,
    panel_of,
    spread_factor,
)
from mtrl_judge.metrics.rates import RATES, Rate, Rates, class_rates
from mtrl_judge.metrics.records import Record, tally
from mtrl_judge.metrics.significance import detectable_difference, holm, randomization_p_value

from .runs import TaskResult

ALPHA = 0.05
PERTURBATION_SEED = 0  # of the draws; lmms-eval has a --seed of its own


class Score(NamedTuple):
    """A rate, and its value in each of B draws where the rows are known and many enough."""

    estimate: Estimate
    draws_B: Rates | None = None
    clusters: float = 0
    """How many independent clusters the draws rest on."""

    @classmethod
    def of(cls, value: float | None, draws_B: Rates, clusters: float) -> Score:
        known = estimate(value, draws_B, clusters)
        return cls(known) if known.low is None else cls(known, draws_B, clusters)

    @property
    def value(self) -> float | None:
        return self.estimate.value

    @property
    def standard_error(self) -> float | None:
        if self.draws_B is None:
            return None
        return float(np.nanstd(self.draws_B)) * spread_factor(self.clusters)


UNKNOWN = Score(Estimate(None))


class TaskScores(NamedTuple):
    """The judges of one task."""

    scores: Mapping[str, Mapping[str, Score]]
    """By judge and rate."""
    panels: Mapping[str, tuple[Panel, int]]
    """For each judge whose rows are known, the panel of all judges of these rows and its index."""


class Comparison(NamedTuple):
    """Two judges on the same rows."""

    column: str
    """The task, or the role for the mean over its tasks."""
    first: str
    second: str
    difference: Estimate
    """First minus second, from the same draws of both."""
    p_value: float
    """By the randomization test."""
    adjusted: float
    """The same after Holm's correction over all pairs of judges of the column."""
    standard_error: float | None = None
    """Of the difference."""
    clusters: float = 0
    """How many independent clusters it rests on."""
    discordant: tuple[int, int] | None = None
    """Rows (or pairs judged in both orders) that only the first and only the second judge gets
    right; None for means."""

    @property
    def significant(self) -> bool:
        return self.adjusted < ALPHA

    def detectable(
        self, tests: int, *, alpha: float = ALPHA, one_sided: bool = False
    ) -> float | None:
        """The smallest difference that such a comparison, one of several tests, would show with a
        probability of 80 %."""
        if self.standard_error is None or not 0 < alpha < 1:
            return None
        return detectable_difference(
            self.standard_error, self.clusters, alpha=alpha, tests=tests, one_sided=one_sided
        )


def score_results(
    results: Mapping[str, Mapping[str, TaskResult]],
    rates: Collection[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, TaskScores]:
    """Rates of the judges of each task.

    Judges of the same rows share their draws, so that their differences are paired, and so do tasks
    with clusters in common, such as several tasks about the same images. A judge without rows keeps
    the estimates that its file reports, without draws.

    Args:
        results: by task and judge.
        rates: by default those of the task's kind, and precision, recall and F1 of each verdict.
    """
    scores = {
        task: {
            name: {rate: Score(value) for rate, value in result.rates.items()}
            for name, result in judges.items()
        }
        for task, judges in results.items()
    }
    panels: list[Panel] = []
    members: list[tuple[str, list[str], dict[str, Rate]]] = []
    for task, judges in results.items():
        same_rows: defaultdict[object, list[str]] = defaultdict(list)
        for name, result in judges.items():
            if result.samples:
                same_rows[result.rows, tuple(result.verdicts), result.paired].append(name)
        for names in same_rows.values():
            panels.append(_panel(task, [judges[name] for name in names]))
            members.append((task, names, _rates(judges[names[0]], rates)))
    drawn = draw_rates(panels, [known for *_, known in members], resamples=resamples, seed=seed)
    places: dict[str, dict[str, tuple[Panel, int]]] = {task: {} for task in results}
    for panel, (task, names, known), draws in zip(panels, members, drawn, strict=True):
        supported = information(panel.tallies)
        for index, name in enumerate(names):
            result = results[task][name]
            counts = tally(result.records, result.verdicts, result.paired)
            scores[task][name] = {}
            for rate, function in known.items():
                value = float(function(counts))
                scores[task][name][rate] = Score.of(
                    None if np.isnan(value) else value,
                    draws[rate][:, index],
                    supported.of_rate(rate, result.verdicts),
                )
            places[task][name] = panel, index
    return {task: TaskScores(scores[task], places[task]) for task in results}


def _panel(task: str, judges: Sequence[TaskResult]) -> Panel:
    first = judges[0]
    return panel_of(
        task,
        [result.records for result in judges],
        [sample.cluster for sample in first.samples],
        first.verdicts,
        paired=first.paired,
        fixed_labels=first.fixed_labels,
    )


def _rates(result: TaskResult, names: Collection[str] | None) -> dict[str, Rate]:
    if names is not None:
        return {name: RATES[name] for name in names}
    of_kind = {name: RATES[name] for name in result.kind.rates(result.paired)}
    return {**of_kind, **class_rates(result.verdicts)}


def minus(first: Score, second: Score) -> Score:
    """The paired difference of two scores that have values."""
    value = (first.value or 0.0) - (second.value or 0.0)
    if first.draws_B is None or second.draws_B is None:
        return Score(Estimate(value))
    return Score.of(value, first.draws_B - second.draws_B, min(first.clusters, second.clusters))


def mean(scores: Sequence[Score], weights: Sequence[float]) -> Score:
    """The weighted mean of scores that have values."""
    value = float(np.average([score.value or 0.0 for score in scores], weights=weights))
    draws = [score.draws_B for score in scores if score.draws_B is not None]
    if len(draws) < len(scores):
        return Score(Estimate(value))
    draws_B = np.average(np.stack(draws), axis=0, weights=weights)
    # The variance of the task with the fewest clusters is known least.
    return Score.of(value, draws_B, min(score.clusters for score in scores))


def compare(
    column: str,
    metric: str,
    scores: Mapping[str, Score],
    tasks: Sequence[TaskScores],
    results: Mapping[str, TaskResult] | None = None,
    *,
    one_sided: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Comparison]:
    """Each pair of judges that have the metric on the same rows, after Holm over all pairs.

    A task with fewer than two clusters shows no difference, and its judges are not compared.

    Args:
        scores: the metric of each judge.
        tasks: the task, or the tasks that `scores` are the mean of.
        results: what each judge judged, to count discordant rows; None for means over tasks.
        one_sided: test whether the first judge's rate is lower.
    """
    comparisons = []
    for (first, score), (second, baseline) in combinations(scores.items(), 2):
        pairs = [_pair(task, first, second) for task in tasks]
        panels = [pair for pair in pairs if pair is not None]
        if None in (score.value, baseline.value) or len(panels) < len(pairs):
            continue
        p_value = randomization_p_value(
            panels,
            RATES[metric],
            one_sided=one_sided,
            resamples=resamples,
            seed=stable_hash(column, seed),
        )
        if p_value is None:
            continue
        difference = minus(score, baseline)
        comparisons.append(
            Comparison(
                column,
                first,
                second,
                difference.estimate,
                p_value,
                p_value,
                difference.standard_error,
                difference.clusters * len(panels),
                _discordant(results[first], results[second]) if results else None,
            )
        )
    adjusted = holm([comparison.p_value for comparison in comparisons])
    return [
        comparison._replace(adjusted=p_value)
        for comparison, p_value in zip(comparisons, adjusted, strict=True)
    ]


def _pair(task: TaskScores, first: str, second: str) -> Panel | None:
    """The panel of two judges; None unless they judged the same rows, which are known."""
    if not {first, second} <= task.panels.keys():
        return None
    (panel, index), (other, other_index) = task.panels[first], task.panels[second]
    return panel.of_judges([index, other_index]) if panel is other else None


def _discordant(first: TaskResult, second: TaskResult) -> tuple[int, int]:
    pairs = list(zip(first.correct, second.correct, strict=True))
    return pairs.count((True, False)), pairs.count((False, True))


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
    task = unchanged.task
    scored = score_results(
        {task: results}, (metric, "null_rate", "accuracy"), resamples=resamples, seed=seed
    )[task]
    scores = scored.scores
    of_metric = {name: scores[name][metric] for name in ("perturbed", "unchanged")}
    comparisons = compare(task, metric, of_metric, [scored], resamples=resamples, seed=seed)
    known = None not in [score.value for score in of_metric.values()]
    difference = minus(*of_metric.values()).estimate if known else Estimate(None)
    same_as_before = scores["kept"]["accuracy"].estimate
    return PerturbationEffect(
        task=unchanged.task,
        perturbation=perturbation,
        metric=metric,
        rows=len(same),
        n=sum(record.label is not None for record in unchanged.records),
        unchanged=of_metric["unchanged"].value,
        perturbed=of_metric["perturbed"].value,
        difference=difference,
        p_value=comparisons[0].p_value if comparisons else None,
        p_value_holm=None,
        changed=_complement(same_as_before),
        null_rate=scores["unchanged"]["null_rate"].value,
        null_rate_perturbed=scores["perturbed"]["null_rate"].value,
    )


def _complement(share: Estimate) -> Estimate:
    low, high = (None if end is None else 1 - end for end in (share.high, share.low))
    return Estimate(None if share.value is None else 1 - share.value, low, high)


def adjust_p_values(effects: Sequence[PerturbationEffect]) -> list[PerturbationEffect]:
    """The effects of one command with `p_value_holm`."""
    adjusted = holm([effect.p_value for effect in effects])
    return [
        effect._replace(p_value_holm=p_value)
        for effect, p_value in zip(effects, adjusted, strict=True)
    ]
