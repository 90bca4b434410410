"""The leaderboard: what is compared, what differs significantly, what is refused."""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
import subprocess
import sys
import zlib
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import yaml
from packaging.version import Version
from sklearn.metrics import accuracy_score, f1_score
from support.commands import call
from support.results import VERDICTS, judged_pairs, judged_rows, sample, write_results
from typer.testing import Result

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.verdicts import PARSER_VERSION
from mtrl_judge.leaderboard.board import Leaderboard, build_leaderboard
from mtrl_judge.leaderboard.file import Entry, add_entries, entries_of, json_schema, read_file
from mtrl_judge.leaderboard.reading import load_runs
from mtrl_judge.leaderboard.tables import plain_text
from mtrl_judge.leaderboard.view import mean_table, pair_table, score_table

ROOT = Path(__file__).parents[2]
FEW = 500  # resamples
SKILLS = {"good": 0.92, "same": 0.92, "poor": 0.6}


def packed(text: str) -> str:
    """As a leaderboard file keeps rows."""
    return base64.b64encode(zlib.compress(text.encode())).decode()


def write_judges(folder: Path) -> Path:
    """Three judges on two training tasks and one of pairs."""
    for number, (name, skill) in enumerate(SKILLS.items()):
        tasks = {
            "mtrl_judge_a": judged_rows(200, skill, number),
            "mtrl_judge_b": judged_rows(300, skill, number + 10),
            "mtrl_judge_ood_pairs": judged_pairs(80, skill, number),
        }
        write_results(folder / name, tasks, model=f"owner/{name}", date=f"2026010{number}_000000")
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_judges(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def board(results: Path) -> Leaderboard:
    return build_leaderboard(load_runs([results]), resamples=FEW)


def message_of(result: Result) -> str:
    """The message about a user's mistake."""
    assert isinstance(result.exception, JudgeError), result.output
    return str(result.exception)


def test_values_are_scikit_learns_and_lie_in_their_intervals(board: Leaderboard) -> None:
    for column in board.tasks:
        for run in board.runs:
            records = run.tasks[column.name].records
            labels = [record.label for record in records]
            verdicts = [record.verdict or "none" for record in records]
            classes = run.tasks[column.name].verdicts
            expected = f1_score(labels, verdicts, labels=classes, average="macro")
            accuracy = column.estimate(run.name, "accuracy").value
            assert accuracy == pytest.approx(accuracy_score(labels, verdicts))
            macro_f1 = column.estimate(run.name, "macro_f1")
            assert macro_f1.value == pytest.approx(expected)
            low, high = macro_f1.low, macro_f1.high
            assert low is not None
            assert high is not None
            assert low < expected < high


def test_judges_that_do_not_differ_significantly_share_a_rank(board: Leaderboard) -> None:
    for column in (*board.tasks, *board.means):
        assert column.ranks == {"good": (1, 2), "same": (1, 2), "poor": (3, 3)}
        by_names = {(pair.first, pair.second): pair for pair in column.comparisons}
        assert [pair.significant for pair in by_names.values()] == [False, True, True]
        assert all(pair.adjusted >= pair.p_value for pair in by_names.values())
    # Of flips, fewer are better.
    other = build_leaderboard(board.runs, metric="flip_rate", resamples=FEW, sort="ood")
    assert other.tasks[-1].ranks == {"good": (1, 2), "same": (1, 2), "poor": (3, 3)}
    assert other.runs[-1].name == "poor"


def test_pairs_are_tested_as_pairs(board: Leaderboard) -> None:
    (pairs,) = (column for column in board.tasks if column.role == "ood")
    assert pairs.n == dict.fromkeys(SKILLS, 160)
    for pair in pairs.comparisons:
        assert pair.discordant is not None
        assert sum(pair.discordant) <= 80


def test_one_cluster_has_no_interval_no_test_and_no_rank(tmp_path: Path) -> None:
    """The means of its role have none either, and the table says why."""
    for number, (name, skill) in enumerate(SKILLS.items()):
        rows = [{**row, "cluster": "one prompt"} for row in judged_rows(160, skill, number)]
        tasks = {"t_one": rows, "t_many": judged_rows(160, skill, number)}
        write_results(tmp_path / name, tasks, model=name)
    board = build_leaderboard(load_runs([tmp_path]), resamples=FEW)
    many, one = board.tasks
    assert (many.clusters, one.clusters) == (160, 1)
    for name in SKILLS:
        assert one.estimate(name, "macro_f1").low is None
        assert board.means[0].estimate(name, "macro_f1").low is None
        assert many.estimate(name, "macro_f1").low is not None
    assert not one.comparisons
    assert not one.ranks
    assert not board.means[0].ranks
    (note,) = board.notes
    assert "t_one has no interval and is not tested: its 160 rows form too few" in note
    table = plain_text(score_table(board))
    assert "clusters" in table
    assert "#3" in table


def test_a_rare_verdict_has_no_interval(tmp_path: Path) -> None:
    rows = [sample(n, VERDICTS[n > 3], VERDICTS[n % 3 > 0]) for n in range(60)]
    write_results(tmp_path, {"t": rows})
    board = build_leaderboard(load_runs([tmp_path]), resamples=FEW)
    lows = {
        rate: board.tasks[0].estimate("judge", rate).low
        for rate in ("macro_f1", "recall_Yes", "recall_No", "accuracy")
    }
    assert [rate for rate, low in lows.items() if low is None] == ["macro_f1", "recall_Yes"]
    assert "too few labeled rows of a verdict (4 of 'Yes'" in board.notes[0]


def test_power_is_the_difference_that_tasks_can_show(results: Path, board: Leaderboard) -> None:
    first, second, *_ = board.tasks
    assert (first.detectable or 0) > (second.detectable or 1)  # 200 and 300 rows
    done = call("leaderboard", results, "--power", "--resamples", FEW)
    assert "## Power (Macro-F1)" in done.stdout
    assert "detectable" in call("leaderboard", results, "--resamples", FEW).stdout
    alone = build_leaderboard(board.runs[:1], resamples=FEW)
    assert (alone.tasks[0].detectable or 0) > 0.03


def test_tasks_that_share_their_rows_are_resampled_jointly(tmp_path: Path) -> None:
    """The mean over a task and its copy is no surer than the task; over two tasks it is."""
    rows = judged_rows(200, 0.8, 0)
    others = [{**row, "item_id": f"other {n}"} for n, row in enumerate(rows)]
    widths = {}
    for name, second in (("shared", rows), ("apart", others)):
        write_results(tmp_path / name, {"t_a": rows, "t_b": second}, model=name)
        board = build_leaderboard(load_runs([tmp_path / name]), resamples=4000)
        mean, task = (c.estimate(name, "accuracy") for c in (board.means[0], board.tasks[0]))
        widths[name] = ((mean.high or 0) - (mean.low or 0)) / ((task.high or 0) - (task.low or 0))
        assert board.means[0].clusters == (200 if name == "shared" else 400)
    assert widths["shared"] == pytest.approx(1, abs=0.05)
    assert widths["apart"] == pytest.approx(0.5**0.5, abs=0.05)


def test_means_and_accuracy_over_all_rows_reconcile(board: Leaderboard) -> None:
    inside = board.means[0]
    for judge, scores in inside.scores.items():
        parts = [column.estimate(judge, "accuracy").value or 0 for column in board.tasks[:2]]
        assert scores["accuracy"].value == pytest.approx(sum(parts) / 2)
        weighted = (200 * parts[0] + 300 * parts[1]) / 500
        assert scores["overall_accuracy"].value == pytest.approx(weighted)
        assert inside.n[judge] == 500
        outside = board.means[1].estimate(judge, "macro_f1").value or 0
        gap = (scores["macro_f1"].value or 0) - outside
        assert board.gaps[judge].value == pytest.approx(gap)
        assert (board.gaps[judge].low or 0) <= gap <= (board.gaps[judge].high or 0)


def test_the_same_seed_gives_the_same_table(results: Path, board: Leaderboard) -> None:
    runs = load_runs([results])
    again = build_leaderboard(runs, resamples=FEW)
    assert score_table(again) == score_table(board)
    other = build_leaderboard(runs, resamples=FEW, seed=1)
    assert score_table(other) != score_table(board)


def test_every_format_has_every_judge_and_task(results: Path) -> None:
    for form in ("md", "csv", "latex", "json"):
        done = call("leaderboard", results, "--format", form, "--resamples", FEW)
        assert done.exit_code == 0, done.output
        assert all(name in done.stdout for name in SKILLS), done.stdout
    lines = list(csv.DictReader(io.StringIO(call_csv(results))))
    assert {line["task"] for line in lines} == {
        "mtrl_judge_a",
        "mtrl_judge_b",
        "mtrl_judge_ood_pairs",
        "mean",
    }
    assert {line["judge"] for line in lines} == set(SKILLS)


def test_too_few_resamples_are_reported(results: Path) -> None:
    """Otherwise judges would share a rank however they differ."""
    runs = load_runs([results])
    (note,) = build_leaderboard(runs, resamples=50).notes
    assert "50 resamples are too few for any of 3 pairs of judges to differ significantly" in note
    assert "give --resamples 60" in note
    enough = build_leaderboard(runs, resamples=60)
    assert not enough.notes
    assert enough.tasks[0].ranks["poor"] == (3, 3)


def test_half_a_surrogate_pair_is_shown_as_a_replacement_character(tmp_path: Path) -> None:
    write_results(tmp_path, {"mtrl_judge_a": judged_rows(9, 1.0, 0)}, model="half \ud800")
    for kind in ("md", "csv", "json", "latex"):
        done = call("leaderboard", tmp_path, "--format", kind, "--resamples", 100)
        assert "\ufffd" in done.stdout, done.output


def call_csv(results: Path) -> str:
    return call("leaderboard", results, "--format", "csv", "--resamples", FEW).stdout


def test_full_tables_and_choices(results: Path) -> None:
    done = call(
        "leaderboard", results, "--full", "--tasks", "*_a", "--metric", "cohen_kappa",
        "--sort", "name", "--digits", 2, "--resamples", FEW,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    for title in ("Cohen's κ", "Pairs of judges", "Agreement with people", "Krippendorff's α"):
        assert title in done.stdout
    assert "mtrl_judge_b" not in done.stdout
    assert done.stdout.index("| good") < done.stdout.index("| poor")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metric", "macro_f2"], "no metric 'macro_f2'; did you mean 'macro_f1'"),
        (["--tasks", "nothing_*"], "no task 'nothing_*'"),
        (["--sort", "oood"], "no column 'oood'; did you mean 'ood'"),
        (["--across", "everything"], "no field 'everything'"),
    ],
)
def test_unknown_names_are_reported(results: Path, flags: list[str], message: str) -> None:
    assert message in message_of(call("leaderboard", results, *flags, "--resamples", 100))


