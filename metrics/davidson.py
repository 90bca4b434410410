"""Votes of comparisons with ties: the Bradley-Terry model of Davidson.

Davidson (1970, "On Extending the Bradley-Terry Model to Accommodate Ties in Paired Comparison
Experiments"): candidates of strengths π₁ and π₂ win and tie with probabilities in the proportion
π₁ : π₂ : ν·√(π₁π₂). Each row has strengths of its own, and ν, how readily the judge calls a tie, is
that of all rows. A row is a tie where that is most probable: where its votes leave the candidates
closer than ν, whatever the number of votes for a tie (arXiv 2512.03019 on votes of judges).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .rates import Rates

_PRIOR = 0.5
"""Of a vote for each candidate, without which a unanimous row would have no finite strengths."""
_MAX_LOG_NU = 12.0
_STEPS = 60


def davidson_verdicts(counts_N_3: NDArray[np.int64]) -> NDArray[np.int64]:
    """The most probable outcome of each of N rows: 0 the first candidate, 1 the second, 2 a tie.

    Where neither candidate is ahead, it is a tie, which prefers none of them.

    Args:
        counts_N_3: votes for the first, for the second and for a tie; at least one in a row.
    """
    first_N, second_N, ties_N = counts_N_3.T
    votes_N = counts_N_3.sum(axis=1) + 2 * _PRIOR
    margin_N: Rates = (first_N - second_N) / votes_N
    nu = _fitted_nu(margin_N, votes_N, float(ties_N.sum()))
    ratio_N = _ratio(margin_N, nu)
    stronger_N = np.maximum(ratio_N, 1 / ratio_N)
    decided_N = (stronger_N > nu) & (margin_N != 0)
    return np.where(decided_N, np.where(margin_N > 0, 0, 1), 2)


def _fitted_nu(margin_N: Rates, votes_N: Rates, ties: float) -> float:
    """The ν of greatest likelihood, at which as many ties are expected as there are."""
    low, high = -_MAX_LOG_NU, _MAX_LOG_NU
    for _ in range(_STEPS):
        middle = (low + high) / 2
        nu = float(np.exp(middle))
        ratio_N = _ratio(margin_N, nu)
        expected = float((votes_N * nu / (ratio_N + nu + 1 / ratio_N)).sum())
        low, high = (middle, high) if expected < ties else (low, middle)
    return float(np.exp((low + high) / 2))


def _ratio(margin_N: Rates, nu: float) -> Rates:
    """√(π₁/π₂) of greatest likelihood: the difference of both probabilities is that of the votes.

    With x = √(π₁/π₂) these are x and 1/x over x + ν + 1/x, so that (1 − d)x² − dνx − (1 + d) = 0.
    """
    root_N = np.sqrt((margin_N * nu) ** 2 + 4 * (1 - margin_N**2))
    ratio_N: Rates = (margin_N * nu + root_N) / (2 * (1 - margin_N))
    return ratio_N
