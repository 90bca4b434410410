"""Which checkpoint is kept as the best: one replaces another only by more than noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.metrics.bootstrap import draw_rates, panel_of
from mtrl_judge.metrics.drawn import Drawn, JudgedRows
from mtrl_judge.metrics.rates import RATES, Rates
from mtrl_judge.metrics.records import Record

_RESAMPLES = 1000
_ONE_SIDED = 1.645  # standard errors that a normal variable exceeds with a probability of 5 %


class KeptBest:
    """The verdicts of the validation whose weights are kept as the best."""

    def __init__(self, tasks: Sequence[JudgeTask]) -> None:
        self.tasks = tasks
        self.verdicts: list[list[str | None]] | None = None
        """By task and row; None before the first."""

    def keep(self, records: Sequence[Sequence[Record]]) -> None:
        """Keep a validation, its records by task and row."""
        self.verdicts = [[record.verdict for record in of_task] for of_task in records]

    def kept(self, records: Sequence[Sequence[Record]]) -> list[list[Record]] | None:
        """The kept validation, as records of the same rows; None without one.

        Args:
            records: of any validation of the run, by task and row.
        """
        if self.verdicts is None:
            return None
        return [
            _with_verdicts(of_task, kept)
            for of_task, kept in zip(records, self.verdicts, strict=True)
        ]

    def noise(
        self, records: Sequence[Sequence[Record]], clusters: Sequence[Sequence[str]]
    ) -> float | None:
        """The gain over the kept score that equally good weights exceed in 5 % of cases.

        By the normal approximation, with the standard error of the leaderboard's paired bootstrap
        over the same rows. None without a kept validation.

        Args:
            records: by task and row.
            clusters: for each of these rows, the name of its cluster.
        """
        if self.verdicts is None:
            return None
        compared = [
            _Compared(task, of_task, _with_verdicts(of_task, kept), names)
            for task, of_task, kept, names in zip(
                self.tasks, records, self.verdicts, clusters, strict=True
            )
        ]
        counted = [each for each in compared if each.task.kind.counted]
        others = [each for each in compared if not each.task.kind.counted]
        differences = [*_of_counts(counted), *map(_of_rows, others)]
        return _ONE_SIDED * float(np.mean(differences, axis=0).std())

    def state(self) -> dict[str, Any]:
        return {"verdicts": self.verdicts}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.verdicts = state["verdicts"]


class _Compared(NamedTuple):
    """A task before and after."""

    task: JudgeTask
    now: Sequence[Record]
    before: Sequence[Record]
    clusters: Sequence[str]


def _with_verdicts(records: Sequence[Record], verdicts: Sequence[str | None]) -> list[Record]:
    return [
        record._replace(verdict=verdict) for record, verdict in zip(records, verdicts, strict=True)
    ]


def _of_counts(compared: Sequence[_Compared]) -> list[Rates]:
    """Draws of each task's headline metric now minus that of the kept verdicts."""
    panels = [
        panel_of(
            each.task.task,
            [each.now, each.before],
            each.clusters,
            each.task.judge.verdicts,
            paired=each.task.paired,
            fixed_labels=True,  # items are chosen by label
        )
        for each in compared
    ]
    names = [each.task.kind.headline for each in compared]
    drawn = draw_rates(panels, [{name: RATES[name]} for name in names], resamples=_RESAMPLES)
    return [draws[name][:, 0] - draws[name][:, 1] for draws, name in zip(drawn, names, strict=True)]


def _of_rows(compared: _Compared) -> Rates:
    """The same for a kind whose metrics are computed from rows."""
    task, *both, clusters = compared
    judged = [JudgedRows(task.task, records, clusters, task.judge.verdicts) for records in both]
    metrics = task.kind.drawn(judged, resamples=_RESAMPLES)
    first_B, second_B = (_drawn(of_judge[task.kind.headline]) for of_judge in metrics)
    difference_B: Rates = first_B - second_B
    return difference_B


def _drawn(metric: Drawn) -> Rates:
    """Its draws, and its value where there are none; 0 where it is undefined, as in the mean
    score."""
    if metric.draws_B is None:
        return np.full(_RESAMPLES, metric.value or 0.0)
    return np.nan_to_num(metric.draws_B)