def write_two(folder: Path, **about: Any) -> Path:
    """Two judges; `about` changes the metadata of the second."""
    rows = judged_rows(40, 0.8, 0)
    write_results(folder / "one", {"mtrl_judge_a": rows}, model="one")
    other = {"mtrl_judge_a": about}
    write_results(folder / "two", {"mtrl_judge_a": rows}, model="two", about=other)
    return folder


@pytest.mark.parametrize(
    ("kind", "about", "message"),
    [
        (
            "rows",
            {"fingerprint": "other"},
            "mtrl_judge_a by fingerprint: fingerprint of mtrl_judge_a: one | other: two",
        ),
        (
            "source",
            {"source": "sample"},
            "all tasks by source: real data: one | sample data: two",
        ),
        ("style", {"style": "direct"}, "mtrl_judge_a by style: reasoned: one | direct: two"),
        (
            "perturbation",
            {"perturbation": "swap"},
            "by perturbation: none: one | swap: two",
        ),
        ("parser", {"parser": 2}, "mtrl_judge_a by parser: version 1: one | version 2: two"),
        ("scoring", {"scoring": "logprob"}, "by scoring: generation: one | logprob: two"),
        ("version", {"version": "2.0"}, "by version: 1.0: one | 2.0: two"),
        ("instruction", {"instruction": "Say it."}, 'by instruction: "Think, then answer."'),
        ("question", {"question": "Is it?", "fingerprint": "f"}, 'by question: "The question'),
        (
            "label",
            {"label_rule": {"column": "label", "threshold": 5}, "fingerprint": "f"},
            'mtrl_judge_a by label: {"column": "label"}: one | {"column": "label", "threshold": 5}',
        ),
    ],
)
def test_runs_that_differ_are_compared_only_across_the_difference(
    tmp_path: Path, kind: str, about: dict[str, Any], message: str
) -> None:
    folder = write_two(tmp_path, **about)
    refused = message_of(call("leaderboard", folder, "--resamples", 100))
    assert message in refused
    assert f"--across {kind}" in refused
    done = call("leaderboard", folder, "--across", kind, "--resamples", 100)
    assert done.exit_code == 0, done.output
    assert message.split(":")[0] in done.stdout


