"""Small tasks and data that tests write themselves."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.judge_tasks.spec import JudgeTask

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
  card: {{licence: none, gated: false, url: "https://example.org", citation: none}}
"""


def image_cell(colour: str, size: tuple[int, int] = (16, 16)) -> dict[str, Any]:
    """An encoded picture of one colour, as ``datasets`` keeps it."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write_task(folder: Path, task: str = "my_task", **keys: str) -> JudgeTask:
    """A sound task; keys replace parts of its ``judge`` block, in YAML."""
    return load_judge_task(write_yaml(folder, task, **keys))


def write_yaml(folder: Path, task: str = "my_task", **keys: str) -> Path:
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


def write_split(root: Path, task: str, split: str, columns: dict[str, list[Any]]) -> None:
    """``<root>/<task>/<split>.parquet``; columns named image… hold encoded pictures."""
    data = Dataset.from_dict(columns)
    for name in columns:
        if name.startswith("image"):
            data = data.cast_column(name, ImageFeature())
    (root / task).mkdir(parents=True, exist_ok=True)
    data.to_parquet(root / task / f"{split}.parquet")
