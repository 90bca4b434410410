"""Agreement of a judge's scores with ratings that people gave.

A score is a number for each row, higher where the judge leans more towards the first verdict
(:func:`judge_score`). Rows without a rating or without a score are left out, since nothing says
where they rank.

Axis suffixes: `N` rated rows with a score, `K` their clusters of dependent rows, `B` draws.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .agreement import ratings
from .bootstrap import effective_clusters, mean_size, spread_factor
from .drawn import DRAWN_RESAMPLES, Drawn, shared_weights
from .rates import Rates
from .roc import roc_auc
from .voting import vote_shares

HUMAN_RATES = (
    "spearman_human",
    "pearson_human",
    "kendall_human",
    "pairwise_human",
    "auc_human",
    "auc_human_group_mean",
)
"""Correlations in [-1, 1], then shares in [0, 1]; more is better in all of them."""
MAX_CLUSTERS = 3_000
"""With more clusters there is no interval: the table of their pairs would not fit into memory."""
_BLOCK = 256  # rows whose pairs with all others are compared at a time
_CHUNK = 4_000_000  # numbers drawn at a time, 32 MB
Indices = NDArray[np.int64]


class HumanRating(NamedTuple):
    """What people thought of an item."""

    rating: float
    """Higher speaks for the first verdict."""
    group: str | None = None
    """Names what it shares with other rated items, such as a prompt or a source."""
    rank: float | None = None
    """In its group, 1 for the best; by default, items of a group are compared by their ratings."""


class RatedRow(NamedTuple):
    """One row of a judge, with what people thought of it."""

    score: float | None
    """See :func:`judge_score`."""
    human: HumanRating | None
    label: str | None
    cluster: Hashable


def judge_score(
    verdict: str | None,
    classes: Sequence[str],
    probabilities: Mapping[str, float] | None = None,
    votes: Sequence[str | None] = (),
) -> float | None:
    """How far a judge leans towards the first verdict, or its mean rating if verdicts are numbers.

    From the probabilities of verdicts if there are any, else from the shares of votes, else from
    the verdict alone; None if it has no verdict in any of these.

    >>> judge_score("No", ["Yes", "No"], {"Yes": 0.4, "No": 0.6})
    0.4
    >>> judge_score("Yes", ["Yes", "No"], votes=["Yes", "No", "Yes", None, "Yes"])
    0.75
    >>> judge_score("3", ["1", "2", "3"], {"1": 0.0, "2": 0.5, "3": 0.5})
    2.5
    >>> judge_score("No", ["Yes", "No"]), judge_score(None, ["Yes", "No"])
    (0.0, None)
    """
    shares = probabilities or (vote_shares(votes, classes) if len(votes) > 1 else None)
    if shares is None:
        if verdict is None:
            return None
        shares = {verdict: 1.0}
    numbers = ratings(classes)
    if numbers is None:
        return float(shares.get(classes[0], 0.0))
    return float(sum(shares.get(name, 0.0) * n for name, n in zip(classes, numbers, strict=True)))


def human_agreement(
    judges: Sequence[Sequence[RatedRow]],
    classes: Sequence[Sequence[str]],
    names: Sequence[str],
    *,
    resamples: int = DRAWN_RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Drawn]]:
    """Every rate of :data:`HUMAN_RATES` that the rows of each judge allow, with draws.

    Draws are those of the Bayesian bootstrap over clusters (see :mod:`.bootstrap`). Judges with
    clusters in common share the weights of these, so that differences are paired. Shares that are
    means over pairs of rows get prior counts of half a right and half a wrong observation, as the
    other rates do; correlations have no prior.

    Args:
        judges: the rows of each judge, which may be of different tasks.
        classes: for each judge, the verdicts of its task; two are needed for the AUC.
        names: for each judge, that of its task; it decides the random numbers.
        resamples: no more than DRAWN_RESAMPLES of them are drawn.
    """
    weights = shared_weights(
        "human",
        [[row.cluster for row in rows] for rows in judges],
        names,
        resamples=resamples,
        seed=seed,
        most=MAX_CLUSTERS,
    )
    return [
        _agreement_of(rows, of_task, *of_judge)
        for rows, of_task, of_judge in zip(judges, classes, weights, strict=True)
    ]


def interval_p_value(difference_B: Rates, clusters: float, *, one_sided: bool = False) -> float:
    """P-value of no difference: the level at which the interval of the draws would end at 0.

    Two judges' scores are on scales of their own and cannot be exchanged, so there is no
    randomization test for them.

    Args:
        difference_B: draws of the first judge's rate minus the second's.
        clusters: as for :func:`~.bootstrap.interval`.
        one_sided: test whether the first judge's rate is lower.
    """
    from scipy.special import ndtr, ndtri

    known_B = difference_B[~np.isnan(difference_B)]
    factor = spread_factor(clusters)
    tails = [(1 + np.sum(sign * known_B >= 0)) / (1 + len(known_B)) for sign in (1, -1)]
    lower, higher = (float(ndtr(ndtri(min(tail, 1.0)) / factor)) for tail in tails)
    return lower if one_sided else min(1.0, 2 * min(lower, higher))


class _Rated(NamedTuple):
    """Rated rows with a score as arrays, sorted by cluster."""

    scores_N: Rates
    ratings_N: Rates
    order_N: Rates
    """What pairs within a group are compared by: higher is better."""
    groups_N: Indices
    """-1 is no group."""
    labels_N: Rates
    """1 for the first of two verdicts, 0 for the second, nan for neither."""
    cluster_N: Indices
    """Number of each row's cluster, ascending."""

    def rows(self, rows_N: Indices) -> _Rated:
        """Some of the rows."""
        part: Any = [column[rows_N] for column in self]
        return _Rated(*part)