def test_a_style_has_its_own_instruction(tmp_path: Path) -> None:
    folder = write_two(tmp_path, style="direct", instruction="Say it.")
    board = build_leaderboard(load_runs([folder]), across=["style"], resamples=100)
    assert board.notes == [
        "Compared across a difference: mtrl_judge_a by style: reasoned: one | direct: two."
    ]


def test_what_is_not_part_of_the_identity_may_differ_and_is_shown(tmp_path: Path) -> None:
    about = {
        "generation": {"max_new_tokens": 512},
        "max_pixels": 4096,
        "versions": {"torch": "2.13"},
        "model_revision": "abc",
    }
    rows = judged_rows(40, 0.8, 0)
    known = {
        "generation": {"max_new_tokens": 1024},
        "max_pixels": None,
        "versions": {"torch": "2.14", "vllm": "0.31"},
        "model_revision": "def",
    }
    for name, recorded, model_args in (
        ("one", known, "pretrained=one,dtype=float32,hf_token=hf_abcdefghij"),
        ("two", about, {"model": "two", "api_key": "sk-abcdefghij", "base_url": "https://u:p@h"}),
    ):
        write_results(
            tmp_path / name,
            {"mtrl_judge_a": rows},
            model=name,
            about={"mtrl_judge_a": recorded},
            model_source="mtrl_judge" if name == "one" else "openai",
            config={"model_args": model_args},
        )
    done = call("leaderboard", tmp_path, "--format", "json", "--resamples", 100)
    assert done.exit_code == 0, done.exception
    content = json.loads(done.stdout)
    (note,) = content["notes"]
    assert note == (
        "Also different: mtrl_judge_a by max_pixels: none: one | 4096: two; "
        "mtrl_judge_a by model_args base_url: not given: one | https://[redacted]@h: two; "
        "mtrl_judge_a by model_args dtype: float32: one | not given: two; "
        "mtrl_judge_a by generation max_new_tokens: 1024: one | 512: two; "
        "mtrl_judge_a by versions torch: 2.14: one | 2.13: two; "
        "all tasks by backend: mtrl_judge: one | openai: two."
    )
    assert note in content["tables"][0]["note"]
    assert not [secret for secret in ("abcdefghij", "u:p") if secret in done.stdout]


