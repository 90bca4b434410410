"""How often judges are right about all rows of a group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mtrl_judge.metrics.bootstrap import RESAMPLES, Panel, draw_rates, information, panel_of
from mtrl_judge.metrics.joint import RIGHT, joint_rows, rows_by_metric
from mtrl_judge.metrics.rates import RATES

from .runs import TaskResult
from .scores import Score, TaskScores


class _SameRows(NamedTuple):
    """Judges of the same rows of a task."""

    task: str
    judges: list[str]
    panels: Mapping[str, Panel]
    """By metric; what is counted in them are groups of rows."""


def with_joint(
    scored: Mapping[str, TaskScores],
    results: Mapping[str, Mapping[str, TaskResult]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, TaskScores]:
    """The scores of each task with those of :func:`~mtrl_judge.metrics.joint.joint_metrics`, where
    its YAML names `joint_by`."""
    parts = [part for task, judges in results.items() for part in _same_rows(task, judges)]
    panels = [panel for part in parts for panel in part.panels.values()]
    rates = {"accuracy": RATES["accuracy"]}
    drawn = iter(draw_rates(panels, [rates] * len(panels), resamples=resamples, seed=seed))
    found = dict(scored)
    for task, judges, by_metric in parts:
        scores = dict(found[task].scores)
        for metric, panel in by_metric.items():
            draws_B_M = next(drawn)["accuracy"]
            value_M = RATES["accuracy"](panel.tallies.each(lambda part: part.sum(axis=0)))
            for index, judge in enumerate(judges):
                value = None if np.isnan(value_M[index]) else float(value_M[index])
                clusters = information(panel.tallies, index).clusters
                score = Score.of(value, draws_B_M[:, index], clusters)
                scores[judge] = {**scores[judge], metric: score}
        found[task] = found[task]._replace(scores=scores)
    return found


def _same_rows(task: str, judges: Mapping[str, TaskResult]) -> list[_SameRows]:
    alike: defaultdict[object, list[str]] = defaultdict(list)
    for name, result in judges.items():
        groups = tuple((record.joint, record.group) for record in result.records)
        if any(joint is not None for joint, _ in groups):
            alike[result.rows, groups].append(name)
    return [
        _SameRows(task, names, _panels(task, [judges[name] for name in names]))
        for names in alike.values()
    ]


def _panels(task: str, judges: list[TaskResult]) -> dict[str, Panel]:
    clusters = [sample.cluster for sample in judges[0].samples]
    panels = {}
    for metric, rows in rows_by_metric(judges[0].records).items():
        of_rows = [clusters[row] for row in rows]
        joint = [joint_rows([each.records[row] for row in rows], of_rows) for each in judges]
        panels[metric] = panel_of(
            f"{task} {metric}",
            [[record for record, _ in of_judge] for of_judge in joint],
            [cluster for _, cluster in joint[0]],
            [RIGHT],
        )
    return panels
