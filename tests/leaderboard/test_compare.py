"""The bootstrap comparison: perturbations beside the unchanged run, and paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.leaderboard.compare import (
    PerturbationEffect,
    adjust_p_values,
    compare_perturbation,
    score_results,
)
from mtrl_judge.leaderboard.runs import Sample, TaskResult
from mtrl_judge.leaderboard.scores import Score, mean, minus
from mtrl_judge.metrics.bootstrap import Estimate
from mtrl_judge.metrics.records import Record

METADATA = {"kind": "pointwise", "role": "train", "verdicts": ["Yes", "No"]}


def result(
    verdicts: Sequence[str | None], labels: Sequence[str | None] | None = None
) -> TaskResult:
    """One task of one judge; by default the labels are Yes and No in turns."""
    labels = labels or ["Yes", "No"] * (len(verdicts) // 2)
    records = [Record(label, verdict) for label, verdict in zip(labels, verdicts, strict=True)]
    return TaskResult("t", METADATA, [Sample(str(n), r, str(n)) for n, r in enumerate(records)])


def effect(
    before: TaskResult, after: TaskResult, name: str = "length", resamples: int = 99
) -> PerturbationEffect:
    return compare_perturbation(name, before, after, resamples=resamples)


def test_changed_verdicts_include_those_gained_and_lost() -> None:
    labels = ["Yes", "No", "Yes", None] * 10
    found = effect(
        result(["Yes", "No", None, None] * 10, labels),
        result(["Yes", None, "Yes", None] * 10, labels),
        resamples=500,
    )
    assert (found.rows, found.n, found.changed.value) == (40, 30, 0.5)
    low, high = found.changed.low, found.changed.high
    assert low is not None
    assert high is not None
    assert 0.3 < low < 0.5 < high < 0.7
    assert found.null_rate == found.null_rate_perturbed == pytest.approx(1 / 3)


def test_an_unchanged_judge_does_not_differ_and_a_blind_one_does() -> None:
    same = effect(result(["Yes", "No"] * 9), result(["Yes", "No"] * 9), "rerun")
    # No change in 18 rows does not exclude one in every tenth.
    assert (same.difference.value, same.changed.value, same.changed.low) == (0.0, 0.0, 0.0)
    assert 0.1 < (same.changed.high or 0) < 0.3
    assert same.p_value == 1.0
    blind = effect(result(["Yes", "No"] * 20), result(["Yes"] * 40), "blank_image", resamples=999)
    assert blind.difference.value == pytest.approx(1 / 3 - 1)
    assert blind.difference.high is not None
    assert blind.difference.high < 0
    assert blind.p_value is not None
    assert blind.p_value <= 0.01
    adjusted = [found.p_value_holm for found in adjust_p_values([same, blind])]
    assert adjusted == [1.0, 2 * blind.p_value]


def test_one_cluster_has_a_difference_without_interval_or_test() -> None:
    before, after = result(["Yes", "No"] * 20), result(["Yes"] * 40)
    alike = [
        replace(each, samples=[sample._replace(cluster="one") for sample in each.samples])
        for each in (before, after)
    ]
    found = effect(*alike)
    assert found.difference == Estimate(pytest.approx(1 / 3 - 1))
    assert (found.p_value, found.changed.low) == (None, None)


def test_unlabeled_rows_have_a_share_of_changes_and_no_score() -> None:
    unlabeled = [None] * 4
    before = result(["Yes", "No", "Yes", None], unlabeled)
    found = effect(before, result(["Yes"] * 4, unlabeled))
    assert (found.n, found.changed.value, found.p_value) == (0, 0.5, None)
    assert found.difference == Estimate(None)
    assert adjust_p_values([found]) == [found]
    with pytest.raises(JudgeError, match="length: t: other rows than in the unchanged run"):
        effect(before, result(["Yes"] * 4))


def test_scores_without_resamples_have_differences_and_means_but_no_intervals() -> None:
    draws_B = np.linspace(0, 1, 101)
    first, second = Score.of(0.5, draws_B, 50), Score.of(0.4, draws_B**2, 50)
    reported = Score(Estimate(0.7, 0.6, 0.8))
    assert minus(first, second).estimate.low == pytest.approx(0, abs=0.05)
    assert minus(first, reported).estimate == Estimate(pytest.approx(-0.2))
    assert mean([first, second], [1, 3]).value == pytest.approx(0.425)
    assert mean([first, reported], [1, 1]).estimate == Estimate(pytest.approx(0.6))


def test_fixed_class_counts_narrow_the_interval_of_a_one_sided_judge() -> None:
    """Its accuracy is the share of one class, which does not vary if the counts are fixed."""
    widths = []
    for fixed in (False, True):
        judged = result(["Yes"] * 200)
        judged = replace(judged, metadata={**METADATA, "fixed_labels": fixed})
        scored = score_results({"t": {"judge": judged}}, ["accuracy"], resamples=500)["t"]
        known = scored.scores["judge"]["accuracy"].estimate
        widths.append((known.high or 0) - (known.low or 0))
    assert widths[1] < widths[0] / 3