def test_a_value_that_is_not_recorded_is_said_to_be_assumed(tmp_path: Path) -> None:
    folder = write_two(tmp_path, scoring=None, question=None)
    board = build_leaderboard(load_runs([folder]), resamples=100)
    assert board.notes == ["Not recorded and assumed to agree: question, scoring of two."]


def test_a_leaderboard_file_keeps_the_identity(tmp_path: Path) -> None:
    """Runs of a file are refused beside those that differ, as the runs that it was made from."""
    about = {"scoring": "logprob", "calibration": {"fingerprint": "f", "labeled_rows": 60}}
    folder = write_two(tmp_path, **about, question="Is it?", fingerprint="f", max_pixels=9)
    file = tmp_path / "leaderboard.json"
    assert call("leaderboard", "add", file, folder / "two", "--resamples", 100).exit_code == 0
    for other in (folder / "two", file):
        refused = message_of(call("leaderboard", folder / "one", other))
        assert "--across question,scoring" in refused
        assert "fingerprint" not in refused
    across = ("--across", "question,scoring", "--resamples", 100)
    compared = call("leaderboard", folder / "one", file, *across)
    assert "by scoring: generation: one \\| logprob: two" in compared.stdout
    again = folder / "three"
    calibrated = {"fingerprint": "f", "labeled_rows": 99}
    write_results(
        again,
        {"mtrl_judge_a": judged_rows(40, 0.8, 0)},
        model="three",
        about={"mtrl_judge_a": {**about, "question": "Is it?", "calibration": calibrated}},
    )
    assert "by calibration: f, 60: two | f, 99: three" in message_of(
        call("leaderboard", file, again)
    )


