"""Small judge tasks and their data, written to a folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets import Image as ImageFeature

from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.judge_tasks.templates import question_columns

from .images import image_cell, image_cells

_TASK = """
task: {task}
dataset_path: owner/name
training_split: train
test_split: test
judge:
  kind: {kind}
  role: train
  dimension: test
  images: {images}
  question: {question}
  label: {label}
  verdicts: {verdicts}
{extra}
  card: {{license: none, gated: false, url: "https://example.org", citation: none}}
"""


PAIR = {
    "kind": "pairwise",
    "images": "[image0, image1]",
    "question": "'{{ text }}: <image> or <image>?'",
    "label": "{column: label, first: a, second: b, tie: t}",
    "verdicts": '["1", "2", "Tie"]',
}
"""Keys of a task of pairs for :func:`write_task`; :func:`pairs` has the columns."""
PARAPHRASE = '["<image> <image> Which is more {{ text }}?"]'
TASK_OF_PAIRS, POINTWISE_TASK = "their_pairs", "their_points"


def write_task(folder: Path, task: str = "my_task", **keys: str) -> JudgeTask:
    """Load a valid task; ``keys`` replace parts of its ``judge`` block, as YAML text."""
    return load_judge_task(write_yaml(folder, task, **keys))


def write_yaml(folder: Path, task: str = "my_task", **keys: str) -> Path:
    """The YAML file that :func:`write_task` loads."""
    values = {
        "kind": "pointwise",
        "images": "[image]",
        "question": "'Is it {{ text }}?'",
        "label": '{column: label, map: {1: "Yes", 0: "No"}}',
        "verdicts": '["Yes", "No"]',
    }
    extra = "\n".join(f"  {key}: {keys.pop(key)}" for key in sorted(keys.keys() - values.keys()))
    path = folder / f"{task}.yaml"
    path.write_text(_TASK.format(task=task, extra=extra, **{**values, **keys}), encoding="utf-8")
    return path


def write_split(
    root: Path,
    task: str,
    split: str,
    columns: Mapping[str, Iterable[Any]],
    images: Iterable[str] | None = None,
) -> None:
    """Write ``<root>/<task>/<split>.parquet``; the arguments are those of :func:`raw_dataset`."""
    (root / task).mkdir(parents=True, exist_ok=True)
    raw_dataset(columns, images).to_parquet(root / task / f"{split}.parquet")


def write_example_data(root: Path, task: JudgeTask, n: int = 6) -> None:
    """A train and a test split with just the columns that a task's YAML names."""
    judge = task.judge
    names = {*(judge.id or ()), *sum(task.candidates, ())}
    names |= {name for text in task.questions.values() for name in question_columns(text)}
    names |= {name for name in (judge.reasoning, judge.cluster_by, judge.groups) if name}
    human = judge.human.model_dump() if judge.human else {}
    names |= {human["group"]} if human.get("group") else set()
    numbers = {human[field] for field in ("column", "rank") if human.get(field)}
    labels = [*judge.label.table(judge.verdicts)] or [1.0, 2.0]
    for start, split in enumerate(("train", "test")):
        columns: dict[str, list[Any]] = {name: [f"{name} {i}" for i in range(n)] for name in names}
        columns |= {name: [float(i) for i in range(n)] for name in numbers}
        columns[judge.label.column] = [labels[i % len(labels)] for i in range(n)]
        columns |= {
            name: image_cells(n, 20 * start + 2 * position)
            for position, name in enumerate(judge.images)
        }
        write_split(root, task.task, split, columns, judge.images)


def raw_dataset(
    columns: Mapping[str, Iterable[Any]], images: Iterable[str] | None = None
) -> Dataset:
    """A raw split in memory.

    Args:
        images: The columns of image cells; None are those whose names start with ``image``.
    """
    data = Dataset.from_dict({name: list(values) for name, values in columns.items()})
    if images is None:
        images = [name for name in columns if name.startswith("image")]
    for name in images:
        data = data.cast_column(name, ImageFeature())
    return data


def pairs(n: int = 5) -> dict[str, list[Any]]:
    """Columns of n pairs, each with its own images and texts; the fourth has no label."""
    return {
        "image0": [image_cell(f"#{10 + i:02x}0000", (20, 10)) for i in range(n)],
        "image1": [image_cell(f"#0000{10 + i:02x}", (8, 12)) for i in range(n)],
        "text": [f"thing {i}" for i in range(n)],
        "one": [f"first {i}" for i in range(n)],
        "two": [f"second {i}" for i in range(n)],
        "label": ["a", "b", "t", None, "a"][:n],
    }


def write_two_tasks(folder: Path) -> Path:
    """Write a task of pairs in one order each, with a paraphrase, and a pointwise task; the root of
    their data."""
    write_yaml(folder, TASK_OF_PAIRS, orders="hashed", paraphrases=PARAPHRASE, **PAIR)
    write_yaml(folder, POINTWISE_TASK)
    root = folder / "data"
    write_split(root, TASK_OF_PAIRS, "test", pairs())
    columns = {"image": image_cells(6), "text": list("abcdef"), "label": [1, 0, 1, 1, 0, None]}
    write_split(root, POINTWISE_TASK, "test", columns)
    return root