class _Pairs(NamedTuple):
    """Sums over the pairs of rows of two clusters, K × K; a pair counts in both directions."""

    product_K_K: Rates
    """Concordant minus discordant pairs."""
    first_K_K: Rates
    """Pairs that differ in the first value."""
    second_K_K: Rates
    """Pairs that differ in the second value."""


def _agreement_of(
    rows: Sequence[RatedRow],
    classes: Sequence[str],
    place: Mapping[Hashable, int],
    weights_B_U: Rates | None,
    halves_B_2: Rates,
) -> dict[str, Drawn]:
    rated, places_K = _rated(rows, classes, place)
    if len(rated.scores_N) < 2:
        return {}
    weights_B_K = None if weights_B_U is None else weights_B_U[:, places_K]
    if weights_B_K is None:
        rated = rated._replace(cluster_N=np.zeros_like(rated.cluster_N))
    found = {**_correlations(rated, weights_B_K)}
    has_labels = not np.isnan(rated.labels_N).all()
    has_groups = bool((rated.groups_N >= 0).any())
    if has_groups:
        found["pairwise_human"] = _pairwise(rated, weights_B_K, halves_B_2)
    if has_labels:
        labeled = rated.rows(np.flatnonzero(~np.isnan(rated.labels_N)))
        found["auc_human"] = _area(labeled, weights_B_K, halves_B_2)
        if has_groups:
            found["auc_human_group_mean"] = _group_mean(labeled, weights_B_K, halves_B_2)
    return found


def _rated(
    rows: Sequence[RatedRow], classes: Sequence[str], place: Mapping[Hashable, int]
) -> tuple[_Rated, Indices]:
    """The rows with rating and score, and the column of weights of each of their clusters."""
    known = [row for row in rows if row.human is not None and row.score is not None]
    group_numbers: dict[str | None, int] = {None: -1}
    columns: list[tuple[float, ...]] = []
    for score, human, label, cluster in known:
        assert human is not None
        group = group_numbers.setdefault(human.group, len(group_numbers) - 1)
        order = human.rating if human.rank is None else -human.rank
        of_two = len(classes) == 2 and label is not None
        is_first = float(label == classes[0]) if of_two else np.nan
        columns.append((score or 0.0, human.rating, order, group, is_first, place[cluster]))
    table_N_6 = np.array(columns, dtype=float).reshape(-1, 6)
    table_N_6 = table_N_6[np.argsort(table_N_6[:, 5], kind="stable")]
    scores_N, ratings_N, order_N, groups_N, labels_N, place_N = table_N_6.T
    places_K, cluster_N = np.unique(place_N.astype(np.int64), return_inverse=True)
    rated = _Rated(scores_N, ratings_N, order_N, groups_N.astype(np.int64), labels_N, cluster_N)
    return rated, places_K


