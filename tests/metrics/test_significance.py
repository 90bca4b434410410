"""Tests of differences and ranks, compared with scipy, statsmodels and simulation."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from benchmarks.coverage import false_alarms, power
from mtrl_judge.metrics.bootstrap import Panel, panel_of
from mtrl_judge.metrics.ranks import rank_ranges
from mtrl_judge.metrics.rates import RATES
from mtrl_judge.metrics.records import Record
from mtrl_judge.metrics.significance import detectable_difference, holm, randomization_p_value

CLASSES = ("Yes", "No")
ACCURACY = RATES["accuracy"]


def two_judges(only_first: int, only_second: int, name: str = "t", size: int = 1) -> Panel:
    """Clusters of items that only the first, only the second or both judges get right."""
    right = [(1, 0)] * only_first + [(0, 1)] * only_second + [(1, 1)] * 40
    clusters = [f"{name} {n}" for n in range(len(right)) for _ in range(size)]
    judges = []
    for side in (0, 1):
        labels = [CLASSES[n % 2] for n in range(len(right))]
        of_judge = [
            Record(label, label if pair[side] else None)
            for label, pair in zip(labels, right, strict=True)
        ]
        judges.append([record for record in of_judge for _ in range(size)])
    return panel_of(name, judges, clusters, CLASSES)


@given(st.integers(0, 12), st.integers(0, 12))
def test_few_discordant_items_have_mcnemars_exact_test(first: int, second: int) -> None:
    p_value = randomization_p_value([two_judges(first, second)], ACCURACY)
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    exact = first + second <= 13
    assert p_value == pytest.approx(expected, abs=1e-9 if exact else 0.02)


def test_one_sided_tests_the_first_judge_for_less() -> None:
    worse, better = two_judges(1, 9), two_judges(9, 1)
    expected = stats.binomtest(1, 10, alternative="less").pvalue
    assert randomization_p_value([worse], ACCURACY, one_sided=True) == pytest.approx(expected)
    assert (randomization_p_value([better], ACCURACY, one_sided=True) or 0) > 0.98


def test_copies_of_rows_in_one_cluster_change_nothing() -> None:
    once, copied = two_judges(2, 9), two_judges(2, 9, size=5)
    for rate in (ACCURACY, RATES["macro_f1"]):
        p_value = randomization_p_value([once], rate)
        assert p_value == pytest.approx(randomization_p_value([copied], rate))


def test_means_flip_clusters_that_tasks_share_together() -> None:
    """The same rows twice are no more evidence; two tasks of other rows are."""
    task, other = two_judges(1, 7), two_judges(1, 7, "u")
    alone = randomization_p_value([task], ACCURACY)
    same = randomization_p_value([task, task._replace(name="same")], ACCURACY)
    both = randomization_p_value([task, other], ACCURACY, resamples=100_000)
    assert same == pytest.approx(alone)
    assert both == pytest.approx(stats.binomtest(2, 16).pvalue)


def test_one_cluster_shows_no_difference() -> None:
    records = [[Record("Yes", verdict)] * 9 for verdict in CLASSES]
    assert randomization_p_value([panel_of("t", records, [0] * 9, CLASSES)], ACCURACY) is None


def test_a_gate_over_nine_tasks_keeps_its_level_and_has_power() -> None:
    """150 samples show gross faults; benchmarks/coverage.py has the exact figures."""
    rng = np.random.default_rng(0)
    assert false_alarms(((0.8, 0.8), (0.8, 0.8)), 150, 400, rng) < 0.11
    found, _ = power(((0.65, 0.65), (0.85, 0.85)), 50, 400, rng)
    assert found > 0.9


def test_a_detectable_difference_is_detected_four_times_in_five() -> None:
    draw = np.random.default_rng(0)
    d = detectable_difference(0.03, 1000, alpha=0.05)
    assert np.mean(np.abs(draw.normal(d, 0.03, 20_000)) > 1.96 * 0.03) == pytest.approx(
        0.8, abs=0.01
    )
    # With few clusters, as many as are needed for an exact test have to differ.
    d = detectable_difference(0.001, 100, alpha=0.05, one_sided=True)
    differing = draw.binomial(100, d, 20_000)
    assert np.mean(0.5**differing < 0.05) == pytest.approx(0.8, abs=0.12)


JUDGES = st.dictionaries(
    st.sampled_from("abcdefgh"), st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=1
)


@given(JUDGES, st.sets(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh"))))
def test_no_judge_ranks_below_one_with_a_lower_value(
    values: dict[str, float], pairs: set[tuple[str, str]]
) -> None:
    different = {frozenset(pair) for pair in pairs}
    ranks = rank_ranges(values, different)
    assert all(1 <= rank.best <= rank.worst <= len(values) for rank in ranks.values())
    for a, b in combinations(values, 2):
        if values[a] >= values[b]:
            assert ranks[a].best <= ranks[b].best
            assert ranks[a].worst <= ranks[b].worst
        # Whoever ranks above another surely differs significantly from it.
        if ranks[a].worst < ranks[b].best:
            assert frozenset((a, b)) in different


def test_ranks_are_plain_if_all_differences_are_significant() -> None:
    values = {"a": 0.2, "b": 0.9, "c": 0.5}
    ranks = rank_ranges(values, {frozenset(pair) for pair in combinations(values, 2)})
    assert {name: str(rank) for name, rank in ranks.items()} == {"a": "3", "b": "1", "c": "2"}
    # Of .733, .633 and .617, only the first two differ: no line can be drawn between them.
    ranks = rank_ranges({"a": 0.733, "b": 0.633, "c": 0.617}, {frozenset("ab")})
    assert {str(rank) for rank in ranks.values()} == {"1–3"}


@pytest.fixture(scope="module")
def frozen_heap() -> Iterator[None]:
    """Keep what is imported out of garbage collections: statsmodels starts one on every call."""
    gc.freeze()
    yield
    gc.unfreeze()


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_is_statsmodels(frozen_heap: None, p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
