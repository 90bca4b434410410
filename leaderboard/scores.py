"""Rates with their draws, from which differences and means are computed draw by draw.

Axis suffixes as in :mod:`mtrl_judge.metrics.bootstrap`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtrl_judge.metrics.bootstrap import MIN_CLUSTERS, Estimate, Panel, estimate, spread_factor
from mtrl_judge.metrics.drawn import Drawn
from mtrl_judge.metrics.rates import Rates


class Score(NamedTuple):
    """A rate, and its value in each of B draws where the rows are known and many enough."""

    estimate: Estimate
    draws_B: Rates | None = None
    clusters: float = 0
    """How many independent clusters the draws rest on."""

    @classmethod
    def of(cls, value: float | None, draws_B: Rates, clusters: float) -> Score:
        known = estimate(value, draws_B, clusters)
        return cls(known) if known.low is None else cls(known, draws_B, clusters)

    @classmethod
    def drawn(cls, metric: Drawn) -> Score:
        """Draws that are all the same give no interval, but differences from other judges' do."""
        if metric.draws_B is None or metric.clusters < MIN_CLUSTERS:
            return cls(Estimate(metric.value))
        if not metric.varies:
            return cls(Estimate(metric.value), metric.draws_B, metric.clusters)
        return cls.of(metric.value, metric.draws_B, metric.clusters)

    @property
    def value(self) -> float | None:
        return self.estimate.value

    @property
    def standard_error(self) -> float | None:
        if self.draws_B is None:
            return None
        return float(np.nanstd(self.draws_B)) * spread_factor(self.clusters)


UNKNOWN = Score(Estimate(None))


class GroupScores(NamedTuple):
    """One group of a task's rows."""

    n: int
    """Labeled rows."""
    scores: Mapping[str, Score]
    """By rate."""


class TaskScores(NamedTuple):
    """The judges of one task."""

    scores: Mapping[str, Mapping[str, Score]]
    """By judge and rate."""
    panels: Mapping[str, tuple[Panel, int]]
    """For each judge whose rows are known, the panel of all judges of these rows and its index."""
    groups: Mapping[str, Mapping[str, GroupScores]] = {}
    """By judge and group, for judges whose rows have groups."""
    group_panels: Mapping[str, tuple[Mapping[str, Panel], int]] = {}
    """For each of these, the panels of all judges of the same groups, and its index in them."""


def minus(first: Score, second: Score) -> Score:
    """The paired difference of two scores that have values."""
    value = (first.value or 0.0) - (second.value or 0.0)
    if first.draws_B is None or second.draws_B is None:
        return Score(Estimate(value))
    return Score.of(value, first.draws_B - second.draws_B, min(first.clusters, second.clusters))


def mean(scores: Sequence[Score], weights: Sequence[float]) -> Score:
    """The weighted mean of scores that have values."""
    value = float(np.average([score.value or 0.0 for score in scores], weights=weights))
    draws = [score.draws_B for score in scores if score.draws_B is not None]
    if len(draws) < len(scores):
        return Score(Estimate(value))
    # Of different metrics, such as the headline metrics of two kinds, some have fewer draws.
    least = min(map(len, draws))
    draws_B = np.average(np.stack([of_B[:least] for of_B in draws]), axis=0, weights=weights)
    # The variance of the task with the fewest clusters is known least.
    return Score.of(value, draws_B, min(score.clusters for score in scores))
