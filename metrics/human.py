"""Agreement of a judge's scores with ratings that people gave.

A score is a number for each row, higher where the judge leans more towards the first verdict
(:func:`judge_score`). Rows without a rating or without a score are left out, since nothing says
where they rank.

Axis suffixes: `N` rated rows with a score, `K` their clusters of dependent rows, `B` draws.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from .agreement import ratings
from .bootstrap import effective_clusters, mean_size, spread_factor
from .correlation import (
    MAX_CLUSTERS,
    Indices,
    correlations,
    pairwise_accuracy,
    rows_of_groups,
)
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

    From the probabilities of verdicts if there are any, else from the votes, else from the verdict
    alone; None if it has no verdict in any of these. Ratings may lie between the classes.

    >>> judge_score("No", ["Yes", "No"], {"Yes": 0.4, "No": 0.6})
    0.4
    >>> judge_score("Yes", ["Yes", "No"], votes=["Yes", "No", "Yes", None, "Yes"])
    0.75
    >>> judge_score("3", ["1", "2", "3"], {"1": 0.0, "2": 0.5, "3": 0.5})
    2.5
    >>> judge_score("No", ["Yes", "No"]), judge_score(None, ["Yes", "No"])
    (0.0, None)
    >>> judge_score("2.5", ["1", "2", "3"], votes=["2.5", None, "3"])
    2.75
    """
    numbers = ratings(classes)
    if numbers is not None and not probabilities:
        said = votes if len(votes) > 1 else [verdict]
        known = [float(rating) for rating in said if rating is not None]
        return fmean(known) if known else None
    shares = probabilities or (vote_shares(votes, classes) if len(votes) > 1 else None)
    if shares is None:
        if verdict is None:
            return None
        shares = {verdict: 1.0}
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
        found["pairwise_human"] = pairwise_accuracy(
            rated.scores_N,
            rated.order_N,
            rows_of_groups(rated.groups_N),
            rated.cluster_N,
            weights_B_K,
            halves_B_2,
        )
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


def _correlations(rated: _Rated, weights_B_K: Rates | None) -> dict[str, Drawn]:
    found = correlations(rated.scores_N, rated.ratings_N, rated.cluster_N, weights_B_K)
    return {f"{name}_human": drawn for name, drawn in found.items()}


# Labels


def _area(labeled: _Rated, weights_B_K: Rates | None, halves_B_2: Rates) -> Drawn:
    positive_N = labeled.labels_N == 1
    area = roc_auc(labeled.scores_N, positive_N, labeled.cluster_N, weights_B_K, halves_B_2)
    return Drawn(None, None, 0) if area is None else Drawn(*area)


def _group_mean(labeled: _Rated, weights_B_K: Rates | None, halves_B_2: Rates) -> Drawn:
    """Mean AUC over the groups that have rows of both labels."""
    values, drawn, clusters = [], [], []
    within: list[tuple[int, float]] = []  # clusters of groups that lie in one, and their AUC
    for rows in rows_of_groups(labeled.groups_N):
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
