"""Intervals and tests, compared with scikit-learn, statsmodels and simulation."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from mtrl_judge.metrics.bootstrap import Interval, cluster_tallies, interval, resampled
from mtrl_judge.metrics.rates import macro_f1
from mtrl_judge.metrics.records import Record, confusion
from mtrl_judge.metrics.significance import difference_p_value, holm, mcnemar

CLASSES = ("Yes", "No")
NONE = "no verdict"


def judge(labels: Sequence[str], skill: float, draw: Random) -> list[Record]:
    """Correct with a probability of `skill`, sometimes without a verdict."""
    records = []
    for label in labels:
        wrong = CLASSES[label == "Yes"]
        verdict = label if draw.random() < skill else wrong
        records.append(Record(label, None if draw.random() < 0.03 else verdict))
    return records


def labels_of(n: int, draw: Random, share: float = 0.3) -> list[str]:
    return [CLASSES[draw.random() > share] for _ in range(n)]


def test_resamples_are_those_of_items_within_classes() -> None:
    """Mean, spread and quantiles of a loop over scikit-learn."""
    draw = Random(0)
    labels = labels_of(120, draw)
    records = judge(labels, 0.8, draw)
    counts = cluster_tallies([records], range(120), CLASSES)
    ours = resampled(counts, resamples=4000)["macro_f1"][:, 0]
    of_class = [[n for n, label in enumerate(labels) if label == name] for name in CLASSES]
    rng, theirs = np.random.default_rng(1), []
    verdicts = [record.verdict or NONE for record in records]
    for _ in range(1000):
        places = np.concatenate([rng.choice(own, len(own)) for own in of_class])
        truth, found = [labels[n] for n in places], [verdicts[n] for n in places]
        theirs.append(f1_score(truth, found, labels=CLASSES, average="macro", zero_division=0))
    assert ours.mean() == pytest.approx(np.mean(theirs), abs=0.005)
    assert ours.std() == pytest.approx(np.std(theirs), rel=0.1)
    assert interval(ours) == pytest.approx(np.quantile(theirs, [0.025, 0.975]), abs=0.012)


def test_the_seed_determines_the_resamples_and_judges_share_them() -> None:
    draw = Random(0)
    labels = labels_of(50, draw)
    first, second = judge(labels, 0.7, draw), judge(labels, 0.9, draw)
    counts = cluster_tallies([first, second, first], range(50), CLASSES)
    scores, again, others = (
        resampled(counts, resamples=300, seed=seed)["macro_f1"] for seed in (3, 3, 4)
    )
    assert np.array_equal(scores, again)
    assert not np.array_equal(scores, others)
    assert np.array_equal(scores[:, 0], scores[:, 2])


def test_many_clusters_are_drawn_in_chunks() -> None:
    draw = Random(0)
    labels = labels_of(9000, draw)
    counts = cluster_tallies([judge(labels, 0.8, draw)], range(9000), CLASSES)
    scores = resampled(counts, resamples=1000)["macro_f1"]
    assert scores.shape == (1000, 1)
    assert np.isfinite(scores).all()


def test_dependent_items_widen_the_interval() -> None:
    """Ten copies of an item carry no more information than one."""
    draw = Random(0)
    records = judge(labels_of(60, draw), 0.8, draw)
    copied = [record for record in records for _ in range(10)]
    clusters = [number for number in range(60) for _ in range(10)]
    once, apart, together = (
        interval(resampled(counts)["macro_f1"][:, 0])
        for counts in (
            cluster_tallies([records], range(60), CLASSES),
            cluster_tallies([copied], range(600), CLASSES),
            cluster_tallies([copied], clusters, CLASSES),
        )
    )
    assert together == pytest.approx(once, abs=0.01)
    assert (together.high - together.low) > 2.5 * (apart.high - apart.low)


@pytest.mark.parametrize("sizes", [[1], [2], [1, 4]])
def test_intervals_have_their_nominal_coverage(sizes: list[int]) -> None:
    """In 500 simulations: single items, pairs, and dependent clusters of several sizes."""
    draw = Random(0)
    truth = cluster_sample(sizes, 40_000, draw)
    labels, verdicts, _ = truth
    target = macro_f1(confusion(labels, verdicts, CLASSES))
    held = 0
    for seed in range(500):
        labels, verdicts, clusters = cluster_sample(sizes, 250, draw)
        records = [Record(*pair) for pair in zip(labels, verdicts, strict=True)]
        tallies = cluster_tallies([records], clusters, CLASSES)
        scores = resampled(tallies, resamples=800, seed=seed)["macro_f1"]
        low, high = interval(scores[:, 0]) or (1, 0)
        held += low <= target <= high
    assert 0.93 <= held / 500 <= 0.97


def cluster_sample(
    sizes: list[int], clusters: int, draw: Random
) -> tuple[list[str], list[str], list[int]]:
    """Labels and verdicts; the items of a cluster are all easy or all hard."""
    labels, verdicts, names = [], [], []
    for name in range(clusters):
        size, skill = sizes[name % len(sizes)], draw.choice([0.6, 0.95])
        for _ in range(size):
            label = CLASSES[draw.random() > 0.5]
            verdicts.append(label if draw.random() < skill else CLASSES[label == "Yes"])
            labels.append(label)
            names.append(name)
    return labels, verdicts, names


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=90))
def test_mcnemar_is_statsmodels(right: list[tuple[bool, bool]]) -> None:
    found = mcnemar([a for a, _ in right], [b for _, b in right])
    table = [[right.count((a, b)) for b in (True, False)] for a in (True, False)]
    few = found.only_first + found.only_second <= 25
    if found.only_first + found.only_second:
        expected = statsmodels_mcnemar(table, exact=few, correction=True).pvalue
        assert found.p_value == pytest.approx(min(1.0, expected))
    else:
        assert found.p_value == 1.0


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


def test_the_paired_test_finds_a_difference_only_if_there_is_one() -> None:
    draw = Random(0)
    labels = labels_of(300, draw)
    good, bad = judge(labels, 0.9, draw), judge(labels, 0.75, draw)
    scores = resampled(cluster_tallies([good, bad, good], range(300), CLASSES))["macro_f1"]
    assert difference_p_value(scores[:, 0], scores[:, 1]) < 0.001
    assert difference_p_value(scores[:, 0], scores[:, 2]) == 1.0


def test_judges_of_different_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        cluster_tallies([[Record("Yes", "Yes")], [Record("No", "No")]], [0], CLASSES)


def test_an_interval_has_two_ends() -> None:
    assert interval(np.linspace(0, 1, 1001)) == pytest.approx(Interval(0.025, 0.975))
