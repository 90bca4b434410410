"""Calibration recovers a known temperature and bias, and improves what it was not fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from mtrl_judge.models.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    Calibration,
    Method,
    bound_reached,
    fit_calibration,
)

NONE = Calibration.identity(3)
BIAS = (1.5, -0.5, -1.0)


def miscalibrated(
    temperature: float, seed: int, rows: int = 4_000, bias: Sequence[float] = (0, 0, 0)
) -> tuple[Any, list[int]]:
    """Log-probabilities that are overconfident by a temperature and lack a bias, and labels from
    the true ones."""
    rng = np.random.default_rng(seed)
    true_N_V = rng.normal(size=(rows, 3)) * 1.5
    labels = [int(rng.choice(3, p=row_V)) for row_V in NONE.probabilities(true_N_V)]
    return (true_N_V - np.array(bias)) * temperature - 4.0, labels


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
    fitted = fit_calibration(*miscalibrated(temperature, seed=0), "temperature")
    assert fitted.temperature == pytest.approx(temperature, rel=0.06)
    assert fitted.bias_V == (0, 0, 0)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_bias_is_recovered_with_the_temperature(temperature: float) -> None:
    fitted = fit_calibration(*miscalibrated(temperature, seed=0, bias=BIAS), "bias")
    assert fitted.temperature == pytest.approx(temperature, rel=0.06)
    assert fitted.bias_V == pytest.approx(BIAS, abs=0.1)
    assert sum(fitted.bias_V) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("items", [256, 32])
def test_an_overconfident_judge_is_better_calibrated_on_other_rows(items: int) -> None:
    fitted = fit_calibration(*miscalibrated(4.0, seed=1, rows=items), "temperature")
    logps_N_V, labels = miscalibrated(4.0, seed=2)
    before, after = NONE.probabilities(logps_N_V), fitted.probabilities(logps_N_V)
    assert calibration_error(after, labels) < calibration_error(before, labels)
    assert fitted.negative_log_likelihood(logps_N_V, labels) < NONE.negative_log_likelihood(
        logps_N_V, labels
    )
    assert (fitted.verdicts(logps_N_V) == before.argmax(axis=1)).all()
    np.testing.assert_allclose(after.sum(axis=1), 1.0)


@pytest.mark.parametrize("items", [256, 50])
def test_a_biased_judge_judges_other_rows_better(items: int) -> None:
    """By Macro-F1 too, which a temperature never changes."""
    rows = miscalibrated(2.0, seed=1, rows=items, bias=BIAS)
    logps_N_V, labels = miscalibrated(2.0, seed=2, bias=BIAS)
    by: dict[Method, Calibration] = {
        method: fit_calibration(*rows, method) for method in ("temperature", "bias")
    }
    losses = {m: c.negative_log_likelihood(logps_N_V, labels) for m, c in by.items()}
    scores = {m: f1_score(labels, c.verdicts(logps_N_V), average="macro") for m, c in by.items()}
    assert losses["bias"] < losses["temperature"] - 0.1
    assert scores["bias"] > scores["temperature"] + 0.05
    assert (by["temperature"].verdicts(logps_N_V) == logps_N_V.argmax(axis=1)).all()
    best = by["bias"].probabilities(logps_N_V).argmax(axis=1)
    assert (by["bias"].verdicts(logps_N_V) == best).all()


def test_a_bias_for_two_verdicts_is_platts_logistic_regression() -> None:
    """That of scikit-learn, on the smoothed labels as weights."""
    logps_N_V, labels = miscalibrated(2.0, seed=3, rows=300, bias=BIAS)
    kept = [row for row, label in enumerate(labels) if label < 2]
    logps_N_V, labels = logps_N_V[kept, :2], [labels[row] for row in kept]
    margins = (logps_N_V[:, 1] - logps_N_V[:, 0])[:, None]
    counts = [labels.count(0), labels.count(1)]
    right = [(counts[label] + 1) / (counts[label] + 2) for label in labels]
    regression = LogisticRegression(C=np.inf, tol=1e-8).fit(
        np.concatenate([margins, margins]),
        [*labels, *(1 - label for label in labels)],
        sample_weight=[*right, *(1 - weight for weight in right)],
    )
    fitted = fit_calibration(logps_N_V, labels, "bias")
    assert 1 / fitted.temperature == pytest.approx(regression.coef_[0, 0], rel=1e-3)
    assert fitted.bias_V[1] - fitted.bias_V[0] == pytest.approx(regression.intercept_[0], rel=1e-3)


def test_a_bias_that_separates_the_labels_is_finite() -> None:
    """A judge that always prefers Yes, and more so where it is right."""
    logps_N_V = np.array([[-0.1, -2.0 - (n % 2)] for n in range(60)])
    labels = [1 - n % 2 for n in range(60)]
    fitted = fit_calibration(logps_N_V, labels, "bias")
    assert bound_reached(logps_N_V, labels, fitted, "bias") is None
    assert (fitted.verdicts(logps_N_V) == labels).all()
    assert (logps_N_V.argmax(axis=1) == 0).all()
    # Platt's targets: 31 of 32 rows of each label.
    assert fitted.probabilities(logps_N_V)[0] == pytest.approx([1 / 32, 31 / 32], rel=1e-3)


def test_the_temperature_is_bounded_where_the_verdicts_separate_the_labels() -> None:
    logps_N_V = np.array([[-0.69, -0.70], [-0.71, -0.68]])
    for labels, bound in (([0, 1], MIN_TEMPERATURE), ([1, 0], MAX_TEMPERATURE)):
        fitted = fit_calibration(logps_N_V, labels, "temperature")
        assert fitted.temperature == pytest.approx(bound, rel=1e-3)


@pytest.mark.parametrize("method", ["temperature", "bias"])
def test_a_bound_is_reached_where_the_labels_determine_no_temperature(method: Method) -> None:
    wide = np.array([[0.0, -40.0], [-30.0, 0.0]])
    narrow = np.array([[-0.69, -0.70], [-0.71, -0.68]])
    cases = [(narrow, [0, 1], MIN_TEMPERATURE), (narrow, [1, 0], MAX_TEMPERATURE)]
    if method == "temperature":
        cases.append((wide, [0, 1], MIN_TEMPERATURE))  # as likely at every low temperature
    for logps_N_V, labels, bound in cases:
        fitted = fit_calibration(logps_N_V, labels, method)
        assert bound_reached(logps_N_V, labels, fitted, method) == bound
    logps_N_V, labels = miscalibrated(4.0, seed=0, rows=50)
    fitted = fit_calibration(logps_N_V, labels, method)
    assert bound_reached(logps_N_V, labels, fitted, method) is None
