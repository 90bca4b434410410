"""Input that is nested a hundred thousand levels deep ends in one message and exit code 2."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import fails
from support.images import image_cells
from support.results import judged_rows, write_results
from support.tasks import write_split, write_yaml

from mtrl_judge.judge_tasks.facts import FACTS_FILE
from mtrl_judge.judge_tasks.spec import DATA_CARD

DEEP = "[" * 100_000 + "]" * 100_000
MARK = "in place of what is nested"
RESULTS = ["leaderboard", "runs", "--resamples", "100"]
ROWS = ["validate", "mine.yaml", "--rows", "1", "--data-root", "."]


def write_deep(file: Path, value: object) -> None:
    """JSON in one line with what is nested in place of the mark."""
    file.write_text(json.dumps(value).replace(json.dumps(MARK), DEEP) + "\n", encoding="utf-8")


def in_results(folder: Path) -> None:
    file = write_results(folder / "runs", {"a": judged_rows(9, 0.8, 0)}, config={"x": MARK})
    write_deep(file, json.loads(file.read_text()))


def in_samples(folder: Path) -> None:
    write_results(folder / "runs", {"a": judged_rows(1, 0.8, 0)})
    (file,) = (folder / "runs").glob("*_samples_*")
    write_deep(file, {**json.loads(file.read_text()), "text": MARK})


def in_data(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        write_yaml(folder, "mine")
        columns = {"image": image_cells(2), "text": ["a", "b"], "label": [1, 0]}
        for split in ("train", "test"):
            write_split(folder, "mine", split, columns)
        write_deep(folder / "mine" / name, {"item_id": "0", "facts": MARK})

    return write


def in_model(folder: Path) -> None:
    """Read by transformers; every command is prepared for what a library raises."""
    in_data("facts.json")(folder)
    (folder / "model").mkdir()
    write_deep(folder / "model" / "config.json", {"model_type": "qwen2_5_vl", "x": MARK})


READERS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "results": (in_results, RESULTS),
    "results to be added": (in_results, ["leaderboard", "add", "board.json", "runs"]),
    "samples": (in_samples, RESULTS),
    "leaderboard file": (
        lambda folder: write_deep(folder / "board.json", {"schema_version": 2, "entries": MARK}),
        ["leaderboard", "merge", "board.json", "--out", "other.json"],
    ),
    "texts to score": (
        lambda folder: write_deep(folder / "rows", {"item_id": "a", "label": "Yes", "text": MARK}),
        ["score", "rows", "--task", "mtrl_judge_seetrue"],
    ),
    "facts": (in_data(FACTS_FILE), ROWS),
    "data card": (in_data(DATA_CARD), ROWS),
    "model": (
        in_model,
        [
            *("train", "grpo", "--model_name_or_path", "model", "--tasks", "mine.yaml"),
            *("--data_root", ".", "--output_dir", "run", "--use_cpu", "true", "--bf16", "false"),
        ],
    ),
    "task": (lambda folder: write_yaml(folder, "mine", id=DEEP), ["validate", "mine.yaml"]),
    "recipe": (
        lambda folder: (folder / "mine.yaml").write_text(f"tasks: {DEEP}"),
        ["train", "grpo", "--recipe", "mine.yaml"],
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_it_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write, words = READERS[name]
    write(tmp_path)
    capsys.readouterr()
    message = fails(capsys, monkeypatch, *words)
    assert len(message) < 2000
    assert re.search("nested (too|more than)|recursion", message), message
