"""Which checkpoint is kept as the best: one replaces another only by more than noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.metrics.bootstrap import draw_rates, panel_of
from mtrl_judge.metrics.rates import RATES
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
        panels = []
        for task, of_task, kept, names in zip(
            self.tasks, records, self.verdicts, clusters, strict=True
        ):
            before = [
                record._replace(verdict=verdict)
                for record, verdict in zip(of_task, kept, strict=True)
            ]
            panels.append(
                panel_of(
                    task.task,
                    [of_task, before],
                    names,
                    task.judge.verdicts,
                    paired=task.paired,
                    fixed_labels=True,  # items are chosen by label
                )
            )
        headlines = [task.kind.headline for task in self.tasks]
        rates = [{name: RATES[name]} for name in headlines]
        drawn = draw_rates(panels, rates, resamples=_RESAMPLES)
        differences_B = np.mean(
            [
                draws[name][:, 0] - draws[name][:, 1]
                for draws, name in zip(drawn, headlines, strict=True)
            ],
            axis=0,
        )
        return _ONE_SIDED * float(differences_B.std())

    def state(self) -> dict[str, Any]:
        return {"verdicts": self.verdicts}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.verdicts = state["verdicts"]
