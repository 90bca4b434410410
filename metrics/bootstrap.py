"""Intervals of rates: the Bayesian bootstrap over clusters, with Jeffreys' prior.

Each draw gives every cluster of dependent rows an exponential weight (Rubin 1981,
doi:10.1214/aos/1176345338) and adds prior counts of half a row to hits and misses of each class.
With independent rows a class's recall is then drawn from Beta(hits + ½, misses + ½), whose interval
holds its level near 0 and 1, where resampling the rows fails (Brown, Cai and DasGupta 2001,
doi:10.1214/ss/1009213286). Where the rows of a cluster are wrong together, the prior counts are as
many rows as carry the information of one independent row. Clusters also vary more than few of them
show, so that an interval uses Student's t (Hesterberg 2015, doi:10.1080/00031305.2015.1089789, the
expanded percentile interval).

Axis suffixes: `M` judges of the same items, `K` clusters, `B` draws, `F` the counts of a flat
:class:`~.rates.Tally`, `U` different clusters, `Q` prior counts, the others as in :mod:`rates`.
Everything is computed from counts, so all draws of all judges cost one matrix product.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl_judge.common.hashing import stable_hash

from .rates import (
    ANSWERED_RATES,
    RATES_OF_ALL_CLASSES,
    Counts,
    PairCount,
    Rate,
    Rates,
    Tally,
    answered,
    class_rates,
)
from .records import Record, tally

RESAMPLES = 10_000
LEVEL = 0.95
MIN_CLUSTERS = 5
"""Fewer clusters have no interval: in simulations its coverage is too low."""
MIN_ROWS_OF_CLASS = 5
"""A rate of a class with fewer labeled rows has no interval."""
_CHUNK = 4_000_000  # numbers drawn at a time, 32 MB


class Interval(NamedTuple):
    """A confidence interval of LEVEL."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A rate with its 95 % interval; null where undefined or not computed."""

    # Read by pydantic, which validates estimates in leaderboard files.
    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    value: float | None
    low: float | None = None
    high: float | None = None


class Panel(NamedTuple):
    """Judges of the same rows of one task."""

    name: str
    clusters: Sequence[Hashable]
    """The name of each of K clusters; equal names in two panels are the same cluster."""
    tallies: Tally
    """K × M."""
    fixed_labels: bool = False
    """Whether the number of rows of each class was fixed when the data was collected."""

    def of_judges(self, judges: Sequence[int]) -> Panel:
        """The same panel of some of its judges."""
        return self._replace(tallies=self.tallies.each(lambda part: part[:, list(judges)]))


