"""Judges and instructions by the measures of MM-BigBench, on a table worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mtrl_judge.metrics.instructions import (
    adaptability,
    instruction_gains,
    instruction_stability,
    model_gains,
    model_stability,
    spread_without_noise,
)

# Two judges, one task, two instructions; then the same with four instructions on two tasks.
POINTS_J_T_I = np.array([[[60.0, 30.0]], [[20.0, 10.0]]])


def test_gains_are_relative_to_the_mean_of_the_others_in_the_table() -> None:
    # Means of the judges: 40 and 20. 60 is 50 % more than 40, and 30 is 50 % more than 20.
    assert model_gains(POINTS_J_T_I).tolist() == [[50.0], [-50.0]]
    # Means over instructions: 45 and 15. 60 is a third more than 45, and 20 a third more than 15.
    assert instruction_gains(POINTS_J_T_I)[0] == pytest.approx([100 / 3, -100 / 3])


def test_a_gain_over_next_to_nothing_is_undefined() -> None:
    points_J_T_I = np.array([[[60.0, 1.5], [60.0, 50.0]], [[20.0, 0.4], [20.0, 50.0]]])
    gains_J_T = model_gains(points_J_T_I)
    assert np.isnan(gains_J_T[:, 0]).all()  # the second instruction's mean is 0.95 points
    assert gains_J_T[:, 1] == pytest.approx([25.0, -25.0])
    assert not np.isnan(instruction_gains(points_J_T_I)).any()


def test_stability_is_the_standard_deviation() -> None:
    assert model_stability(POINTS_J_T_I).tolist() == [[15.0], [5.0]]
    assert instruction_stability(POINTS_J_T_I).tolist() == [[20.0, 10.0]]


def test_what_chance_adds_to_a_standard_deviation_is_taken_off() -> None:
    # The variance of the scores is 25; draws deviate by -1 and 1, or 1 and -1, which is 1 more.
    draws_B_N = np.array([[-1.0, 11.0], [1.0, 9.0]])
    value, draws_B = spread_without_noise(np.array([0.0, 10.0]), draws_B_N)
    assert value == pytest.approx(24**0.5)
    assert draws_B == pytest.approx([34**0.5, 14**0.5])  # of 36 and 16, twice the noise
    # Draws that deviate alike show no noise, and noise alone is no difference.
    assert spread_without_noise(np.array([0.0, 10.0]), draws_B_N * 0 + [3.0, 13.0])[0] == 5.0
    value, draws_B = spread_without_noise(np.array([0.4, -0.4]), draws_B_N - [0.0, 10.0])
    assert (value, draws_B.tolist()) == (0.0, [0.0, 0.0])


def test_adaptability_counts_the_best_three_and_prefers_later_ones() -> None:
    points_J_T_I = np.array([[[5.0, 5.0, 5.0, 5.0], [9.0, 1.0, 7.0, 8.0]]])
    # Best of the first task: the last three. Of the second: the first and the last two.
    assert adaptability(points_J_T_I)[0] == pytest.approx([100 / 6, 100 / 6, 200 / 6, 200 / 6])
