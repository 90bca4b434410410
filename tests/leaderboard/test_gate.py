"""The gate for CI: what passes, what fails, what is not comparable, and its reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.commands import call
from support.results import judged_pairs, judged_rows, sample, write_results

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.leaderboard.gate import Gate, run_gate
from mtrl_judge.leaderboard.reading import load_runs
from mtrl_judge.leaderboard.runs import Run

FEW = 500  # resamples


def run_of(folder: Path, skills: dict[str, float], seed: int = 0, **about: Any) -> Run:
    """A judge with the given accuracies, on 200 rows per task; a task named `pairs` has pairs."""
    tasks = {
        task: judged_pairs(100, skill, seed) if "pairs" in task else judged_rows(200, skill, seed)
        for task, skill in skills.items()
    }
    file = write_results(folder, tasks, about=dict.fromkeys(tasks, about))
    return load_runs([file])[0]


def gate(tmp_path: Path, now: float, before: float, **settings: Any) -> Gate:
    runs = [
        run_of(tmp_path / str(index), {"t": skill, "u": 0.9})
        for index, skill in enumerate((now, before))
    ]
    return run_gate(*runs, resamples=FEW, **settings)


@pytest.mark.parametrize(
    ("now", "before", "settings", "code", "why"),
    [
        (0.9, 0.9, {}, 0, []),
        (0.95, 0.7, {}, 0, []),
        (0.7, 0.95, {}, 1, ["significantly worse"]),
        (0.85, 0.87, {}, 0, []),
        (0.8, 0.9, {"margin": 0.1}, 1, ["more than the margin, 0.1"]),
        (0.85, 0.87, {"margin": 0.2}, 0, []),
        (0.7, 0.95, {"margin": 0.5}, 0, []),
        (0.9, 0.9, {"minimum": {"t": 0.99}}, 1, ["below the minimum, 0.99"]),
        (0.9, 0.9, {"minimum": {"t": 0.5}}, 0, []),
    ],
)
def test_what_fails_a_task(
    tmp_path: Path, now: float, before: float, settings: dict[str, Any], code: int, why: list[str]
) -> None:
    found = gate(tmp_path, now, before, **settings)
    assert found.exit_code == code
    tasks = {task.task: task for task in found.tasks}
    assert len(tasks["t"].failures) == len(why)
    assert all(part in line for part, line in zip(why, tasks["t"].failures, strict=True))
    assert tasks["u"].outcome == "passed"


def test_lower_is_better_for_some_metrics(tmp_path: Path) -> None:
    now = run_of(tmp_path / "now", {"pairs": 0.7})
    before = run_of(tmp_path / "before", {"pairs": 0.95})
    assert run_gate(now, before, metric="flip_rate", resamples=FEW).exit_code == 1
    assert run_gate(before, now, metric="flip_rate", resamples=FEW).exit_code == 0


def test_p_values_are_corrected_over_the_tasks(tmp_path: Path) -> None:
    skills = {f"t{n}": 0.8 for n in range(5)}
    now = run_of(tmp_path / "now", {**skills, "t0": 0.74})
    before = run_of(tmp_path / "before", skills)
    alone = run_gate(now.with_tasks(["t0"]), before.with_tasks(["t0"]), resamples=FEW).tasks[0]
    (among,) = (t for t in run_gate(now, before, resamples=FEW).tasks if t.task == "t0")
    assert alone.p_value is not None
    assert among.p_value == pytest.approx(min(1.0, 5 * alone.p_value))
    assert (among.detectable or 0) > (alone.detectable or 1)


@pytest.mark.parametrize(
    ("about", "why", "across"),
    [
        ({"fingerprint": "other"}, "different fingerprint: other, now fingerprint of t", "rows"),
        ({"style": "direct"}, "different style: direct, now reasoned", "style"),
        ({"source": "sample"}, "different source: sample data, now real data", "source"),
        ({"perturbation": "swap"}, "different perturbation: swap, now none", "perturbation"),
        ({"parser": 2}, "different parser: version 2, now version 1", "parser"),
        ({"scoring": "logprob"}, "different scoring: logprob, now generation", "scoring"),
    ],
)
def test_what_is_not_comparable_does_not_pass(
    tmp_path: Path, about: dict[str, Any], why: str, across: str
) -> None:
    now = run_of(tmp_path / "now", {"t": 0.9})
    before = run_of(tmp_path / "before", {"t": 0.9}, **about)
    found = run_gate(now, before, resamples=FEW)
    assert found.exit_code == 2
    assert why in found.tasks[0].obstacles[0]
    assert run_gate(now, before, across=[across], resamples=FEW).exit_code == 0


def test_what_cannot_be_tested_does_not_pass(tmp_path: Path) -> None:
    """One cluster, other rows although allowed, and a baseline without rows."""
    rows = [{**row, "cluster": "one prompt"} for row in judged_rows(50, 0.9, 0)]
    (alike,) = load_runs([write_results(tmp_path / "alike", {"t": rows})])
    fewer = write_results(tmp_path / "fewer", {"t": judged_rows(40, 0.9, 0)})
    (fewer_run,) = load_runs([fewer])
    now = run_of(tmp_path / "now", {"t": 0.9})
    added = tmp_path / "file.json"
    assert call("leaderboard", "add", added, fewer, "--no-rows").exit_code == 0
    (without,) = load_runs([added])
    for current, before, why in (
        (alike, alike, "one cluster"),
        (now, fewer_run, "other rows"),
        (fewer_run, without, "rows are unknown"),
    ):
        found = run_gate(current, before, across=["rows"], resamples=FEW)
        assert found.exit_code == 2
        assert why in found.tasks[0].obstacles[0]


def test_a_missing_task_or_missing_labels_are_not_comparable(tmp_path: Path) -> None:
    before = run_of(tmp_path / "before", {"t": 0.9, "u": 0.9})
    now = run_of(tmp_path / "now", {"t": 0.9})
    assert run_gate(now, before, resamples=FEW).exit_code == 2
    assert run_gate(before, now, resamples=FEW).exit_code == 0  # an additional task passes
    rows = [sample(n, None, "Yes") for n in range(5)]
    (empty,) = load_runs([write_results(tmp_path / "empty", {"t": rows})])
    assert run_gate(empty, empty, resamples=FEW).exit_code == 2


NAME = "a|b `c` <b> 😀"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A baseline file of the judge in `good`; a worse judge is in `poor`."""
    for folder, skill in (("good", 0.95), ("poor", 0.6)):
        write_results(tmp_path / folder, {"t": judged_rows(200, skill, 0)}, model=NAME)
    out = tmp_path / "baseline.json"
    assert call("baseline", "save", tmp_path / "good", "--out", out).exit_code == 0
    return out


