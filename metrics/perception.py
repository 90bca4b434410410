"""How well a judge sees, apart from how often its verdict is right.

A verdict can be right by a bias or a guess. `facts_rate` is the share of an item's facts that the
judge's reasoning states, `right_on_wrong_facts` the share of right verdicts whose reasoning says
something untrue, and `roc_auc` how well the probability of a verdict ranks the items, wherever the
threshold between verdicts lies. The first two are None without facts, the third without
probabilities, as without labels of both kinds.

Axis suffixes: `N` rows, `K` clusters, `B` draws.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl_judge.common.hashing import stable_hash

from .bootstrap import effective_clusters
from .rates import Rates
from .records import Record
from .roc import Area, roc_auc

NGRAM = 4
"""Words of an n-gram in :func:`distinct_ngrams`."""
PERCEPTION_RESAMPLES = 1_000


class Drawn(NamedTuple):
    """A rate, its value in each draw, and how many independent clusters these rest on."""

    value: float
    draws_B: Rates
    clusters: float


PERCEPTION_RATES = ("facts_rate", "right_on_wrong_facts", "roc_auc")
"""In [0, 1]; of the second, less is better."""


class _Share(NamedTuple):
    """A rate as a part of a whole, both by row."""

    part_N: NDArray[np.int64]
    whole_N: NDArray[np.int64]


def _facts_rate(records: Sequence[Record]) -> _Share:
    counts = [(row.facts.stated, row.facts.total) if row.facts else (0, 0) for row in records]
    return _Share(*np.array(counts, dtype=int).T)


def _right_on_wrong_facts(records: Sequence[Record]) -> _Share:
    counts = [
        (right and row.facts.contradicted > 0, right)
        if row.facts is not None and row.facts.contradictable
        else (False, False)
        for row, right in ((r, r.verdict is not None and r.verdict == r.label) for r in records)
    ]
    return _Share(*np.array(counts, dtype=int).T)


_SHARES: Mapping[str, Callable[[Sequence[Record]], _Share]] = {
    "facts_rate": _facts_rate,
    "right_on_wrong_facts": _right_on_wrong_facts,
}


def _areas(
    records: Sequence[Record],
    classes: Sequence[str],
    cluster_N: NDArray[np.int64],
    weights_B_K: Rates | None,
    halves_B_2: Rates,
) -> list[Area]:
    """Of two verdicts, the area of the first; of more, that of each against the others; none
    without classes."""
    rows = [
        row
        for row, record in enumerate(records)
        if record.probabilities is not None and record.label is not None
    ]
    probabilities_N_C = np.array([records[row].probabilities for row in rows])
    labels_N = np.array([records[row].label for row in rows])
    ones = range(1) if len(classes) == 2 else range(len(classes))
    areas = (
        roc_auc(
            probabilities_N_C[:, index],
            labels_N == classes[index],
            cluster_N[rows],
            weights_B_K,
            halves_B_2,
        )
        for index in (ones if rows else ())
    )
    return [area for area in areas if area is not None]


def perception(records: Sequence[Record], classes: Sequence[str]) -> dict[str, float | None]:
    """Each rate of :data:`PERCEPTION_RATES`; None where it has no meaning.

    Args:
        records: those whose request failed count nowhere.
        classes: the task's verdicts; empty if no label is one of few classes, so that there is no
            AUC.
    """
    judged = [record for record in records if not record.failed]
    found: dict[str, float | None] = dict.fromkeys(PERCEPTION_RATES)
    if not judged:
        return found
    for name, share_of in _SHARES.items():
        part_N, whole_N = share_of(judged)
        if whole_N.any():
            found[name] = float(part_N.sum() / whole_N.sum())
    alone = np.arange(len(judged))
    if areas := _areas(judged, classes, alone, None, np.empty((0, 2))):
        found["roc_auc"] = float(np.mean([area.value for area in areas]))
    return found


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
    values = {rate: v for rate, v in perception(judged, classes).items() if v is not None}
    if not values:
        return {}
    number: dict[Hashable, int] = {}
    cluster_N = np.array([number.setdefault(clusters[row], len(number)) for row in kept])
    rng = np.random.default_rng(stable_hash("perception", seed, name) % 2**63)
    draws = min(resamples, PERCEPTION_RESAMPLES)
    weights_B_K = rng.standard_exponential((draws, len(number)))
    found = {}
    for rate, value in values.items():
        halves_B_2 = rng.standard_gamma(0.5, (draws, 2))
        if rate in _SHARES:
            part_N, whole_N = _SHARES[rate](judged)
            part_K, whole_K, rows_K = (
                np.bincount(cluster_N, weights=column_N)
                for column_N in (part_N, whole_N, whole_N > 0)
            )
            prior_B_2 = halves_B_2 * whole_K.sum() / rows_K.sum()  # half a row of mean size
            whole_B = weights_B_K @ whole_K + prior_B_2.sum(axis=1)
            draws_B = (weights_B_K @ part_K + prior_B_2[:, 0]) / whole_B
            found[rate] = Drawn(value, draws_B, effective_clusters(rows_K))
        else:
            areas = _areas(judged, classes, cluster_N, weights_B_K, halves_B_2)
            draws_B = np.mean([a.draws_B for a in areas if a.draws_B is not None], axis=0)
            found[rate] = Drawn(value, draws_B, min(area.clusters for area in areas))
    return found


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