def test_a_leaderboard_file_keeps_the_version_of_the_parser(tmp_path: Path) -> None:
    file = tmp_path / "leaderboard.json"
    added = call("leaderboard", "add", file, write_two(tmp_path, parser=2), "--resamples", 100)
    assert added.exit_code == 0, added.output
    assert [entry.tasks["mtrl_judge_a"].parser for entry in read_file(file).entries] == [1, 2]
    assert "by parser: version 1: one | version 2: two" in message_of(call("leaderboard", file))


def test_other_rows_of_one_split_are_refused_and_not_compared(tmp_path: Path) -> None:
    """As with --limit: the fingerprint, of all rows, is the same."""
    for name, n in (("one", 40), ("two", 30)):
        write_results(tmp_path / name, {"mtrl_judge_a": judged_rows(n, 0.8, 0)}, model=name)
    assert "by rows judged: 40 rows: one | 30 rows: two" in message_of(
        call("leaderboard", tmp_path)
    )
    board = build_leaderboard(load_runs([tmp_path]), across=["rows"], resamples=100)
    assert not board.tasks[0].comparisons
    assert not board.tasks[0].ranks
    assert "30 / 40" in plain_text(score_table(board))


def test_a_judge_without_some_task_has_no_mean(tmp_path: Path) -> None:
    rows = judged_rows(40, 0.8, 0)
    write_results(tmp_path / "one", {"t_a": rows, "t_b": rows}, model="one")
    write_results(tmp_path / "two", {"t_a": rows}, model="two")
    board = build_leaderboard(load_runs([tmp_path]), resamples=100)
    assert list(board.means[0].scores) == ["one"]
    assert "–" in plain_text(score_table(board))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [sample(0, "Yes", "Yes")],
        [sample(0, None, "Yes")],
        [sample(n, "Yes", "Yes") for n in range(9)],
        [sample(n, VERDICTS[n % 2], None) for n in range(9)],
    ],
    ids=["none", "one", "unlabeled", "one class", "no verdicts"],
)
def test_degenerate_tasks_make_a_table(tmp_path: Path, rows: list[Any]) -> None:
    for name in ("one", "two"):
        write_results(tmp_path / name, {"t": rows}, model=f"{name} | a/b `😀` <b>")
    done = call("leaderboard", tmp_path, "--full", "--resamples", 100)
    assert done.exit_code == 0, done.output
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert "nan" not in done.stdout
    assert "<b>" not in done.stdout
    widths = {line.replace("\\|", "").count("|") for line in table[:3]}
    assert len(widths) == 1
    assert call("leaderboard", tmp_path, "--format", "json", "--resamples", 100).exit_code == 0


def test_invalid_probabilities_are_refused(tmp_path: Path) -> None:
    odds = {"Yes": float("nan"), "No": 0.5}
    rows = [sample(n, "Yes", "Yes", probabilities=odds) for n in range(3)]
    write_results(tmp_path, {"t": rows})
    assert "samples of t: row 0" in message_of(call("leaderboard", tmp_path, "--full"))


