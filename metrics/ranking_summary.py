"""How well a judge orders the candidates of its items, with draws of the cluster bootstrap.

All metrics but the position bias are means over rows; the pairwise accuracy weights a row by its
pairs that the truth does not tie, so that it is the share of all pairs. A row without an order
counts as :data:`~.rankings.NO_ORDER`; a row whose truth is one tie asks for nothing and counts for
none of them but the edit distance and the position bias.

Axis suffixes: `R` rows, `X` metrics, `S` the slots in which candidates are presented, `K` clusters
of rows, `B` draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

from .bootstrap import effective_clusters, mean_size
from .drawn import Drawn, JudgedRows, Weights, shared_weights
from .rankings import NO_ORDER, OrderScores, first_places, read_order, score_order, write_order
from .rates import Rates
from .records import Record

Indices = NDArray[np.int64]
RANKING_METRICS = (*OrderScores._fields, "position_bias")


def summarize_rankings(records: Sequence[Record], slots: Sequence[str]) -> dict[str, float | None]:
    """Each of :data:`RANKING_METRICS`, and `first_place_S` of each slot S.

    Args:
        records: labels and verdicts are orders of the slots. Without a label, a record counts only
            for the first places; if its request failed, for nothing.
        slots: the names of the candidates, in the order in which they are presented.
    """
    scores_R_X, first_R_S = _scores(records), _first_places(records, slots)
    weights_R_X = _weights(records)
    table: dict[str, float | None] = {}
    for column, name in enumerate(OrderScores._fields):
        known_R = ~np.isnan(scores_R_X[:, column])
        table[name] = (
            float(np.average(scores_R_X[known_R, column], weights=weights_R_X[known_R, column]))
            if known_R.any()
            else None
        )
    first_R_S = first_R_S[~np.isnan(first_R_S[:, 0])]
    shares_2S = _with_equal_shares(first_R_S).mean(axis=0) if len(first_R_S) else None
    table["position_bias"] = None if shares_2S is None else float(_bias(shares_2S))
    for index, slot in enumerate(slots):
        of_slot_R = first_R_S[~np.isnan(first_R_S[:, index]), index]
        table[f"first_place_{slot}"] = float(of_slot_R.mean()) if of_slot_R.size else None
    return table


def drawn_rankings(
    judges: Sequence[JudgedRows], *, resamples: int, seed: int = 0
) -> list[dict[str, Drawn]]:
    """Each of :data:`RANKING_METRICS` of each judge, with draws.

    To each draw of a mean, half a cluster is added that is right, and half a one in the reverse of
    the true order, so that the interval of a judge that is always right has a width.
    """
    weights = shared_weights(
        "ranking",
        [judge.clusters for judge in judges],
        [judge.task for judge in judges],
        resamples=resamples,
        seed=seed,
    )
    return [_drawn(judge, of_judge) for judge, of_judge in zip(judges, weights, strict=True)]


def _drawn(judge: JudgedRows, weights: Weights) -> dict[str, Drawn]:
    values = summarize_rankings(judge.records, judge.verdicts)
    scores_R_X, weights_R_X = _scores(judge.records), _weights(judge.records)
    extremes_2_R_X = np.stack([_scores(_answered(judge.records, way)) for way in (1, -1)])
    columns_R = np.array([weights.place[name] for name in judge.clusters], dtype=np.int64)
    found = {}
    for column, name in enumerate(OrderScores._fields):
        known_R = ~np.isnan(scores_R_X[:, column])
        of_row_R = weights_R_X[known_R, column]
        parts_R_2 = np.column_stack([of_row_R, of_row_R * scores_R_X[known_R, column]])
        _, (rows_K, sums_K) = _by_cluster(parts_R_2, columns_R[known_R], len(weights.place))
        draws_B = None
        if weights.weights_B_U is not None and rows_K.any():
            halves_B_2 = weights.halves_B_2 * mean_size(rows_K)
            extremes_2_R = extremes_2_R_X[:, known_R, column]
            prior_B = halves_B_2 @ np.average(extremes_2_R, axis=1, weights=of_row_R)
            draws_B = (weights.weights_B_U @ sums_K + prior_B) / (
                weights.weights_B_U @ rows_K + halves_B_2.sum(axis=1)
            )
        found[name] = Drawn(values[name], draws_B, effective_clusters(rows_K))
    first_R_S = _first_places(judge.records, judge.verdicts)
    known_R = ~np.isnan(first_R_S[:, 0])
    shares_R_2S = _with_equal_shares(first_R_S[known_R])
    rows_K, sums_2S_K = _by_cluster(shares_R_2S, columns_R[known_R], len(weights.place))
    draws_B = None
    if weights.weights_B_U is not None and rows_K.any():
        shares_B_2S = (weights.weights_B_U @ sums_2S_K.T) / (weights.weights_B_U @ rows_K)[:, None]
        draws_B = _bias(shares_B_2S)
    found["position_bias"] = Drawn(values["position_bias"], draws_B, effective_clusters(rows_K))
    return found


def _by_cluster(values_R_X: Rates, columns_R: Indices, clusters: int) -> tuple[Rates, Rates]:
    """The rows of each cluster, and the sums of their values, X × K."""
    sums_X_K = np.zeros((values_R_X.shape[1], clusters))
    for sums_K, values_R in zip(sums_X_K, values_R_X.T, strict=True):
        sums_K += np.bincount(columns_R, values_R, minlength=clusters)
    return np.bincount(columns_R, minlength=clusters).astype(float), sums_X_K


def _scores(records: Sequence[Record]) -> Rates:
    """The scores of each row, R × X; nan where there is nothing to score."""
    scores_R_X = np.full((len(records), len(OrderScores._fields)), np.nan)
    for row, record in enumerate(records):
        if record.label is None or record.failed:
            continue
        truth = read_order(record.label)
        scores = NO_ORDER
        if record.verdict is not None:
            scores = score_order(read_order(record.verdict), truth)
        elif len(truth) == 1:
            scores = OrderScores(None, None, None, None, NO_ORDER.edit_distance)
        scores_R_X[row] = [np.nan if score is None else score for score in scores]
    return scores_R_X


def _weights(records: Sequence[Record]) -> Rates:
    """What each row weighs in the mean of each score, R × X."""
    weights_R_X = np.ones((len(records), len(OrderScores._fields)))
    pairs = OrderScores._fields.index("pairwise_accuracy")
    for row, record in enumerate(records):
        if record.label is not None:
            sizes = list(map(len, read_order(record.label)))
            weights_R_X[row, pairs] = comb(sum(sizes), 2) - sum(comb(size, 2) for size in sizes)
    return weights_R_X


def _answered(records: Sequence[Record], way: int) -> list[Record]:
    """The records with the true order as their verdict, or its reverse."""
    return [
        record._replace(verdict=record.label and write_order(read_order(record.label)[::way]))
        for record in records
    ]


def _first_places(records: Sequence[Record], slots: Sequence[str]) -> Rates:
    """What each slot has of the first place in each row, R × S.

    It is nan in a row without an order, and for slots that a row with fewer candidates lacks.
    """
    first_R_S = np.full((len(records), len(slots)), np.nan)
    for row, record in enumerate(records):
        if record.verdict is not None and not record.failed:
            order = read_order(record.verdict)
            shown = slots[: sum(map(len, order))]
            first_R_S[row, : len(shown)] = first_places(order, shown)
    return first_R_S


def _with_equal_shares(first_R_S: Rates) -> Rates:
    """What each slot has of the first place, then what it has of equal shares, R × 2S."""
    shown_R = (~np.isnan(first_R_S)).sum(axis=1)
    equal_R_S = np.where(np.isnan(first_R_S), 0.0, 1 / shown_R[:, None])
    return np.concatenate([np.nan_to_num(first_R_S), equal_R_S], axis=1)


def _bias(shares_X_2S: Rates) -> Rates:
    """How far mean shares are from equal ones: the share that would have to go to other slots."""
    first_X_S, equal_X_S = np.split(shares_X_2S, 2, axis=-1)
    bias_X: Rates = np.abs(first_X_S - equal_X_S).sum(axis=-1) / 2
    return bias_X
