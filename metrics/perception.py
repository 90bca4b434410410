"""How well a judge sees, apart from how often its verdict is right.

A verdict can be right by a bias or a guess. `facts_rate` is the share of an item's facts that the
judge's reasoning states, `right_on_wrong_facts` the share of right verdicts whose reasoning says
something untrue, and `roc_auc` how well the probability of a verdict ranks the items, wherever the
threshold between verdicts lies. The first two are None without facts, the third without
probabilities, as without labels of both kinds.

Axis suffixes: `N` rows, `K` clusters, `B` draws, `U` different probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl_judge.common.hashing import stable_hash

from .rates import Rates
from .records import Record

NGRAM = 4
"""Words of an n-gram in :func:`distinct_ngrams`."""
PERCEPTION_RESAMPLES = 1_000


class Drawn(NamedTuple):
    """A rate, its value in each draw, and how many independent clusters these rest on."""

    value: float
    draws_B: Rates
    clusters: float


class _Share(NamedTuple):
    """A rate as a part of a whole, in each draw of the rows' weights."""

    part_B: Rates
    whole_B: Rates
    unit: float
    """How much of the whole a row has in the mean."""
    rows: Sequence[NDArray[np.bool_]]
    """The rows that it rests on, in kinds of which each is needed."""


_Rate = Callable[[Sequence[Record], Sequence[str], Any], _Share | None]


def _facts_rate(records: Sequence[Record], classes: Sequence[str], w_B_N: Any) -> _Share | None:
    stated_N = np.array([record.facts.stated if record.facts else 0 for record in records])
    total_N = np.array([record.facts.total if record.facts else 0 for record in records])
    if not total_N.any():
        return None
    unit = total_N.sum() / (total_N > 0).sum()
    return _Share(w_B_N @ stated_N, w_B_N @ total_N, unit, [total_N > 0])


def _right_on_wrong_facts(
    records: Sequence[Record], classes: Sequence[str], w_B_N: Any
) -> _Share | None:
    rows = [
        (row.facts.contradicted > 0, row.verdict is not None and row.verdict == row.label)
        if row.facts is not None and row.facts.contradictable
        else (False, False)
        for row in records
    ]
    wrong_N, right_N = np.array(rows, dtype=bool).T
    if not right_N.any():
        return None
    return _Share(w_B_N @ (right_N & wrong_N), w_B_N @ right_N, 1.0, [right_N])


def _roc_auc(records: Sequence[Record], classes: Sequence[str], w_B_N: Any) -> _Share | None:
    """Of two verdicts, that of the first; of more, the mean of each against the others."""
    known_N = np.array([row.probabilities is not None and row.label is not None for row in records])
    if not known_N.any():
        return None
    known = [record for record, is_known in zip(records, known_N, strict=True) if is_known]
    probabilities_N_C = np.array([record.probabilities for record in known])
    ones = range(1) if len(classes) == 2 else range(len(classes))
    areas, kinds = [], []
    for index in ones:
        positive_N = np.array([record.label == classes[index] for record in known])
        if positive_N.all() or not positive_N.any():
            continue
        areas.append(_area(probabilities_N_C[:, index], positive_N, w_B_N[..., known_N]))
        kinds += [_placed(known_N, positive_N), _placed(known_N, ~positive_N)]
    if not areas:
        return None
    area_B = np.mean(areas, axis=0)
    # A prior row has the weight of a row: of n rows, a share of 1/n.
    return _Share(area_B, np.ones_like(area_B), 1 / len(known), kinds)


