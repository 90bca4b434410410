"""``python -m benchmarks.agreement``: `mtrl_judge.Judge` beside an evaluation by lmms-eval.

Both judge the same 160 items of each kind of task with the same checkpoint, from the images of the
sample corpus: single images, pairs in both orders, ratings and rankings in all cyclic orders.
Prints one JSON object last: for each kind the rows, how many verdicts and texts are the same, and
how many rows have a verdict at all.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets, load_dataset
from datasets import Image as ImageFeature

from mtrl_judge import Item, Judge
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE

from .tiny_judge import write_tiny_judge

ITEMS, BATCH_SIZE, MAX_NEW_TOKENS = 160, 16, 48
RANKING = """\
task: ranking
test_split: test
judge:
  kind: ranking
  role: ood
  dimension: naturalness
  images: [image0, image1, image2]
  candidates: [image0, image1, image2]
  question: "Order these images by how natural they are: <image> <image> <image>"
  label: {column: scores, best: highest}
"""
# Kind -> the task, and the tasks of the sample corpus that its rows are taken from.
SHIPPED = {
    "pointwise": ("mtrl_judge_seetrue", ("mtrl_judge_seetrue",)),
    "pairwise": (
        "mtrl_judge_mjbench_safety",
        ("mtrl_judge_mjbench_safety", "mtrl_judge_mjbench_alignment"),
    ),
    "score": ("mtrl_judge_agin_nat_graded", ("mtrl_judge_agin_nat",)),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, help="default: a briefly pretrained tiny model")
    parser.add_argument("--data_root", type=Path, help="default: a sample corpus of full size")
    parser.add_argument("--scoring", default="generation")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root, checkpoint = given.data_root, given.checkpoint
        if root is None or checkpoint is None:
            root, checkpoint = write_tiny_judge(folder)
        print(json.dumps(compare(checkpoint, root, folder, given.scoring)))


def compare(checkpoint: Path, root: Path, folder: Path, scoring: str) -> dict[str, Any]:
    """The figures of the module's docstring."""
    data = folder / "items"
    tasks = dict(_write(root, data))
    os.environ[DATA_ROOT_VARIABLE] = str(data)
    if scoring == "logprob":  # which has no ranking, and no validation data here
        del tasks["ranking"]
    arguments = {"scoring": scoring, "max_new_tokens": MAX_NEW_TOKENS}
    samples = _evaluated([*tasks.values()], data, {"pretrained": checkpoint, **arguments})
    judge = Judge.load(checkpoint, batch_size=BATCH_SIZE, **arguments)
    found: dict[str, Any] = {}
    for kind, task in tasks.items():
        rows = _rows(data, task)
        name = str(data / "ranking.yaml") if kind == "ranking" else task
        judged = judge.score_batch([Item(name, context=row) for row in rows])
        answers = [answer for judgment in judged for answer in judgment.answers]
        pairs = list(zip(answers, samples[task], strict=True))
        found[kind] = {
            "items": len(rows),
            "rows": len(pairs),
            "same_verdict": sum(ours.verdict == theirs["verdict"] for ours, theirs in pairs),
            # lmms-eval strips answers; those by probability begin with a line of numbers.
            "same_text": sum(
                ours.text.strip() == theirs["text"].split("\n", scoring == "logprob")[-1].strip()
                for ours, theirs in pairs
            ),
            "with_verdict": sum(ours.verdict is not None for ours, _ in pairs),
        }
    return found


def _write(root: Path, data: Path) -> Iterator[tuple[str, str]]:
    """Write a test split of each kind; the kinds and their tasks."""
    for kind, (task, sources) in SHIPPED.items():
        parts = [_split(root, source) for source in sources]
        _save(concatenate_datasets(parts), data, task)
        yield kind, task
    rated = _split(root, "mtrl_judge_agin_nat")
    images, scores = rated["image"], rated["MOS_nat"]
    turned = [[*range(n, len(rated)), *range(n)] for n in range(3)]
    columns: dict[str, Any] = {
        f"image{n}": [images[index] for index in order] for n, order in enumerate(turned)
    }
    columns["scores"] = [[scores[order[row]] for order in turned] for row in range(len(rated))]
    ranking = Dataset.from_dict(columns)
    for n in range(3):
        ranking = ranking.cast_column(f"image{n}", ImageFeature(decode=False))
    _save(ranking, data, "ranking")
    (data / "ranking.yaml").write_text(RANKING, encoding="utf-8")
    yield "ranking", "ranking"


def _split(root: Path, task: str) -> Dataset:
    data = load_dataset("parquet", data_files=str(root / task / "test.parquet"), split="train")
    for name, kind in data.features.items():
        if isinstance(kind, ImageFeature):
            data = data.cast_column(name, ImageFeature(decode=False))
    return data


def _rows(data: Path, task: str) -> list[dict[str, Any]]:
    return list(_split(data, task))


def _save(rows: Dataset, data: Path, task: str) -> None:
    (data / task).mkdir(parents=True)
    rows.select(range(min(ITEMS, len(rows)))).to_parquet(data / task / "test.parquet")


def _evaluated(
    tasks: Sequence[str], folder: Path, model_args: Mapping[str, object]
) -> dict[str, list[dict[str, Any]]]:
    """The samples of an evaluation by the stock lmms-eval."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models import MODEL_REGISTRY_V2  # noqa: F401  registers the judge tasks
    from lmms_eval.tasks import TaskManager

    results = simple_evaluate(
        model="mtrl_judge",
        model_args=",".join(f"{name}={value}" for name, value in model_args.items()),
        tasks=[*tasks],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        batch_size=BATCH_SIZE,
    )
    samples: dict[str, list[dict[str, Any]]] = results["samples"]
    return samples


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    main()
