"""Differences between arms: paired by item, over items and trainings, and what they say of claims.

An arm has one judge (or one for each task) for every corpus and training seed. In each of these
*units* two arms are compared on the same rows, with shared draws, as judges are everywhere (see
:mod:`mtrl_judge.leaderboard.compare`). Their mean difference varies with the rows, which the draws
show, and from training to training, which independent units show: corpora, or the seeds of one
corpus. The variance of an effect is the sum of both.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import variance
from typing import Literal, NamedTuple, TypeAlias

from mtrl_judge.leaderboard.scores import Score, mean, minus
from mtrl_judge.metrics.bootstrap import LEVEL, Estimate
from mtrl_judge.metrics.significance import holm

from .arms_file import Claim

ALPHA = 0.05
_KNOWN = 1e9  # degrees of freedom of a variance that is as good as known
Outcome: TypeAlias = Literal["holds", "does not hold", "cannot be decided"]


class Unit(NamedTuple):
    """What a judge of an arm is made from."""

    corpus: int | None
    """The seed of the sample corpus and base model; None for other data."""
    seed: int | None
    """Of the training; None for the base model."""


class Effect(NamedTuple):
    """The mean difference of two arms over their common units."""

    difference: Estimate
    """With its interval, if the variance is known."""
    units: int
    standard_error: float | None
    degrees: float
    """Of freedom, of the standard error."""

    def tail(self, above: float) -> float | None:
        """The one-sided p-value of the hypothesis that the true difference is at most ``above``."""
        if self.standard_error is None or self.difference.value is None:
            return None
        gap = self.difference.value - above
        if not self.standard_error:  # such as of arms with the same verdicts on all rows
            return 0.5 if gap == 0 else float(gap < 0)
        from scipy.special import stdtr

        return float(stdtr(self.degrees, -gap / self.standard_error))

    @property
    def p_value(self) -> float | None:
        """Two-sided, that there is no difference."""
        tail = self.tail(0.0)
        return None if tail is None else 2 * min(tail, 1 - tail)


def effect(first: Mapping[Unit, Score], second: Mapping[Unit, Score]) -> Effect | None:
    """First minus second; None without a common unit.

    The base model, which has no seed, is compared with every seed of its corpus. With one unit the
    interval says nothing about another training.
    """
    by_corpus: defaultdict[int | None, list[Score]] = defaultdict(list)
    for (unit, score), (_, other) in _common(first, second):
        if None not in (score.value, other.value):
            by_corpus[unit.corpus].append(minus(score, other))
    if not by_corpus:
        return None
    means = [mean(differences, [1.0] * len(differences)) for differences in by_corpus.values()]
    units, total = sum(map(len, by_corpus.values())), mean(means, [1.0] * len(means))
    if total.standard_error is None or total.value is None:
        return Effect(Estimate(total.value), units, None, _KNOWN)
    # The seeds of a corpus share its rows and its base model, so its mean is one independent value.
    independent = means if len(means) > 1 else next(iter(by_corpus.values()))
    between = 0.0
    if len(independent) > 1:
        values = [float(score.value or 0.0) for score in independent]
        between = math.sqrt(variance(values) / len(values))
    error, degrees = math.hypot(total.standard_error, between), _KNOWN
    if between:  # Satterthwaite (1946); the error over items allows for its clusters already
        degrees = min(_KNOWN, (len(independent) - 1) * (error / between) ** 4)
    from scipy.special import stdtrit

    half = float(stdtrit(degrees, (1 + LEVEL) / 2)) * error
    estimate = Estimate(total.value, total.value - half, total.value + half)
    return Effect(estimate, units, error, degrees)


def _common(
    first: Mapping[Unit, Score], second: Mapping[Unit, Score]
) -> Iterator[tuple[tuple[Unit, Score], tuple[Unit, Score]]]:
    for unit in first:
        for other in second:
            same_seed = None in (unit.seed, other.seed) or unit.seed == other.seed
            if unit.corpus == other.corpus and same_seed:
                yield (unit, first[unit]), (other, second[other])


class DecidedClaim(NamedTuple):
    """A claim with the effect that it is about."""

    claim: Claim
    effect: Effect | None
    p_for: float | None
    """One-sided, that the claim is false; after Holm's correction over all claims."""
    p_against: float | None
    """One-sided, that the claim is true; after the same."""

    @property
    def outcome(self) -> Outcome:
        if self.p_for is not None and self.p_for < ALPHA / 2:
            return "holds"
        if self.p_against is not None and self.p_against < ALPHA / 2:
            return "does not hold"
        return "cannot be decided"


def decide(claims: Sequence[Claim], effects: Sequence[Effect | None]) -> list[DecidedClaim]:
    """Each claim with its effect, tested in both directions.

    That two arms are the same is tested against its margin (Schuirmann 1987, two one-sided tests):
    a large spread never makes it true.
    """
    sides = [_sides(claim, found) for claim, found in zip(claims, effects, strict=True)]
    p_for, p_against = (holm([side[k] for side in sides]) for k in (0, 1))
    return list(map(DecidedClaim, claims, effects, p_for, p_against))


def _sides(claim: Claim, found: Effect | None) -> tuple[float | None, float | None]:
    """The p-values that speak for the claim and against it."""
    margin = claim.margin or 0.0
    above, below = (found.tail(end) if found else None for end in (margin, -margin))
    if above is None or below is None:
        return None, None
    match claim.expect:
        case "higher":
            return above, 1 - above
        case "lower":
            return 1 - above, above
    outside = 2 * min(above, 1 - below)
    return max(1 - above, below), min(1.0, outside)
