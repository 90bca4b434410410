"""Whether all rows of a group are right, such as all questions about the same two images.

Winoground's scores are of this kind: an item counts only if the judge is right about both images
(text score), both captions (image score), or all four (group score; arXiv 2204.03162, section 3).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from .groups import group_names
from .records import Record

JOINT_ACCURACY = "joint_accuracy"
RIGHT = "all right"
"""The label of a group of rows; its verdict is the same, or none."""


def joint_metrics(records: Sequence[Record]) -> dict[str, float | None]:
    """`joint_accuracy`, and `joint_accuracy_G` over the rows of each reported group G; None where
    no rows are counted."""
    by_metric = rows_by_metric(records).items()
    return {name: joint_accuracy([records[row] for row in rows]) for name, rows in by_metric}


def joint_accuracy(records: Sequence[Record]) -> float | None:
    """The share of the groups of rows (`Record.joint`) of which every labeled row is right.

    A row whose request failed makes its group count nowhere; rows without a label or a group are
    left out.
    """
    joint = [of_group for of_group, _ in joint_rows(records, [None] * len(records))]
    counted = [record for record in joint if not record.failed]
    return sum(r.verdict == RIGHT for r in counted) / len(counted) if counted else None


def joint_rows(
    records: Sequence[Record], clusters: Sequence[Hashable]
) -> list[tuple[Record, Hashable]]:
    """One record for each group of rows, and its cluster.

    Groups are in the order of their names, so that those of several judges of the same rows are
    the same.

    Args:
        clusters: that of each row. A group whose rows are of several is one of its own.
    """
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        if record.joint is not None and record.label is not None:
            rows_of[record.joint].append(row)
    found: list[tuple[Record, Hashable]] = []
    for name, rows in sorted(rows_of.items()):
        of_group = [records[row] for row in rows]
        right = all(record.verdict == record.label for record in of_group)
        failed = any(record.failed for record in of_group)
        joint = Record(RIGHT, RIGHT if right else None, failure="failed" if failed else None)
        shared = {clusters[row] for row in rows}
        found.append((joint, shared.pop() if len(shared) == 1 else ("joint", name)))
    return found


def rows_by_metric(records: Sequence[Record]) -> dict[str, list[int]]:
    """The rows that each metric of :func:`joint_metrics` is of."""
    by_metric = {JOINT_ACCURACY: list(range(len(records)))}
    for group in group_names(records):
        rows = [row for row, record in enumerate(records) if record.group == group]
        by_metric[f"{JOINT_ACCURACY}_{group}"] = rows
    return by_metric