def panel_of(
    name: str,
    judges: Sequence[Sequence[Record]],
    clusters: Sequence[Hashable],
    classes: Sequence[str],
    *,
    paired: bool = False,
    fixed_labels: bool = False,
) -> Panel:
    """The counts of each judge in each cluster, without clusters that count nowhere.

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
    nothing = tally([], classes, paired)
    flat_K_M_F = np.empty((len(rows_of), len(judges), len(nothing.flat())), dtype=np.int64)
    for index, rows in enumerate(rows_of.values()):
        pairs = _pair_numbers([judges[0][row] for row in rows]) if paired else repeat(None)
        numbered = list(zip(rows, pairs, strict=False))
        for judge, records in enumerate(judges):
            cluster_records = tuple(_counted(records[row], pair) for row, pair in numbered)
            if cluster_records not in known:
                known[cluster_records] = tally(cluster_records, classes, paired).flat()
            flat_K_M_F[index, judge] = known[cluster_records]
    counted_K = np.flatnonzero(flat_K_M_F.any(axis=(1, 2)))
    names = list(rows_of)
    kept = [names[index] for index in counted_K]
    tallies = Tally.of(flat_K_M_F[counted_K], len(classes), nothing.slots)
    return Panel(name, kept, tallies, fixed_labels)


def _counted(record: Record, pair: str | None) -> Record:
    """What of a record is counted, so that equal clusters have equal records."""
    return record._replace(pair_id=pair, facts=None, probabilities=None, joint=None)


def _pair_numbers(records: Sequence[Record]) -> list[str | None]:
    """Pairs numbered within their cluster, so that equal clusters have equal records."""
    numbers: dict[str | None, str | None] = {None: None}
    return [numbers.setdefault(record.pair_id, str(len(numbers))) for record in records]


def draw_rates(
    panels: Sequence[Panel],
    rates: Sequence[Mapping[str, Rate]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Rates]]:
    """Draws of each rate of each judge, for each panel by rate B × M.

    The judges of a panel share the weights of its clusters, and so do panels with a cluster in
    common, so that differences between judges are paired and means over such panels are right.
    Class shares vary as in a random sample, unless the panel's class counts are fixed.

    Args:
        rates: of each panel, as in :data:`~.rates.RATES`.
    """
    drawn: dict[int, dict[str, Rates]] = {}
    for block in blocks([panel.clusters for panel in panels]):
        members = [panels[index] for index in block]
        joint_K_X, ends = joint_counts(members)
        # Clusters with equal counts of all judges are interchangeable, and few of them differ.
        different_U_X, sizes_U = np.unique(joint_K_X, axis=0, return_counts=True)
        names = sorted(panel.name for panel in members)
        rng = np.random.default_rng(stable_hash("bootstrap", seed, *names) % 2**63)
        chunks: dict[int, list[dict[str, Rates]]] = {index: [] for index in block}
        for size in _chunks(resamples, len(sizes_U)):
            counts_B_X = _weights(sizes_U, size, rng) @ different_U_X.astype(np.float64)
            for index, counts_B_x in zip(block, np.split(counts_B_X, ends, axis=1), strict=True):
                tally_B_M = _posterior(panels[index], counts_B_x, rng)
                chunks[index].append({name: rate(tally_B_M) for name, rate in rates[index].items()})
        for index, parts in chunks.items():
            drawn[index] = {
                name: np.concatenate([part[name] for part in parts]) for name in rates[index]
            }
    return [drawn[index] for index in range(len(panels))]


def blocks(clusters: Sequence[Collection[Hashable]]) -> list[list[int]]:
    """Lists of clusters by number, those with a cluster in common together."""
    found: list[tuple[set[Hashable], list[int]]] = []
    for index, of_index in enumerate(clusters):
        names, members = set(of_index), [index]
        for block in [block for block in found if not names.isdisjoint(block[0])]:
            found.remove(block)
            names, members = names | block[0], [*block[1], *members]
        found.append((names, sorted(members)))
    return [members for _, members in found]


def joint_counts(panels: Sequence[Panel]) -> tuple[Counts, list[int]]:
    """The counts of several panels by cluster, K × X, and the columns at which they are split."""
    rows: dict[Hashable, int] = {}
    for panel in panels:
        for name in panel.clusters:
            rows.setdefault(name, len(rows))
    parts = []
    for panel in panels:
        flat_K_M_F = panel.tallies.flat()
        part_K_X = np.zeros((len(rows), math.prod(flat_K_M_F.shape[1:])), dtype=np.int64)
        places = [rows[name] for name in panel.clusters]
        part_K_X[places] = flat_K_M_F.reshape(len(places), part_K_X.shape[1])
        parts.append(part_K_X)
    ends = np.cumsum([part_K_X.shape[1] for part_K_X in parts])[:-1].tolist()
    return np.concatenate(parts, axis=1), ends


def _chunks(resamples: int, width: int) -> Iterator[int]:
    size = max(1, _CHUNK // max(1, width))
    while resamples > 0:
        yield min(size, resamples)
        resamples -= size


def _weights(sizes_U: NDArray[np.int64], draws: int, rng: np.random.Generator) -> Rates:
    """Sums of exponential weights of groups of clusters, B × U."""
    weights_B_U = np.empty((draws, len(sizes_U)))
    alone_U = sizes_U == 1
    weights_B_U[:, alone_U] = rng.standard_exponential((draws, int(alone_U.sum())))
    of_several = sizes_U[~alone_U].astype(float)
    weights_B_U[:, ~alone_U] = rng.standard_gamma(of_several, (draws, len(of_several)))
    return weights_B_U


def _posterior(panel: Panel, counts_B_X: Rates, rng: np.random.Generator) -> Tally:
    """Weighted counts with prior counts, B × M.

    Of each class, half a row is right, half a row has another verdict and a part of a row has none;
    half a row is well-formed and half is not; half a pair is flipped and half is not, and so on.
    """
    draws, (judges, classes) = len(counts_B_X), panel.tallies.confusion_X_C_C1.shape[1:3]
    drawn = Tally.of(counts_B_X.reshape(draws, judges, -1), classes, panel.tallies.slots)
    rows_B_M = _design_effects(panel.tallies, draws, rng)
    # The same for every class: a sum over classes would rarely be near 0, where the truth may be.
    masses = [0.5, *[0.5 / max(1, classes - 1)] * (classes - 1), 0.5 / classes]
    prior_B_M_C1 = rows_B_M[..., None] * rng.standard_gamma(masses, (draws, judges, classes + 1))
    others_C_C = (np.arange(classes) - np.arange(classes)[:, None]) % classes
    kinds_C_C1 = np.column_stack([others_C_C, np.full(classes, classes)])
    confusion_B_M_C_C1 = drawn.confusion_X_C_C1 + prior_B_M_C1[..., kinds_C_C1]
    if panel.fixed_labels:
        labeled_M_C = panel.tallies.confusion_X_C_C1.sum(axis=(0, -1))
        confusion_B_M_C_C1 *= (labeled_M_C / confusion_B_M_C_C1.sum(axis=-1))[..., None]
    halves_B_M_2 = rng.standard_gamma(0.5, (draws, judges, 2))
    rows_drawn_B_M = drawn.confusion_X_C_C1.sum(axis=(-2, -1))
    share_B_M = (drawn.well_formed_X + rows_B_M * halves_B_M_2[..., 0]) / (
        rows_drawn_B_M + rows_B_M * halves_B_M_2.sum(axis=-1)
    )
    pairs_B_M_P = drawn.pairs_X_P
    if panel.tallies.pairs_X_P.any():
        pairs_B_M = (rows_B_M / 2).clip(1)
        for part, whole, counts in (
            (PairCount.FLIPPED, PairCount.JUDGED, 1),
            (PairCount.BOTH_RIGHT, PairCount.LABELED, 1),
            (PairCount.FIRST_SLOT, PairCount.SLOTS, 2),
        ):
            halves_B_M_2 = rng.standard_gamma(0.5, (draws, judges, 2))
            pairs_B_M_P[..., part] += counts * pairs_B_M * halves_B_M_2[..., 0]
            pairs_B_M_P[..., whole] += counts * pairs_B_M * halves_B_M_2.sum(axis=-1)
    return drawn._replace(
        confusion_X_C_C1=confusion_B_M_C_C1,
        well_formed_X=share_B_M * confusion_B_M_C_C1.sum(axis=(-2, -1)),
        pairs_X_P=pairs_B_M_P,
    )


def _design_effects(tallies: Tally, draws: int, rng: np.random.Generator) -> Rates:
    """How many rows carry the information of one independent row, for each draw and judge, B × M.

    The design effect of correctness within classes, between 1 and the mean number of rows in the
    cluster of a row. A judge that is hardly ever wrong does not show how far errors come together,
    so half a cluster of wrong rows is added, of a size that varies over that range between draws.
    """
    confusion_K_M_C_C1 = tallies.confusion_X_C_C1
    hits_K_M_C = np.diagonal(confusion_K_M_C_C1, axis1=-2, axis2=-1)
    labeled_K_M_C = confusion_K_M_C_C1.sum(axis=-1)
    labeled_M_C = labeled_K_M_C.sum(axis=0)
    recall_M_C = hits_K_M_C.sum(axis=0) / labeled_M_C.clip(1)
    errors_K_M = (hits_K_M_C - recall_M_C * labeled_K_M_C).sum(axis=-1)
    independent_M = (labeled_M_C * recall_M_C * (1 - recall_M_C)).sum(axis=-1)
    rows_K_M = labeled_K_M_C.sum(axis=-1)
    most_M = ((rows_K_M**2).sum(axis=0) / rows_K_M.sum(axis=0).clip(1)).clip(1)
    wrong_B_M = most_M ** rng.random((draws, 1))
    effect_B_M = ((errors_K_M**2).sum(axis=0) + wrong_B_M**2 / 2) / (independent_M + wrong_B_M / 2)
    effects_B_M: Rates = np.clip(effect_B_M, 1, most_M)
    return effects_B_M


class Support(NamedTuple):
    """How many independent clusters some rows of a judge are worth."""

    clusters: float
    by_class_C: Rates
    """0 for a class with fewer than MIN_ROWS_OF_CLASS rows."""
    of_precision_C: Rates
    """The same for the precision of a class."""


class Information(NamedTuple):
    """What the rates of a judge rest on."""

    labeled: Support
    answered: Support
    """Of the labeled rows with a verdict."""

    @property
    def clusters(self) -> float:
        return self.labeled.clusters

    def of_rate(self, name: str, classes: Sequence[str]) -> float:
        support = self.answered if name in ANSWERED_RATES else self.labeled
        if name in RATES_OF_ALL_CLASSES:
            return float(support.by_class_C.min())
        for index, verdict in enumerate(classes):
            if name == f"precision_{verdict}":
                return float(support.of_precision_C[index])
            if name in class_rates([verdict]):
                return float(support.by_class_C[index])
        return support.clusters


def information(tallies: Tally, judge: int = 0) -> Information:
    """Clusters of unequal sizes count as fewer equal ones (Kish 1965).

    Args:
        tallies: K × M.
    """
    confusion_K_C_C1 = tallies.confusion_X_C_C1[:, judge]
    labeled = _support(confusion_K_C_C1.sum(axis=-1))
    if not labeled.clusters:
        pairs_K = tallies.pairs_X_P[:, judge, PairCount.JUDGED]
        labeled = labeled._replace(clusters=effective_clusters(pairs_K))
    return Information(labeled, _support(answered(confusion_K_C_C1).sum(axis=-1)))


def _support(rows_K_C: Counts) -> Support:
    clusters = effective_clusters(rows_K_C.sum(axis=1))
    rows_C, squares_C = rows_K_C.sum(axis=0), (rows_K_C**2).sum(axis=0).clip(1)
    # The variance of rows in clusters of one is known from their rate; only what clusters of more
    # rows can add to it has to be estimated (Satterthwaite 1946).
    share_C = np.maximum(1 - rows_C / squares_C, 1e-9)
    beyond_one_C = (rows_C**2 / squares_C - 1) / share_C**2
    # Few clusters can have nearly all false verdicts, and a sample shows that badly: in the
    # simulations of benchmarks/coverage.py, intervals of precision hold their level if half of the
    # clusters count.
    by_class_C, of_precision_C = (
        np.where(rows_C < MIN_ROWS_OF_CLASS, 0.0, np.minimum(clusters, 1 + beyond))
        for beyond in (beyond_one_C, beyond_one_C / 2)
    )
    return Support(clusters, by_class_C, of_precision_C)


def effective_clusters(sizes_K: Any) -> float:
    """The number of equal clusters that clusters of these sizes are worth (Kish 1965)."""
    return float(sizes_K.sum()) / mean_size(sizes_K)


def mean_size(sizes_K: Any) -> float:
    """The size of the cluster that a unit is in, in the mean over units; at least 1."""
    return max(1.0, float((sizes_K.astype(float) ** 2).sum()) / max(1.0, float(sizes_K.sum())))


def spread_factor(clusters: float, level: float = LEVEL) -> float:
    """How much wider an interval is than the spread of draws shows, given few clusters.

    Draws of K clusters have the variance of the mean of K clusters times (K - 1) / (K + 1), and a
    variance that is estimated from K clusters makes the mean vary as Student's t.
    """
    from scipy.special import ndtri, stdtrit

    tail = (1 + level) / 2
    student = stdtrit(clusters - 1, tail) / ndtri(tail)
    return float(student * np.sqrt((clusters + 1) / (clusters - 1)))


def interval(scores_B: Rates, clusters: float, level: float = LEVEL) -> Interval | None:
    """The interval of a drawn rate, of the draws in which it is defined.

    Args:
        clusters: how many the draws are of, see :func:`effective_clusters`.

    Returns:
        None with fewer than MIN_CLUSTERS.
    """
    scores_B = scores_B[~np.isnan(scores_B)]
    if not scores_B.size or clusters < MIN_CLUSTERS:
        return None
    from scipy.special import ndtr, ndtri

    tail = ndtr(ndtri((1 - level) / 2) * spread_factor(clusters, level))
    low, high = np.quantile(scores_B, [tail, 1 - tail])
    return Interval(float(low), float(high))


def estimate(value: float | None, scores_B: Rates, clusters: float) -> Estimate:
    """A rate with its interval, which contains it."""
    ends = None if value is None else interval(scores_B, clusters)
    if value is None or ends is None:
        return Estimate(value)
    return Estimate(value, min(ends.low, value), max(ends.high, value))
