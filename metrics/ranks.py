"""Ranks of judges whose differences may not be significant."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np


class RankRange(NamedTuple):
    """The ranks that a judge may have."""

    best: int
    worst: int

    def __str__(self) -> str:
        return f"{self.best}" if self.best == self.worst else f"{self.best}–{self.worst}"


def rank_ranges(
    values: Mapping[str, float], different: Collection[frozenset[str]]
) -> dict[str, RankRange]:
    """The ranks of judges, such that a judge with a higher value never has a worse rank.

    A judge ranks above another if it and every judge with a value no lower than its own differ
    significantly from the other and from every judge with a value no higher than the other's.
    Pairwise tests alone need not be consistent: of three judges, the first can differ from the
    second and not from the third, which has a lower value and more noise. Then no line is drawn
    between the first and the second.

    Args:
        values: by judge; higher is better.
        different: the pairs of judges that differ significantly.

    Returns:
        For each judge 1 plus the number of judges that rank above it, and the number of judges
        less those that rank below it.

    >>> ranges = rank_ranges({"a": 0.9, "b": 0.8, "c": 0.7}, [frozenset("ac"), frozenset("bc")])
    >>> [str(rank) for rank in ranges.values()]
    ['1–2', '1–2', '3']
    """
    names = sorted(values, key=lambda name: -values[name])
    value_J = np.array([-values[name] for name in names])
    differs_J_J = np.array([[frozenset((a, b)) in different for b in names] for a in names])
    # Between judges 0 … i and j … J - 1, all differ.
    clear_J_J = np.logical_and.accumulate(differs_J_J, axis=0)
    clear_J_J = np.logical_and.accumulate(clear_J_J[:, ::-1], axis=1)[:, ::-1]
    ranges = {}
    for index, name in enumerate(names):
        first = int(np.searchsorted(value_J, value_J[index], "left"))
        last = int(np.searchsorted(value_J, value_J[index], "right")) - 1
        # Judges of equal values stand or fall together.
        ends_J = np.searchsorted(value_J, value_J, "right") - 1
        starts_J = np.searchsorted(value_J, value_J, "left")
        above = sum(bool(clear_J_J[ends_J[j], first]) for j in range(first))
        below = sum(bool(clear_J_J[last, starts_J[j]]) for j in range(last + 1, len(names)))
        ranges[name] = RankRange(1 + above, len(names) - below)
    return ranges
