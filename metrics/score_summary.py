"""Metrics of a judge that rates items on a scale, with draws of the cluster bootstrap.

A row without a rating does not drop out: for correlations, κ and pairs it counts as the middle of
the scale, whatever the judge's other ratings are, so that not answering orders nothing; for the
mean absolute error it is as far off as the scale allows. `spearman_answered` is the correlation
over the rows with a rating, to be read beside the null rate.

Axis suffixes: `N` labeled rows, `K` their clusters, `B` draws.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from .bootstrap import effective_clusters
from .correlation import (
    CORRELATIONS,
    MAX_CLUSTERS,
    Indices,
    correlations,
    pairwise_accuracy,
    rows_of_groups,
)
from .drawn import Drawn, shared_weights
from .rates import Rates
from .tie_calibration import tie_calibrated_accuracy

SCORE_METRICS = (
    *CORRELATIONS,
    "mae",
    "pairwise_accuracy",
    "tie_calibrated_accuracy",
    "weighted_kappa",
    "spearman_answered",
)
MAX_DRAWN_CLUSTERS = 20_000
"""With more there are no intervals: the weights of their draws would not fit into memory."""


class Ratings(NamedTuple):
    """The labeled rows of one judge on one task, without those whose request failed."""

    task: str
    """Its name decides the random numbers."""
    labels_N: Rates
    ratings_N: Rates
    """nan is no rating."""
    clusters: Sequence[Hashable]
    """The name of each row's cluster."""
    groups: Sequence[str | None]
    """Within which pairs of rows are compared; all None compares all rows."""
    levels: Rates
    """Those of the scale, ascending."""


def score_metrics(ratings: Ratings) -> dict[str, float | None]:
    """Each of :data:`SCORE_METRICS`; None where undefined."""
    cluster_N = np.zeros(len(ratings.labels_N), dtype=np.int64)
    found = _metrics(ratings, cluster_N, None, np.empty((0, 2)))
    return {name: drawn.value for name, drawn in found.items()}


def drawn_scores(
    judges: Sequence[Ratings], *, resamples: int, seed: int = 0
) -> list[dict[str, Drawn]]:
    """Each of :data:`SCORE_METRICS` of each judge, with draws.

    Kendall's τ-b and pairs have draws for up to MAX_CLUSTERS clusters, the others for up to
    MAX_DRAWN_CLUSTERS.
    """
    weights = shared_weights(
        "score",
        [judge.clusters for judge in judges],
        [judge.task for judge in judges],
        resamples=resamples,
        seed=seed,
        most=MAX_DRAWN_CLUSTERS,
    )
    found = []
    for judge, (place, weights_B_U, halves_B_2) in zip(judges, weights, strict=True):
        place_N = np.array([place[name] for name in judge.clusters], dtype=np.int64)
        order_N = np.argsort(place_N, kind="stable")
        places_K, cluster_N = np.unique(place_N[order_N], return_inverse=True)
        weights_B_K = None if weights_B_U is None else weights_B_U[:, places_K]
        judge = judge._replace(
            labels_N=judge.labels_N[order_N],
            ratings_N=judge.ratings_N[order_N],
            groups=[judge.groups[row] for row in order_N],
        )
        found.append(_metrics(judge, cluster_N, weights_B_K, halves_B_2))
    return found


def median_error(labels: Sequence[float]) -> float | None:
    """The mean absolute error of always giving the median label, than which no constant rating
    does better; None without labels."""
    return float(np.abs(np.array(labels) - np.median(labels)).mean()) if labels else None


