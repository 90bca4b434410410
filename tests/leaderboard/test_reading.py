"""lmms-eval's files read back, and what is wrong with them told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.results import DATE, VERDICTS, sample, write_results

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.leaderboard.reading import load_runs, short_names
from mtrl_judge.metrics.records import Record

TASK = "mtrl_judge_mine"
ABOUT = {"verdicts": VERDICTS, "fingerprint": "f", "style": "direct"}
ODD = "a | b / c \u2028 d \u0085 😀 \x0b <script>"


def odd_sample(n: int, **changes: Any) -> dict[str, Any]:
    """Every second row is the other order of its pair; every fifth has no verdict."""
    row = {"pair_id": f"pair {n // 2}", "order": "BA" if n % 2 else "AB", "text": f"{ODD} {n}"}
    return sample(n, VERDICTS[n % 2 == 0], "Yes" if n % 5 else None, **row, **changes)


def write_run(folder: Path, *, date: str = DATE, name: str = "a/judge", rows: Any = None) -> Path:
    """A run of one judge task and of another task that is none."""
    rows = [odd_sample(n) for n in range(6)] if rows is None else rows
    file = write_results(folder, {TASK: rows}, model=name, date=date, about={TASK: ABOUT})
    results = json.loads(file.read_text(encoding="utf-8"))
    results["configs"]["other"] = {"metadata": {"version": 1}}
    results["n-samples"]["other"] = {"effective": 3}
    file.write_text(json.dumps(results), encoding="utf-8")
    return file


def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Line separators within a text are no ends of lines."""
    file = write_run(tmp_path / "logs" / "a__judge")
    (run,) = load_runs([tmp_path / "logs", file])
    assert (run.name, run.model, run.file) == ("judge", "a/judge", file)
    assert list(run.tasks) == [TASK]
    judged = run.tasks[TASK]
    assert judged.about.items() >= ABOUT.items()
    assert list(judged.item_ids) == [f"item {n:05d}" for n in range(6)]
    assert list(judged.texts) == [f"{ODD} {n}" for n in range(6)]
    assert judged.records[0] == Record("No", None, False, "pair 0", swapped=False)
    assert judged.records[3] == Record("Yes", "Yes", True, "pair 1", swapped=True)
    assert judged.probabilities is judged.votes is None
    assert judged.clusters == [f"pair {n // 2}" for n in range(6)]
    assert judged.n == 6


def test_probabilities_are_kept_where_all_samples_have_them(tmp_path: Path) -> None:
    odds = {"Yes": 0.25, "No": 0.75}
    rows = [odd_sample(n, probabilities=odds) for n in range(3)]
    write_run(tmp_path / "all", rows=rows)
    write_run(tmp_path / "some", rows=[*rows, odd_sample(3)])
    found = [load_runs([tmp_path / name])[0].tasks[TASK] for name in ("all", "some")]
    assert found[0].probabilities == [odds] * 3
    assert found[1].probabilities is None


def test_runs_of_one_model_are_told_apart_and_in_order(tmp_path: Path) -> None:
    for date in ("20260303_000000", "20260101_000000"):
        write_run(tmp_path, date=date)
    write_run(tmp_path / "b", name="b", date="20260202_000000")
    names = [run.name for run in load_runs([tmp_path])]
    assert names == ["judge (20260101_000000)", "b", "judge (20260303_000000)"]


def test_repeats_are_votes_and_clusters_are_what_the_samples_say(tmp_path: Path) -> None:
    """lmms-eval judges the first answer and keeps the others as `resps`."""
    answers = [["<answer>Yes</answer>", "<answer>No</answer>", "well"]]
    write_run(
        tmp_path, rows=[odd_sample(1, resps=answers, cluster="c"), odd_sample(2, resps=[["one"]])]
    )
    judged = load_runs([tmp_path])[0].tasks[TASK]
    assert judged.votes == [["Yes", "No", None], []]
    assert judged.clusters == ["c", "pair 1"]


def test_a_row_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, rows=[odd_sample(1), odd_sample(1)])
    with pytest.raises(JudgeError, match="item 'item 00001' is there twice"):
        load_runs([tmp_path])


def test_names_are_as_short_as_they_can_be() -> None:
    models = ["/a/x/judge", "/a/y/judge", "owner/model", "judge", "/"]
    assert list(short_names(models).values()) == ["x/judge", "y/judge", "model", "judge", "/"]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def samples_of(file: Path) -> Path:
    return next(file.parent.glob("*.jsonl"))


def drop_last(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").split("\n")
    file.write_text("\n".join(lines[:-2]) + "\n", encoding="utf-8")


def rewrite(**changes: Any) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        results = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps(results), encoding="utf-8")

    return write


BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (cut, "not valid JSON .*; is the file truncated"),
    (lambda file: cut(samples_of(file)), "line 6: not valid JSON"),
    (lambda file: drop_last(samples_of(file)), "5 of 6 samples; is it cut"),
    (lambda file: samples_of(file).unlink(), "run lmms-eval with --log_samples"),
    (lambda file: samples_of(file).write_bytes(b"\xff\xfe"), "cannot be read"),
    (lambda file: samples_of(file).write_text("[1]\n"), "expected a JSON object"),
    (lambda file: samples_of(file).write_text('{"item_id": 1}\n'), "has no 'label'"),
    (
        lambda file: samples_of(file).write_text(
            json.dumps(odd_sample(0) | {"verdict": "Maybe"}) + "\n"
        ),
        r"verdict 'Maybe' is none of \['Yes', 'No'\]",
    ),
    (lambda file: file.write_text("[]"), "found list"),
    (rewrite(configs={}), "no judge task in it"),
    (rewrite(configs=[]), "not the results that lmms-eval 0.7 writes .its version: 0.7.3"),
    (lambda file: file.unlink(), "no lmms-eval results"),
]


@pytest.mark.parametrize(("breaks", "message"), BROKEN)
def test_what_is_wrong_is_told(
    tmp_path: Path, breaks: Callable[[Path], object], message: str
) -> None:
    breaks(write_run(tmp_path))
    with pytest.raises(JudgeError, match=message):
        load_runs([tmp_path])


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="no such file or folder"):
        load_runs([tmp_path / "nowhere"])
    with pytest.raises(JudgeError, match="is no results file"):
        load_runs([samples_of(write_run(tmp_path))])
