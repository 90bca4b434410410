"""Judges of rankings on the leaderboard and at the gate, by metrics computed from rows."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from support.commands import call
from support.results import sample, write_results

from mtrl_judge.common.errors import DataError
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.leaderboard.board import build_leaderboard
from mtrl_judge.leaderboard.reading import load_runs
from mtrl_judge.metrics.ranking_summary import RANKING_METRICS
from mtrl_judge.metrics.records import Record

SLOTS = ("A", "B", "C")


def rows(skill: float, n: int = 90) -> list[dict[str, Any]]:
    """Rows of the same labels for every skill; three rows are a cluster."""
    labels, answers = Random(n), Random(str(skill))
    judged = []
    for number in range(n):
        label = ">".join(labels.sample(SLOTS, 3))
        other = answers.choice([">".join(answers.sample(SLOTS, 3)), "A=B>C", None])
        verdict = label if answers.random() < skill else other
        judged.append(sample(number, label, verdict, cluster=f"item {number // 3}"))
    return judged


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("rankings")
    about = {"my_ranking": {"kind": "ranking", "verdicts": list(SLOTS)}}
    return [
        write_results(folder / name, {"my_ranking": rows(skill)}, model=name, about=about)
        for name, skill in (("good", 0.8), ("bad", 0.2))
    ]


def test_judges_are_ranked_by_kendall_with_an_interval(files: list[Path]) -> None:
    board = build_leaderboard(load_runs(files), resamples=500)
    (task,) = board.tasks
    assert board.metric == "kendall"
    for judge, skill in (("good", 0.8), ("bad", 0.2)):
        records = [Record(row["label"], row["verdict"]) for row in rows(skill)]
        expected = KINDS["ranking"].summarize(records, SLOTS, False)
        for metric in RANKING_METRICS:
            found = task.estimate(judge, metric)
            assert found.value == expected[metric]
            assert found.low is not None
            assert found.high is not None
            assert found.low < found.value < found.high
    assert [str(task.ranks[judge]) for judge in ("good", "bad")] == ["1", "2"]


@pytest.mark.parametrize("metric", ["edit_distance", "position_bias"])
def test_less_of_some_metrics_is_better(files: list[Path], metric: str) -> None:
    done = call("leaderboard", *files, "--metric", metric, "--resamples", "200", "--format", "json")
    assert done.exit_code == 0, done.exception
    board = build_leaderboard(load_runs(files), metric=metric, resamples=200)
    assert [run.name for run in board.runs] == ["good", "bad"]


def test_every_output_and_the_gate_take_rankings(files: list[Path], tmp_path: Path) -> None:
    for extra in (["--full"], ["--format", "html", "--out", tmp_path / "board.html"]):
        done = call("leaderboard", *files, *extra, "--resamples", "200")
        assert done.exit_code == 0, done.exception
    board = tmp_path / "board.json"
    assert call("leaderboard", "add", board, *files, "--resamples", "200").exit_code == 0
    rates = json.loads(board.read_text())["entries"][0]["tasks"]["my_ranking"]["rates"]
    assert set(RANKING_METRICS) <= rates.keys()
    assert "kendall" in call("leaderboard", board).stdout
    good, bad = files
    assert call("gate", bad, "--baseline", good).exit_code == 1
    assert call("gate", good, "--baseline", bad).exit_code == 0


def test_items_may_have_fewer_candidates_than_the_task(tmp_path: Path) -> None:
    about = {"my_ranking": {"kind": "ranking", "verdicts": list(SLOTS)}}
    judged = [sample(0, "B>A", "B>A"), sample(1, "C>A>B", "C>A>B"), sample(2, None, "A>B")]
    file = write_results(tmp_path, {"my_ranking": judged}, about=about)
    (run,) = load_runs([file])
    assert run.tasks["my_ranking"].n == 2
    for label, verdict in (("B>A", "B>A>C"), ("C>A>B", "A>B"), ("C>A", None)):
        wrong = [*judged, sample(3, label, verdict)]
        with pytest.raises(DataError, match="expected one of"):
            load_runs([write_results(tmp_path, {"my_ranking": wrong}, about=about)])
