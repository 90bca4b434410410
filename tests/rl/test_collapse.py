"""A judge that stops looking is reported once, with what it has lost."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from mtrl_judge.rl.collapse import CollapseWarning, signs

FIRST = {"eval_a/share_Yes": 0.6, "eval_a/share_No": 0.4, "eval_a/facts_rate": 0.9}
FIRST |= {"eval_a/roc_auc": 0.85}


@pytest.mark.parametrize(
    ("now", "label_share", "found"),
    [
        ({"eval_a/share_Yes": 0.94, "eval_a/facts_rate": 0.61, "eval_a/roc_auc": 0.76}, 0.5, []),
        ({"eval_a/share_Yes": 0.96}, 0.5, ["96% of the verdicts are 'Yes'"]),
        ({"eval_a/share_Yes": 0.96}, 0.97, []),  # as of the labels
        ({"eval_ab/share_Yes": 0.99}, 0.5, []),  # of another task
        ({"eval_a/facts_rate": 0.5}, 0.5, ["its reasoning states 50% of the facts, at first 90%"]),
        ({"eval_a/roc_auc": 0.65}, 0.5, ["the AUC of its probabilities is 0.65, at first 0.85"]),
        ({"eval_b/facts_rate": 0.1}, 0.5, []),
    ],
)
def test_signs_of_a_collapse(now: dict[str, float], label_share: float, found: list[str]) -> None:
    assert list(signs("a", FIRST, now, label_share)) == found


def test_a_bias_from_the_start_is_no_collapse() -> None:
    biased = {"eval_a/share_Yes": 0.99}
    assert list(signs("a", biased, biased, 0.5)) == []


def test_one_warning_a_run_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    callback = CollapseWarning({"a": 0.5})
    history: list[dict[str, Any]] = [{"step": 5, "reward": 0.5}]
    for step, facts in ((5, 0.9), (10, 0.7), (15, 0.4), (20, 0.3)):
        metrics = {**FIRST, "eval_a/facts_rate": facts}
        history.append({"step": step, **metrics})
        state = SimpleNamespace(log_history=history, global_step=step, is_world_process_zero=True)
        with caplog.at_level(logging.WARNING):
            callback.on_evaluate(None, state, None, metrics)
    (record,) = caplog.records
    assert "step 15: validation shows a collapse:\n  a: its reasoning states 40%" in record.message
    assert "perception_weight" in record.message
