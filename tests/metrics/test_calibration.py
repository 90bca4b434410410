"""Calibration, compared with scikit-learn, brute force and simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from mtrl_judge.metrics.calibration import (
    BINS,
    Predictions,
    brier,
    ece_interval,
    expected_calibration_error,
    predictions,
    reliability_curve,
    risk_coverage,
)
from mtrl_judge.metrics.rates import Rates
from mtrl_judge.metrics.voting import vote_shares

CLASSES = ("A", "B", "C")
YES_NO = ("Yes", "No")


def random_predictions(rows: int, classes: int, seed: int) -> Predictions:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.7), size=rows)
    labels = np.array([rng.choice(classes, p=p**0.5 / (p**0.5).sum()) for p in probabilities])
    return Predictions(probabilities, labels, np.arange(rows), rows)


def top(found: Predictions) -> tuple[Rates, Rates]:
    """Confidence and whether the most likely verdict is the label, without ties."""
    right = found.probabilities_N_C.argmax(axis=1) == found.labels_N
    return found.probabilities_N_C.max(axis=1), right.astype(float)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_brier_is_scikit_learn(classes: int) -> None:
    found = random_predictions(200, classes, seed=classes)
    expected = brier_score_loss(
        found.labels_N, found.probabilities_N_C, labels=range(classes), scale_by_half=False
    )
    assert brier(found) == pytest.approx(expected)


def test_brier_of_two_verdicts_is_twice_that_of_one() -> None:
    found = random_predictions(200, 2, seed=0)
    assert brier(found) == pytest.approx(
        2 * brier_score_loss(found.labels_N, found.probabilities_N_C[:, 1])
    )


@pytest.mark.parametrize("bins", [5, BINS])
@pytest.mark.parametrize("classes", [2, 3])
def test_curve_is_scikit_learn_and_its_gaps_are_the_ece(bins: int, classes: int) -> None:
    found = random_predictions(400, classes, seed=7)
    confidence, right = top(found)
    accuracy, mean_confidence = calibration_curve(right, confidence, n_bins=bins)
    curve = reliability_curve(found, bins)
    assert [one.accuracy for one in curve] == pytest.approx(accuracy)
    assert [one.confidence for one in curve] == pytest.approx(mean_confidence)
    assert sum(one.n for one in curve) == 400
    assert all(one.low < one.confidence <= one.high for one in curve)
    gaps = sum(one.n * abs(one.confidence - one.accuracy) for one in curve)
    assert expected_calibration_error(found, bins) == pytest.approx(gaps / 400)


VOTES = st.lists(st.sampled_from(CLASSES), min_size=1, max_size=4)


@given(st.lists(st.tuples(VOTES, st.sampled_from(CLASSES)), min_size=1, max_size=6))
def test_rows_as_confident_as_each_other_count_by_all_their_orders(
    rows: list[tuple[list[str], str]],
) -> None:
    """Probabilities from votes have many ties, of verdicts in a row and of rows."""
    shares = [vote_shares(votes, CLASSES) for votes, _ in rows]
    labels = [label for _, label in rows]
    wrong = []
    for votes, label in rows:
        most = max(map(votes.count, CLASSES))
        best = [name for name in CLASSES if votes.count(name) == most]
        wrong.append((most / len(votes), 1 - (label in best) / len(best)))
    orders = [o for o in permutations(wrong) if sorted(o, key=lambda row: -row[0]) == list(o)]
    risks = [np.cumsum([w for _, w in order]) / np.arange(1, len(rows) + 1) for order in orders]
    found = risk_coverage(predictions(shares, labels, CLASSES))
    assert found is not None
    np.testing.assert_allclose(found.risk_N, np.mean(risks, axis=0), atol=1e-12)
    np.testing.assert_allclose(found.coverage_N, np.arange(1, len(rows) + 1) / len(rows))
    assert found.area == pytest.approx(float(np.mean(risks)))


@given(st.permutations(range(12)), st.permutations(range(3)))
def test_no_order_matters(rows: list[int], classes: list[int]) -> None:
    whole = random_predictions(12, 3, seed=5)
    rounded = np.round(whole.probabilities_N_C * 4) / 4
    rounded[rounded.sum(axis=1) != 1] = [0.5, 0.5, 0]
    found = whole._replace(probabilities_N_C=rounded)
    moved = found._replace(
        probabilities_N_C=rounded[rows][:, classes],
        labels_N=np.argsort(classes)[found.labels_N[rows]],
    )
    for measure in (brier, expected_calibration_error):
        assert measure(moved) == pytest.approx(measure(found))
    first, second = risk_coverage(found), risk_coverage(moved)
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(first.risk_N, second.risk_N)
    for one, other in zip(reliability_curve(found), reliability_curve(moved), strict=True):
        assert one == pytest.approx(other)


def test_a_judge_with_informative_confidence_has_less_risk_at_less_coverage() -> None:
    found = random_predictions(2000, 3, seed=1)
    curve = risk_coverage(found)
    assert curve is not None
    assert curve.risk_N[500] < curve.risk_N[-1] - 0.1
    assert curve.risk_N[-1] == pytest.approx(1 - top(found)[1].mean())
    assert curve.area == pytest.approx(curve.risk_N.mean())


# Interval of the ECE, by simulation.

Accuracy = Callable[[Rates], Rates]
JUDGES: dict[str, Accuracy] = {
    "overconfident": lambda confidence: confidence - 0.1,
    "underconfident": lambda confidence: confidence**2 / (confidence**2 + (1 - confidence) ** 2),
    "both signs": lambda confidence: np.where(
        confidence > 14 / 15, confidence - 0.15, 1 - 0.3 * (1 - confidence)
    ),
    "crossing": lambda confidence: confidence + 0.3 * (0.75 - confidence),
    "calibrated": lambda confidence: confidence,
}


def simulated(
    accuracy: Accuracy, clusters: int, size: int, rng: np.random.Generator
) -> tuple[Predictions, Rates]:
    """Rows of two verdicts with their expected accuracy; half of the clusters are dependent."""
    rows = clusters * size
    confidence = 0.5 + 0.5 * rng.beta(4, 1, rows)
    expected = accuracy(confidence)
    together = np.repeat(rng.random(clusters) < 0.5, size)
    luck = np.where(together, np.repeat(rng.random(clusters), size), rng.random(rows))
    labels = (luck >= expected).astype(np.int64)
    probabilities = np.column_stack([confidence, 1 - confidence])
    return Predictions(probabilities, labels, np.arange(rows), rows), expected


def true_ece(accuracy: Accuracy) -> float:
    """In the same bins, of so many rows that chance does not matter."""
    found, expected = simulated(accuracy, 2_000_000, 1, np.random.default_rng(9))
    confidence = found.probabilities_N_C[:, 0]
    bins = np.ceil(confidence * BINS).astype(int)
    gaps = np.bincount(bins, confidence - expected)
    return float(np.abs(gaps).sum() / len(bins))


def coverage(judge: str, clusters: int, size: int, target: float) -> float:
    """Share of 500 samples whose interval covers the target."""
    rng, covered = np.random.default_rng(0), 0
    names = np.repeat(np.arange(clusters), size).tolist()
    for seed in range(500):
        found, _ = simulated(JUDGES[judge], clusters, size, rng)
        interval = ece_interval(found, names, resamples=300, seed=seed)
        assert interval is not None
        covered += interval.low <= target <= interval.high
    return covered / 500


@pytest.mark.parametrize(
    ("judge", "clusters", "size"),
    [
        ("overconfident", 300, 2),
        ("underconfident", 500, 1),
        ("both signs", 500, 1),
    ],
)
def test_intervals_have_their_nominal_coverage(judge: str, clusters: int, size: int) -> None:
    assert 0.93 <= coverage(judge, clusters, size, true_ece(JUDGES[judge])) <= 0.97


def test_intervals_of_a_calibrated_judge_cover_zero() -> None:
    """Nothing is below 0, so only one tail of 2.5 % misses it."""
    assert 0.955 <= coverage("calibrated", 400, 1, 0.0) <= 0.995


def test_gaps_hidden_by_chance_make_the_interval_conservative() -> None:
    assert coverage("crossing", 300, 1, true_ece(JUDGES["crossing"])) >= 0.95


def test_copies_of_rows_in_one_cluster_do_not_narrow_the_interval() -> None:
    once = random_predictions(150, 3, seed=2)
    copied = Predictions(
        np.repeat(once.probabilities_N_C, 8, axis=0),
        np.repeat(once.labels_N, 8),
        np.arange(1200),
        1200,
    )
    together = ece_interval(copied, [row // 8 for row in range(1200)], resamples=1000)
    alone = ece_interval(once, range(150), resamples=1000)
    apart = ece_interval(copied, range(1200), resamples=1000)
    assert alone is not None
    assert together == pytest.approx(alone)
    assert together is not None
    assert apart is not None
    assert (together.high - together.low) > 2 * (apart.high - apart.low)


def test_the_seed_determines_the_interval() -> None:
    found = random_predictions(100, 2, seed=3)
    one, same, other = (
        ece_interval(found, range(100), resamples=200, seed=seed) for seed in (1, 1, 2)
    )
    assert one == same != other


def test_rows_without_label_or_probabilities_are_left_out_with_their_clusters() -> None:
    probabilities = {"Yes": 0.9, "No": 0.1}
    found = predictions(
        [probabilities, None, probabilities, probabilities], ["Yes", "Yes", None, "No"], YES_NO
    )
    assert found.rows_N.tolist() == [0, 3]
    assert found.labels_N.tolist() == [0, 1]
    many = predictions([probabilities, None] * 20, ["Yes"] * 40, YES_NO)
    kept = [f"cluster {row}" for row in range(40)]
    assert ece_interval(many, kept, resamples=10) is not None
    # The rows without probabilities do not count, whatever their clusters.
    merged = ["cluster 0" if row == 2 else name for row, name in enumerate(kept)]
    assert ece_interval(many, merged, resamples=10) is None
    with pytest.raises(ValueError, match="2 clusters for 4 rows"):
        ece_interval(found, ["a", "d"])


def test_no_rows_one_row_one_class() -> None:
    nothing = predictions([], [], YES_NO)
    assert brier(nothing) is None
    assert expected_calibration_error(nothing) is None
    assert ece_interval(nothing, []) is None
    assert reliability_curve(nothing) == []
    assert risk_coverage(nothing) is None
    one = predictions([{"only": 1.0}], ["only"], ("only",))
    assert (brier(one), expected_calibration_error(one)) == (0, 0)
    assert ece_interval(one, [0]) is None
    curve = risk_coverage(one)
    assert curve is not None
    assert curve.area == 0
    wrong = predictions([{"Yes": 1.0, "No": 0.0}], ["No"], YES_NO)
    assert (brier(wrong), expected_calibration_error(wrong)) == (2, 1)


@pytest.mark.parametrize(
    "given_probabilities",
    [
        {"Yes": math.nan, "No": 0.5},
        {"Yes": math.inf, "No": 0.0},
        {"Yes": None, "No": 1.0},
        {"Yes": 1.1, "No": -0.1},
        {"Yes": 0.5, "No": 0.4},
        {"Yes": 1.0},
        {"Yes": 0.5, "no": 0.5},
    ],
)
def test_impossible_probabilities_are_reported(given_probabilities: dict[str, float]) -> None:
    fair = {"Yes": 0.5, "No": 0.5}
    with pytest.raises(ValueError, match="row 1: probabilities"):
        predictions([fair, given_probabilities], ["Yes", "No"], YES_NO)


def test_unknown_labels_and_uneven_lengths_are_reported() -> None:
    with pytest.raises(ValueError, match="row 0: label is 'Maybe'; expected one of"):
        predictions([{"Yes": 1.0, "No": 0.0}], ["Maybe"], YES_NO)
    with pytest.raises(ValueError, match="1 labels but 0 rows"):
        predictions([], ["Yes"], YES_NO)
