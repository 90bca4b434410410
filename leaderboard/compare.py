"""Judges compared on the same rows: intervals of differences and their tests.

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
from mtrl_judge.judge_tasks.kinds import DRAWN_METRICS
from mtrl_judge.metrics.bootstrap import (
    RESAMPLES,
    Estimate,
    Panel,
    draw_rates,
    information,
    panel_of,
)
from mtrl_judge.metrics.groups import GROUP_MEANS
from mtrl_judge.metrics.human import HUMAN_RATES, interval_p_value
from mtrl_judge.metrics.joint import JOINT_ACCURACY
from mtrl_judge.metrics.rates import RATES, Rate, class_rates
from mtrl_judge.metrics.records import tally
from mtrl_judge.metrics.significance import detectable_difference, holm, randomization_p_value

from .drawn_scores import with_drawn
from .group_scores import with_groups
from .human_scores import with_human
from .joint_scores import with_joint
from .perception_scores import with_perception
from .runs import TaskResult
from .scores import Score, TaskScores, minus
from .stability import KEPT, KEPT_RATE, kept_verdicts

FROM_ROWS = (JOINT_ACCURACY, *HUMAN_RATES, *DRAWN_METRICS)
"""The metrics that are computed from rows instead of counts of rows."""
METRICS = (*RATES, *GROUP_MEANS, *FROM_ROWS)
"""Every metric that judges can be compared by."""
ALPHA = 0.05
PERTURBATION_SEED = 0  # of the draws; lmms-eval has a --seed of its own


class Comparison(NamedTuple):
    """Two judges on the same rows."""

    column: str
    """The task, or the role for the mean over its tasks."""
    first: str
    second: str
    difference: Estimate
    """First minus second, from the same draws of both."""
    p_value: float
    """By the randomization test; for metrics that are computed from rows, by the bootstrap."""
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
    """Rates of the judges of each task, as they are named in :data:`METRICS`.

    Judges of the same rows share their draws, so that their differences are paired, and so do tasks
    with clusters in common, such as several tasks about the same images. A judge without rows keeps
    the estimates that its file reports, without draws.

    Args:
        results: by task and judge.
        rates: by default all that a task has: those of its kind, precision, recall and F1 of each
            verdict that is counted, those by group, the agreement with people's ratings, and how
            well it sees.
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
            panels.append(_panel(task, [judges[name].counted() for name in names]))
            members.append((task, names, _rates(judges[names[0]], rates)))
    drawn = draw_rates(panels, [known for *_, known in members], resamples=resamples, seed=seed)
    places: dict[str, dict[str, tuple[Panel, int]]] = {task: {} for task in results}
    for panel, (task, names, known), draws in zip(panels, members, drawn, strict=True):
        for index, name in enumerate(names):
            result, supported = results[task][name].counted(), information(panel.tallies, index)
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
    scored = {task: TaskScores(scores[task], places[task]) for task in results}
    if rates is None or not GROUP_MEANS.keys().isdisjoint(rates):
        scored = with_groups(scored, results, resamples=resamples, seed=seed)
    if rates is None or JOINT_ACCURACY in rates:
        scored = with_joint(scored, results, resamples=resamples, seed=seed)
    if rates is None or not set(HUMAN_RATES).isdisjoint(rates):
        scored = with_human(scored, results, resamples=resamples, seed=seed)
    if rates is None or not set(DRAWN_METRICS).isdisjoint(rates):
        scored = with_drawn(scored, results, resamples=resamples, seed=seed)
    if rates is None:
        scored = with_perception(scored, results, resamples=resamples, seed=seed)
    return scored


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
    of_kind = result.kind.rates(result.verdicts, result.paired)
    if names is not None:
        known = RATES if result.kind.counted else of_kind
        return {name: RATES[name] for name in names if name in known}
    by_verdict = class_rates(result.verdicts) if result.kind.counted else {}
    return {**{name: RATES[name] for name in of_kind}, **by_verdict}


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
        if None in (score.value, baseline.value):
            continue
        difference = minus(score, baseline)
        p_value = None
        if metric in FROM_ROWS:
            if difference.draws_B is not None:
                p_value = interval_p_value(
                    difference.draws_B, difference.clusters, one_sided=one_sided
                )
        elif panels := _panels(metric, tasks, first, second):
            p_value = randomization_p_value(
                panels,
                RATES[GROUP_MEANS.get(metric, metric)],
                one_sided=one_sided,
                resamples=resamples,
                seed=stable_hash(column, seed),
            )
        if p_value is None:
            continue
        comparisons.append(
            Comparison(
                column,
                first,
                second,
                difference.estimate,
                p_value,
                p_value,
                difference.standard_error,
                difference.clusters * len(tasks),
                _discordant(results[first], results[second])
                if results and metric not in FROM_ROWS
                else None,
            )
        )
    adjusted = holm([comparison.p_value for comparison in comparisons])
    return [
        comparison._replace(adjusted=p_value)
        for comparison, p_value in zip(comparisons, adjusted, strict=True)
    ]


def _panels(
    metric: str, tasks: Sequence[TaskScores], first: str, second: str
) -> list[Panel] | None:
    """The panels of two judges whose mean rate is the metric; None unless they judged the same
    rows, which are known, in the same groups.

    A mean over tasks of means over groups has other weights than a mean over panels.
    """
    if metric in GROUP_MEANS:
        if len(tasks) > 1 or not {first, second} <= tasks[0].group_panels.keys():
            return None
        known = tasks[0].group_panels
        (panels, index), (others, other_index) = known[first], known[second]
        if panels is not others:
            return None
        return [panel.of_judges([index, other_index]) for panel in panels.values()]
    pairs = []
    for task in tasks:
        if not {first, second} <= task.panels.keys():
            return None
        (panel, index), (other, other_index) = task.panels[first], task.panels[second]
        if panel is not other:
            return None
        pairs.append(panel.of_judges([index, other_index]))
    return pairs


def _discordant(first: TaskResult, second: TaskResult) -> tuple[int, int]:
    pairs = [
        (is_correct, second.correct[row])
        for row, is_correct in first.correct.items()
        if row in second.correct
    ]
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
    # Only rates of single rows are compared; the rows of a pair share their cluster all the same.
    metadata = {**unchanged.metadata, "paired": False}
    results = {
        "perturbed": replace(perturbed, metadata=metadata),
        "unchanged": replace(unchanged, metadata=metadata),
        KEPT: kept_verdicts(unchanged, perturbed),
    }
    task = unchanged.task
    scored = score_results(
        {task: results}, (metric, "null_rate", KEPT_RATE), resamples=resamples, seed=seed
    )[task]
    scores = scored.scores
    of_metric = {name: scores[name][metric] for name in ("perturbed", "unchanged")}
    comparisons = compare(task, metric, of_metric, [scored], resamples=resamples, seed=seed)
    known = None not in [score.value for score in of_metric.values()]
    difference = minus(*of_metric.values()).estimate if known else Estimate(None)
    same_as_before = scores[KEPT][KEPT_RATE].estimate
    return PerturbationEffect(
        task=unchanged.task,
        perturbation=perturbation,
        metric=metric,
        rows=len(unchanged.samples),
        n=sum(record.label is not None and not record.failed for record in unchanged.records),
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
