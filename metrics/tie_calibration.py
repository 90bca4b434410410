"""How many pairs of rows scores and truth order alike, ties included.

Scores of one judge are rarely equal, and those of another are whole numbers and often equal. So
that both can be right about ties, scores count as tied if they differ by no more than a margin,
which is the best one for each judge (Deutsch, Foster and Freitag, "Ties Matter", EMNLP 2023, arXiv
2305.14324). GenAI-Bench reports this accuracy of all pairs of images (linzhiqiu/t2v_metrics,
`dataset.py`, `pairwise_acc_with_tie_optimization`).

Axis suffixes: `N` rows, `K` clusters, `B` draws, `M` margins, `U` distinct rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .correlation import Compare, Indices, share_of_pairs
from .drawn import Drawn
from .rates import Rates

STEPS = 10_000
"""Margins are whole numbers of steps, a ten-thousandth of the scale each."""
_BLOCK = 256  # rows whose pairs with all others are compared at a time


def tie_calibrated_accuracy(
    scores_N: Rates,
    truth_N: Rates,
    width: float,
    groups: Sequence[Indices],
    cluster_N: Indices,
    weights_B_K: Rates | None,
    halves_B_2: Rates,
) -> Drawn:
    """Of all pairs within a group, the share that is tied in both or ordered alike in both.

    The margin is that of all rows, also in the draws.

    Args: see :func:`~.correlation.share_of_pairs`.
        width: the highest minus the lowest number of the scale.
    """
    steps_N = scores_N / width * STEPS
    margin, value = _best_margin(steps_N, truth_N, groups)
    if weights_B_K is None:
        return Drawn(value)
    compare = _agreement(margin)
    return share_of_pairs(compare, steps_N, truth_N, groups, cluster_N, weights_B_K, halves_B_2)


def _best_margin(
    steps_N: Rates, truth_N: Rates, groups: Sequence[Indices]
) -> tuple[int, float | None]:
    """The number of steps up to which scores count as tied, of several the smallest, and the
    accuracy with it; None without pairs."""
    apart, gains_M = 0.0, np.zeros(STEPS + 1)
    for rows in groups:
        # Whole numbers have few distinct rows, so that this takes little time for most judges.
        distinct_U_2, count_U = np.unique(
            np.column_stack([steps_N[rows], truth_N[rows]]), axis=0, return_counts=True
        )
        steps_U, truth_U = distinct_U_2.T
        for start in range(0, len(steps_U), _BLOCK):
            block = slice(start, start + _BLOCK)
            apart_X_U = steps_U[block, None] - steps_U
            truth_X_U = truth_U[block, None] - truth_U
            pairs_X_U = count_U[block, None] * count_U
            right_X_U = pairs_X_U * (np.sign(apart_X_U) * np.sign(truth_X_U) > 0)
            apart += float(right_X_U.sum())
            # What it gains to count a pair as tied: it is right if truth is tied, too.
            gain_X_U = pairs_X_U * (truth_X_U == 0) - right_X_U
            gains_M += np.bincount(_whole(apart_X_U).ravel(), gain_X_U.ravel(), minlength=STEPS + 1)
    sizes = [len(rows) for rows in groups]
    pairs = sum(size * (size - 1) for size in sizes)
    right_M = apart + gains_M.cumsum() - sum(sizes)  # a row is no pair with itself
    margin = int(right_M.argmax())
    return margin, float(right_M[margin] / pairs) if pairs else None


def _whole(apart: Rates) -> Indices:
    return np.rint(np.abs(apart)).astype(np.int64)


def _agreement(margin: int) -> Compare:
    def compare(apart_X_N: Rates, truth_X_N: Rates) -> tuple[Rates, ...]:
        order_X_N = np.where(_whole(apart_X_N) <= margin, 0, np.sign(apart_X_N))
        agree_X_N = (order_X_N == np.sign(truth_X_N)).astype(np.float32)
        return 2 * agree_X_N - 1, np.ones_like(agree_X_N)

    return compare
