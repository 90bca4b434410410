"""Judges that rate: leaderboard, files, perturbations and further tables, from their results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from support.commands import call
from support.results import sample, write_results
from support.tasks import write_task

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.kinds.score import Score as ScoreKind
from mtrl_judge.judge_tasks.rescore import rescore
from mtrl_judge.judge_tasks.verdicts import PARSER_VERSION
from mtrl_judge.leaderboard.board import Leaderboard, build_leaderboard
from mtrl_judge.leaderboard.compare import compare_perturbation
from mtrl_judge.leaderboard.file import add_entries, entries_of
from mtrl_judge.leaderboard.reading import load_runs
from mtrl_judge.leaderboard.scores import Score, mean
from mtrl_judge.leaderboard.view import build_view

LEVELS = [str(level) for level in range(1, 11)]
GRADED = {"kind": "score", "verdicts": LEVELS}
Row = dict[str, Any]


def rated_rows(
    n: int, noise: float, seed: int = 0, *, nulls: int = 0, groups: int = 0
) -> list[Row]:
    """Samples of a judge that is off by `noise`; labels are the same for every judge."""
    labels = np.random.default_rng(n).uniform(1, 10, n).round(2)
    draw = np.random.default_rng(seed + 1)
    ratings = np.clip((labels + noise * draw.standard_normal(n)).round(1), 1, 10)
    return [
        sample(
            number,
            f"{label:g}",
            None if number < nulls else f"{rating:g}",
            **({"group": f"prompt {number % groups}"} if groups else {}),
        )
        for number, (label, rating) in enumerate(zip(labels, ratings, strict=True))
    ]


def board_of(folder: Path, judges: dict[str, Sequence[Row]], **keys: Any) -> Leaderboard:
    for name, rows in judges.items():
        tasks = {"graded": rows, "graded_too": rows[:60]}
        write_results(
            folder / name, tasks, model=name, about=dict.fromkeys(tasks, GRADED), metrics={}
        )
    return build_leaderboard(load_runs([folder]), resamples=400, **keys)


def test_judges_are_compared_by_spearman(tmp_path: Path) -> None:
    rows = {"good": rated_rows(120, 1), "fair": rated_rows(120, 3), "bad": rated_rows(120, 9)}
    board = board_of(tmp_path, rows)
    assert board.metric == "spearman"
    column = next(column for column in board.tasks if column.name == "graded")
    for name, of_judge in rows.items():
        pairs = [(float(row["label"]), float(row["verdict"])) for row in of_judge]
        expected = stats.spearmanr(pairs).statistic
        found = column.estimate(name, "spearman")
        assert found.value == pytest.approx(expected)
        assert found.low is not None
        assert found.low < expected < (found.high or 0)
        assert column.estimate(name, "accuracy").value is None
        assert column.estimate(name, "null_rate").value == 0
    assert {name: column.ranks[name] for name in rows} == {
        "good": (1, 1),
        "fair": (2, 2),
        "bad": (3, 3),
    }
    (mean,) = board.means
    assert mean.score("good", "spearman").draws_B is not None
    assert [run.name for run in board.runs] == ["good", "fair", "bad"]
    by_error = board_of(tmp_path, rows, metric="mae")
    assert [run.name for run in by_error.runs] == ["good", "fair", "bad"]
    labels_N = np.array([float(row["label"]) for row in rows["good"]])
    expected = np.abs(labels_N - np.median(labels_N)).mean()
    assert by_error.tasks[0].majority == pytest.approx(expected)
    view = build_view(board, full=True)
    titles = [table.title for table in view.tables if table.rows]
    assert "Metrics of score tasks" in titles
    assert "Where judges disagree" in titles
    assert "Calibration" not in titles


def test_missing_ratings_are_in_the_null_rate_and_in_the_headline(tmp_path: Path) -> None:
    rows = {"all": rated_rows(120, 1), "few": rated_rows(120, 1, nulls=60)}
    column = board_of(tmp_path, rows).tasks[0]
    known = {
        name: [
            column.estimate(name, rate) for rate in ("spearman", "spearman_answered", "null_rate")
        ]
        for name in rows
    }
    (headline, answered, null_rate) = known["few"]
    assert null_rate.value == 0.5
    assert null_rate.low is not None
    assert answered.value is not None
    assert headline.value is not None
    assert headline.value < answered.value - 0.2
    assert known["all"][0] == known["all"][1]


def test_headline_metrics_of_two_kinds_have_a_mean() -> None:
    """Of rates from counts there are more draws than of metrics from rows."""
    rng = np.random.default_rng(0)
    many_B, few_B = 0.7 + 0.1 * rng.standard_normal(10_000), 0.5 + 0.1 * rng.standard_normal(2_000)
    both = mean([Score.of(0.7, many_B, 50), Score.of(0.5, few_B, 40)], [1.0, 1.0])
    assert both.draws_B is not None
    assert len(both.draws_B) == 2_000
    assert both.value == pytest.approx(0.6)
    assert np.std(both.draws_B) == pytest.approx(0.1 / np.sqrt(2), rel=0.05)


def test_a_leaderboard_file_keeps_ratings(tmp_path: Path) -> None:
    rows = {"good": rated_rows(120, 1, groups=10), "fair": rated_rows(120, 3, groups=10)}
    board = board_of(tmp_path / "runs", rows)
    add_entries(tmp_path / "board.json", entries_of(board))
    again = build_leaderboard(load_runs([tmp_path / "board.json"]), resamples=400)
    for first, second in zip(board.tasks, again.tasks, strict=True):
        for judge in rows:
            values = [
                column.estimate(judge, "pairwise_accuracy").value for column in (first, second)
            ]
            assert values[0] == values[1]
            for rate in ("spearman", "kendall", "mae", "weighted_kappa"):
                assert first.estimate(judge, rate) == second.estimate(judge, rate)
    assert not board.tasks[0].groups  # pairs of rows are compared within them


@pytest.mark.parametrize("field", ["label", "verdict"])
def test_a_rating_that_is_not_on_the_scale_is_refused(tmp_path: Path, field: str) -> None:
    rows = rated_rows(6, 1)
    rows[3][field] = "11"
    write_results(tmp_path, {"graded": rows}, about={"graded": GRADED})
    with pytest.raises(JudgeError, match=f"{field} is '11'"):
        load_runs([tmp_path])


def test_a_perturbation_changes_ratings(tmp_path: Path) -> None:
    for name, noise in (("before", 1), ("after", 6)):
        rows = rated_rows(120, noise)
        write_results(tmp_path / name, {"graded": rows}, model=name, about={"graded": GRADED})
    after, before = (run.tasks["graded"] for run in sorted(load_runs([tmp_path])))
    effect = compare_perturbation("blank_image", before, after, resamples=300)
    assert effect.metric == "spearman"
    assert effect.n == 120
    assert effect.difference.value == pytest.approx(
        (effect.perturbed or 0) - (effect.unchanged or 0)
    )
    assert effect.difference.value < -0.2
    assert effect.p_value is not None
    assert effect.p_value < 0.05
    changed = np.mean(
        [a.verdict != b.verdict for a, b in zip(before.records, after.records, strict=True)]
    )
    assert effect.changed.value == pytest.approx(changed)


def test_saved_answers_are_rated_again(tmp_path: Path) -> None:
    task = write_task(
        tmp_path,
        "graded",
        kind="score",
        label="{column: mos}",
        scale="{min: 1, max: 10}",
        verdicts="null",
        groups="prompt",
    )
    rows = rated_rows(30, 1, groups=3)
    lines = [{**row, "text": f"Rating: [[{row['verdict']}/10]]"} for row in rows]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = rescore(str(task.path), file, out=None, force=False)
    pairs = [(float(row["label"]), float(row["verdict"])) for row in rows]
    assert found.metrics["spearman"] == pytest.approx(stats.spearmanr(pairs).statistic)
    assert found.metrics["n"] == 30
    done = call("score", file, "--task", task.path)
    assert done.exit_code == 0, done.exception


def test_several_ratings_of_a_row_are_averaged(tmp_path: Path) -> None:
    """Three ratings of each row, of which one may be missing."""
    rng = np.random.default_rng(0)
    labels = rng.uniform(1, 10, 60).round(2)
    ratings = np.clip(labels[:, None] + 3 * rng.standard_normal((60, 3)), 1, 10).round(1)
    texts = [[f"{rating:g}" for rating in of_row] for of_row in ratings]
    texts[0][1] = "Hard to say."
    rows = [
        sample(number, f"{label:g}", of_row[0], text=of_row[0], resps=[of_row])
        | {"well_formed": False}
        for number, (label, of_row) in enumerate(zip(labels, texts, strict=True))
    ]
    about = {"graded": {**GRADED, "parser": PARSER_VERSION}}
    write_results(tmp_path, {"graded": rows}, about=about)
    board = build_leaderboard(load_runs([tmp_path]), resamples=100)
    (table,) = (t for t in build_view(board, full=True).tables if t.title == "Mean ratings")
    cells = {name: cell.value for name, cell in table.rows[0].cells.items()}
    known = [[float(text) for text in row if text[0].isdigit()] for row in texts]
    means = [float(f"{np.mean(row):.6g}") for row in known]  # so that equal means are equal
    assert cells["ratings"] == 3
    for title, given in (("of one", ratings[:, 0]), ("of the mean", means)):
        assert cells[f"spearman {title}"] == pytest.approx(stats.spearmanr(labels, given).statistic)
        assert cells[f"mae {title}"] == pytest.approx(np.abs(labels - given).mean(), abs=1e-5)
    assert cells["spearman of the mean"] > cells["spearman of one"]
    assert cells["spread"] == pytest.approx(np.mean([np.std(row, ddof=1) for row in known]))


def test_a_mean_of_named_levels_is_a_level() -> None:
    kind = KINDS["score"]
    assert isinstance(kind, ScoreKind)
    named = ("bad", "fair", "good")
    assert kind.mean_rating(["bad", "good", "good", None], named) == "fair"
    assert kind.mean_rating([None], named) is None
    both = ("a: 1", "a: 2", "a: 3", "b: 1", "b: 2", "b: 3")
    assert kind.mean_rating(["a: 1, b: 3", "a: 2, b: 3"], both) == "a: 1.5, b: 3"
