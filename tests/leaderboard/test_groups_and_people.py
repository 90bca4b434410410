"""Rates by group and agreement with people's ratings: tables, files and gate."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, roc_auc_score
from support.results import sample, write_results
from typer.testing import CliRunner, Result

from mtrl_judge.cli.main import app
from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.leaderboard.board import Leaderboard, build_leaderboard
from mtrl_judge.leaderboard.file import entries_of, read_entries, write_entries
from mtrl_judge.leaderboard.gate import run_gate
from mtrl_judge.leaderboard.reading import load_run, load_runs
from mtrl_judge.leaderboard.report import render_report
from mtrl_judge.leaderboard.view import build_view, group_table, human_table

FEW = 400
SOURCES = ("draw|bench", "<b>edit</b>", "drawn\u202ebench")
Rows = list[dict[str, Any]]


def rated_rows(noise: float, seed: int = 0, n: int = 240, shift: float = 0.0) -> Rows:
    """Rows with probabilities, people's ratings and a source; every twelfth has no source."""
    truth, judge = Random(n), Random(f"{noise} {seed}")
    rows = []
    for number in range(n):
        quality = truth.gauss(0, 1)
        logit = 2 * quality + judge.gauss(0, noise) + shift
        p_yes = 1 / (1 + np.exp(-logit))
        rating = round(4 + 1.5 * quality, 1)
        verdict = "Yes" if p_yes > 0.5 else "No"
        rows.append(
            sample(
                number,
                "Yes" if rating >= 4 else "No",
                verdict,
                cluster=f"prompt {number // 3}",
                probabilities={"Yes": p_yes, "No": 1 - p_yes},
                group=None if number % 12 == 0 else SOURCES[number % 3],
                human={"rating": rating, "group": f"{number // 3}", "rank": None},
            )
        )
    return rows


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for number, (name, noise) in enumerate({"good": 0.5, "same": 0.5, "poor": 6.0}.items()):
        write_results(folder / name, {"t": rated_rows(noise, number)}, model=name)
    return folder


@pytest.fixture(scope="module")
def board(results: Path) -> Leaderboard:
    return build_leaderboard(load_runs([results]), metric="spearman_human", resamples=FEW)


def test_scores_agree_with_people_as_scipy_says(board: Leaderboard) -> None:
    (task,) = board.tasks
    for run in board.runs:
        rows = run.tasks["t"].samples
        scores = [row.probabilities["Yes"] for row in rows if row.probabilities]
        ratings = [row.human.rating for row in rows if row.human]
        spearman = task.estimate(run.name, "spearman_human")
        assert spearman.value == pytest.approx(spearmanr(scores, ratings).statistic)
        assert spearman.low is not None
        assert spearman.high is not None
        assert spearman.low < spearman.value < spearman.high
        labels = [row.record.label == "Yes" for row in rows]
        area = task.estimate(run.name, "auc_human").value
        assert area == pytest.approx(roc_auc_score(labels, scores))
    assert task.ranks == {"good": (1, 2), "same": (1, 2), "poor": (3, 3)}
    assert task.detectable is not None


def test_groups_are_shown_between_overall_and_macro_mean(board: Leaderboard) -> None:
    (task,) = board.tasks
    table = group_table(board)
    of_poor = [row for row in table.rows if row.title == "poor"]
    names = [str(row.cells["group"].value) for row in of_poor]
    assert names == [
        "overall (all rows)",
        *sorted(source.replace("\u202e", "\ufffd") for source in SOURCES),
        "macro mean of 3 groups",
    ]
    poor = next(run for run in board.runs if run.name == "poor").tasks["t"].records
    shares = [
        accuracy_score(
            [record.label for record in poor if record.group == source],
            [record.verdict for record in poor if record.group == source],
        )
        for source in SOURCES
    ]
    macro = task.estimate("poor", "accuracy_group_mean")
    assert macro.value == pytest.approx(np.mean(shares))
    assert macro.low is not None
    assert of_poor[-1].cells["accuracy"].value == macro
    assert macro.value != task.estimate("poor", "accuracy").value
    assert "good: 20 labeled rows of t have no group." in table.note


def test_judges_are_ranked_by_a_macro_mean(results: Path) -> None:
    by_mean = build_leaderboard(load_runs([results]), metric="accuracy_group_mean", resamples=FEW)
    (task,) = by_mean.tasks
    assert task.ranks == {"good": (1, 2), "same": (1, 2), "poor": (3, 3)}
    assert len(task.comparisons) == 3
    assert by_mean.means[0].estimate("good", "accuracy_group_mean") == task.estimate(
        "good", "accuracy_group_mean"
    )


