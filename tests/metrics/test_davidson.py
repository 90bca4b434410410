"""Votes with ties: the most probable outcome under the Davidson model."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from mtrl_judge.metrics.davidson import davidson_verdicts

FIRST, SECOND, TIE = range(3)


def outcomes(strength_N: np.ndarray, nu: float) -> np.ndarray:
    """The probabilities of the model, N × 3, for √(π₁/π₂)."""
    parts = np.stack([strength_N, 1 / strength_N, np.full_like(strength_N, nu)], axis=1)
    return parts / parts.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("nu", [0.3, 1.0, 2.5])
def test_outcomes_of_many_votes_are_those_of_the_model(nu: float) -> None:
    rng = np.random.default_rng(0)
    true_N_3 = outcomes(np.exp(rng.normal(0, 1, 200)), nu)
    counts_N_3 = np.stack([rng.multinomial(2000, each) for each in true_N_3])
    clear_N = np.diff(np.sort(true_N_3, axis=1)[:, 1:], axis=1)[:, 0] > 0.05
    found_N = davidson_verdicts(counts_N_3)
    assert clear_N.sum() > 100
    assert (found_N == true_N_3.argmax(axis=1))[clear_N].all()


def test_verdicts_are_those_of_the_greatest_likelihood() -> None:
    """Strengths and ν fitted together by another method."""
    rng = np.random.default_rng(1)
    counts_N_3 = rng.multinomial(8, [0.4, 0.25, 0.35], size=12)
    smoothed_N_3 = counts_N_3 + np.array([0.5, 0.5, 0.0])

    def loss(logs: np.ndarray) -> float:
        return -float((smoothed_N_3 * np.log(outcomes(np.exp(logs[1:]), np.exp(logs[0])))).sum())

    fitted = minimize(loss, np.zeros(13), method="BFGS", options={"gtol": 1e-8}).x
    expected_N_3 = outcomes(np.exp(fitted[1:]), np.exp(fitted[0]))
    found_N = davidson_verdicts(counts_N_3)
    even_N = counts_N_3[:, 0] == counts_N_3[:, 1]
    assert (found_N[even_N] == TIE).all(), "where neither candidate is ahead"
    best_N = np.take_along_axis(expected_N_3, found_N[:, None], axis=1)[:, 0]
    assert best_N[~even_N] == pytest.approx(expected_N_3.max(axis=1)[~even_N], abs=1e-4)
    assert set(found_N[~even_N]) >= {FIRST, SECOND}


def test_a_judge_that_ties_readily_needs_a_clear_margin() -> None:
    narrow = [3, 2, 3]
    assert davidson_verdicts(np.array([narrow, [8, 0, 0], [0, 8, 0]])).tolist()[0] == FIRST
    assert davidson_verdicts(np.array([narrow, [1, 0, 7], [0, 1, 7]])).tolist()[0] == TIE
    assert davidson_verdicts(np.array([[3, 1, 0], [1, 3, 0], [2, 2, 0]])).tolist() == [
        FIRST,
        SECOND,
        TIE,
    ]
    assert davidson_verdicts(np.array([[0, 0, 5]])).tolist() == [TIE]
