"""Facts in evaluation: what a samples file keeps of them, and what lmms-eval reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.images import image_cells
from support.results import write_results
from support.tasks import write_split, write_task

from mtrl_judge.common.errors import DataError
from mtrl_judge.harness_plugin.hooks import JudgeHooks
from mtrl_judge.judge_tasks.facts import FACTS_FILE
from mtrl_judge.judge_tasks.rescore import rescore
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE
from mtrl_judge.leaderboard.board import build_leaderboard
from mtrl_judge.leaderboard.file import entries_of, read_entries, write_entries
from mtrl_judge.leaderboard.reading import load_runs
from mtrl_judge.leaderboard.view import build_view, perception_table
from mtrl_judge.metrics.perception import PERCEPTION_RATES

TEXTS = (
    "<think>A red car in a street.</think><answer>Yes</answer>",  # of three facts two
    "<think>A garden at the sea.</think><answer>No</answer>",  # right, and something untrue
    "<think>Nothing.</think><answer>Yes</answer>",
    "A garden. Yes",  # without reasoning
)
FACTS = [
    ["car", "street", {"fact": "sun", "instead": ["rain"]}],
    [{"fact": "garden", "instead": ["sea"]}],
    [],
    ["garden"],
]


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JudgeHooks:
    task = write_task(tmp_path, id="[text]")
    write_split(
        tmp_path,
        "my_task",
        "test",
        {"image": image_cells(4), "text": list("abcd"), "label": [1, 0, 1, 1]},
    )
    lines = ({"id": name, "facts": facts} for name, facts in zip("abcd", FACTS, strict=True))
    file = tmp_path / "my_task" / FACTS_FILE
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    return JudgeHooks(task)


def judged(hooks: JudgeHooks, texts: Sequence[str]) -> list[dict[str, Any]]:
    rows = hooks.prepare().rows.dataset.with_format(None)
    return [hooks.process_results(doc, [text]) for doc, text in zip(rows, texts, strict=True)]


def reported(hooks: JudgeHooks, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """As lmms-eval aggregates: from the items, which are JSON in a samples file."""
    return {
        metric["metric"]: metric["aggregation"]([sample[metric["metric"]] for sample in samples])
        for metric in hooks.config()["metric_list"]
        if metric["metric"] in samples[0]
    }


def test_results_and_tables_have_the_facts(hooks: JudgeHooks, tmp_path: Path) -> None:
    samples = json.loads(json.dumps(judged(hooks, TEXTS)))
    assert [sample.get("facts") for sample in samples] == [
        {"stated": 2, "contradicted": 0, "total": 3, "contradictable": 1},
        {"stated": 0, "contradicted": 1, "total": 1, "contradictable": 1},
        None,
        {"stated": 0, "contradicted": 0, "total": 1, "contradictable": 0},
    ]
    metrics = reported(hooks, samples)
    assert (metrics["facts_rate"], metrics["right_on_wrong_facts"]) == (2 / 5, 1 / 2)
    assert (metrics["roc_auc"], metrics["share_Yes"]) == (None, 3 / 4)

    results = write_results(tmp_path / "run", {"my_task": samples})
    board = build_leaderboard(load_runs([results.parent]), resamples=200)
    (table,) = [table for table in build_view(board, full=True).analyses if "see" in table.title]
    (row,) = table.rows
    assert row.cells["facts stated"].value.value == 2 / 5
    assert row.cells["facts"].value == 5
    assert row.cells["distinct 4-grams"].value.value == 1.0
    # A leaderboard file keeps the rates, though not the facts of its rows.
    write_entries(entries_of(board), tmp_path / "board.json", force=False)
    again = build_leaderboard(read_entries(tmp_path / "board.json"), resamples=200)
    (row,) = perception_table(again).rows
    assert row.cells["facts stated"].value.value == 2 / 5

    saved = tmp_path / "run" / results.name.replace("results.json", "samples_my_task.jsonl")
    rescored = rescore(str(hooks.task.path), saved, out=None, force=False).metrics
    assert {name: rescored[name] for name in PERCEPTION_RATES} == {
        name: metrics[name] for name in PERCEPTION_RATES
    }


def test_malformed_counts_are_named(hooks: JudgeHooks, tmp_path: Path) -> None:
    samples = judged(hooks, TEXTS)
    samples[1]["facts"] = {"stated": -1}
    results = write_results(tmp_path / "run", {"my_task": samples})
    with pytest.raises(DataError, match=r"line 2: found .*; expected facts with the counts"):
        load_runs([results.parent])


def test_a_judge_that_was_not_asked_to_reason_has_no_facts(
    hooks: JudgeHooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtrl_judge.harness_plugin.hooks.evaluation_style", lambda _: "direct")
    samples = judged(hooks, ["Yes"] * 4)
    assert not any("facts" in sample for sample in samples)
    assert reported(hooks, samples)["facts_rate"] is None
