"""Correlations of two numbers for each row, and how often pairs of rows are ordered alike, with
draws of the cluster bootstrap.

Axis suffixes: `N` rows, `K` their clusters of dependent rows, `B` draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .bootstrap import effective_clusters
from .drawn import Drawn
from .rates import Rates

MAX_CLUSTERS = 3_000
"""With more clusters, what compares pairs of rows has no interval: the table of the clusters' pairs
would not fit into memory."""
CORRELATIONS = ("spearman", "pearson", "kendall")
_BLOCK = 256  # rows whose pairs with all others are compared at a time
_CHUNK = 4_000_000  # numbers drawn at a time, 32 MB
Indices = NDArray[np.int64]


Compare: TypeAlias = Callable[[Rates, Rates], tuple[Rates, ...]]
"""Numbers about pairs of rows, from the differences of two values of each, X × N."""


def correlations(
    first_N: Rates, second_N: Rates, cluster_N: Indices, weights_B_K: Rates | None
) -> dict[str, Drawn]:
    """Each of :data:`CORRELATIONS`; Kendall's is τ-b.

    Args:
        cluster_N: the number of each row's cluster, ascending.
        weights_B_K: of the clusters in each draw; None computes no draws.

    Returns:
        Without value where one of the two is the same for all rows.
    """
    from scipy import stats

    if len(first_N) < 2 or np.ptp(first_N) == 0 or np.ptp(second_N) == 0:
        return {name: Drawn(None) for name in CORRELATIONS}
    values = {
        "spearman": stats.spearmanr(first_N, second_N).statistic,
        "pearson": stats.pearsonr(first_N, second_N).statistic,
        "kendall": stats.kendalltau(first_N, second_N, variant="b").statistic,
    }
    drawn: dict[str, Rates] = {}
    if weights_B_K is not None:
        drawn["pearson"] = _pearson(first_N, second_N, cluster_N, weights_B_K)
        drawn["spearman"] = _spearman(first_N, second_N, cluster_N, weights_B_K)
        if weights_B_K.shape[1] <= MAX_CLUSTERS:
            drawn["kendall"] = _kendall(first_N, second_N, cluster_N, weights_B_K)
    clusters = effective_clusters(np.bincount(cluster_N))
    return {name: Drawn(float(value), drawn.get(name), clusters) for name, value in values.items()}


def _kendall(first_N: Rates, second_N: Rates, cluster_N: Indices, weights_B_K: Rates) -> Rates:
    sums_3_K_K = _pairs(first_N, second_N, cluster_N, weights_B_K.shape[1], _signs)
    product_B, first_B, second_B = (_quadratic(weights_B_K, sums) for sums in sums_3_K_K)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation_B: Rates = product_B / np.sqrt(first_B * second_B)
    return correlation_B


def _pearson(first_N: Rates, second_N: Rates, cluster_N: Indices, weights_B_K: Rates) -> Rates:
    """From the weighted moments; nan where a value does not vary in a draw."""
    x_N, y_N = first_N - first_N.mean(), second_N - second_N.mean()
    products = (np.ones_like(x_N), x_N, y_N, x_N * y_N, x_N**2, y_N**2)
    of_cluster = [np.bincount(cluster_N, part_N) for part_N in products]
    n_B, x_B, y_B, xy_B, xx_B, yy_B = (weights_B_K @ np.column_stack(of_cluster)).T
    spread_B = (n_B * xx_B - x_B**2).clip(0) * (n_B * yy_B - y_B**2).clip(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation_B: Rates = (n_B * xy_B - x_B * y_B) / np.sqrt(spread_B)
    return correlation_B


def _spearman(first_N: Rates, second_N: Rates, cluster_N: Indices, weights_B_K: Rates) -> Rates:
    """Correlations of weighted midranks; nan where a value does not vary in a draw."""
    size = max(1, _CHUNK // len(first_N))
    parts = []
    for start in range(0, len(weights_B_K), size):
        weights_B_N = weights_B_K[start : start + size, cluster_N].astype(np.float32)
        x_B_N = _centered_ranks(weights_B_N, first_N)
        y_B_N = _centered_ranks(weights_B_N, second_N)
        xw_B_N, yw_B_N = weights_B_N * x_B_N, weights_B_N * y_B_N
        products_B = (
            np.einsum("bn,bn->b", first_B_N, second_B_N).astype(float)
            for first_B_N, second_B_N in ((xw_B_N, y_B_N), (xw_B_N, x_B_N), (yw_B_N, y_B_N))
        )
        xy_B, xx_B, yy_B = products_B
        with np.errstate(invalid="ignore", divide="ignore"):
            parts.append(xy_B / np.sqrt(xx_B * yy_B))
    return np.concatenate(parts)


def _centered_ranks(weights_B_N: Any, values_N: Rates) -> Any:
    """The weight below each value plus half the weight at it, less the mean of that, B × N, as a
    share of all weights. With equal weights these are midranks."""
    _, level_N = np.unique(values_N, return_inverse=True)
    order_N = np.argsort(level_N, kind="stable")
    starts = np.flatnonzero(np.diff(level_N[order_N], prepend=-1))
    at_B_L = np.add.reduceat(weights_B_N[:, order_N], starts, axis=1)
    below_B_L = at_B_L.cumsum(axis=1)
    total_B_1 = below_B_L[:, -1:]
    # Weighted by itself, the mean of such ranks is half the total.
    return ((below_B_L - at_B_L / 2) / total_B_1 - 0.5)[:, level_N]


# Pairs of rows


def _pairs(
    first_N: Rates, second_N: Rates, cluster_N: Indices, clusters: int, compare: Compare
) -> Rates:
    """Sums over the pairs of rows of two clusters, one K × K for each number that is compared.

    A pair counts in both directions; a row is no pair with itself.

    Args:
        first_N: sorted by cluster, as all are.
    """
    sums: Rates | None = None
    present, starts = np.unique(cluster_N, return_index=True)
    for start in range(0, len(first_N), _BLOCK):
        block = slice(start, start + _BLOCK)
        of_block, block_starts = np.unique(cluster_N[block], return_index=True)
        parts = compare(first_N[block, None] - first_N, second_N[block, None] - second_N)
        if sums is None:
            sums = np.zeros((len(parts), clusters, clusters))
        for number, part_X_N in enumerate(parts):
            np.fill_diagonal(part_X_N[:, block], 0)
            part_X_K = np.add.reduceat(part_X_N, starts, axis=1)
            sums[number][np.ix_(of_block, present)] += np.add.reduceat(
                part_X_K, block_starts, axis=0
            )
    assert sums is not None, "there are rows"
    return sums


def _signs(first_X_N: Rates, second_X_N: Rates) -> tuple[Rates, ...]:
    """1 for concordant and -1 for discordant pairs; 1 for pairs that differ in either value."""
    first_X_N = np.sign(first_X_N).astype(np.float32)
    second_X_N = np.sign(second_X_N).astype(np.float32)
    return first_X_N * second_X_N, np.abs(first_X_N), np.abs(second_X_N)


def _quadratic(weights_B_K: Rates, sums_K_K: Rates) -> Rates:
    """The sum of pairs in which both rows have the weights of their clusters, for each draw."""
    weights_B_K = weights_B_K.astype(np.float32)
    sums_B_K = weights_B_K @ sums_K_K.astype(np.float32)
    drawn_B: Rates = np.einsum("bk,bk->b", sums_B_K, weights_B_K).astype(float)
    return drawn_B


def pairwise_accuracy(
    scores_N: Rates,
    truth_N: Rates,
    groups: Sequence[Indices],
    cluster_N: Indices,
    weights_B_K: Rates | None,
    halves_B_2: Rates,
) -> Drawn:
    """Of the pairs within a group that differ in truth, the share that the scores order alike.

    A pair with equal scores counts half.

    Args: see :func:`share_of_pairs`.
    """

    def compare(scores_X_N: Rates, truth_X_N: Rates) -> tuple[Rates, ...]:
        product_X_N, _, differ_X_N = _signs(scores_X_N, truth_X_N)
        return product_X_N, differ_X_N

    return share_of_pairs(compare, scores_N, truth_N, groups, cluster_N, weights_B_K, halves_B_2)


def share_of_pairs(
    compare: Compare,
    scores_N: Rates,
    truth_N: Rates,
    groups: Sequence[Indices],
    cluster_N: Indices,
    weights_B_K: Rates | None,
    halves_B_2: Rates,
) -> Drawn:
    """Of some pairs within a group, the share that is right.

    Args:
        compare: right minus wrong, from -1 to 1, and whether the pair counts, 0 or 1.
        groups: the rows of each.
        halves_B_2: see :class:`~.drawn.Weights`.
    """
    if weights_B_K is None:
        cluster_N = np.zeros_like(cluster_N)
    clusters = 1 if weights_B_K is None else weights_B_K.shape[1]
    within_2_K, spread_2_K_K = np.zeros((2, clusters)), None
    for rows in groups:
        present, cluster_n = np.unique(cluster_N[rows], return_inverse=True)
        both_2_k_k = _pairs(scores_N[rows], truth_N[rows], cluster_n, len(present), compare)
        if len(present) == 1:
            # A cluster drawn twice is two groups, not one of twice the size: no pairs between them.
            within_2_K[:, present] += both_2_k_k[:, 0]
        else:
            if spread_2_K_K is None:
                spread_2_K_K = np.zeros((2, clusters, clusters))
            spread_2_K_K[:, present[:, None], present] += both_2_k_k
    product, differ = within_2_K.sum(axis=1)
    pairs_K = within_2_K[1] / 2
    if spread_2_K_K is not None:
        product, differ = within_2_K.sum(axis=1) + spread_2_K_K.sum(axis=(1, 2))
        pairs_K = pairs_K + spread_2_K_K[1].sum(axis=1) - np.diagonal(spread_2_K_K[1]) / 2
    if not differ:
        return Drawn(None, None, 0)
    value = float((differ + product) / (2 * differ))
    if weights_B_K is None:
        return Drawn(value, None, 0)
    product_B, differ_B = (weights_B_K @ sums_K for sums_K in within_2_K)
    if spread_2_K_K is not None:
        product_B = product_B + _quadratic(weights_B_K, spread_2_K_K[0])
        differ_B = differ_B + _quadratic(weights_B_K, spread_2_K_K[1])
    # As many pairs as a cluster takes part in: half of them right and half of them wrong.
    prior_B_2 = halves_B_2 * (pairs_K**2).sum() / pairs_K.sum()
    right_B = (differ_B + product_B) / 4 + prior_B_2[:, 0]
    return Drawn(
        value, right_B / (differ_B / 2 + prior_B_2.sum(axis=1)), effective_clusters(pairs_K)
    )


def rows_of_groups(groups_N: Indices) -> list[Indices]:
    """The rows of each group, in their order; -1 is no group."""
    grouped = np.flatnonzero(groups_N >= 0)
    order = grouped[np.argsort(groups_N[grouped], kind="stable")]
    starts = np.flatnonzero(np.diff(groups_N[order], prepend=-1))
    return np.split(order, starts[1:]) if len(order) else []
