"""Orders of several candidates, and how far a judge's order agrees with people's.

An order is a tuple of places, the best first; candidates that share a place are tied. Its text is
its candidates joined by `>` and, where they are tied, by `=`: `B>A=C`. Of two orders the first is a
judge's, the second the truth, and both are of the same candidates.

Candidates that the truth ties are not compared. Where only the judge ties them, that is worth as
much as a random choice between them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from math import fsum, log2, sqrt
from typing import NamedTuple, TypeAlias

Order: TypeAlias = tuple[tuple[str, ...], ...]


class OrderScores(NamedTuple):
    """How far one order agrees with the truth; None where the truth leaves nothing to ask."""

    kendall: float | None
    """Kendall's τ-b, from -1 to 1; None where the truth is one tie, 0 where only the judge's is."""
    pairwise_accuracy: float | None
    """Of the pairs of candidates that are not tied in the truth, the share in the right order; a
    pair that the judge ties counts half."""
    top1_accuracy: float | None
    """Whether the judge's best candidate is among the best of the truth; of several, the share that
    is. None where the truth is one tie."""
    ndcg: float | None
    """Discounted cumulative gain over that of the truth; None where the truth is one tie."""
    edit_distance: float
    """Edits that turn the judge's sequence into the truth's, over its length; 0 is best."""


NO_ORDER = OrderScores(
    kendall=0.0, pairwise_accuracy=0.0, top1_accuracy=0.0, ndcg=0.0, edit_distance=1.0
)
"""Of a judge that gives no order: it is right about nothing."""


def read_order(text: str) -> Order:
    """The order that a text such as `B>A=C` is.

    Raises:
        ValueError: a candidate is missing between two signs, or is named twice.
    """
    order = tuple(tuple(place.split("=")) for place in text.split(">"))
    names = [name for place in order for name in place]
    if "" in names or len(set(names)) < len(names):
        raise ValueError(f"{text!r} is no order such as B>A=C, with each candidate once")
    return order


def write_order(order: Iterable[Iterable[str]]) -> str:
    """The text of an order; tied candidates are sorted, so that equal orders have equal texts.

    >>> write_order([["B"], ["C", "A"]])
    'B>A=C'
    """
    return ">".join("=".join(sorted(place)) for place in order)


def order_by(values: Mapping[str, float], *, lowest_first: bool = False) -> Order:
    """Candidates by their scores, or by their ranks with `lowest_first`; equal values are ties.

    >>> order_by({"A": 0.5, "B": 0.9, "C": 0.5})
    (('B',), ('A', 'C'))
    """
    places: defaultdict[float, list[str]] = defaultdict(list)
    for name, value in values.items():
        places[value].append(name)
    return tuple(tuple(sorted(places[value])) for value in sorted(places, reverse=not lowest_first))


def majority_order(orders: Sequence[Order], weights: Sequence[float]) -> Order:
    """The order in which a candidate stands by how many others the majority places behind it.

    Copeland's method: half a point for another candidate that as much weight places before as
    behind it.

    Args:
        orders: one or more of the same candidates.
        weights: of each order.

    >>> cycle_free = [read_order("A>B>C"), read_order("A>C>B"), read_order("B>A>C")]
    >>> write_order(majority_order(cycle_free, [1.0, 1.0, 1.0]))
    'A>B>C'
    """
    places = [{name: n for n, place in enumerate(order) for name in place} for order in orders]
    points = dict.fromkeys(sorted(places[0]), 0.0)
    for one, other in combinations(points, 2):
        margin = fsum(
            weight * ((place[one] < place[other]) - (place[one] > place[other]))
            for place, weight in zip(places, weights, strict=True)
        )
        points[one] += (margin > 0) + (margin == 0) / 2
        points[other] += (margin < 0) + (margin == 0) / 2
    return order_by(points)


def score_order(judged: Order, truth: Order) -> OrderScores:
    """Every score of one order, in time quadratic in the number of candidates.

    Raises:
        ValueError: the orders are not of the same candidates.
    """
    judged_N, truth_N = _places(judged, truth)
    return OrderScores(
        kendall=_kendall(judged_N, truth_N),
        pairwise_accuracy=_pairwise_accuracy(judged_N, truth_N),
        top1_accuracy=_top1(judged, truth),
        ndcg=_ndcg(judged_N, truth_N),
        edit_distance=_edit_distance(judged_N, truth_N),
    )


def _places(judged: Order, truth: Order) -> tuple[list[int], list[int]]:
    """The place of each of N candidates, 0 for the best, in both orders."""
    judged_place, truth_place = (
        {name: place for place, names in enumerate(order) for name in names}
        for order in (judged, truth)
    )
    if judged_place.keys() != truth_place.keys():
        raise ValueError(
            f"{write_order(judged)} and {write_order(truth)} are not of the same candidates"
        )
    names = sorted(truth_place)
    return [judged_place[name] for name in names], [truth_place[name] for name in names]


def _signs(places_N: Sequence[int]) -> list[int]:
    """For each pair of candidates 1, 0 or -1: before, tied, behind."""
    return [(one < other) - (one > other) for one, other in combinations(places_N, 2)]


def _kendall(judged_N: Sequence[int], truth_N: Sequence[int]) -> float | None:
    judged, truth = _signs(judged_N), _signs(truth_N)
    ordered, asked = sum(map(abs, judged)), sum(map(abs, truth))
    if not asked:
        return None
    if not ordered:
        return 0.0
    return sum(a * b for a, b in zip(judged, truth, strict=True)) / sqrt(ordered * asked)


def _pairwise_accuracy(judged_N: Sequence[int], truth_N: Sequence[int]) -> float | None:
    asked = [(a, b) for a, b in zip(_signs(judged_N), _signs(truth_N), strict=True) if b]
    return sum(1 + a * b for a, b in asked) / (2 * len(asked)) if asked else None


def _top1(judged: Order, truth: Order) -> float | None:
    if len(truth) == 1:
        return None
    return len(set(judged[0]) & set(truth[0])) / len(judged[0])


def _ndcg(judged_N: Sequence[int], truth_N: Sequence[int]) -> float | None:
    """With the gain and the ties of scikit-learn's `ndcg_score`.

    The relevance of a candidate is the number of those that the truth places behind it. Candidates
    tied by the judge share the mean of their gains (McSherry and Najork 2008).
    """
    relevance_N = [sum(other > place for other in truth_N) for place in truth_N]
    best = _discounted(truth_N, relevance_N)
    return _discounted(judged_N, relevance_N) / best if best else None


def _discounted(places_N: Sequence[int], relevance_N: Sequence[int]) -> float:
    gains: defaultdict[int, list[int]] = defaultdict(list)
    for place, relevance in zip(places_N, relevance_N, strict=True):
        gains[place].append(relevance)
    total, position = 0.0, 0
    for place in sorted(gains):
        tied = gains[place]
        discounts = sum(1 / log2(position + k + 2) for k in range(len(tied)))
        total += sum(tied) / len(tied) * discounts
        position += len(tied)
    return total


def _edit_distance(judged_N: Sequence[int], truth_N: Sequence[int]) -> float:
    """Levenshtein distance of the two sequences of candidates over their length.

    MLLM-as-a-Judge (arXiv 2402.04788) reports a "normalized Levenshtein distance" of sequences
    without ties, such as CDAB, and gives no formula; its notebook `calculate_metrics.ipynb` has the
    distance alone. Divided by the length, it is 1 where no candidate is in its place. Candidates
    that the truth ties are interchangeable here; those that the judge ties stand in the reverse of
    the truth's order, so that a tie gains nothing.
    """
    order = sorted(range(len(judged_N)), key=lambda n: (judged_N[n], -truth_N[n]))
    return _levenshtein([truth_N[n] for n in order], sorted(truth_N)) / len(truth_N)


def _levenshtein(one: Sequence[int], other: Sequence[int]) -> int:
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def first_places(order: Order, slots: Sequence[str]) -> list[float]:
    """What each presented slot has of the first place; tied slots share it.

    The means over items show a position bias: without one, each slot has 1 / their number if every
    candidate is shown in every slot equally often.

    >>> first_places((("A", "C"), ("B",)), "ABC")
    [0.5, 0.0, 0.5]
    """
    return [(slot in order[0]) / len(order[0]) for slot in slots]
