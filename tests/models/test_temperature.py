"""Temperature scaling recovers a known temperature and improves calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mtrl_judge.models.temperature import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    bound_reached,
    fit_temperature,
    negative_log_likelihood,
    probabilities,
)


def miscalibrated(temperature: float, seed: int, rows: int = 4_000) -> tuple[Any, list[int]]:
    """Log-probabilities that are overconfident by a temperature, and labels from the true ones."""
    rng = np.random.default_rng(seed)
    true_N_V = rng.normal(size=(rows, 3)) * 1.5
    labels = [int(rng.choice(3, p=row_V)) for row_V in probabilities(true_N_V, 1.0)]
    return true_N_V * temperature - 4.0, labels


def calibration_error(probabilities_N_V: Any, labels: Sequence[int]) -> float:
    """Expected calibration error over ten bins of the likeliest verdict's probability."""
    sure_N, best_N = probabilities_N_V.max(axis=1), probabilities_N_V.argmax(axis=1)
    right_N = best_N == np.array(labels)
    bins = np.minimum((sure_N * 10).astype(int), 9)
    return sum(
        abs(sure_N[bins == b].mean() - right_N[bins == b].mean()) * (bins == b).mean()
        for b in range(10)
        if (bins == b).any()
    )


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    assert fit_temperature(*miscalibrated(temperature, seed=0)) == pytest.approx(
        temperature, rel=0.06
    )


@pytest.mark.parametrize("items", [256, 32])
def test_an_overconfident_judge_is_better_calibrated_on_other_rows(items: int) -> None:
    temperature = fit_temperature(*miscalibrated(4.0, seed=1, rows=items))
    logps_N_V, labels = miscalibrated(4.0, seed=2)
    before, after = (probabilities(logps_N_V, t) for t in (1.0, temperature))
    assert calibration_error(after, labels) < calibration_error(before, labels)
    assert negative_log_likelihood(logps_N_V, labels, temperature) < negative_log_likelihood(
        logps_N_V, labels, 1.0
    )
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()
    np.testing.assert_allclose(after.sum(axis=1), 1.0)


def test_the_temperature_is_bounded_where_the_verdicts_separate_the_labels() -> None:
    logps_N_V = np.array([[-0.69, -0.70], [-0.71, -0.68]])
    assert fit_temperature(logps_N_V, [0, 1]) == pytest.approx(MIN_TEMPERATURE, rel=1e-3)
    assert fit_temperature(logps_N_V, [1, 0]) == pytest.approx(MAX_TEMPERATURE, rel=1e-3)


def test_a_bound_is_reached_where_the_labels_determine_no_temperature() -> None:
    wide = np.array([[0.0, -40.0], [-30.0, 0.0]])
    narrow = np.array([[-0.69, -0.70], [-0.71, -0.68]])
    for logps_N_V, labels, bound in (
        (wide, [0, 1], MIN_TEMPERATURE),  # as likely at every low temperature
        (narrow, [0, 1], MIN_TEMPERATURE),
        (narrow, [1, 0], MAX_TEMPERATURE),
    ):
        temperature = fit_temperature(logps_N_V, labels)
        assert bound_reached(logps_N_V, labels, temperature) == bound
    logps_N_V, labels = miscalibrated(4.0, seed=0, rows=50)
    assert bound_reached(logps_N_V, labels, fit_temperature(logps_N_V, labels)) is None
