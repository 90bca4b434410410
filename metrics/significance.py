"""Tests of differences, and the correction for multiple tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from .rates import Rates

# Up to so many discordant items McNemar's test is the exact binomial one; the asymptotic one is
# unreliable there (Fagerland et al. 2013, doi:10.1186/1471-2288-13-91).
EXACT = 25


class McNemar(NamedTuple):
    """Two judges on the same items; McNemar (1947), doi:10.1007/BF02295996."""

    only_first: int
    """Items that only the first judge gets right."""
    only_second: int
    p_value: float


def difference_p_value(first_B: Rates, second_B: Rates) -> float:
    """Two-sided p-value of two judges having the same score, from the same resamples of both.

    Twice the share of resamples in which the difference has the less frequent sign. The sample
    counts as one resample (Davison and Hinkley 1997, section 4.2), so the value is never 0.
    """
    difference_B = first_B - second_B
    tail = min((difference_B <= 0).sum(), (difference_B >= 0).sum())
    return min(1.0, 2 * (int(tail) + 1) / (len(difference_B) + 1))


def mcnemar(first_N: Sequence[bool], second_N: Sequence[bool]) -> McNemar:
    """Whether two judges are equally often correct, from where each is correct on the same N items.

    Exact for up to EXACT discordant items, else χ² with the continuity correction.
    """
    from scipy import stats

    pairs = list(zip(first_N, second_N, strict=True))
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    n = only_first + only_second
    if n <= EXACT:
        p_value = float(stats.binomtest(only_first, n).pvalue) if n else 1.0
    else:
        p_value = float(stats.chi2.sf((abs(only_first - only_second) - 1) ** 2 / n, df=1))
    return McNemar(only_first, only_second, p_value)


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