def test_a_hundred_thousand_items(tmp_path: Path) -> None:
    write_results(tmp_path, {"t": judged_rows(100_000, 0.8, 0)})
    board = build_leaderboard(load_runs([tmp_path]), resamples=100)
    estimate = board.tasks[0].estimate("judge", "macro_f1")
    assert 0 < (estimate.high or 0) - (estimate.low or 0) < 0.02


def test_votes_of_repeats_and_of_runs_and_calibration(tmp_path: Path) -> None:
    answers = [["<answer>Yes</answer>", "<answer>No</answer>", "<answer>Yes</answer>"]]
    odds = {"Yes": 0.7, "No": 0.3}
    rows = [
        sample(n, VERDICTS[n % 3 == 0], "Yes", resps=answers, probabilities=odds) for n in range(30)
    ]
    for number in range(2):
        about = {"t": {"parser": PARSER_VERSION}}
        write_results(tmp_path, {"t": rows}, date=f"2026010{number}_000000", about=about)
    done = call("leaderboard", tmp_path, "--full", "--resamples", 100)
    assert done.exit_code == 0, done.output
    votes, calibration = done.stdout.split("## Votes")[1].split("## Calibration")
    assert "Macro-F1 of 3" in votes
    assert "(2 runs)" in votes
    assert "probability" in calibration
    assert "share of votes" in calibration
    _, curve = calibration.split("## Reliability")
    right = sum(row["label"] == "Yes" for row in rows) / len(rows)
    assert f"0.700 | {right:.3f}" in " ".join(curve.split())


# The file


def test_the_file_grows_refuses_duplicates_and_gives_the_same_table(
    tmp_path: Path, results: Path
) -> None:
    file = tmp_path / "leaderboard.json"
    for name in ("good", "poor"):
        done = call("leaderboard", "add", file, results / name, "--resamples", FEW)
        assert done.exit_code == 0, done.output
    before = file.read_bytes()
    again = call("leaderboard", "add", file, results / "good", "--resamples", FEW)
    assert "already has owner/good" in message_of(again)
    assert file.read_bytes() == before
    from_file = build_leaderboard(load_runs([file]), resamples=FEW)
    from_runs = build_leaderboard(load_runs([results / "good", results / "poor"]), resamples=FEW)
    for table in (score_table, mean_table, pair_table):
        assert table(from_file) == table(from_runs)


def add_at_once(file: Path, entry: Entry, number: int, start: Any) -> None:
    start.wait()
    add_entries(file, [entry.model_copy(update={"model": f"judge {number}"})])


def test_nothing_is_lost_if_several_processes_add_at_once(tmp_path: Path, results: Path) -> None:
    board = build_leaderboard(load_runs([results / "good"]), resamples=100)
    (entry,) = entries_of(board)
    processes = get_context("fork")
    for round_number in range(3):
        file, start = tmp_path / f"{round_number}.json", processes.Barrier(8)

        adding = [
            processes.Process(target=add_at_once, args=(file, entry, number, start))
            for number in range(8)
        ]
        for process in adding:
            process.start()
        for process in adding:
            process.join()
        assert [process.exitcode for process in adding] == [0] * 8
        models = [entry.model for entry in read_file(file).entries]
        assert models == [f"judge {number}" for number in range(8)]
    assert sorted(path.name for path in tmp_path.glob("*.json*")) == ["0.json", "1.json", "2.json"]
    assert not [*tmp_path.glob(".*")]


