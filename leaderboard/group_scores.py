"""Rates of judges by group of rows, and their macro means over the groups."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtrl_judge.metrics.bootstrap import RESAMPLES, Panel, draw_rates, information
from mtrl_judge.metrics.groups import GROUP_MEANS, group_panels, group_rate
from mtrl_judge.metrics.rates import Rate, Rates, class_rates

from .runs import TaskResult
from .scores import UNKNOWN, GroupScores, Score, TaskScores, mean

_MEANT: Mapping[str, Rate] = {
    name: functools.partial(group_rate, name) for name in GROUP_MEANS.values()
}


class _SameGroups(NamedTuple):
    """Judges of the same rows of a task in the same groups."""

    task: str
    judges: list[str]
    panels: Mapping[str, Panel]
    """By group."""
    rates: Mapping[str, Rate]


def with_groups(
    scored: Mapping[str, TaskScores],
    results: Mapping[str, Mapping[str, TaskResult]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, TaskScores]:
    """The scores of each task with those of its groups and the macro means over them."""
    parts = [part for task, judges in results.items() for part in _same_groups(task, judges)]
    panels = [panel for part in parts for panel in part.panels.values()]
    rates = [part.rates for part in parts for _ in part.panels]
    drawn = iter(draw_rates(panels, rates, resamples=resamples, seed=seed))
    found = dict(scored)
    for task, judges, by_group, its_rates in parts:
        old = found[task]
        scores, groups = dict(old.scores), dict(old.groups)
        draws = {group: next(drawn) for group in by_group}
        verdicts = results[task][judges[0]].verdicts
        for index, judge in enumerate(judges):
            groups[judge] = {
                group: _group_scores(panel, index, its_rates, draws[group], verdicts)
                for group, panel in by_group.items()
            }
            scores[judge] = {**scores[judge], **_means(groups[judge])}
        places = {judge: (by_group, index) for index, judge in enumerate(judges)}
        found[task] = old._replace(
            scores=scores, groups=groups, group_panels={**old.group_panels, **places}
        )
    return found


def _same_groups(task: str, judges: Mapping[str, TaskResult]) -> list[_SameGroups]:
    alike: defaultdict[object, list[str]] = defaultdict(list)
    for name, result in judges.items():
        if not result.kind.counted:
            continue
        groups = tuple(record.group for record in result.records)
        if any(group is not None for group in groups):
            alike[result.rows, tuple(result.verdicts), groups].append(name)
    parts = []
    for names in alike.values():
        first = judges[names[0]]
        panels = group_panels(
            task,
            [judges[name].records for name in names],
            [sample.cluster for sample in first.samples],
            first.verdicts,
            # A label is stratified over the task, not within each group.
            fixed_labels=first.paired and len(first.verdicts) == 2,
        )
        if panels:
            parts.append(_SameGroups(task, names, panels, _rates(first)))
    return parts


def _rates(result: TaskResult) -> Mapping[str, Rate]:
    """The rates of a group: those with a mean over groups and, where verdicts are classes rather
    than places of candidates, the F1 of each.

    UnsafeBench publishes the F1 of Unsafe in each category (`describe_results` in
    assess_effectiveness.py of github.com/YitingQu/UnsafeBench).
    """
    if result.kind.compares:
        return _MEANT
    f1 = {name: rate for name, rate in class_rates(result.verdicts).items() if name[:3] == "f1_"}
    return {**_MEANT, **f1}


def _group_scores(
    panel: Panel,
    judge: int,
    rates: Mapping[str, Rate],
    draws: Mapping[str, Rates],
    verdicts: Sequence[str],
) -> GroupScores:
    counts = panel.tallies.each(lambda part: part[:, judge].sum(axis=0))
    supported = information(panel.tallies, judge)
    scores = {}
    for rate, function in rates.items():
        value = float(function(counts))
        scores[rate] = Score.of(
            None if np.isnan(value) else value,
            draws[rate][:, judge],
            supported.of_rate(rate, verdicts),
        )
    return GroupScores(int(counts.confusion_X_C_C1.sum()), scores)


def _means(groups: Mapping[str, GroupScores]) -> dict[str, Score]:
    """The macro means; unknown where a group does not have the rate."""
    means = {}
    for name, rate in GROUP_MEANS.items():
        scores = [group.scores[rate] for group in groups.values()]
        known = all(score.value is not None for score in scores)
        means[name] = mean(scores, [1.0] * len(scores)) if known else UNKNOWN
    return means
