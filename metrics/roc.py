"""The area under the ROC curve, with draws of the cluster bootstrap.

Axis suffixes: `N` rows, `K` their clusters, `B` draws, `U` different scores.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .bootstrap import MIN_ROWS_OF_CLASS, effective_clusters, mean_size
from .rates import Rates

_CHUNK = 4_000_000  # weights of rows at a time, 32 MB


class Area(NamedTuple):
    """The area under a ROC curve."""

    value: float
    draws_B: Rates | None
    clusters: float
    """How many independent clusters the draws rest on: those of the label that has fewer of them; 0
    where a label has too few rows."""


def roc_auc(
    scores_N: Rates,
    positive_N: NDArray[np.bool_],
    cluster_N: NDArray[np.int64],
    weights_B_K: Rates | None,
    halves_B_2: Rates,
) -> Area | None:
    """The probability that a positive row has the higher score, equal scores counting half.

    Mann and Whitney (1947, doi:10.1214/aoms/1177730491). In the draws, a pair of rows has the
    product of the weights of their clusters.

    Args:
        cluster_N: the columns of ``weights_B_K``.
        weights_B_K: None where there are no draws.
        halves_B_2: prior counts of half a right and half a wrong pair, for each pair that a cluster
            takes part in.

    Returns:
        None without rows of both labels.
    """
    if positive_N.all() or not positive_N.any():
        return None
    ones_N = np.ones(len(scores_N))
    right, pairs = _right_and_pairs(scores_N, positive_N, ones_N)
    value = float(right / pairs)
    if weights_B_K is None:
        return Area(value, None, 0)
    positive_K, negative_K = (
        np.bincount(cluster_N[kind_N], minlength=weights_B_K.shape[1])
        for kind_N in (positive_N, ~positive_N)
    )
    pairs_K = positive_K * negative_K.sum() + negative_K * (positive_K.sum() - positive_K)
    prior_B_2 = halves_B_2 * mean_size(pairs_K)
    step = max(1, _CHUNK // len(scores_N))
    parts = [
        _right_and_pairs(scores_N, positive_N, weights_B_K[start : start + step, cluster_N])
        for start in range(0, len(weights_B_K), step)
    ]
    right_B, pairs_B = (np.concatenate(column) for column in zip(*parts, strict=True))
    draws_B = (right_B + prior_B_2[:, 0]) / (pairs_B + prior_B_2.sum(axis=1))
    if min(positive_K.sum(), negative_K.sum()) < MIN_ROWS_OF_CLASS:
        return Area(value, draws_B, 0)
    return Area(value, draws_B, min(map(effective_clusters, (pairs_K, positive_K, negative_K))))


def _right_and_pairs(scores_N: Rates, positive_N: NDArray[np.bool_], w_B_N: Any) -> Any:
    """The weight of the pairs in which the positive row has the higher score, and of all pairs."""
    order = np.argsort(scores_N, kind="stable")
    starts_U = np.flatnonzero(np.diff(scores_N[order], prepend=-np.inf))
    positive_B_U, negative_B_U = (
        np.add.reduceat((w_B_N * kind_N)[..., order], starts_U, axis=-1)
        for kind_N in (positive_N, ~positive_N)
    )
    below_B_U = np.cumsum(negative_B_U, axis=-1) - negative_B_U / 2
    pairs_B = positive_B_U.sum(axis=-1) * negative_B_U.sum(axis=-1)
    return (positive_B_U * below_B_U).sum(axis=-1), pairs_B
