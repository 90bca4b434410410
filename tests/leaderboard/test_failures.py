"""Failed and refused requests, from result files to tables: an outage is no wrong judgment."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import accuracy_score, f1_score
from support.commands import call
from support.results import VERDICTS, judged_pairs, judged_rows, write_results

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.experiments.launch import FailedRequestsError, require_answers
from mtrl_judge.judge_tasks.verdicts import PARSER_VERSION
from mtrl_judge.leaderboard.board import build_leaderboard
from mtrl_judge.leaderboard.compare import compare_perturbation
from mtrl_judge.leaderboard.gate import run_gate
from mtrl_judge.leaderboard.reading import load_runs

FEW = 200  # resamples
OUTAGE = "[LMMS_EVAL_REQUEST_FAILED after 5 retries] Error code: 503 - {'result': 'Yes'}"
TIMEOUT = "[LMMS_EVAL_REQUEST_FAILED after 5 retries] Request timed out."
REFUSAL = "[LMMS_EVAL_REQUEST_FAILED after 5 retries] {'code': 'content_filter'}"


def without_answer(rows: list[Any], texts: dict[int, str]) -> list[Any]:
    """Rows as an older version wrote them, that had read a verdict in each error message."""
    replaced = {row: {"text": text, "verdict": "Yes"} for row, text in texts.items()}
    return [{**row, **replaced.get(number, {})} for number, row in enumerate(rows)]


def few_failures(n: int = 400) -> list[Any]:
    return without_answer(judged_rows(n, 0.8, 0), {3: OUTAGE, 7: REFUSAL, 8: REFUSAL, 9: REFUSAL})


def test_rows_of_any_version_are_read_as_failed_or_refused(tmp_path: Path) -> None:
    file = write_results(tmp_path, {"t": few_failures()})
    result = load_runs([file])[0].tasks["t"]
    states = [record.state for record in result.records]
    assert [states[row] for row in (3, 7, 8, 9)] == ["failed", *["refused"] * 3]
    assert {record.verdict for record in result.records if record.failure} == {None}
    assert (result.n_rows, result.n, result.n_failed, result.n_refused) == (400, 399, 1, 3)


def test_rates_are_those_of_the_other_rows(tmp_path: Path) -> None:
    rows = few_failures()
    file = write_results(tmp_path, {"t": rows})
    board = build_leaderboard(load_runs([file]), resamples=FEW)
    (column,), judged = board.tasks, [row for n, row in enumerate(rows) if n != 3]
    labels = [row["label"] for row in judged]
    said = ["none" if row["text"] == REFUSAL else row["verdict"] or "none" for row in judged]

    def of(metric: str) -> float | None:
        return column.estimate("judge", metric).value

    options = {"labels": VERDICTS, "average": "macro", "zero_division": 0}
    assert of("macro_f1") == pytest.approx(f1_score(labels, said, **options))
    assert of("null_rate") == pytest.approx(said.count("none") / 399)
    given = [(label, verdict) for label, verdict in zip(labels, said, strict=True)]
    answered = list(zip(*(row for row in given if row[1] != "none"), strict=True))
    assert of("macro_f1_answered") == pytest.approx(f1_score(*answered, **options))
    assert of("accuracy_answered") == pytest.approx(accuracy_score(*answered))
    low, high = column.estimate("judge", "macro_f1_answered").low, of("macro_f1_answered")
    assert low is not None
    assert low < (high or 0)


def test_a_pair_with_a_failed_order_is_no_pair(tmp_path: Path) -> None:
    rows = judged_pairs(200, 1.0, 0)
    rows[4] = {**rows[4], "text": OUTAGE}
    result = load_runs([write_results(tmp_path, {"t": rows})])[0].tasks["t"]
    table = result.kind.summarize(result.records, result.verdicts, paired=True)
    assert (table["n"], table["n_pairs"], table["n_failed"]) == (399, 199, 1)
    assert (table["flip_rate"], table["both_orders_correct"]) == (0.0, 1.0)


def test_failed_repeats_do_not_vote(tmp_path: Path) -> None:
    rows = judged_rows(3, 1.0, 0)
    answers = [
        ["<answer>Yes</answer>", OUTAGE, "<answer>No</answer>"],
        [OUTAGE, REFUSAL, "<answer>No</answer>"],
        [OUTAGE, TIMEOUT, OUTAGE],
    ]
    for row, of_row in zip(rows, answers, strict=True):
        row |= {"resps": [of_row], "text": of_row[0], "verdict": "Yes"}
    file = write_results(tmp_path, {"t": rows}, about={"t": {"parser": PARSER_VERSION}})
    samples = load_runs([file])[0].tasks["t"].samples
    assert [list(sample.votes) for sample in samples] == [["Yes", "No"], [None, "No"], []]
    # Of the second row, the first request that did not fail was refused.
    assert [sample.record.state for sample in samples] == ["judged", "refused", "failed"]
    assert [len(sample.failures) for sample in samples] == [1, 2, 3]


@pytest.mark.parametrize("command", ["show", "add", "baseline", "gate"])
def test_too_many_failures_are_refused_unless_allowed(tmp_path: Path, command: str) -> None:
    logs, before = tmp_path / "logs", tmp_path / "before"
    rows = judged_rows(100, 0.8, 0)
    write_results(logs, {"t": without_answer(rows, {1: TIMEOUT, 2: OUTAGE, 3: OUTAGE})})
    write_results(before, {"t": rows})
    words: list[object] = {
        "show": ["leaderboard", logs],
        "add": ["leaderboard", "add", tmp_path / "board.json", logs],
        "baseline": ["baseline", "save", logs, "--out", tmp_path / "baseline.json"],
        "gate": ["gate", logs, "--baseline", before],
    }[command]
    refused = call(*words)
    assert refused.exit_code
    message = f"{refused.exception}{refused.output}".replace("\\", "")
    assert "3 of 100 requests failed (3.0%), most often: Error code: 503" in message
    assert command == "gate" or "judge: t: 3 of 100" in message
    assert command == "gate" or "--max-failures 0.03" in message
    allowed = call(*words, "--max-failures", "0.03")
    assert allowed.exit_code == 0, allowed.exception
    again = call(*words, "--max-failures", "3")
    assert "--max-failures: is 3.0; expected a share from 0 to 1" in str(again.exception)


def test_few_failures_are_shown_next_to_n(tmp_path: Path) -> None:
    file = write_results(tmp_path / "logs", {"t": few_failures()})
    shown = call("leaderboard", file).output
    assert "Requests without an answer" in shown
    lines = [line.replace(" ", "") for line in shown.splitlines()]
    assert any(line.startswith("|t|judge|1(0%)|3(1%)|") for line in lines)
    heads = [line for line in lines if "|n|failed|refused|" in line]
    assert heads
    assert any("|399|1|3|" in line for line in lines)
    records = list(csv.DictReader(call("leaderboard", file, "--format", "csv").output.splitlines()))
    of_task = [record for record in records if record["task"] == "t"]
    assert {(r["n"], r["n_failed"], r["n_refused"]) for r in of_task} == {("399", "1", "3")}
    written = json.loads(call("leaderboard", file, "--format", "json").output)
    entry = written["entries"][0]["tasks"]["t"]
    assert (entry["n"], entry["n_rows"], entry["n_failed"], entry["n_refused"]) == (399, 400, 1, 3)
    report = tmp_path / "report.html"
    call("leaderboard", file, "--format", "html", "--out", report)
    html = report.read_text(encoding="utf-8")
    assert all(f in html for f in ("Requests without an answer", "∅ request failed", "∅ refused"))
    clean = write_results(tmp_path / "clean", {"t": judged_rows(400, 0.8, 0)})
    without = call("leaderboard", clean).output
    assert "failed" not in without
    assert "refused" not in without


def test_a_leaderboard_file_and_a_baseline_keep_the_states(tmp_path: Path) -> None:
    file = write_results(tmp_path / "logs", {"t": few_failures()})
    board = tmp_path / "board.json"
    assert call("leaderboard", "add", board, file).exit_code == 0
    (read,), (run,) = load_runs([board]), load_runs([file])
    assert read.tasks["t"].records == run.tasks["t"].records
    assert read.tasks["t"].failure_rate == run.tasks["t"].failure_rate == 1 / 400
    gate = run_gate(run, read, resamples=FEW)
    assert gate.outcome == "passed"
    assert (gate.tasks[0].n, gate.tasks[0].n_failed, gate.tasks[0].n_refused) == (399, 1, 3)
    bare = tmp_path / "bare.json"
    assert call("leaderboard", "add", bare, file, "--no-rows").exit_code == 0
    obstacles = run_gate(run, load_runs([bare])[0], resamples=FEW).tasks[0].obstacles
    assert obstacles == [
        "its rows are unknown in one run, and a test needs them (see `baseline save`)"
    ]


def test_the_gate_shows_failures_and_a_full_outage_has_no_score(tmp_path: Path) -> None:
    rows = judged_rows(50, 0.8, 0)
    before = write_results(tmp_path / "before", {"t": rows})
    out = without_answer(rows, dict.fromkeys(range(50), OUTAGE))
    now = write_results(tmp_path / "now", {"t": out})
    with pytest.raises(JudgeError, match=r"judge: t: 50 of 50 requests failed \(100.0%\)"):
        build_leaderboard(load_runs([now]))
    board = build_leaderboard(load_runs([now]), max_failures=1, resamples=FEW)
    assert {estimate.estimate.value for estimate in board.tasks[0].scores["judge"].values()} == {
        None
    }
    (run,), (baseline,) = load_runs([now]), load_runs([before])
    for most in (0.005, 1):
        gate = run_gate(run, baseline, resamples=FEW, max_failures=most)
        assert gate.outcome == "not comparable"
    done = call("gate", now, "--baseline", before)
    assert done.exit_code == 2
    assert "50 of 50 requests failed" in done.output.replace("\\", "")


def test_a_judge_beside_a_failing_one_keeps_its_interval_and_is_compared(tmp_path: Path) -> None:
    rows = judged_rows(200, 0.8, 0)
    failing = without_answer(judged_rows(200, 0.8, 1), dict.fromkeys(range(100), OUTAGE))
    files = [
        write_results(tmp_path / "a", {"t": failing}, model="a"),
        write_results(tmp_path / "b", {"t": rows}, model="b"),
    ]
    board = build_leaderboard(load_runs(files), max_failures=0.5, resamples=FEW)
    (column,) = board.tasks
    assert {name: column.n[name] for name in ("a", "b")} == {"a": 100, "b": 200}
    assert column.estimate("b", "accuracy").low is not None
    (pair,) = column.comparisons
    assert pair.discordant is not None
    both = list(zip(failing, rows, strict=True))[100:]
    right = [(a["verdict"] == a["label"], b["verdict"] == b["label"]) for a, b in both]
    assert pair.discordant == (right.count((True, False)), right.count((False, True)))


def test_a_row_that_failed_under_a_perturbation_has_not_changed(tmp_path: Path) -> None:
    rows = judged_rows(100, 1.0, 0)
    runs = [
        load_runs([write_results(tmp_path / name, {"t": of_run})])[0].tasks["t"]
        for name, of_run in (("a", rows), ("b", without_answer(rows, {5: OUTAGE})))
    ]
    effect = compare_perturbation("swap", *runs, resamples=FEW)
    assert (effect.changed.value, effect.unchanged, effect.perturbed) == (0.0, 1.0, 1.0)


def test_an_evaluation_with_failures_ends_with_their_messages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = without_answer(judged_rows(9, 0.8, 0), {1: TIMEOUT, 2: OUTAGE, 3: OUTAGE, 4: REFUSAL})
    file = write_results(tmp_path, {"t": rows})
    with pytest.raises(FailedRequestsError) as error:
        require_answers(load_runs([file]))
    assert error.value.exit_code == 1
    title, first, second, last = str(error.value).splitlines()
    assert title == "3 requests failed:"
    assert last.endswith(f"repeat them with mtrl-judge eval --retry-failed {file}")
    assert first.split(maxsplit=1) == ["2", "Error code: 503 - {'result': 'Yes'}"]
    assert second.split(maxsplit=1) == ["1", "Request timed out."]
    assert "1 requests were refused by a content filter:" in capsys.readouterr().out
    require_answers(load_runs([write_results(tmp_path / "good", {"t": judged_rows(9, 0.8, 0)})]))
