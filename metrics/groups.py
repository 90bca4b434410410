"""Rates by group, such as a dataset's categories, and their macro mean over the groups.

The *overall* rate of a task weights every row equally, so that large groups decide it; the *macro
mean* weights every group equally. Benchmarks publish both, and they are different numbers, such as
VL-RewardBench's "Overall Accuracy" and "Macro Average Acc" (vl-rewardbench/VL_RewardBench, cal.py).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from .bootstrap import Panel, panel_of
from .rates import RATES, RATES_OF_ALL_CLASSES, Rates, Tally
from .records import Record, tally

GROUP_MEANS: Mapping[str, str] = {
    "macro_f1_group_mean": "macro_f1",
    "accuracy_group_mean": "accuracy",
    "accuracy_answered_group_mean": "accuracy_answered",
}
"""The macro means, each with the rate that it is the mean of."""


def group_names(records: Sequence[Record]) -> list[str]:
    """The groups of labeled records, in alphabetical order."""
    return sorted({row.group for row in records if row.label is not None and row.group is not None})


def group_means(records: Sequence[Record], classes: Sequence[str]) -> dict[str, float | None]:
    """The macro mean over the groups of each rate in :data:`GROUP_MEANS`.

    A record without a group is in none of them. A mean is None without groups and where one of the
    groups does not have the rate (see :func:`group_rate`).
    """
    tallies = [
        tally([row for row in records if row.group == name], classes, paired=False)
        for name in group_names(records)
    ]
    means: dict[str, float | None] = {}
    for mean, rate in GROUP_MEANS.items():
        values = [float(group_rate(rate, counts)) for counts in tallies]
        known = bool(values) and not np.isnan(values).any()
        means[mean] = float(np.mean(values)) if known else None
    return means


def group_rate(name: str, counts: Tally) -> Rates:
    """A rate in a group; nan for Macro-F1 where the group lacks a labeled row of a verdict.

    The F1 of a class without rows is 0, whatever the judge says, which would make Macro-F1 a
    property of the group.
    """
    values_X = RATES[name](counts)
    if name in RATES_OF_ALL_CLASSES:
        complete_X = (counts.confusion_X_C_C1.sum(axis=-1) > 0).all(axis=-1)
        values_X = np.where(complete_X, values_X, np.nan)
    return values_X


def group_panels(
    name: str,
    judges: Sequence[Sequence[Record]],
    clusters: Sequence[Hashable],
    classes: Sequence[str],
    *,
    fixed_labels: bool = False,
) -> dict[str, Panel]:
    """The panel of each group's rows; see :func:`~.bootstrap.panel_of`.

    A cluster can have rows of several groups: it is then in the panel of each, and is drawn and
    exchanged as one in all of them.

    Args:
        fixed_labels: whether the number of rows of each label was fixed in every group.
    """
    panels = {}
    for group in group_names(judges[0]):
        rows = [row for row, record in enumerate(judges[0]) if record.group == group]
        panels[group] = panel_of(
            f"{name} {group}",
            [[records[row] for row in rows] for records in judges],
            [clusters[row] for row in rows],
            classes,
            fixed_labels=fixed_labels,
        )
    return panels
