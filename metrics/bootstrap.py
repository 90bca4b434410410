"""Bootstrap intervals of rates (Efron 1979, doi:10.1214/aos/1176344552), by cluster.

Axis suffixes: `M` judges of the same items, `K` clusters of dependent items, which are drawn
together, `B` resamples, `F` the counts of a flat :class:`~.rates.Tally`, `U` different clusters,
the others as in :mod:`rates`. Everything is computed from counts, so all resamples of all judges
cost one matrix product, and rates are computed from its result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl_judge.common.hashing import stable_hash

from .rates import RATES, Counts, Rates, Tally
from .records import Record, tally

RESAMPLES = 10_000
LEVEL = 0.95
_CHUNK = 4_000_000  # numbers drawn at a time, 32 MB


class Interval(NamedTuple):
    """A confidence interval of LEVEL."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A rate with its 95 % bootstrap interval; null where undefined or not computed."""

    # Read by pydantic, which validates estimates in leaderboard files.
    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    value: float | None
    low: float | None = None
    high: float | None = None


def cluster_tallies(
    judges: Sequence[Sequence[Record]],
    clusters: Sequence[Hashable],
    classes: Sequence[str],
    paired: bool = False,
) -> Tally:
    """The counts of each judge in each cluster, K × M, without clusters that count nowhere.

    Args:
        judges: the records of each of M judges, of the same rows in the same order.
        clusters: for each row, the name of its cluster, such as its prompt; the rows of a pair are
            in one cluster.
        classes: the task's verdicts.
        paired: whether pairs were judged in both orders.

    Raises:
        ValueError: the judges' labels or numbers of rows differ.
    """
    labels = [record.label for record in judges[0]]
    for records in judges:
        if [record.label for record in records] != labels or len(clusters) != len(labels):
            raise ValueError("the judges have not judged the same rows")
    rows_of: defaultdict[Hashable, list[int]] = defaultdict(list)
    for row, cluster in enumerate(clusters):
        rows_of[cluster].append(row)
    # Equal clusters are counted once: there are far fewer different clusters than clusters.
    known: dict[tuple[Record, ...], Counts] = {}
    nothing = tally([], classes, paired).flat()
    flat_K_M_F = np.empty((len(rows_of), len(judges), len(nothing)), dtype=np.int64)
    for index, rows in enumerate(rows_of.values()):
        pairs = _pair_numbers([judges[0][row] for row in rows]) if paired else repeat(None)
        numbered = list(zip(rows, pairs, strict=False))
        for judge, records in enumerate(judges):
            cluster_records = tuple(
                Record(*records[row][:3], pair_id=pair, swapped=records[row].swapped)
                for row, pair in numbered
            )
            if cluster_records not in known:
                known[cluster_records] = tally(cluster_records, classes, paired).flat()
            flat_K_M_F[index, judge] = known[cluster_records]
    return Tally.of(flat_K_M_F[flat_K_M_F.any(axis=(1, 2))], len(classes))


def _pair_numbers(records: Sequence[Record]) -> list[str | None]:
    """Pairs numbered within their cluster, so that equal clusters have equal records."""
    numbers: dict[str | None, str | None] = {None: None}
    return [numbers.setdefault(record.pair_id, str(len(numbers))) for record in records]


def resampled(
    tallies: Tally,
    rates: Sequence[str] = ("macro_f1",),
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Rates]:
    """Rates of each judge in bootstrap resamples of the clusters, each B × M.

    All judges share the resamples, so their differences are paired. If all clusters have one size,
    they are drawn within strata of the same labels, so that every resample has as many items of
    each class as the sample. With several sizes strata would be too small to vary, and clusters are
    drawn from all of them.

    Args:
        tallies: K × M, from :func:`cluster_tallies`.
        rates: names in :data:`~.rates.RATES`.
    """
    flat_K_M_F = tallies.flat()
    clusters, judges, counts = flat_K_M_F.shape
    classes = tallies.confusion_X_C_C1.shape[-2]
    labels_K_C = tallies.confusion_X_C_C1[:, 0].sum(axis=-1)
    if len(np.unique(labels_K_C.sum(axis=1))) > 1:
        labels_K_C = np.zeros_like(labels_K_C)
    _, strata_K = np.unique(labels_K_C, axis=0, return_inverse=True)
    # Clusters with equal counts of all judges are interchangeable, and few of them differ.
    flat_K_X = flat_K_M_F.reshape(clusters, judges * counts)
    different_U_X, index_K = np.unique(flat_K_X, axis=0, return_inverse=True)
    rng = np.random.default_rng(stable_hash("bootstrap", seed) % 2**63)
    values: dict[str, list[Rates]] = {name: [] for name in rates}
    for size in _chunks(resamples, clusters):
        drawn_B_U = np.zeros((size, len(different_U_X)))
        for stratum in range(strata_K.max(initial=-1) + 1):
            members = index_K[strata_K == stratum]
            draws_B_K = rng.integers(len(members), size=(size, len(members)), dtype=np.int32)
            drawn_B_U += _times_drawn(members[draws_B_K], len(different_U_X))
        # In float64, whose matrix products are done by BLAS and are exact up to 2^53.
        counts_B_X = (drawn_B_U @ different_U_X.astype(np.float64)).astype(np.int64)
        tally_B_M = Tally.of(counts_B_X.reshape(size, judges, counts), classes)
        for name, chunks in values.items():
            chunks.append(RATES[name](tally_B_M))
    return {name: np.concatenate(chunks) for name, chunks in values.items()}


def _chunks(resamples: int, clusters: int) -> Iterator[int]:
    size = max(1, _CHUNK // max(1, clusters))
    while resamples > 0:
        yield min(size, resamples)
        resamples -= size


def _times_drawn(draws_B_K: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """How often each of n different clusters was drawn in each resample, B × U."""
    resamples = len(draws_B_K)
    flat = (draws_B_K + n * np.arange(resamples)[:, None]).ravel()
    return np.bincount(flat, minlength=resamples * n).reshape(resamples, n)


def interval(scores_B: Rates, level: float = LEVEL) -> Interval | None:
    """The percentile interval of a resampled rate, of the resamples in which it is defined."""
    scores_B = scores_B[~np.isnan(scores_B)]
    if not scores_B.size:
        return None
    low, high = np.quantile(scores_B, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def estimate(value: float | None, scores_B: Rates) -> Estimate:
    """A rate with the interval of its resamples; without one where the rate is undefined."""
    if value is None:
        return Estimate(None)
    return Estimate(value, *(interval(scores_B) or ()))