# Correlations


def _correlations(rated: _Rated, weights_B_K: Rates | None) -> dict[str, Drawn]:
    from scipy import stats

    scores_N, ratings_N = rated.scores_N, rated.ratings_N
    if np.ptp(scores_N) == 0 or np.ptp(ratings_N) == 0:
        return {name: Drawn(None, None, 0) for name in HUMAN_RATES[:3]}
    values = {
        "spearman_human": stats.spearmanr(scores_N, ratings_N).statistic,
        "pearson_human": stats.pearsonr(scores_N, ratings_N).statistic,
        "kendall_human": stats.kendalltau(scores_N, ratings_N, variant="b").statistic,
    }
    drawn: dict[str, Rates] = {}
    if weights_B_K is not None:
        drawn["pearson_human"] = _pearson(rated, weights_B_K)
        drawn["spearman_human"] = _spearman(rated, weights_B_K)
        pairs = _pairs(scores_N, ratings_N, rated.cluster_N, weights_B_K.shape[1])
        product_B, first_B, second_B = (_quadratic(weights_B_K, sums) for sums in pairs)
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn["kendall_human"] = product_B / np.sqrt(first_B * second_B)
    clusters = effective_clusters(np.bincount(rated.cluster_N))
    return {
        name: Drawn(float(value), _varying(drawn.get(name)), clusters)
        for name, value in values.items()
    }