def test_hostile_groups_are_text_in_every_format(results: Path) -> None:
    def shown(form: str) -> str:
        command = ["leaderboard", str(results), "--full", "--format", form]
        done: Result = CliRunner().invoke(app, [*command, "--resamples", "100"])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "&lt;b>edit" in shown("md")
    records = list(csv.DictReader(io.StringIO(shown("csv"))))
    groups = {record["group"] for record in records if record["rate"] == "accuracy"}
    assert groups == {"", *(source.replace("\u202e", "\ufffd") for source in SOURCES)}
    assert {record["rate"] for record in records} >= {"spearman_human", "accuracy_group_mean"}
    board = build_leaderboard(load_runs([results]), resamples=FEW)
    page = render_report(board, build_view(board, full=True))
    assert "<b>edit" not in page
    assert "Agreement with people&#39;s ratings" in page


def accuracies_by_group(board: Leaderboard) -> dict[tuple[str, object], float | None]:
    return {
        (row.title, row.cells["group"].value): row.cells["accuracy"].number
        for row in group_table(board).rows
    }


def test_a_leaderboard_file_keeps_groups_scores_and_ratings(
    board: Leaderboard, tmp_path: Path
) -> None:
    write_entries(entries_of(board), tmp_path / "board.json", force=False)
    again = build_leaderboard(
        read_entries(tmp_path / "board.json"), metric="spearman_human", resamples=FEW
    )
    for run in board.runs:
        for rate, score in board.tasks[0].scores[run.name].items():
            assert again.tasks[0].estimate(run.name, rate).value == pytest.approx(
                score.value, abs=1e-4
            ), rate
    assert accuracies_by_group(again) == accuracies_by_group(board)
    assert again.tasks[0].ranks == board.tasks[0].ranks
    # Without rows, what the file reports is still shown.
    write_entries(entries_of(board, rows=False), tmp_path / "rates.json", force=False)
    rates = build_leaderboard(read_entries(tmp_path / "rates.json"), resamples=FEW)
    assert len(human_table(rates).rows) == 3


@pytest.mark.parametrize(
    "metric", ["spearman_human", "auc_human_group_mean", "accuracy_group_mean"]
)
def test_the_gate_fails_a_judge_that_agrees_less(metric: str, results: Path) -> None:
    good, same, poor = (
        load_run(next((results / name).glob("*_results.json"))) for name in ("good", "same", "poor")
    )
    passed = run_gate(same, good, metric=metric, resamples=FEW)
    assert passed.outcome == "passed"
    assert passed.tasks[0].p_value is not None
    assert passed.tasks[0].detectable is not None
    failed = run_gate(poor, good, metric=metric, resamples=FEW)
    assert failed.outcome == "failed"
    assert "significantly worse" in failed.tasks[0].failures[0]
    assert run_gate(good, poor, metric=metric, resamples=FEW).outcome == "passed"


def test_a_task_without_ratings_is_not_comparable_by_them(tmp_path: Path) -> None:
    plain = [{**row, "human": None} for row in rated_rows(1.0)]
    run = load_run(write_results(tmp_path, {"t": plain}))
    gate = run_gate(run, run, metric="spearman_human", resamples=FEW)
    assert gate.outcome == "not comparable"
    assert "no value of spearman_human" in gate.tasks[0].obstacles[0]
    with pytest.raises(JudgeError, match="did you mean 'spearman_human'"):
        run_gate(run, run, metric="spearman_humn", resamples=FEW)


def test_means_over_tasks_about_the_same_clusters_are_drawn_jointly(tmp_path: Path) -> None:
    """One task twice is no more evidence than once."""
    rows = rated_rows(2.0)
    write_results(tmp_path / "one", {"t1": rows, "t2": rows})
    other = [{**row, "cluster": f"other {row['cluster']}"} for row in rows]
    write_results(tmp_path / "two", {"t1": rows, "t2": other}, model="two")
    widths = []
    for folder in ("one", "two"):
        mean = build_leaderboard(load_runs([tmp_path / folder]), resamples=2_000).means[0]
        (judge,) = mean.scores
        estimate = mean.estimate(judge, "spearman_human")
        assert estimate.low is not None
        assert estimate.high is not None
        widths.append(estimate.high - estimate.low)
    assert widths[1] / widths[0] == pytest.approx(2**-0.5, rel=0.1)


@pytest.mark.parametrize(
    "break_row",
    [
        lambda row: row["human"].update(rating="good"),
        lambda row: row["human"].update(rating=float("nan")),
        lambda row: row["human"].pop("rating"),
        lambda row: row.update(human=[1, 2]),
        lambda row: row.update(probabilities={"Yes": "a lot", "No": 0.1}),
    ],
)
def test_a_rating_that_cannot_be_read_is_reported(
    break_row: Callable[[dict[str, Any]], Any], tmp_path: Path
) -> None:
    rows = rated_rows(1.0, n=3)
    break_row(rows[1])
    file = write_results(tmp_path, {"t": rows})
    with pytest.raises(DataError, match=r"samples_t\.jsonl.*2.*human is"):
        load_run(file)