def _metrics(
    ratings: Ratings, cluster_N: Indices, weights_B_K: Rates | None, halves_B_2: Rates
) -> dict[str, Drawn]:
    """
    Args:
        ratings: sorted by cluster.
        cluster_N: the number of each row's cluster.
    """
    labels_N, ratings_N, levels = ratings.labels_N, ratings.ratings_N, ratings.levels
    if not len(labels_N):
        return {name: Drawn(None) for name in SCORE_METRICS}
    low, high = levels[0], levels[-1]
    answered_N = np.flatnonzero(~np.isnan(ratings_N))
    filled_N = np.where(np.isnan(ratings_N), (low + high) / 2, ratings_N)
    farthest_N = np.maximum(labels_N - low, high - labels_N)
    errors_N = np.where(np.isnan(ratings_N), farthest_N, np.abs(ratings_N - labels_N))
    pairs_B_K = weights_B_K
    if weights_B_K is not None and weights_B_K.shape[1] > MAX_CLUSTERS:
        pairs_B_K = None
    answered = correlations(
        labels_N[answered_N],
        ratings_N[answered_N],
        *_of_rows(answered_N, cluster_N, weights_B_K),
    )
    of_pairs = (_groups(ratings.groups), cluster_N, pairs_B_K, halves_B_2)
    found = {
        **correlations(labels_N, filled_N, cluster_N, weights_B_K),
        "mae": _mean(errors_N, cluster_N, weights_B_K),
        "pairwise_accuracy": pairwise_accuracy(filled_N, labels_N, *of_pairs),
        "tie_calibrated_accuracy": tie_calibrated_accuracy(
            filled_N, labels_N, high - low, *of_pairs
        ),
        "weighted_kappa": _weighted_kappa(
            nearest_level(labels_N, levels),
            nearest_level(filled_N, levels),
            cluster_N,
            weights_B_K,
        ),
        "spearman_answered": answered["spearman"],
    }
    return {name: found[name] for name in SCORE_METRICS}


def nearest_level(values_N: Rates, levels: Rates) -> Indices:
    """The index of the closest level, the lower of two."""
    return np.asarray(np.abs(values_N[:, None] - levels).argmin(axis=1))


def _of_rows(
    rows_N: Indices, cluster_N: Indices, weights_B_K: Rates | None
) -> tuple[Indices, Rates | None]:
    """The clusters of some rows, numbered anew, and the weights of these."""
    present, numbered_N = np.unique(cluster_N[rows_N], return_inverse=True)
    return numbered_N, None if weights_B_K is None else weights_B_K[:, present]


def _groups(groups: Sequence[str | None]) -> list[Indices]:
    """The rows of each group; without groups all rows are one."""
    names: dict[str | None, int] = {None: -1}
    groups_N = np.array([names.setdefault(group, len(names) - 1) for group in groups])
    return rows_of_groups(groups_N if len(names) > 1 else np.zeros_like(groups_N))


def _mean(values_N: Rates, cluster_N: Indices, weights_B_K: Rates | None) -> Drawn:
    value = float(values_N.mean())
    if weights_B_K is None:
        return Drawn(value)
    rows_K = np.bincount(cluster_N)
    draws_B = weights_B_K @ np.bincount(cluster_N, values_N) / (weights_B_K @ rows_K)
    return Drawn(value, draws_B, effective_clusters(rows_K))


def _weighted_kappa(
    labels_N: Indices, ratings_N: Indices, cluster_N: Indices, weights_B_K: Rates | None
) -> Drawn:
    """Cohen's κ with quadratic weights (Cohen 1968, doi:10.1037/h0026256), of level numbers.

    Its weights make observed and chance disagreement mean squared differences, so that it follows
    from the moments of the two.
    """
    one_N, x_N, y_N = np.ones(len(labels_N)), labels_N.astype(float), ratings_N.astype(float)
    products_N_6 = np.column_stack([one_N, x_N, y_N, x_N * y_N, x_N**2, y_N**2])
    value = _kappa(products_N_6.sum(axis=0))
    if np.isnan(value):
        return Drawn(None)
    if weights_B_K is None:
        return Drawn(float(value))
    of_cluster_K_6 = np.column_stack([np.bincount(cluster_N, part_N) for part_N in products_N_6.T])
    draws_B = _kappa(weights_B_K @ of_cluster_K_6)
    return Drawn(float(value), draws_B, effective_clusters(np.bincount(cluster_N)))


def _kappa(moments_X_6: Rates) -> Rates:
    n_X, x_X, y_X, xy_X, xx_X, yy_X = np.moveaxis(moments_X_6, -1, 0)
    observed_X = (xx_X + yy_X - 2 * xy_X) / n_X
    by_chance_X = (xx_X + yy_X) / n_X - 2 * x_X * y_X / n_X**2
    # Sums of whole numbers: a chance disagreement of 0 is exact but for rounding.
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa_X: Rates = np.where(by_chance_X > 1e-9, 1 - observed_X / by_chance_X, np.nan)
    return kappa_X
