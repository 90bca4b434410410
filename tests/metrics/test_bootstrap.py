"""Intervals, compared with their closed forms and by simulation."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from scipy import stats

from benchmarks.coverage import Cell, cover
from mtrl_judge.metrics.bootstrap import (
    MIN_CLUSTERS,
    MIN_ROWS_OF_CLASS,
    Estimate,
    Panel,
    draw_rates,
    estimate,
    information,
    interval,
    panel_of,
    spread_factor,
)
from mtrl_judge.metrics.rates import RATES, Rates, class_rates
from mtrl_judge.metrics.records import Record

CLASSES = ("Yes", "No")
ALL = {**RATES, **class_rates(CLASSES)}


def judge(labels: list[str], skill: float, draw: Random) -> list[Record]:
    """Correct with a probability of `skill`."""
    other = {"Yes": "No", "No": "Yes"}
    return [Record(label, label if draw.random() < skill else other[label]) for label in labels]


def labels_of(n: int, draw: Random, share: float = 0.3) -> list[str]:
    return [CLASSES[draw.random() > share] for _ in range(n)]


def drawn(panel: Panel, rate: str, resamples: int = 4000, seed: int = 0) -> Rates:
    return draw_rates([panel], [{rate: ALL[rate]}], resamples=resamples, seed=seed)[0][rate]


@pytest.mark.parametrize(("hits", "n"), [(20, 30), (30, 30), (0, 12)])
def test_the_recall_of_independent_rows_has_jeffreys_distribution(hits: int, n: int) -> None:
    records = [Record("Yes", "Yes" if row < hits else "No") for row in range(n)]
    panel = panel_of("t", [records], range(n), ["Yes", "No"])
    draws_B = drawn(panel, "recall_Yes", resamples=20_000)[:, 0]
    # A verdict that is missing is a miss too, which has a prior count of its own.
    expected = stats.beta(hits + 0.5, n - hits + 0.75)
    assert stats.kstest(draws_B, expected.cdf).pvalue > 0.001


def test_fixed_class_counts_do_not_vary() -> None:
    """A judge that is right on one class only has the share of that class as its accuracy."""
    records = [Record(label, "Yes") for label in ("Yes", "No") for _ in range(500)]
    random, fixed = (
        drawn(panel_of("t", [records], range(1000), CLASSES, fixed_labels=known), "accuracy")[:, 0]
        for known in (False, True)
    )
    assert random.std() == pytest.approx(np.sqrt(0.25 / 1000), rel=0.1)
    assert fixed.std() < random.std() / 5


def test_a_judge_whose_requests_failed_leaves_the_others_as_they_are() -> None:
    draw = Random(0)
    labels = labels_of(60, draw)
    one = judge(labels, 0.8, draw)
    failed = [Record(label, None, failure="failed") for label in labels]
    some = [*failed[:20], *one[20:]]
    for fixed in (False, True):
        panel = panel_of("t", [failed, one, some], range(60), CLASSES, fixed_labels=fixed)
        clusters = [information(panel.tallies, index).clusters for index in range(3)]
        assert clusters == [0, 60, 40]
        scores_B_M = drawn(panel, "accuracy")
        for index, rows in ((1, one), (2, one[20:])):
            accuracy = sum(row.label == row.verdict for row in rows) / len(rows)
            assert scores_B_M[:, index].mean() == pytest.approx(accuracy, abs=0.02)
            spread = np.sqrt(accuracy * (1 - accuracy) / len(rows))
            assert scores_B_M[:, index].std() == pytest.approx(spread, rel=0.15)


def test_the_seed_determines_the_draws_and_judges_share_them() -> None:
    draw = Random(0)
    labels = labels_of(50, draw)
    judges = [judge(labels, 0.7, draw), judge(labels, 0.9, draw)]
    panel = panel_of("t", judges, range(50), CLASSES)
    scores, again, others = (drawn(panel, "macro_f1", 300, seed) for seed in (3, 3, 4))
    assert np.array_equal(scores, again)
    assert not np.array_equal(scores, others)
    same = drawn(panel_of("t", [judges[0]] * 2, range(50), CLASSES), "macro_f1", 2000)
    assert np.corrcoef(same.T)[0, 1] > 0.8


def test_tasks_share_the_draws_of_clusters_that_they_have_in_common() -> None:
    draw = Random(0)
    labels = labels_of(300, draw)
    records = judge(labels, 0.8, draw)
    one = panel_of("one", [records], [f"image {n}" for n in range(300)], CLASSES)
    other = one._replace(name="other", clusters=[f"text {n}" for n in range(300)])
    same, alike = one._replace(name="same"), one._replace(name="alike")
    rates = [{"accuracy": RATES["accuracy"]}] * 4
    first, second, third, apart = (
        draws["accuracy"][:, 0] for draws in draw_rates([one, same, alike, other], rates)
    )
    assert np.corrcoef(first, second)[0, 1] > 0.9
    assert np.corrcoef(first, third)[0, 1] > 0.9
    assert abs(np.corrcoef(first, apart)[0, 1]) < 0.1


def test_many_clusters_are_drawn_in_chunks() -> None:
    draw = Random(0)
    labels = labels_of(9000, draw)
    # Clusters of so many sizes that most of them differ.
    clusters = [row for row in range(400) for _ in range(1 + row % 44)]
    records = judge(labels[: len(clusters)], 0.8, draw)
    scores = drawn(panel_of("t", [records], clusters, CLASSES), "accuracy", resamples=30_000)
    assert scores.shape == (30_000, 1)
    assert np.isfinite(scores).all()


def test_dependent_items_widen_the_interval() -> None:
    """Ten copies of an item carry no more information than one."""
    draw = Random(0)
    records = judge(labels_of(60, draw), 0.8, draw)
    copied = [record for record in records for _ in range(10)]
    clusters = [number for number in range(60) for _ in range(10)]
    once, apart, together = (
        estimate(0.7, drawn(panel, "macro_f1")[:, 0], information(panel.tallies).clusters)
        for panel in (
            panel_of("t", [records], range(60), CLASSES),
            panel_of("t", [copied], range(600), CLASSES),
            panel_of("t", [copied], clusters, CLASSES),
        )
    )

    def width(known: Estimate) -> float:
        return (known.high or 0) - (known.low or 0)

    assert width(together) == pytest.approx(width(once), rel=0.15)
    assert width(together) > 2.5 * width(apart)


def test_merging_two_rows_into_one_cluster_hardly_changes_the_interval() -> None:
    draw = Random(0)
    records = judge(labels_of(80, draw), 0.8, draw)
    apart = panel_of("t", [records], range(80), CLASSES)
    merged = panel_of("t", [records], [0, *range(79)], CLASSES)
    for rate in ("macro_f1", "accuracy", "recall_Yes"):
        ends = [
            interval(
                drawn(panel, rate, 20_000)[:, 0], information(panel.tallies).of_rate(rate, CLASSES)
            )
            for panel in (apart, merged)
        ]
        assert ends[0] == pytest.approx(ends[1], abs=0.015)


def test_too_few_clusters_or_rows_of_a_class_have_no_interval() -> None:
    draws_B = np.linspace(0, 1, 101)
    assert interval(draws_B, MIN_CLUSTERS - 0.1) is None
    assert interval(draws_B, MIN_CLUSTERS) is not None
    assert estimate(0.5, draws_B, 1) == Estimate(0.5)
    for rare in (MIN_ROWS_OF_CLASS - 1, MIN_ROWS_OF_CLASS):
        records = [Record("Yes" if n < rare else "No", "No") for n in range(40)]
        supported = information(panel_of("t", [records], range(40), CLASSES).tallies)
        enough = rare == MIN_ROWS_OF_CLASS
        assert (supported.of_rate("macro_f1", CLASSES) >= MIN_CLUSTERS) == enough
        assert (supported.of_rate("f1_Yes", CLASSES) >= MIN_CLUSTERS) == enough
        assert supported.of_rate("recall_No", CLASSES) >= MIN_CLUSTERS
        assert supported.of_rate("accuracy", CLASSES) == 40


def test_a_large_cluster_counts_as_few() -> None:
    records = [Record(CLASSES[n % 2], "No") for n in range(120)]
    supported = information(panel_of("t", [records], [0] * 60 + [*range(1, 61)], CLASSES).tallies)
    assert supported.clusters == pytest.approx(120**2 / (60**2 + 60))


def test_few_clusters_use_students_t() -> None:
    """The expanded percentile interval of normal draws is Student's."""
    draws_B = np.random.default_rng(0).normal(0, np.sqrt(5 / 7), 400_000)  # of 6 clusters
    low, high = interval(draws_B, 6) or (0, 0)
    assert (low, high) == pytest.approx(stats.t(5).interval(0.95), rel=0.02)
    assert spread_factor(1e6) == pytest.approx(1, abs=1e-4)