def test_without_rows_estimates_stay_and_nothing_is_tested(tmp_path: Path, results: Path) -> None:
    file = tmp_path / "leaderboard.json"
    added = call("leaderboard", "add", file, results, "--no-rows", "--resamples", FEW)
    assert added.exit_code == 0
    board = build_leaderboard(load_runs([file]), resamples=FEW)
    expected = build_leaderboard(load_runs([results]), resamples=FEW)
    assert score_table(board).rows[0].cells["good"].value == (
        score_table(expected).rows[0].cells["good"].value
    )
    assert not any(column.comparisons for column in board.tasks)
    assert "#" not in plain_text(score_table(board)).partition("\n\n")[0]
    file.write_text(file.read_text().replace('"value":0.', '"value":NaN, "low":0.', 1))
    assert "value" in message_of(call("leaderboard", file))


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ("%", "base64"),
        ("bm8=", "decompress"),
        (packed("{}"), "item_ids"),
        (packed("")[:-8], "trunc"),
    ],
    ids=["not base64", "not compressed", "no columns", "truncated"],
)
def test_rows_that_cannot_be_unpacked_are_reported(
    tmp_path: Path, results: Path, rows: str, why: str
) -> None:
    file = tmp_path / "leaderboard.json"
    assert call("leaderboard", "add", file, results / "good", "--resamples", 100).exit_code == 0
    content = json.loads(file.read_text())
    content["entries"][0]["tasks"]["mtrl_judge_a"]["rows"] = rows
    file.write_text(json.dumps(content))
    message = message_of(call("leaderboard", file))
    assert "rows of mtrl_judge_a of owner/good" in message
    assert why in message


