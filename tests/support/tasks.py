"""Small judge tasks and their data, written to a folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets import Image as ImageFeature

from mtrl_judge.judge_tasks.column_paths import parse_path
from mtrl_judge.judge_tasks.kinds.ranking import OrderLabel
from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.judge_tasks.raw_split import named_columns
from mtrl_judge.judge_tasks.spec import ColumnOf, JudgeTask

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


def write_example_data(root: Path, task: JudgeTask, shown: int = 6) -> None:
    """A train and a test split with just the columns and paths that a task's YAML names.

    Args:
        shown: How many rows a judge sees of each, or a few more.
    """
    judge = task.judge
    per_row = max(1, len(judge.each)) * (2 if task.paired else 1)
    n = -(-shown // per_row) * (2 if judge.gather else 1)
    named = {
        field: [place for path in paths for place in _in_dataset(task, path)]
        for field, paths in named_columns(task).items()
    }
    images = named["judge.images"]
    texts = {path for paths in named.values() for path in paths} - set(images)
    numbers = {path for field, paths in named.items() if field in _NUMBERS for path in paths}
    labels: list[Any] = [*judge.label.table(judge.verdicts)] or [1.0, 2.0]
    if isinstance(judge.label, OrderLabel):
        labels = ["".join(judge.verdicts), "".join(reversed(judge.verdicts))]
    # Two rows each are one item where rows are gathered; what is not gathered is the same in both.
    gathered = judge.gather.columns if judge.gather else [*texts]
    for start, split in enumerate(("train", "test")):
        leaves: dict[str, list[Any]] = {
            path: [f"{path} {i if path in gathered else i // 2}" for i in range(n)]
            for path in texts
        }
        leaves |= {path: [float(i) for i in range(n)] for path in numbers}
        if judge.groups and judge.groups.map:
            values = [*judge.groups.map]
            leaves[judge.groups.column] = [values[i % len(values)] for i in range(n)]
        leaves |= {path: [values[0]] * n for path, values in judge.where.items()}
        for path in named["judge.label.column"]:
            leaves[path] = [labels[i % len(labels)] for i in range(n)]
        leaves |= {
            path: image_cells(n, 20 * start + 2 * position)
            for position, path in enumerate(dict.fromkeys(images))
        }
        write_split(root, task.task, split, _nested(leaves, n), _plain(dict.fromkeys(images)))


_NUMBERS = ("judge.human.column", "judge.human.rank")


def _in_dataset(task: JudgeTask, path: str) -> list[str]:
    """Where the dataset has what a path of an item leads to; nowhere if it is a constant."""
    name = parse_path(path).column
    if task.judge.gather and name in task.judge.gather.columns:
        return [name]  # the first step is a row
    if not task.judge.each or name not in task.judge.each[0]:
        return [path]
    cells = [entry[name] for entry in task.judge.each]
    return [cell.column for cell in cells if isinstance(cell, ColumnOf)]


def _plain(paths: Iterable[str]) -> list[str]:
    return [path for path in paths if not parse_path(path).steps]


def _nested(leaves: Mapping[str, Sequence[Any]], n: int) -> dict[str, list[Any]]:
    """The columns that have these values, N each, where the paths lead."""
    columns: dict[str, list[Any]] = {}
    # A column that a question reads as a whole may also have paths into it; these come last.
    for path, values in sorted(leaves.items(), key=lambda item: bool(parse_path(item[0]).steps)):
        name, steps = parse_path(path)
        before = columns.get(name, [None] * n)
        columns[name] = [_put(*pair, steps) for pair in zip(before, values, strict=True)]
    return columns


def _put(whole: Any, value: Any, steps: Sequence[str | int | None]) -> Any:
    """A value with another one where the steps lead; lists and mappings are made on the way."""
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if isinstance(step, str):
        whole = whole if isinstance(whole, dict) else {}
        return {**whole, step: _put(whole.get(step), value, rest)}
    index = step or 0
    items = list(whole) if isinstance(whole, list) else []
    items += [None] * (index + 1 - len(items))
    items[index] = _put(items[index], value, rest)
    return items


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
