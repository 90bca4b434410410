"""Pairs with candidates in common, from a YAML to the share of cycles on the leaderboard."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

from support.images import image_cell
from support.results import write_results
from support.tasks import PAIR, raw_dataset, write_task

from mtrl_judge.harness_plugin.hooks import JudgeHooks
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.rows import to_rows
from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.leaderboard.board import build_leaderboard
from mtrl_judge.leaderboard.reading import load_runs
from mtrl_judge.leaderboard.view import build_view

SHADES = ("#101010", "#505050", "#909090", "#d0d0d0")
# Of image n, which other images a judge prefers it to: 0, 1 and 2 are a cycle; 3 is the best.
BEATS = {0: {1}, 1: {2}, 2: {0}, 3: {0, 1, 2}}


def all_pairs() -> dict[str, list[Any]]:
    """Each two of the four images of a prompt, and of another prompt with the same images."""
    pairs = [(a, b) for _ in range(2) for a, b in combinations(range(4), 2)]
    cells = [image_cell(shade) for shade in SHADES]
    return {
        "image0": [cells[a] for a, _ in pairs],
        "image1": [cells[b] for _, b in pairs],
        "text": ["one prompt"] * 6 + ["another"] * 6,
        "label": ["a"] * 12,
    }


def names(task: JudgeTask) -> list[Any]:
    return RawSplit(task, raw_dataset(all_pairs())).candidate_names


def test_candidates_are_named_by_what_they_show(tmp_path: Path) -> None:
    found = names(write_task(tmp_path, "clustered", cluster_by="text", **PAIR))
    assert found[:6] == found[6:]
    assert len({name for pair in found for name in pair}) == 4
    assert found[0][0] == found[1][0] != found[0][1]
    # Without anything that pairs share, none is needed.
    assert names(write_task(tmp_path, "alone", **PAIR)) == [None] * 12
    groups = {**PAIR, "candidates": "[[image0, text], [image1, text]]"}
    grouped = names(write_task(tmp_path, "grouped", cluster_by="text", **groups))
    assert len({name for pair in grouped for name in pair}) == 8


def test_cycles_are_counted_within_a_prompt(tmp_path: Path) -> None:
    task = write_task(tmp_path, "clustered", cluster_by="text", **PAIR)
    hooks = JudgeHooks(task)
    pairs = [*combinations(range(4), 2)] * 2
    samples = []
    for doc in to_rows(RawSplit(task, raw_dataset(all_pairs()))).dataset.with_format(None):
        first, second = pairs[doc["source_index"]]
        shown = (second, first) if doc["swapped"] else (first, second)
        answer = "1" if shown[1] in BEATS[shown[0]] else "2"
        samples.append(hooks.process_results(doc, [answer]))
    assert len(samples) == 24
    about = {"t": {"verdicts": ["1", "2", "Tie"], "kind": "pairwise", "paired": True}}
    write_results(tmp_path / "run", {"t": samples}, about=about)
    view = build_view(build_leaderboard(load_runs([tmp_path / "run"]), resamples=100), full=True)
    (table,) = (table for table in view.tables if table.title == "Intransitive triples")
    (row,) = table.rows
    # Two prompts with four triples each, of which one is a cycle.
    assert row.cells["triples"].value == 8
    assert row.cells["intransitive"].value == 0.25