def test_files_merge_in_git_without_conflict(tmp_path: Path, results: Path) -> None:
    """Two branches add a judge each; what one of them removed stays removed."""
    command = shutil.which("mtrl-judge", path=str(Path(sys.executable).parent))

    def git(*words: str) -> str:
        settings = ["-c", "user.name=n", "-c", "user.email=e", "-c", "init.defaultBranch=main"]
        merge = f"{command} leaderboard merge %A %B --base %O --out %A --force"
        driver = f"merge.leaderboard.driver={merge}"
        done = subprocess.run(
            ["git", *settings, "-c", driver, *words],
            cwd=tmp_path, check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout

    def add(name: str) -> None:
        args = ("leaderboard", "add", tmp_path / "leaderboard.json", results / name)
        assert call(*args, "--resamples", 100).exit_code == 0
        git("add", ".")
        git("commit", "-qm", name)

    git("init", "-q")
    (tmp_path / ".gitattributes").write_text("leaderboard.json merge=leaderboard\n")
    add("poor")
    git("checkout", "-qb", "other")
    add("good")
    git("checkout", "-q", "main")
    add("same")
    git("merge", "-q", "other", "-m", "both")
    entries = read_file(tmp_path / "leaderboard.json").entries
    assert [entry.model for entry in entries] == ["owner/good", "owner/poor", "owner/same"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "schema_version is None"),
        ('{"schema_version": 9, "entries": []}', "schema_version is 9"),
        ('{"schema_version": 1, "entries": []}', "write files of older versions again"),
        ('{"schema_version": 2, "entries": [{"model": "a"}]}', "entries.0.date"),
        ('{"schema_version": 2, "entries": [], "more": 1}', "more"),
    ],
)
def test_files_that_are_not_leaderboard_files_are_reported(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "leaderboard.json"
    file.write_text(text)
    assert message in message_of(call("leaderboard", file))
    assert message in message_of(call("leaderboard", "merge", file, "--out", tmp_path / "out.json"))
    assert not (tmp_path / "out.json").exists()


@pytest.mark.skipif(
    Version(pydantic.VERSION) < Version("2.14"),
    reason="earlier versions of pydantic write the same schema in another form",
)
def test_the_schema_is_the_published_one(results: Path) -> None:
    published = ROOT / "docs" / "leaderboard.schema.json"
    assert published.read_text(encoding="utf-8") == json_schema() + "\n"


def test_the_papers_table(tmp_path: Path) -> None:
    """Rendered by the same code from a file that has the paper's numbers."""
    done = call("leaderboard", ROOT / "docs" / "paper.json", "--digits", 4, "--sort", "name")
    assert done.exit_code == 0, done.output
    paper = yaml.safe_load(
        (ROOT / "experiments" / "paper_results.yaml").read_text(encoding="utf-8")
    )
    for arm, scores in paper["macro_f1"].items():
        (line,) = (line for line in done.stdout.split("## Means")[0].splitlines() if arm in line)
        assert all(f"{score / 100:.4f}" in line for score in scores.values())
    assert "0.6731" in done.stdout  # off the shelf, mean of the six training tasks


def test_no_file_is_overwritten_without_force(tmp_path: Path, results: Path) -> None:
    out = tmp_path / "table.md"
    assert call("leaderboard", results, "--out", out, "--resamples", 100).exit_code == 0
    before = out.read_bytes()
    assert "already exists" in message_of(call("leaderboard", results, "--out", out))
    assert out.read_bytes() == before


def test_order_averaged_verdicts_of_judges_with_probabilities(tmp_path: Path) -> None:
    """A judge that knows the better candidate but prefers the first slot, and one without
    probabilities; scikit-learn scores what the first one means."""
    rng = np.random.default_rng(0)
    rows, meant, labels = [], [], []
    for number in range(60):
        better = "12"[number % 2]
        merit = (1 if better == "1" else -1) * 0.8 + rng.normal()
        for order, sign in (("AB", 1), ("BA", -1)):
            first = 1 / (1 + np.exp(-(2 + sign * merit)))
            label = better if sign == 1 else {"1": "2", "2": "1"}[better]
            rows.append(
                sample(
                    number,
                    label,
                    "1" if first > 0.5 else "2",
                    pair_id=f"pair {number}",
                    order=order,
                    probabilities={"1": float(first), "2": float(1 - first)},
                )
            )
        labels.append(better)
        meant.append("1" if merit > 0 else "2")
    for row in rows[-4:]:  # two pairs whose order decides alone
        row["probabilities"] = {"1": 0.75, "2": 0.25}
    meant[-2:] = ["none", "none"]
    refused = {"verdict": None, "text": "[LMMS_EVAL_REQUEST_FAILED after 5 retries] content_filter"}
    rows[0] |= {**refused, "probabilities": None}
    meant[0] = "none"
    write_results(tmp_path / "first", {"pairs": rows}, model="owner/first")
    write_results(tmp_path / "plain", {"pairs": judged_pairs(60, 0.8, 1)}, model="owner/plain")
    board = build_leaderboard(load_runs([tmp_path / "first"]), resamples=FEW)
    (column,) = board.tasks
    estimate = column.estimate("first", "accuracy_order_averaged")
    assert estimate.value == pytest.approx(accuracy_score(labels, meant))
    assert estimate.low is not None
    assert estimate.low < (estimate.value or 0) < (estimate.high or 0)
    f1 = f1_score(labels, meant, average="macro", labels=["1", "2"])
    assert column.estimate("first", "macro_f1_order_averaged").value == pytest.approx(f1)
    single = column.estimate("first", "accuracy").value or 0
    assert (estimate.value or 0) > single + 0.1
    assert (column.estimate("first", "flip_rate").value or 0) > 0.5

    done = call("leaderboard", tmp_path / "first", "--full", "--resamples", 100)
    assert done.exit_code == 0, done.output
    table = done.stdout.split("## Order-averaged verdicts")[1].split("##")[0]
    assert f"{estimate.value:.3f}" in table
    assert "2 (3%)" in table, "exact ties are counted"
    assert "Order-averaged" not in call("leaderboard", tmp_path / "plain", "--full").stdout
    file = tmp_path / "leaderboard.json"
    assert call("leaderboard", "add", file, tmp_path / "first", tmp_path / "plain").exit_code == 0
    for entry in json.loads(file.read_text())["entries"]:
        rates = entry["tasks"]["pairs"]["rates"]
        assert ("accuracy_order_averaged" in rates) == (entry["model"] == "owner/first")
    kept = build_leaderboard(load_runs([file]), across=("rows",), resamples=FEW).tasks[0]
    assert kept.estimate("first", "accuracy_order_averaged").value == estimate.value
