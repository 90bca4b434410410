"""Tasks of several kinds on one leaderboard and at one gate: each is ranked by its own metric."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from support.commands import call
from support.results import judged_rows, sample, write_results

from mtrl_judge.leaderboard.board import build_leaderboard
from mtrl_judge.leaderboard.gate import run_gate
from mtrl_judge.leaderboard.reading import load_runs
from mtrl_judge.leaderboard.view import build_view

LEVELS = [str(level) for level in range(1, 11)]
SLOTS = ("A", "B", "C")
ABOUT = {
    "rated": {"kind": "score", "verdicts": LEVELS},
    "ranked": {"kind": "ranking", "verdicts": list(SLOTS)},
}
METRICS = {"yes": "macro_f1", "safe": "macro_f1", "rated": "spearman", "ranked": "kendall"}


def rated(skill: float) -> list[dict[str, Any]]:
    labels, answers = Random(0), Random(str(skill))
    rows = []
    for number in range(90):
        label = labels.choice(LEVELS)
        rows.append(sample(number, label, label if answers.random() < skill else "5"))
    return rows


def ranked(skill: float) -> list[dict[str, Any]]:
    labels, answers = Random(1), Random(str(skill))
    rows = []
    for number in range(90):
        label = ">".join(labels.sample(SLOTS, 3))
        other = ">".join(answers.sample(SLOTS, 3))
        rows.append(sample(number, label, label if answers.random() < skill else other))
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("several")
    for name, skill in (("good", 0.9), ("bad", 0.2)):
        tasks = {
            "yes": judged_rows(90, skill, 0),
            "safe": judged_rows(60, skill, 1),
            "rated": rated(skill),
            "ranked": ranked(skill),
        }
        write_results(out / name, tasks, model=name, about=ABOUT)
    return out


def test_each_task_is_ranked_by_its_own_metric(folder: Path) -> None:
    board = build_leaderboard(load_runs([folder]), resamples=300)
    assert {task.name: task.metric for task in board.tasks} == METRICS
    assert board.metrics[0] == board.metric == "macro_f1"
    for task in board.tasks:
        assert [str(task.ranks[judge]) for judge in ("good", "bad")] == ["1", "2"]
    # A mean of Macro-F1 and correlations would say nothing.
    (mean,) = board.means
    scores = [task.estimate("good", "macro_f1").value or 0.0 for task in board.tasks[-2:]]
    assert {task.name for task in board.tasks[-2:]} == {"safe", "yes"}
    assert mean.estimate("good", "macro_f1").value == pytest.approx(sum(scores) / 2)
    assert any("2 of 4 tasks with Macro-F1" in note for note in board.notes)
    cells = {row.title: row.cells for row in build_view(board, full=False).scores.rows}
    assert cells["rated"]["metric"].value == "spearman"
    assert cells["mean in distribution"]["metric"].value == "Macro-F1"


def test_no_judge_may_have_all_tasks(tmp_path: Path) -> None:
    for name, task in (("first", "yes"), ("second", "safe")):
        write_results(tmp_path / name, {task: judged_rows(90, 0.8, 0)}, model=name)
    board = build_leaderboard(load_runs([tmp_path]), resamples=100)
    (mean,) = board.means
    assert not mean.scores
    assert not mean.ranks
    assert len(build_view(board, full=True).scores.rows) > 1


def test_one_metric_may_be_chosen_for_all(folder: Path) -> None:
    board = build_leaderboard(load_runs([folder]), metric="null_rate", resamples=100)
    assert board.metrics == ["null_rate"]
    assert not any("headline" in note for note in board.notes)


@pytest.mark.parametrize(
    "options",
    [["--full"], ["--format", "json"], ["--format", "csv"], ["--format", "latex"]],
    ids=" ".join,
)
def test_every_form_shows_all_tasks(folder: Path, options: list[str]) -> None:
    done = call("leaderboard", folder, *options, "--resamples", "100")
    assert done.exit_code == 0, done.output
    assert all(task in done.output for task in METRICS)


def test_pages_and_plots_show_all_tasks(folder: Path, tmp_path: Path) -> None:
    page, plots = tmp_path / "page.html", tmp_path / "plots"
    words = ["leaderboard", folder, "--format", "html", "--out", page, "--plots", plots]
    assert call(*words, "--resamples", "100").exit_code == 0
    assert "Macro-F1, kendall, spearman" in page.read_text(encoding="utf-8")
    drawn = (plots / "scores.svg").read_text(encoding="utf-8")
    assert all(name in drawn for name in METRICS)


def test_the_gate_tests_each_task_by_its_own_metric(folder: Path) -> None:
    good, bad = (load_runs([folder / name])[0] for name in ("good", "bad"))
    gate = run_gate(bad, good, resamples=500)
    assert {task.task: task.metric for task in gate.tasks} == METRICS
    assert {task.outcome for task in gate.tasks} == {"failed"}
    assert run_gate(good, good, resamples=500).outcome == "passed"
    baseline = folder / "baseline.json"
    assert call("baseline", "save", folder / "good", "--out", baseline).exit_code == 0
    assert json.loads(baseline.read_text(encoding="utf-8"))["entries"]
    done = call("gate", folder / "bad", "--baseline", baseline)
    assert done.exit_code == 1
    assert "`kendall`, `macro_f1`, `spearman`; higher is better." in done.output