def _pearson(rated: _Rated, weights_B_K: Rates) -> Rates:
    """From the weighted moments; nan where a value does not vary in a draw."""
    x_N, y_N = rated.scores_N - rated.scores_N.mean(), rated.ratings_N - rated.ratings_N.mean()
    products = (np.ones_like(x_N), x_N, y_N, x_N * y_N, x_N**2, y_N**2)
    of_cluster = [np.bincount(rated.cluster_N, part_N) for part_N in products]
    n_B, x_B, y_B, xy_B, xx_B, yy_B = (weights_B_K @ np.column_stack(of_cluster)).T
    spread_B = (n_B * xx_B - x_B**2).clip(0) * (n_B * yy_B - y_B**2).clip(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation_B: Rates = (n_B * xy_B - x_B * y_B) / np.sqrt(spread_B)
    return correlation_B


def _spearman(rated: _Rated, weights_B_K: Rates) -> Rates:
    """Correlations of weighted midranks; nan where a value does not vary in a draw."""
    size = max(1, _CHUNK // len(rated.scores_N))
    parts = []
    for start in range(0, len(weights_B_K), size):
        weights_B_N = weights_B_K[start : start + size, rated.cluster_N].astype(np.float32)
        x_B_N = _centered_ranks(weights_B_N, rated.scores_N)
        y_B_N = _centered_ranks(weights_B_N, rated.ratings_N)
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


def _pairs(first_N: Rates, second_N: Rates, cluster_N: Indices, clusters: int) -> _Pairs:
    """Compare all pairs of rows, which are sorted by cluster, in blocks of rows."""
    sums = np.zeros((3, clusters, clusters))
    present, starts = np.unique(cluster_N, return_index=True)
    for start in range(0, len(first_N), _BLOCK):
        block = slice(start, start + _BLOCK)
        of_block, block_starts = np.unique(cluster_N[block], return_index=True)
        cells = np.ix_(of_block, present)
        first_X_N = np.sign(first_N[block, None] - first_N).astype(np.float32)
        second_X_N = np.sign(second_N[block, None] - second_N).astype(np.float32)
        for number, part_X_N in enumerate(
            (first_X_N * second_X_N, np.abs(first_X_N), np.abs(second_X_N))
        ):
            part_X_K = np.add.reduceat(part_X_N, starts, axis=1)
            sums[number][cells] += np.add.reduceat(part_X_K, block_starts, axis=0)
    return _Pairs(*sums)


def _quadratic(weights_B_K: Rates, sums_K_K: Rates) -> Rates:
    """The sum of pairs in which both rows have the weights of their clusters, for each draw."""
    weights_B_K = weights_B_K.astype(np.float32)
    sums_B_K = weights_B_K @ sums_K_K.astype(np.float32)
    drawn_B: Rates = np.einsum("bk,bk->b", sums_B_K, weights_B_K).astype(float)
    return drawn_B


def _pairwise(rated: _Rated, weights_B_K: Rates | None, halves_B_2: Rates) -> Drawn:
    """Share of the pairs of a group that people order which the scores order alike.

    A pair with equal scores counts half.
    """
    clusters = int(rated.cluster_N.max()) + 1 if weights_B_K is None else weights_B_K.shape[1]
    within_2_K, spread_2_K_K = np.zeros((2, clusters)), None
    for rows in _groups(rated):
        present, cluster_n = np.unique(rated.cluster_N[rows], return_inverse=True)
        pairs = _pairs(rated.scores_N[rows], rated.order_N[rows], cluster_n, len(present))
        both_2_k_k = np.stack([pairs.product_K_K, pairs.second_K_K])
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


# Labels


def _area(labeled: _Rated, weights_B_K: Rates | None, halves_B_2: Rates) -> Drawn:
    positive_N = labeled.labels_N == 1
    area = roc_auc(labeled.scores_N, positive_N, labeled.cluster_N, weights_B_K, halves_B_2)
    return Drawn(None, None, 0) if area is None else Drawn(*area)


def _group_mean(labeled: _Rated, weights_B_K: Rates | None, halves_B_2: Rates) -> Drawn:
    """Mean AUC over the groups that have rows of both labels."""
    values, drawn, clusters = [], [], []
    within: list[tuple[int, float]] = []  # clusters of groups that lie in one, and their AUC
    for rows in _groups(labeled):
        part = labeled.rows(rows)
        area = _area(part, weights_B_K, halves_B_2)
        if area.value is None:
            continue
        values.append(area.value)
        if part.cluster_N[0] == part.cluster_N[-1]:
            within.append((int(part.cluster_N[0]), area.value))
        elif area.draws_B is not None:
            drawn.append(area.draws_B)
            clusters.append(area.clusters)
    if not values:
        return Drawn(None, None, 0)
    value = float(np.mean(values))
    if weights_B_K is None:
        return Drawn(value, None, 0)
    total_B, groups_B = np.zeros(len(weights_B_K)), np.zeros(len(weights_B_K))
    if within:
        # Such groups are drawn with their cluster.
        weights_B_G = weights_B_K[:, [cluster for cluster, _ in within]]
        prior_B_2 = halves_B_2 * mean_size(np.bincount([cluster for cluster, _ in within]))
        total_B += weights_B_G @ np.array([area for _, area in within]) + prior_B_2[:, 0]
        groups_B += weights_B_G.sum(axis=1) + prior_B_2.sum(axis=1)
        clusters.append(effective_clusters(np.bincount([cluster for cluster, _ in within])))
    if drawn:
        total_B += np.sum(drawn, axis=0)
        groups_B += len(drawn)
    return Drawn(value, total_B / groups_B, min(clusters))


def _groups(rated: _Rated) -> list[Indices]:
    """The rows of each group, in their order."""
    grouped = np.flatnonzero(rated.groups_N >= 0)
    order = grouped[np.argsort(rated.groups_N[grouped], kind="stable")]
    starts = np.flatnonzero(np.diff(rated.groups_N[order], prepend=-1))
    return np.split(order, starts[1:]) if len(order) else []


def _varying(draws_B: Rates | None) -> Rates | None:
    """Draws that are all the same say nothing of the uncertainty."""
    if draws_B is None or not np.nanstd(draws_B) > 1e-9:
        return None
    return draws_B
