"""How sure a score is, and whether two judges can be told apart.

Axis suffixes: `M` judges of the same items, `K` clusters of items that are drawn together, `B`
resamples, `F` the counts of a flat :class:`~.rates.Tally`, the others as in :mod:`rates`. All is
computed from counts, so a resample costs one product of matrices, however many judges and rates
there are.
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
# Numbers drawn at a time: 32 MB.
_DRAWN = 4_000_000


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
    """What each judge made of each cluster, K × M; clusters that count nowhere are left out.

    Args:
        judges: for each of M judges its records of the same rows, in the same order.
        clusters: what each row shares with others, such as its prompt; the rows of a pair share
            theirs.
        classes: the task's verdicts.
        paired: whether pairs were judged in both orders.

    Raises:
        ValueError: the judges' labels or numbers of rows differ.
    """
    labels = [record.label for record in judges[0]]
    for records in judges:
        if [record.label for record in records] != labels or len(clusters) != len(labels):
            raise ValueError("the judges have not judged the same rows")
    own: defaultdict[Hashable, list[int]] = defaultdict(list)
    for row, cluster in enumerate(clusters):
        own[cluster].append(row)
    # Records made the same are counted once: there are far fewer kinds of clusters than clusters.
    known: dict[tuple[Record, ...], Counts] = {}
    nothing = tally([], classes, paired).flat()
    flat_K_M_F = np.empty((len(own), len(judges), len(nothing)), dtype=np.int64)
    for place, rows in enumerate(own.values()):
        pairs = _pair_numbers([judges[0][row] for row in rows]) if paired else repeat(None)
        numbered = list(zip(rows, pairs, strict=False))
        for judge, records in enumerate(judges):
            kind = tuple(
                Record(*records[row][:3], pair_id=pair, swapped=records[row].swapped)
                for row, pair in numbered
            )
            if kind not in known:
                known[kind] = tally(kind, classes, paired).flat()
            flat_K_M_F[place, judge] = known[kind]
    return Tally.of(flat_K_M_F[flat_K_M_F.any(axis=(1, 2))], len(classes))


def _pair_numbers(records: Sequence[Record]) -> list[str | None]:
    """Names of the pairs of a cluster that clusters made alike have in common."""
    number: dict[str | None, str | None] = {None: None}
    return [number.setdefault(record.pair_id, str(len(number))) for record in records]


def resampled(
    tallies: Tally,
    rates: Sequence[str] = ("macro_f1",),
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Rates]:
    """Rates of each judge in bootstrap resamples of the clusters, each B × M.

    All judges are judged on the same resamples, so their differences are paired. Clusters of one
    size are drawn within strata of the same labels, so every resample has as many items of each
    class; clusters of several sizes would make strata too small to vary, and are drawn freely.

    Args:
        tallies: K × M, of :func:`cluster_tallies`.
        rates: names in :data:`~.rates.RATES`.
    """
    flat_K_M_F = tallies.flat()
    clusters, judges, counts = flat_K_M_F.shape
    classes = tallies.confusion_X_C_C1.shape[-2]
    labels_K_C = tallies.confusion_X_C_C1[:, 0].sum(axis=-1)
    if len(np.unique(labels_K_C.sum(axis=1))) > 1:
        labels_K_C = np.zeros_like(labels_K_C)
    _, strata_K = np.unique(labels_K_C, axis=0, return_inverse=True)
    # Clusters of which all judges made the same are one: there are few kinds of them.
    flat_K_X = flat_K_M_F.reshape(clusters, judges * counts)
    kinds_U_X, kind_K = np.unique(flat_K_X, axis=0, return_inverse=True)
    draw = np.random.default_rng(stable_hash("bootstrap", seed) % 2**63)
    found: dict[str, list[Rates]] = {name: [] for name in rates}
    for size in _chunks(resamples, clusters):
        drawn_B_U = np.zeros((size, len(kinds_U_X)))
        for stratum in range(strata_K.max(initial=-1) + 1):
            own = kind_K[strata_K == stratum]
            places_B_K = draw.integers(len(own), size=(size, len(own)), dtype=np.int32)
            drawn_B_U += _drawn(own[places_B_K], len(kinds_U_X))
        # In float64, whose products are BLAS's and exact up to 2^53.
        counted_B_X = (drawn_B_U @ kinds_U_X.astype(np.float64)).astype(np.int64)
        drawn = Tally.of(counted_B_X.reshape(size, judges, counts), classes)
        for name, parts in found.items():
            parts.append(RATES[name](drawn))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _chunks(resamples: int, clusters: int) -> Iterator[int]:
    most = max(1, _DRAWN // max(1, clusters))
    while resamples > 0:
        yield min(most, resamples)
        resamples -= most


def _drawn(kinds_B_K: NDArray[np.int64], kinds: int) -> NDArray[np.int64]:
    """How often each kind was drawn, B × U."""
    resamples = len(kinds_B_K)
    flat = (kinds_B_K + kinds * np.arange(resamples)[:, None]).ravel()
    return np.bincount(flat, minlength=resamples * kinds).reshape(resamples, kinds)


def interval(scores_B: Rates, level: float = LEVEL) -> Interval | None:
    """The percentile interval of a resampled score (Efron 1979).

    Resamples in which it has no meaning (nan) have no say.
    """
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
