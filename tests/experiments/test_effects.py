"""Effects pair two arms by item and unit, and claims are decided by intervals, not by spreads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from support.results import judged_rows, write_results

from mtrl_judge.experiments.arms_file import Claim
from mtrl_judge.experiments.effects import Effect, Unit, decide, effect
from mtrl_judge.leaderboard.compare import compare, score_results
from mtrl_judge.leaderboard.reading import load_run
from mtrl_judge.leaderboard.scores import Score
from mtrl_judge.metrics.bootstrap import Estimate


def scores(values: Mapping[Unit, float], error: float = 0.01, seed: int = 0) -> dict[Unit, Score]:
    """Scores whose draws have this standard error, the same draws for equal seeds."""
    draws_B = np.random.default_rng(seed).normal(0, error, 4_000)
    return {
        unit: Score(Estimate(value, value, value), value + draws_B, clusters=400)
        for unit, value in values.items()
    }


def units(values: Sequence[float], corpus: int | None = 0) -> dict[Unit, float]:
    return {Unit(corpus, seed): value for seed, value in enumerate(values)}


def test_shared_rows_cancel_and_trainings_do_not() -> None:
    base = scores({Unit(0, None): 0.5})
    same = effect(scores(units([0.7, 0.7, 0.7])), base)
    assert same is not None
    assert (same.units, same.difference.value) == (3, pytest.approx(0.2))
    # All draws are shared, so items add nothing, and the trainings do not differ.
    assert same.standard_error == pytest.approx(0, abs=1e-12)
    spread = effect(scores(units([0.6, 0.7, 0.8])), base)
    assert spread is not None
    assert spread.standard_error == pytest.approx(0.1 / math.sqrt(3))
    assert spread.degrees == pytest.approx(2)
    half = 4.303 * 0.1 / math.sqrt(3)  # Student's t with two degrees of freedom
    assert spread.difference.high == pytest.approx(0.2 + half, abs=1e-3)
    assert spread.p_value == pytest.approx(0.0742, abs=1e-3)
    # Rows of their own add their variance.
    unpaired = effect(scores(units([0.6, 0.7, 0.8])), scores({Unit(0, None): 0.5}, seed=1))
    assert unpaired is not None
    assert unpaired.standard_error is not None
    assert unpaired.standard_error > spread.standard_error
    assert unpaired.degrees > 2


def test_units_are_matched_by_corpus_and_seed() -> None:
    first = scores({Unit(0, 0): 0.9, Unit(0, 1): 0.8, Unit(1, 0): 0.7})
    second = scores({Unit(0, 0): 0.5, Unit(1, 0): 0.5, Unit(1, 7): 0.1})
    found = effect(first, second)
    assert found is not None
    assert (found.units, found.difference.value) == (2, pytest.approx((0.4 + 0.2) / 2))
    assert effect(first, scores({Unit(2, 0): 0.5})) is None
    assert effect(first, {}) is None


def test_one_training_has_the_interval_of_a_leaderboard(tmp_path: Path) -> None:
    """With one unit an effect is the paired difference that judges have everywhere."""
    results = {}
    for name, skill in (("a", 0.9), ("b", 0.7)):
        file = write_results(tmp_path / name, {"task": judged_rows(200, skill, 0)}, model=name)
        results[name] = load_run(file).tasks["task"]
    scored = score_results({"task": results}, ("accuracy",))["task"]
    of = {name: scored.scores[name]["accuracy"] for name in results}
    (known,) = compare("task", "accuracy", of, [scored])
    found = effect({Unit(None, 0): of["a"]}, {Unit(None, None): of["b"]})
    assert found is not None
    assert found.difference.value == known.difference.value
    for end in ("low", "high"):
        assert getattr(found.difference, end) == pytest.approx(
            getattr(known.difference, end), abs=0.01
        )


def made(value: float, error: float, degrees: float = 1e9) -> Effect:
    half = 1.96 * error
    return Effect(Estimate(value, value - half, value + half), 3, error, degrees)


def claim(expect: str, margin: float | None = None) -> Claim:
    return Claim.model_validate(
        {"text": "x", "arms": ["a", "b"], "tasks": "ood", "expect": expect, "margin": margin}
    )


@pytest.mark.parametrize(
    ("expect", "margin", "found", "outcome"),
    [
        ("higher", None, made(0.1, 0.02), "holds"),
        ("higher", None, made(-0.1, 0.02), "does not hold"),
        ("higher", None, made(0.03, 0.02), "cannot be decided"),
        ("higher", None, made(0.1, 0.02, degrees=1), "cannot be decided"),
        ("lower", None, made(-0.1, 0.02), "holds"),
        ("lower", None, made(0.1, 0.02), "does not hold"),
        ("same", 0.03, made(0.0, 0.01), "holds"),
        ("same", 0.03, made(0.01, 0.005), "holds"),  # significant, and within the margin
        ("same", 0.03, made(0.0, 0.1), "cannot be decided"),  # a large spread is no equality
        ("same", 0.03, made(0.1, 0.02), "does not hold"),
        ("same", 0.03, None, "cannot be decided"),
        ("same", 0.03, made(0.0, 0.0), "holds"),  # the same verdicts
        ("higher", None, made(0.0, 0.0), "cannot be decided"),
        ("higher", None, Effect(Estimate(0.5), 1, None, math.inf), "cannot be decided"),
    ],
)
def test_claims_are_decided(
    expect: str, margin: float | None, found: Effect | None, outcome: str
) -> None:
    (decided,) = decide([claim(expect, margin)], [found])
    assert decided.outcome == outcome


def test_many_claims_are_harder_to_decide() -> None:
    alone = decide([claim("higher")], [made(0.05, 0.02)])
    among = decide([claim("higher")] * 8, [made(0.05, 0.02)] + [made(0.0, 0.02)] * 7)
    assert alone[0].outcome == "holds"
    assert among[0].outcome == "cannot be decided"
    assert among[0].p_for == pytest.approx(8 * (alone[0].p_for or 0))
