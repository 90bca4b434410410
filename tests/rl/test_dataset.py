"""Judge tasks as one training set: its rows, their balance and order, and its memory."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.images import image_cells
from support.tasks import write_split, write_task, write_yaml
from support.training import environment

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.judge_tasks.loading import find_task, load_judge_task
from mtrl_judge.judge_tasks.prompts import gold_answer
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.rl.dataset import balanced_counts, build_dataset

COLUMNS = {
    "prompt",
    "images",
    "task",
    "item_id",
    "label",
    "verdicts",
    "kind",
    "pair_id",
    "swapped",
    "facts",
}


def written(folder: Path, task: str, n: int, **keys: str) -> JudgeTask:
    """A pointwise task of n rows; the third has no label."""
    columns = {
        "image": image_cells(n),
        "text": [f"thing {i}" for i in range(n)],
        "label": [None if i == 2 else i % 2 for i in range(n)],
        "why": [f"I see {i}." for i in range(n)],
    }
    write_split(folder, task, "train", columns)
    return write_task(folder, task, **keys)


def written_pairs(folder: Path, task: str, n: int) -> JudgeTask:
    columns = {
        "image0": image_cells(n),
        "image1": image_cells(n, 100),
        "text": [f"thing {i}" for i in range(n)],
        "label": [i % 2 for i in range(n)],
    }
    write_split(folder, task, "train", columns)
    return write_task(
        folder,
        task,
        kind="pairwise",
        images="[image0, image1]",
        label="{column: label}",
        verdicts='["1", "2"]',
        orders="both",
    )


def test_the_training_set_holds_prompts_images_and_labels(data_root: Path) -> None:
    tasks = [find_task("mtrl_judge_agin_nat"), find_task("mtrl_judge_agin_rat")]
    dataset = build_dataset(tasks, root=data_root)
    # Nine rows per task, one of which becomes validation, for which the folder has no file.
    assert len(dataset) == 16
    assert {row["task"] for row in dataset} == {task.task for task in tasks}
    row = dataset[0]
    assert row.keys() == COLUMNS
    assert len(row["images"]) == 1
    kinds = [part["type"] for part in row["prompt"][0]["content"]]
    assert kinds == ["image", "text"]
    again = build_dataset(tasks, root=data_root)
    assert again["item_id"][:] == dataset["item_id"][:]
    assert build_dataset(tasks, root=data_root, seed=1)["item_id"][:] != dataset["item_id"][:]


def test_evaluation_data_is_refused_by_name(data_root: Path) -> None:
    ood, train = find_task("mtrl_judge_mjbench_safety"), find_task("mtrl_judge_agin_nat")
    with pytest.raises(JudgeError, match="never trained on: mtrl_judge_mjbench_safety"):
        build_dataset([train, ood], root=data_root)
    with pytest.raises(JudgeError, match="test split is never trained on: mtrl_judge_agin_nat"):
        build_dataset([train], "test", root=data_root)


def test_balance() -> None:
    sizes = {"a": 90, "b": 9, "c": 1}
    assert balanced_counts(sizes, "proportional") == sizes
    assert balanced_counts(sizes, "uniform") == {"a": 34, "b": 33, "c": 33}
    assert balanced_counts(sizes, {"a": 1, "b": 1, "c": 0}) == {"a": 50, "b": 50, "c": 0}
    even = [balanced_counts(sizes, t)["a"] for t in (1.0, 2.0, 100.0)]
    assert even == sorted(even, reverse=True)
    with pytest.raises(JudgeError, match="did you mean"):
        balanced_counts({"seetrue": 1}, {"setrue": 1})
    with pytest.raises(JudgeError, match="temperature"):
        balanced_counts(sizes, 0)


def test_a_balanced_set_repeats_small_tasks_evenly(tmp_path: Path) -> None:
    tasks = [written(tmp_path, "many", 17), written(tmp_path, "few", 5)]
    dataset = build_dataset(tasks, balance="uniform", root=tmp_path)
    seen = Counter(zip(dataset["task"][:], dataset["item_id"][:], strict=True))
    by_task = {task.task: [n for (t, _), n in seen.items() if t == task.task] for task in tasks}
    assert by_task["many"] == [1] * 10  # of its 16, as many as of the other
    assert sorted(by_task["few"]) == [2, 2, 3, 3]


def test_raw_columns_are_those_of_the_item(tmp_path: Path) -> None:
    pairs, one = written_pairs(tmp_path, "pair", 5), written(tmp_path, "one", 6)
    names = ["text", "image1"]
    rows = list(build_dataset([pairs, one], root=tmp_path, raw_columns=names))
    for row in rows:
        question = row["prompt"][0]["content"][-1]["text"]
        assert row["text"] in question
        if row["task"] == "one":
            assert row["image1"] is None
        else:  # as the data has it, whatever the order in which the pair is shown
            shown = row["images"][0 if row["swapped"] else 1]
            assert row["image1"].tobytes() == shown.tobytes()
    assert {row["task"] for row in rows} == {"pair", "one"}


def test_rows_without_a_label_are_left_out(tmp_path: Path) -> None:
    task = written(tmp_path, "some", 6)
    dataset = build_dataset([task], root=tmp_path)
    assert len(dataset) == 5
    assert None not in dataset["label"][:]


def test_a_task_without_labels_is_refused(tmp_path: Path) -> None:
    write_split(
        tmp_path, "none", "train", {"image": image_cells(3), "text": [*"abc"], "label": [None] * 3}
    )
    task = write_task(tmp_path, "none")
    for balance in ("proportional", "uniform"):
        with pytest.raises((JudgeError, DataError), match="no row of its train split has a label"):
            build_dataset([task], balance=balance, root=tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("balance", ["proportional", "uniform", 3.0, {"one": 1, "pair": 3}])
def test_neighbours_are_the_two_orders_of_a_pair(tmp_path: Path, balance: Any) -> None:
    tasks = [written(tmp_path, "one", 8), written_pairs(tmp_path, "pair", 5)]
    dataset = build_dataset(tasks, balance=balance, keep_pairs=True, root=tmp_path)
    assert len(dataset) % 2 == 0
    rows = dataset.with_format(None)
    halves = (rows.select(range(first, len(rows), 2)) for first in (0, 1))
    for even, odd in zip(*halves, strict=True):
        assert even["task"] == odd["task"]
        if even["task"] == "pair":
            assert even["pair_id"] == odd["pair_id"] is not None
            assert [even["swapped"], odd["swapped"]] == [False, True]
            assert {even["label"], odd["label"]} == {"1", "2"}
        else:
            assert even["pair_id"] is None
    assert {"one", "pair"} == set(rows["task"][:])


def test_direct_answers_are_the_label_alone(tmp_path: Path) -> None:
    dataset = build_dataset(
        [written(tmp_path, "some", 6)], style="direct", answers=True, root=tmp_path
    )
    for row in dataset:
        (turn,) = row["completion"]
        assert turn == {
            "role": "assistant",
            "content": [{"type": "text", "text": gold_answer(row["label"], "direct")}],
        }


def test_reasoned_answers_need_a_column_with_the_reasoning(tmp_path: Path) -> None:
    task = written(tmp_path, "some", 6)
    with pytest.raises(JudgeError, match=r"some\.yaml.*no judge\.reasoning names a column"):
        build_dataset([task], answers=True, root=tmp_path)
    (tmp_path / "reasoned").mkdir()
    reasoned = written(tmp_path / "reasoned", "some", 6, reasoning="why")
    dataset = build_dataset([reasoned], answers=True, root=tmp_path / "reasoned")
    texts = {row["completion"][0]["content"][0]["text"] for row in dataset}
    labels = {f"I see {i}.": "Yes" if i % 2 else "No" for i in (0, 1, 3, 4, 5)}
    assert texts == {gold_answer(label, "reasoned", why) for why, label in labels.items()}
    # The reasoning does not change an item's identity.
    rows, reasoned_rows = (
        load_rows(variant, "train", root).rows.dataset.with_format(None)
        for variant, root in ((task, tmp_path), (reasoned, tmp_path / "reasoned"))
    )
    assert rows["item_id"][:] == reasoned_rows["item_id"][:]
    assert rows["reasoning"][:] == [None] * 6
    assert reasoned_rows["reasoning"][:] == [f"I see {i}." for i in range(6)]


def test_a_wrong_reasoning_field_is_named(tmp_path: Path) -> None:
    task = written(tmp_path, "some", 6, reasoning="wy")
    with pytest.raises(JudgeError, match=r"judge\.reasoning: no column 'wy'.*did you mean 'why'"):
        build_dataset([task], answers=True, root=tmp_path)
    with pytest.raises(JudgeError, match="did you mean 'reasoning'"):
        load_judge_task(write_yaml(tmp_path, "other", reasonning="why"))


MANY = 10_000
SIDE = 128
GROWTH_MB = 200  # decoded, the images would take 490
_MEASURE = """
import resource, sys
from pathlib import Path
import datasets, PIL.Image, torch
from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.rl.dataset import build_dataset
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
root = Path(sys.argv[1])
task = load_judge_task(root / "many.yaml")
build_dataset([load_judge_task(root / "few.yaml")], root=root)
before = peak()
dataset = build_dataset([task], root=root)
rows = [dataset[n]["images"][0].size for n in range(0, len(dataset), 1000)]
print(len(dataset), set(rows) == {(%d, %d)}, peak() - before)
"""


def test_many_images_stay_encoded(tmp_path: Path) -> None:
    images = image_cells(256, size=(SIDE, SIDE))
    for name, n in (("few", 300), ("many", MANY)):
        columns = {
            "image": [images[i % 256] for i in range(n)],
            "text": [f"thing {i}" for i in range(n)],
            "label": [i % 2 for i in range(n)],
        }
        write_split(tmp_path, name, "train", columns)
        write_yaml(tmp_path, name)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE % (SIDE, SIDE), str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    count, sizes, growth = done.stdout.split()
    assert (int(count), sizes) == (MANY, "True")
    assert float(growth) < GROWTH_MB
