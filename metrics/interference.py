"""How training on one task changes the loss of another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def interference(
    before: Sequence[NDArray[np.float64]], after: Sequence[Sequence[NDArray[np.float64]]]
) -> NDArray[np.float64]:
    """T_ij = E_x[Δ_j L_i(x) / Δ_i L_i(x)] over the items x of task i (arXiv 2402.15896).

    Δ_j L_i(x) is by how much a gradient step on task j lowers the loss of item x of task i.
    Negative is interference: what helps task j harms task i. T_ii is 1.

    Args:
        before: the losses of each task's items, by task i.
        after: the same after a step on task j, by j and i.

    Returns:
        T, tasks × tasks; NaN where a task's own step changes none of its losses.

    >>> interference([np.ones(2), np.ones(1)], [[np.zeros(2), np.array([3.0])],
    ...                                        [np.array([0.5, 1.5]), np.array([0.5])]])
    array([[ 1.,  0.],
           [-4.,  1.]])
    """
    tasks = range(len(before))
    table = np.full((len(before), len(before)), np.nan)
    for i in tasks:
        own_X = before[i] - after[i][i]
        known_X = own_X != 0
        if known_X.any():
            for j in tasks:
                table[i, j] = ((before[i] - after[j][i])[known_X] / own_X[known_X]).mean()
    return table


def share_negative(table: NDArray[np.float64]) -> float | None:
    """The share of pairs of different tasks with negative interference; None if none is known.

    >>> share_negative(np.array([[1.0, 0.5], [-4.0, 1.0]]))
    0.5
    """
    others = table[~np.eye(len(table), dtype=bool)]
    known = others[~np.isnan(others)]
    return float((known < 0).mean()) if len(known) else None