def _placed(known_N: NDArray[np.bool_], chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rows_N = np.zeros(len(known_N), dtype=bool)
    rows_N[known_N] = chosen
    return rows_N


def _area(scores_N: Rates, positive_N: NDArray[np.bool_], w_B_N: Any) -> Rates:
    """The area under the ROC curve: the probability that a positive row has the higher score, equal
    scores counting half (Mann and Whitney 1947, doi:10.1214/aoms/1177730491)."""
    order = np.argsort(scores_N, kind="stable")
    starts_U = np.flatnonzero(np.diff(scores_N[order], prepend=-np.inf))
    positive_B_U, negative_B_U = (
        np.add.reduceat((w_B_N * kind_N)[..., order], starts_U, axis=-1)
        for kind_N in (positive_N, ~positive_N)
    )
    below_B_U = np.cumsum(negative_B_U, axis=-1) - negative_B_U / 2
    pairs_B = positive_B_U.sum(axis=-1) * negative_B_U.sum(axis=-1)
    area_B: Rates = (positive_B_U * below_B_U).sum(axis=-1) / pairs_B
    return area_B


PERCEPTION_RATES: Mapping[str, _Rate] = {
    "facts_rate": _facts_rate,
    "right_on_wrong_facts": _right_on_wrong_facts,
    "roc_auc": _roc_auc,
}


def perception(records: Sequence[Record], classes: Sequence[str]) -> dict[str, float | None]:
    """Each rate of :data:`PERCEPTION_RATES`; None where it has no meaning.

    Args:
        records: those whose request failed count nowhere.
        classes: the task's verdicts.
    """
    judged = [record for record in records if not record.failed]
    shares = {
        name: rate(judged, classes, np.ones(len(judged))) if judged else None
        for name, rate in PERCEPTION_RATES.items()
    }
    return {
        name: None if share is None else float(share.part_B / share.whole_B)
        for name, share in shares.items()
    }


def drawn_perception(
    records: Sequence[Record],
    clusters: Sequence[Hashable],
    classes: Sequence[str],
    name: str,
    *,
    resamples: int = PERCEPTION_RESAMPLES,
    seed: int = 0,
) -> dict[str, Drawn]:
    """The rates of :data:`PERCEPTION_RATES` that the records allow, with draws.

    Draws are those of the Bayesian bootstrap over clusters with prior counts of half a row, as for
    the other rates; see :mod:`.bootstrap`.

    Args:
        clusters: of each record; the rows of a cluster are not independent.
        name: decides the random numbers.
        resamples: no more than PERCEPTION_RESAMPLES are drawn.
    """
    kept = [row for row, record in enumerate(records) if not record.failed]
    judged = [records[row] for row in kept]
    number: dict[Hashable, int] = {}
    cluster_N = np.array([number.setdefault(clusters[row], len(number)) for row in kept], int)
    rng = np.random.default_rng(stable_hash("perception", seed, name) % 2**63)
    draws = min(resamples, PERCEPTION_RESAMPLES)
    found = {}
    weights_B_N: Rates | None = None
    for rate, value in perception(judged, classes).items():
        if value is None:
            continue
        if weights_B_N is None:
            weights_B_N = rng.standard_exponential((draws, len(number)))[:, cluster_N]
        share = PERCEPTION_RATES[rate](judged, classes, weights_B_N)
        assert share is not None  # as it has a value
        halves_B_2 = rng.standard_gamma(0.5, (draws, 2)) * share.unit
        draws_B = (share.part_B + halves_B_2[:, 0]) / (share.whole_B + halves_B_2.sum(axis=1))
        independent = min(_effective(cluster_N[rows_N]) for rows_N in share.rows)
        found[rate] = Drawn(value, draws_B, independent)
    return found


def _effective(cluster_N: NDArray[np.int64]) -> float:
    """How many clusters of equal size carry the information of these rows (Kish's formula)."""
    sizes_K = np.unique(cluster_N, return_counts=True)[1]
    return float(sizes_K.sum() ** 2 / (sizes_K**2).sum())


def distinct_ngrams(texts: Iterable[str], n: int = NGRAM) -> float | None:
    """The share of distinct n-grams among all n-grams of the texts together, in words.

    Distinct-n of Li et al. (2016, arXiv 1510.03055). It falls where texts repeat themselves or one
    another, and with their number, so only equal numbers of texts compare. None without n-grams.

    >>> distinct_ngrams(["a red car", "a red car", "a red bus"], n=2)
    0.5
    """
    seen: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        words = text.casefold().split()
        grams = list(zip(*(words[start:] for start in range(n)), strict=False))
        seen.update(grams)
        total += len(grams)
    return len(seen) / total if total else None
