"""Rows that have to be right together, by the example of Winoground's three scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.results import sample, write_results
from support.tasks import PAIR, pairs, raw_dataset, write_task

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.rescore import rescore
from mtrl_judge.judge_tasks.rows import to_rows
from mtrl_judge.leaderboard.board import build_leaderboard
from mtrl_judge.leaderboard.file import entries_of, read_entries, write_entries
from mtrl_judge.leaderboard.reading import load_runs
from mtrl_judge.leaderboard.report import render_report
from mtrl_judge.leaderboard.view import build_view, joint_table
from mtrl_judge.metrics.joint import joint_metrics
from mtrl_judge.metrics.records import Record

# Five items (each row here) with two images and two captions: which caption fits the first image,
# which the second; which image fits the first caption, which the second. 1 is right.
ITEMS = ["1111", "1110", "1011", "1100", "0000"]
# By hand, as in winoground's README: text score needs both captions, image score both images.
TEXT, IMAGE, GROUP = 3 / 5, 2 / 5, 1 / 5


def winoground(items: list[str] = ITEMS, *, both_orders: bool = False) -> list[Record]:
    verdict_of = {"1": "1", "0": "2", "-": None, "x": None}
    return [
        Record(
            "1",
            verdict_of[right],
            pair_id=f"{item} {row}" if both_orders else None,
            group="text" if row < 2 else "image",
            joint=str(item),
            failure="failed" if right == "x" else None,
        )
        for item, rights in enumerate(items)
        for row, right in enumerate(rights)
    ]


def test_winogrounds_scores() -> None:
    assert joint_metrics(winoground()) == {
        "joint_accuracy": GROUP,
        "joint_accuracy_image": IMAGE,
        "joint_accuracy_text": TEXT,
    }


def test_a_missing_verdict_is_wrong_and_a_failed_request_is_no_group() -> None:
    found = joint_metrics(winoground(["1111", "111-", "11x1", "xxxx"]))
    assert found["joint_accuracy"] == 1 / 2
    # The texts of the third item are known, although one of its images is not.
    assert found["joint_accuracy_text"] == 1
    assert joint_metrics([Record("1", "1"), Record(None, "2", joint="a")]) == {
        "joint_accuracy": None
    }


def rows(items: list[str]) -> list[dict[str, Any]]:
    return [
        sample(
            number,
            record.label,
            record.verdict,
            group=record.group,
            joint=record.joint,
            cluster=record.joint,
        )
        for number, record in enumerate(winoground(items))
    ]


def test_the_leaderboard_draws_whole_groups(tmp_path: Path) -> None:
    about = {"t": {"verdicts": ["1", "2"], "kind": "pointwise"}}
    for name, items in {"good": ITEMS * 12, "poor": ["0111", "1101"] * 30}.items():
        write_results(tmp_path / name, {"t": rows(items)}, about=about, model=name)
    board = build_leaderboard(load_runs([tmp_path]), metric="joint_accuracy", resamples=2000)
    write_entries(entries_of(board), tmp_path / "board.json", force=False)
    again = build_leaderboard(
        read_entries(tmp_path / "board.json"), metric="joint_accuracy", resamples=2000
    )
    for each in (board, again):
        (task,) = each.tasks
        assert task.estimate("good", "joint_accuracy_text").value == pytest.approx(TEXT)
        assert task.estimate("good", "joint_accuracy_image").value == pytest.approx(IMAGE)
        known = task.estimate("good", "joint_accuracy")
        assert known.value == pytest.approx(GROUP)
        # Of 60 groups that are right or wrong with p = .2, not of 240 rows.
        assert known.high is not None
        assert known.low is not None
        error = np.sqrt(GROUP * (1 - GROUP) / 60)
        assert known.high - known.low == pytest.approx(2 * 1.96 * error, rel=0.15)
        # The other judge has a higher accuracy and is never right about a whole group.
        assert task.estimate("poor", "accuracy").value == pytest.approx(0.75)
        assert task.estimate("poor", "joint_accuracy").value == 0
        (comparison,) = task.comparisons
        assert comparison.p_value < 0.01
    table = joint_table(board)
    assert list(table.rows[0].cells) == ["all rows", "image", "text"]
    assert "Right about all rows of a group" in render_report(board, build_view(board, full=True))


def test_from_a_yaml_to_its_metrics(tmp_path: Path) -> None:
    task = write_task(tmp_path, joint_by="one", groups="two", **PAIR)
    data = pairs(4) | {"one": ["x", "x", "y", None], "two": ["t", "i", "t", "i"]}
    judged = to_rows(RawSplit(task, raw_dataset(data))).dataset.with_format(None)
    joint = judged["joint"][:]
    assert [name == joint[0] for name in joint] == [True] * 4 + [False] * 4
    assert (joint[6], len({*joint})) == (None, 3)
    # Rows that have to be right together depend on each other.
    assert judged["cluster"][:6] == joint[:6]
    assert task.metrics[-1] == "joint_accuracy"
    outputs = [
        {**{key: row[key] for key in ("item_id", "label", "joint", "group", "swapped", "pair_id")}}
        | {"text": "1" if row["label"] is None or index == 1 else row["label"]}
        for index, row in enumerate(judged)
    ]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in outputs), encoding="utf-8")
    metrics = rescore(str(task.path), file, out=None, force=False).metrics
    # The second order of the first pair is wrong, and with it x.
    assert metrics["joint_accuracy"] == 1 / 2
    assert (metrics["joint_accuracy_i"], metrics["joint_accuracy_t"]) == (1, 1 / 2)


@pytest.mark.parametrize("kind", ["score", "ranking"])
def test_kinds_that_are_more_or_less_right_refuse_it(tmp_path: Path, kind: str) -> None:
    with pytest.raises(JudgeError, match=r"judge\.joint_by: is for rows that are either right"):
        write_task(tmp_path, kind=kind, joint_by="text")