def test_an_interval_contains_its_value() -> None:
    """Also that of a perfect judge, whose draws are all below 1."""
    records = [Record(CLASSES[n % 2], CLASSES[n % 2]) for n in range(50)]
    panel = panel_of("t", [records], range(50), CLASSES)
    known = estimate(1.0, drawn(panel, "macro_f1")[:, 0], 50)
    assert known.high == 1.0
    assert 0.85 < (known.low or 0) < 0.95


@pytest.mark.parametrize(
    "cell",
    [
        Cell(50, 50, 0.5, (0.99, 0.99)),
        Cell(160, 160, 0.2, (0.99, 0.99)),
        Cell(160, 5, 0.5, (0.9, 0.8), 0.2),
        Cell(160, 40, 0.5, (0.8, 0.8), 0.2, uneven=True),
        Cell(160, 80, 0.9, (0.95, 0.95), 0.3, pairs=True),
    ],
    ids=str,
)
def test_intervals_have_their_nominal_coverage(cell: Cell) -> None:
    """200 samples show gross faults; benchmarks/coverage.py has the exact figures."""
    covered = cover(cell, samples=200, draws=400)
    assert {"macro_f1", "recall_Yes", "difference of macro_f1"} <= {each.rate for each in covered}
    assert [each.figures() for each in covered if each.coverage < 0.89] == []


def test_judges_of_different_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        panel_of("t", [[Record("Yes", "Yes")], [Record("No", "No")]], [0], CLASSES)
