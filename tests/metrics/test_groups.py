"""Rates by group and their macro mean, against scikit-learn and the benchmarks' own definitions."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from mtrl_judge.metrics.bootstrap import draw_rates
from mtrl_judge.metrics.groups import group_means, group_panels
from mtrl_judge.metrics.rates import RATES
from mtrl_judge.metrics.records import Record
from mtrl_judge.metrics.summary import summarize

CLASSES = ("Yes", "No")


def records(seed: int, n: int = 240, skill: float = 0.8) -> list[Record]:
    """Rows of three groups of different sizes, and some without a group."""
    draw = Random(seed)
    made = []
    for _ in range(n):
        label = draw.choice(CLASSES)
        verdict = label if draw.random() < skill else draw.choice(("Yes", "No", None))
        made.append(Record(label, verdict, group=draw.choice(("a", "a", "a", "b", "c", None))))
    return made


def test_the_macro_mean_weights_groups_equally_as_scikit_learn_on_each_group() -> None:
    rows = records(0)
    f1, shares = [], []
    for group in "abc":
        labels = [row.label for row in rows if row.group == group]
        verdicts = [row.verdict or "none" for row in rows if row.group == group]
        f1.append(f1_score(labels, verdicts, labels=CLASSES, average="macro"))
        shares.append(accuracy_score(labels, verdicts))
    means = group_means(rows, CLASSES)
    assert means["macro_f1_group_mean"] == pytest.approx(np.mean(f1))
    assert means["accuracy_group_mean"] == pytest.approx(np.mean(shares))
    assert means["accuracy_group_mean"] != pytest.approx(summarize(rows, CLASSES)["accuracy"])


def test_overall_and_macro_as_vl_rewardbench_publishes_them() -> None:
    """`distribution_dataset` in cal.py of github.com/vl-rewardbench/VL_RewardBench: "Overall
    Accuracy" is the share of right pairs, "Macro Average Acc" the mean of the accuracies in
    general, hallucination and reasoning. Pairs without a verdict are left out, as in our rates of
    answered rows."""
    right = {"general": (3, 4), "hallucination": (1, 2), "reasoning": (1, 4)}
    rows = [
        Record("1", "1" if number < hits else "2", group=group)
        for group, (hits, n) in right.items()
        for number in range(n)
    ]
    assert summarize(rows, ("1", "2"))["accuracy"] == pytest.approx(5 / 10)
    assert group_means(rows, ("1", "2"))["accuracy_group_mean"] == pytest.approx(
        (3 / 4 + 1 / 2 + 1 / 4) / 3
    )
    rows.append(Record("1", None, group="general"))
    assert summarize(rows, ("1", "2"))["accuracy_answered"] == pytest.approx(5 / 10)
    means = group_means(rows, ("1", "2"))
    assert means["accuracy_answered_group_mean"] == pytest.approx((3 / 4 + 1 / 2 + 1 / 4) / 3)
    assert means["accuracy_group_mean"] == pytest.approx((3 / 5 + 1 / 2 + 1 / 4) / 3)


def test_both_orders_are_scored_as_mmrb2_and_mj_bench_score_them() -> None:
    """MMRB2, `compute_task_accuracy` in compute_accuracy.py of github.com/facebookresearch/MMRB2:
    right verdicts of both orders over all verdicts; what was not judged does not count. MJ-Bench,
    arXiv 2407.04842: the share of pairs whose preferred image the judge prefers, here over both
    orders."""
    verdicts = {"p": ("1", "2"), "q": ("1", "1"), "r": ("2", None), "s": (None, None)}
    rows = [
        Record(label, verdict, pair_id=pair, swapped=label == "2")
        for pair, both in verdicts.items()
        for label, verdict in zip(("1", "2"), both, strict=True)
    ]
    assert summarize(rows, ("1", "2"))["accuracy_answered"] == pytest.approx(3 / 5)
    # Ours counts what has no verdict as wrong.
    assert summarize(rows, ("1", "2"))["accuracy"] == pytest.approx(3 / 8)
    complete = [row for row in rows if row.pair_id in ("p", "q")]
    assert summarize(complete, ("1", "2"))["accuracy"] == pytest.approx(3 / 4)


def test_macro_f1_of_groups_is_undefined_where_a_group_lacks_a_label() -> None:
    """Its F1 would be 0 for every judge."""
    rows = [Record("Yes", "Yes", group="a"), Record("No", "No", group="a")]
    assert group_means(rows, CLASSES)["macro_f1_group_mean"] == 1.0
    rows.append(Record("Yes", "Yes", group="b"))
    means = group_means(rows, CLASSES)
    assert (means["macro_f1_group_mean"], means["accuracy_group_mean"]) == (None, 1.0)
    nothing = dict.fromkeys(means)
    assert group_means([], CLASSES) == nothing
    assert group_means([Record("Yes", "Yes"), Record(None, "Yes", group="a")], CLASSES) == nothing


def test_a_cluster_of_several_groups_is_drawn_as_one() -> None:
    """Two groups about the same items, judged alike, have the same accuracy in every draw, up to
    their prior counts."""
    rows = [
        Record("Yes", "Yes" if item % 3 else "No", group=group)
        for item in range(300)
        for group in "ab"
    ]
    clusters = [item for item in range(300) for _ in "ab"]
    panels = list(group_panels("t", [rows], clusters, CLASSES).values())
    rate = {"accuracy": RATES["accuracy"]}
    first, second = (
        draws["accuracy"][:, 0] for draws in draw_rates(panels, [rate, rate], resamples=500)
    )
    assert np.corrcoef(first, second)[0, 1] > 0.9
    apart = list(group_panels("t", [rows], range(600), CLASSES).values())
    first, second = (
        draws["accuracy"][:, 0] for draws in draw_rates(apart, [rate, rate], resamples=500)
    )
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2
