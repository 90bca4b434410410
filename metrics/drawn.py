"""Metrics that are computed from rows instead of counts, with draws of the cluster bootstrap.

Draws are those of :mod:`.bootstrap`: each gives every cluster of dependent rows an exponential
weight.

Axis suffixes: `B` draws, `U` the clusters of all judges that share draws.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtrl_judge.common.hashing import stable_hash

from .bootstrap import blocks
from .rates import Rates
from .records import Record

DRAWN_RESAMPLES = 2_000
"""Draws of an interval at most: a draw costs far more than one of a rate from counts."""


class JudgedRows(NamedTuple):
    """The rows of one judge on one task."""

    task: str
    """Its name decides the random numbers."""
    records: Sequence[Record]
    clusters: Sequence[Hashable]
    """The name of each row's cluster."""
    verdicts: Sequence[str]
    """Those of the task."""


class Drawn(NamedTuple):
    """One metric of one judge."""

    value: float | None
    """None where it is not defined, for instance a correlation if all ratings are the same."""
    draws_B: Rates | None = None
    """None if they are not computed."""
    clusters: float = 0
    """How many independent clusters the draws rest on."""

    @property
    def varies(self) -> bool:
        """Whether the draws say anything of the uncertainty: those of a perfect judge's correlation
        are all 1, and have no interval."""
        return self.draws_B is not None and bool(np.nanstd(self.draws_B) > 1e-9)


class Weights(NamedTuple):
    """The weights of a judge's clusters in each draw."""

    place: Mapping[Hashable, int]
    """The column of each cluster; the judges of a block have one table in common."""
    weights_B_U: Rates | None
    """None with one cluster, or with too many."""
    halves_B_2: Rates
    """Of the judge's own: weights of half a right and half a wrong observation, the prior."""


def shared_weights(
    purpose: str,
    clusters: Sequence[Sequence[Hashable]],
    names: Sequence[str],
    *,
    resamples: int,
    seed: int,
    most: int | None = None,
) -> list[Weights]:
    """The weights of each judge; those with clusters in common share the weights of these.

    Args:
        purpose: decides the random numbers, with the seed and the names.
        clusters: for each judge, the name of each row's cluster.
        names: for each judge, that of its task.
        resamples: no more than DRAWN_RESAMPLES of them are drawn.
        most: clusters; with more, there are no weights.
    """
    draws = min(resamples, DRAWN_RESAMPLES)
    found: dict[int, Weights] = {}
    for block in blocks(clusters):
        place: dict[Hashable, int] = {}
        for judge in block:
            for cluster in clusters[judge]:
                place.setdefault(cluster, len(place))
        rng = np.random.default_rng(
            stable_hash(purpose, seed, *sorted({names[judge] for judge in block})) % 2**63
        )
        weights_B_U = None
        if len(place) > 1 and (most is None or len(place) <= most):
            weights_B_U = rng.standard_exponential((draws, len(place)))
        for judge in block:
            found[judge] = Weights(place, weights_B_U, rng.standard_gamma(0.5, (draws, 2)))
    return [found[judge] for judge in range(len(clusters))]