def test_the_command_writes_markdown_and_junit(tmp_path: Path, saved: Path) -> None:
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    written = ("--junit", junit, "--summary", summary)
    failed = call("gate", tmp_path / "poor", "--baseline", saved, *written)
    assert failed.exit_code == 1, failed.output
    assert summary.read_text() == failed.stdout
    assert "``a\\|b `c` <b> 😀``" in failed.stdout  # as code, which is no markup
    suite = ElementTree.parse(junit).getroot()
    assert [case.get("name") for case in suite.iter("testcase")] == ["t"]
    assert "significantly worse" in str(next(suite.iter("failure")).get("message"))
    again = call("gate", tmp_path / "good", "--baseline", saved, *written)
    assert "already exists" in str(again.exception)
    passed = call("gate", tmp_path / "good", "--baseline", saved, *written, "--force")
    assert passed.exit_code == 0
    assert not list(ElementTree.parse(junit).getroot().iter("failure"))


@pytest.mark.parametrize(
    ("results", "flags", "message"),
    [
        ("poor", ["--baseline", "none.json"], "mtrl-judge baseline save"),
        ("nowhere", [], "no such file or folder"),
        ("good", ["--min", "x=0.5"], "no task 'x'"),
        ("good", ["--margin", "-1"], "--margin: is -1"),
        ("good", ["--metric", "first_slot_rate"], "has no better direction"),
    ],
)
def test_mistakes_are_reported(
    tmp_path: Path, saved: Path, results: str, flags: list[str], message: str
) -> None:
    done = call("gate", tmp_path / results, "--baseline", saved, *flags)
    assert isinstance(done.exception, JudgeError)
    assert message in str(done.exception)


def test_several_models_are_not_a_baseline(tmp_path: Path, saved: Path) -> None:
    write_results(tmp_path / "other", {"t": judged_rows(20, 0.9, 0)}, model="other")
    done = call("baseline", "save", tmp_path, "--out", tmp_path / "b.json")
    assert "expected one run of one model" in str(done.exception)
    assert not (tmp_path / "b.json").exists()
