"""Tests of differences, their power, and the correction for multiple tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from mtrl_judge.common.hashing import stable_hash

from .bootstrap import RESAMPLES, Panel, blocks, joint_counts
from .rates import Counts, Rate, Rates, Tally

POWER = 0.8
# So that a difference that equals the observed one counts as such, whatever the order of sums.
_ROUNDING = 1e-9


def randomization_p_value(
    panels: Sequence[Panel],
    rate: Rate,
    *,
    one_sided: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> float | None:
    """P-value of two judges having the same mean rate over one or several tasks.

    If the judges do not differ, it is a coin flip which of them gave which verdicts of a cluster.
    The p-value is the share of such flips that make a difference as large as the observed one
    (Noreen 1989; Yeh 2000, aclanthology.org/C00-2137). All flips are enumerated if there are no
    more than `resamples`, so that few discordant clusters have an exact test; for accuracy over
    independent rows it is McNemar's exact test. With more, flips are sampled, and the observed
    difference counts as one of them (Phipson and Smyth 2010, doi:10.2202/1544-6115.1585).

    Args:
        panels: of two judges each; a cluster that several panels share is flipped in all of them.
        one_sided: test whether the first judge's rate is lower.

    Returns:
        None if a panel has fewer than two clusters.
    """
    if any(len(panel.clusters) < 2 for panel in panels):
        return None
    rng = np.random.default_rng(stable_hash("randomization", seed) % 2**63)
    members = [
        [panels[index] for index in block] for block in blocks([panel.clusters for panel in panels])
    ]
    changes = [_changes(block) for block in members]
    discordant = sum(int(sizes_U.sum()) for _, sizes_U in changes)
    exact = 2**discordant <= resamples
    flips = 2**discordant if exact else resamples
    difference_B, observed, seen = np.zeros(flips), 0.0, 0
    for block, (changes_U_X, sizes_U) in zip(members, changes, strict=True):
        if exact:
            changes_U_X = np.repeat(changes_U_X, sizes_U, axis=0)
            flipped_B_U = (np.arange(flips)[:, None] >> (seen + np.arange(sizes_U.sum()))) & 1
            seen += int(sizes_U.sum())
        else:
            flipped_B_U = rng.binomial(sizes_U, 0.5, (flips, len(sizes_U)))
        changes_B_X = flipped_B_U.astype(np.float64) @ changes_U_X
        start = 0
        for panel in block:
            first_F, second_F = panel.tallies.flat().sum(axis=0)
            change_B_F = changes_B_X[:, start : start + len(first_F)]
            start += len(first_F)
            changed = first_F + change_B_F, second_F - change_B_F
            difference_B += _difference(rate, *changed, panel.tallies)
            observed += float(_difference(rate, first_F, second_F, panel.tallies))
    if one_sided:
        less_B = difference_B > observed + _ROUNDING
    else:
        less_B = np.abs(difference_B) < abs(observed) - _ROUNDING
    # A flip in which the rate is undefined counts as extreme.
    extreme = int((~less_B).sum())
    return extreme / flips if exact else (extreme + 1) / (flips + 1)


def _changes(block: Sequence[Panel]) -> tuple[Counts, Counts]:
    """What flipping a cluster adds to the first judge's counts, U × X, and how many are alike."""
    halves = []
    for judge in (0, 1):
        of_judge = [panel.of_judges([judge]) for panel in block]
        halves.append(joint_counts(of_judge)[0])
    change_K_X = halves[1] - halves[0]
    change_K_X = change_K_X[change_K_X.any(axis=1)]
    changes_U_X, sizes_U = np.unique(change_K_X, axis=0, return_counts=True)
    return changes_U_X, sizes_U


def _difference(rate: Rate, first_X_F: Rates, second_X_F: Rates, like: Tally) -> Rates:
    classes = like.confusion_X_C_C1.shape[-2]
    first, second = (Tally.of(flat, classes, like.slots) for flat in (first_X_F, second_X_F))
    return rate(first) - rate(second)


def detectable_difference(
    standard_error: float,
    clusters: float,
    *,
    alpha: float,
    tests: int = 1,
    one_sided: bool = False,
    power: float = POWER,
) -> float:
    """The smallest true difference that is found significant with a probability of `power`.

    By the normal approximation, and at least the difference that so few clusters can show: if it is
    d, the judges differ on a share of d of the clusters or more, and so its variance is at least
    d / clusters.

    Args:
        standard_error: of the measured difference.
        tests: how many p-values Holm's correction covers; the strictest step counts.
    """
    from scipy.special import ndtri

    level = alpha / tests / (1 if one_sided else 2)
    errors = float(ndtri(1 - level) + ndtri(power))
    return max(errors * standard_error, errors**2 / clusters)


PValue = TypeVar("PValue", float, float | None)


def holm(p_values: Sequence[PValue]) -> list[PValue]:
    """Adjusted p-values of a family of tests; Holm (1979), jstor.org/stable/4615733.

    None stands for a test that was not made: it stays None and does not count.
    """
    tested = {index: p for index, p in enumerate(p_values) if p is not None}
    adjusted, least = list(p_values), 0.0
    for rank, index in enumerate(sorted(tested, key=lambda index: tested[index])):
        least = max(least, min(1.0, (len(tested) - rank) * tested[index]))
        adjusted[index] = least
    return adjusted
