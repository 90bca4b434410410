"""Reading lmms-eval's files, and the messages about files that are not as expected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.results import DATE, VERDICTS, sample, write_results

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.verdicts import PARSER_VERSION
from mtrl_judge.leaderboard.reading import complete_run, load_runs, short_names
from mtrl_judge.metrics.records import Record

TASK = "mtrl_judge_mine"
ABOUT = {"verdicts": VERDICTS, "fingerprint": "f", "style": "direct"}
ODD = "a | b / c \u2028 d \u0085 😀 \x0b <script>"


def odd_sample(n: int, **changes: Any) -> dict[str, Any]:
    """Every second row is the other order of its pair; every fifth has no verdict."""
    row = {"pair_id": f"pair {n // 2}", "order": "BA" if n % 2 else "AB", "text": f"{ODD} {n}"}
    return sample(n, VERDICTS[n % 2 == 0], "Yes" if n % 5 else None, **row, **changes)


def write_run(folder: Path, *, date: str = DATE, name: str = "a/judge", rows: Any = None) -> Path:
    """A run of a judge task and of a task of another kind."""
    rows = [odd_sample(n) for n in range(6)] if rows is None else rows
    file = write_results(folder, {TASK: rows}, model=name, date=date, about={TASK: ABOUT})
    results = json.loads(file.read_text(encoding="utf-8"))
    results["configs"] |= {"other": {"metadata": {"version": 1}}, "listed": {"metadata": [{}]}}
    results["n-samples"]["other"] = {"effective": 3}
    file.write_text(json.dumps(results), encoding="utf-8")
    return file


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Line separators within a text do not end a line."""
    file = write_run(tmp_path / "logs" / "a__judge")
    (run,) = load_runs([tmp_path / "logs", file])
    assert (run.name, run.model, run.file) == ("judge", "a/judge", file)
    assert list(run.tasks) == [TASK]
    result = run.tasks[TASK]
    assert result.metadata.items() >= ABOUT.items()
    assert (result.kind, result.paired) == (KINDS["pairwise"], True)
    assert [sample.item_id for sample in result.samples] == [f"item {n:05d}" for n in range(6)]
    assert [sample.text for sample in result.samples] == [f"{ODD} {n}" for n in range(6)]
    assert [sample.cluster for sample in result.samples] == [f"pair {n // 2}" for n in range(6)]
    assert result.records[0] == Record("No", None, False, "pair 0", swapped=False)
    assert result.records[3] == Record("Yes", "Yes", True, "pair 1", swapped=True)
    assert (result.n_rows, result.n) == (6, 6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": []},
        {"role": None},
        {"verdicts": None},
        {"versions": "x"},
        {"versions": {"a": 1}},
        {"source": []},
        {"label_rule": [[[1]]]},
        {"perturbation": ["x"]},
        {"threshold": "x"},
    ],
    ids=str,
)
def test_metadata_of_wrong_types_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    (field,) = wrong
    file = write_results(tmp_path, {TASK: []}, about={TASK: wrong})
    with pytest.raises(JudgeError, match=rf"configs\.{TASK}\.metadata\.judge.*{field}"):
        load_runs([file])


def test_repeats_are_votes_and_samples_may_name_their_cluster(tmp_path: Path) -> None:
    """lmms-eval scores the first answer and keeps all of them as `resps`."""
    answers = [["<answer>Yes</answer>", "<answer>No</answer>", "well"]]
    rows = [odd_sample(1, resps=answers, cluster="c"), odd_sample(2, resps=[["one"]])]
    for parser, votes in ((PARSER_VERSION, ["Yes", "No", None]), (PARSER_VERSION - 1, [])):
        file = write_results(tmp_path, {TASK: rows}, about={TASK: {**ABOUT, "parser": parser}})
        samples = load_runs([file])[0].tasks[TASK].samples
        assert [list(sample.votes) for sample in samples] == [votes, []]
        assert [sample.cluster for sample in samples] == ["c", "pair 1"]


def test_runs_have_short_unique_names_and_are_ordered_by_date(tmp_path: Path) -> None:
    for date in ("20260303_000000", "20260101_000000"):
        write_run(tmp_path, date=date)
    write_run(tmp_path / "b", name="b", date="20260202_000000")
    names = [run.name for run in load_runs([tmp_path])]
    assert names == ["judge (20260101_000000)", "b", "judge (20260303_000000)"]
    models = ["/a/x/judge", "/a/y/judge", "owner/model", "judge", "/"]
    assert list(short_names(models).values()) == ["x/judge", "y/judge", "model", "judge", "/"]


def test_the_newest_complete_run_is_found(tmp_path: Path) -> None:
    """lmms-eval writes the samples after the results, so a run can be interrupted in between."""
    assert complete_run(tmp_path) is None
    rows = [odd_sample(n) for n in range(4)]
    metrics = {TASK: {"macro_f1": 0.5, "flip_rate": float("nan")}}
    file = write_results(tmp_path, {TASK: rows}, about={TASK: ABOUT}, metrics=metrics)
    run = complete_run(tmp_path, [TASK])
    assert run is not None
    assert (run.file, run.tasks[TASK].samples, run.tasks[TASK].n_rows) == (file, (), 4)
    assert run.tasks[TASK].reported("macro_f1") == 0.5
    assert run.tasks[TASK].reported("flip_rate") is run.tasks[TASK].reported("accuracy") is None
    assert complete_run(tmp_path, [TASK, "other"]) is None
    newer = write_run(tmp_path / "newer")
    cut(samples_of(newer))
    assert complete_run(tmp_path, [TASK]) == run
    cut(file)
    assert complete_run(tmp_path) is None


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
    (lambda file: drop_last(samples_of(file)), "5 of 6 samples; is the file truncated"),
    (lambda file: samples_of(file).unlink(), "run lmms-eval with --log_samples"),
    (lambda file: samples_of(file).write_bytes(b"\xff\xfe"), "cannot be read"),
    (lambda file: samples_of(file).write_text("[1]\n"), "expected a JSON object"),
    (lambda file: samples_of(file).write_text('{"item_id": 1}\n'), "has no 'label'"),
    (
        lambda file: samples_of(file).write_text(
            json.dumps(odd_sample(0) | {"verdict": "Maybe"}) + "\n"
        ),
        r"verdict is 'Maybe'; expected one of \['Yes', 'No'\]",
    ),
    (lambda file: file.write_text("[]"), "found list"),
    (rewrite(configs={}), "no judge task; no config has metadata.judge"),
    (rewrite(configs=[]), "not results as lmms-eval 0.7 writes them .its version: 0.7.3"),
    (
        rewrite(configs={TASK: {"metadata": {"judge": {"kind": "odd"}}}}),
        f"configs.{TASK}.metadata.judge has the kind 'odd'; expected one of pairwise, pointwise",
    ),
    (lambda file: write_run(file.parent, rows=[odd_sample(1)] * 2), "'item 00001' is listed twice"),
    (lambda file: file.unlink(), "no lmms-eval results"),
]


@pytest.mark.parametrize(("breaks", "message"), BROKEN)
def test_faults_of_files_are_reported(
    tmp_path: Path, breaks: Callable[[Path], object], message: str
) -> None:
    breaks(write_run(tmp_path))
    with pytest.raises(JudgeError, match=message):
        load_runs([tmp_path])


def test_missing_and_unknown_files_are_reported(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="no such file or folder"):
        load_runs([tmp_path / "nowhere"])
    with pytest.raises(JudgeError, match="not a results file"):
        load_runs([samples_of(write_run(tmp_path))])
