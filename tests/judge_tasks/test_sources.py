"""Where rows come from: a folder, splits made from one, the hub and its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset
from datasets import Image as ImageFeature
from support.images import image_cell, image_cells
from support.tasks import write_split, write_task, write_yaml

from mtrl_judge.common.errors import DataError
from mtrl_judge.judge_tasks.dataset_keys import LOCAL_FILES_VARIABLE
from mtrl_judge.judge_tasks.loading import find_task, load_judge_task, load_shipped_tasks
from mtrl_judge.judge_tasks.sources import (
    DATA_ROOT_VARIABLE,
    data_root,
    explain_hub_error,
    find_source,
    load_raw,
    load_rows,
)
from mtrl_judge.judge_tasks.spec import JudgeTask


def columns(n: int, start: int = 0, **more: list[Any]) -> dict[str, list[Any]]:
    return {
        "image": image_cells(n, start),
        "text": [f"item {i}" for i in range(start, start + n)],
        "label": [i % 2 for i in range(start, start + n)],
        **more,
    }


def test_a_folder_with_its_card(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    write_split(tmp_path, "my_task", "train", columns(6))
    write_split(tmp_path, "my_task", "test", columns(4, 6))
    (tmp_path / "my_task" / "card.json").write_text(json.dumps({"source": "sample"}))
    rows, record = load_rows(task, "test", tmp_path)
    assert (record["source"], record["items"], record["labels"]) == (
        "sample",
        4,
        {"Yes": 2, "No": 2},
    )
    assert record["fingerprint"] == rows.fingerprint
    assert find_source(task, tmp_path).splits == ("train", "test")


def test_splits_are_made_where_the_folder_lacks_them(tmp_path: Path) -> None:
    made = (
        "{validation: {from: train, fraction: 0.2, stratify: label, group_by: text},"
        " test: {from: train, fraction: 0.2, stratify: label, group_by: text}}"
    )
    path = write_yaml(tmp_path, splits=made, task="made")
    path.write_text(path.read_text().replace("test_split: test\n", ""))
    task = load_judge_task(path)
    write_split(tmp_path, "made", "train", columns(50))
    ids = {s: set(load_rows(task, s, tmp_path)[0].dataset["item_id"]) for s in task.splits}
    assert {split: len(items) for split, items in ids.items()} == {
        "train": 30,
        "validation": 10,
        "test": 10,
    }
    assert len(set.union(*ids.values())) == 50
    assert load_rows(task, "test", tmp_path).record["labels"] == {"Yes": 5, "No": 5}
    write_split(tmp_path, "made", "test", columns(8, 60))
    assert len(load_rows(task, "test", tmp_path).rows.dataset) == 8
    assert len(load_rows(task, "train", tmp_path).rows.dataset) == 40


def test_the_frozen_median_is_the_training_splits(tmp_path: Path) -> None:
    task = write_task(tmp_path, label="{column: mos, threshold: train_median}")
    write_split(tmp_path, "my_task", "train", columns(5, mos=[1.0, 2.0, 3.0, 4.0, 5.0]))
    write_split(tmp_path, "my_task", "test", columns(2, 5, mos=[2.9, 3.0]))
    rows, record = load_rows(task, "test", tmp_path)
    assert record["threshold"] == 3.0
    assert rows.dataset["label"][:] == ["No", "Yes"]


def test_an_empty_split_and_a_split_that_is_not_there(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    write_split(tmp_path, "my_task", "test", columns(0))
    with pytest.raises(DataError, match="the test split is empty"):
        load_rows(task, "test", tmp_path)
    with pytest.raises(DataError, match=r"no train split in .*available: test"):
        load_rows(task, "train", tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["00000-of-00003", "00002-of-00003"], r"no shard test-00001-of-00003\.parquet.* 2 .* 3"),
        (["00000-of-00002"], r"no shard test-00001-of-00002\.parquet"),
        (["00001"], r"no shard test-00000\.parquet: found 1 .*expected 2"),
        (["00000-of-00001", "00001-of-00001"], r"shard test-00001-of-00001\.parquet is one too"),
        (["00000-of-00001", "00000"], "shards of different sets"),
        (["00000-of-00002", "00001-of-00002"], None),
        (["00000", "00001"], None),
        (["a", "b"], None),
    ],
)
def test_shards_are_of_one_set_without_a_gap(
    tmp_path: Path, names: list[str], message: str | None
) -> None:
    task = write_task(tmp_path)
    for number, name in enumerate(names):
        write_split(tmp_path, "my_task", f"test-{name}", columns(2, 2 * number))
    if message is None:
        assert len(load_rows(task, "test", tmp_path).rows.dataset) == 2 * len(names)
        return
    with pytest.raises(DataError, match=message):
        load_rows(task, "test", tmp_path)


def test_a_folder_has_the_rows_that_its_card_lists(tmp_path: Path) -> None:
    task = write_task(tmp_path, splits="{validation: {from: train, fraction: 0.5}}")
    write_split(tmp_path, "my_task", "train", columns(6))
    write_split(tmp_path, "my_task", "test", columns(4, 6))
    card = tmp_path / "my_task" / "card.json"
    card.write_text(json.dumps({"splits": {"train": 6, "test": 5}}))
    with pytest.raises(DataError, match=r"test split \(test\.parquet\) has 4 rows, expected 5"):
        load_rows(task, "test", tmp_path)
    assert len(load_rows(task, "train", tmp_path).rows.dataset) == 3
    # A lost split is not cut from another one.
    card.write_text(json.dumps({"splits": {"train": 6, "validation": 4, "test": 4}}))
    assert len(load_rows(task, "train", tmp_path).rows.dataset) == 6
    with pytest.raises(DataError, match="no file of the validation split, expected 4 rows"):
        load_rows(task, "validation", tmp_path)
    card.write_text(json.dumps({"splits": ["train"]}))
    with pytest.raises(DataError, match=r"card\.json: splits: found \['train'\]"):
        load_rows(task, "train", tmp_path)


def test_bad_folders_say_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = write_task(tmp_path)
    (tmp_path / "my_task").mkdir()
    (tmp_path / "my_task" / "tset.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"has no train\.parquet.*found: tset\.parquet"):
        load_rows(task, "test", tmp_path)
    (tmp_path / "my_task" / "test.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"test\.parquet: cannot be read as parquet"):
        load_rows(task, "test", tmp_path)
    (tmp_path / "my_task" / "card.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        find_source(task, tmp_path)
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no folder"):
        data_root()


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_split(
        tmp_path, "my_task", "test", {"image": image_cells(2), "text": "ab", "label": [0, 1]}
    )
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", Path("/dev/null/cache/datasets"))
    with pytest.raises(DataError, match="/dev/null/cache/datasets: set HF_HOME to a folder"):
        load_rows(write_task(tmp_path), "test", tmp_path)


def test_a_home_folder_that_is_not_known_is_a_folder_that_does_not_exist(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, "~nobody-of-this-name/data")
    with pytest.raises(DataError, match="no folder ~nobody-of-this-name/data"):
        data_root()


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (Exception("Dataset 'o/n' is a gated dataset on the Hub."), "accept the terms at https"),
        (RuntimeError("Dataset scripts are no longer supported, but found n.py"), "script dataset"),
        (ConnectionError("Couldn't reach 'o/n' on the Hub (ConnectError)"), "cannot be reached"),
        (ValueError("Unknown split \"tset\". Should be one of ['test']."), "Unknown split"),
    ],
)
def test_the_hubs_refusals_say_what_to_do(tmp_path: Path, error: Exception, part: str) -> None:
    message = str(explain_hub_error(write_task(tmp_path), error))
    assert part in message
    assert f"{DATA_ROOT_VARIABLE}=<data root> with <data root>/my_task/test.parquet" in message


def test_the_stock_loader_offline_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    with pytest.raises(DataError, match="use a local folder"):
        load_rows(write_task(tmp_path), "test")


@pytest.fixture
def local_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCAL_FILES_VARIABLE, "1")
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)


def at_place(task: JudgeTask, place: Path) -> JudgeTask:
    """The shipped task with its hub dataset replaced by a replica on disk."""
    kwargs = {k: v for k, v in task.dataset_kwargs.items() if k != "revision"}
    return task.model_copy(update={"dataset_path": str(place), "dataset_kwargs": kwargs})


@pytest.mark.usefixtures("local_files")
def test_a_replica_of_mj_bench_loads_as_from_the_hub(tmp_path: Path) -> None:
    """One parquet a subset, byte cells, a ClassLabel: the shipped YAML's own keys read it."""
    cells = image_cells(8)
    data = Dataset.from_dict(
        {
            "caption": [f"caption {i}" for i in range(4)],
            "image0": cells[:4],
            "image1": cells[4:],
            "label": [0, 0, 0, 1],
            "info": ["x"] * 4,
        }
    )
    data = data.cast_column("label", ClassLabel(names=["0", "1"]))
    (tmp_path / "data").mkdir()
    for subset in ("alignment", "safety"):
        data.to_parquet(tmp_path / "data" / f"{subset}.parquet")
    rows, record = load_rows(at_place(find_task("mtrl_judge_mjbench_safety"), tmp_path), "test")
    assert (record["source"], record["items"], record["rows"]) == ("hub", 4, 8)
    assert record["labels"] == {"1": 4, "2": 4}
    assert len(rows.dataset[0]["images"]) == 2


@pytest.mark.usefixtures("local_files")
def test_a_replica_of_unsafebench_gives_the_stratified_tenth(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split, n in (("train", 60), ("test", 10)):
        labels = ["Unsafe" if i % 3 == 0 else "Safe" for i in range(n)]
        data = Dataset.from_dict(
            {"image": image_cells(n), "safety_label": labels, "source": ["Lexica"] * n}
        )
        data = data.cast_column("image", ImageFeature())
        data.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    task = at_place(find_task("mtrl_judge_unsafebench"), tmp_path)
    labels_of = {split: load_rows(task, split).record["labels"] for split in task.splits}
    assert labels_of == {
        "train": {"Yes": 18, "No": 36},
        "validation": {"Yes": 2, "No": 4},
        "test": {"Yes": 4, "No": 6},
    }


def paper_sized(task: JudgeTask) -> dict[str, int]:
    """Rows of each split that the dataset itself has."""
    made = task.judge.splits
    sizes = {split: n for split, n in task.judge.card.expects.items() if split not in made}
    for split, rule in made.items():
        sizes[rule.source] += task.judge.card.expects[split]
    return {str(split): n for split, n in sizes.items()}


def test_splits_come_out_in_the_papers_sizes(tmp_path: Path) -> None:
    """Section 4.1 of the paper; of AGIN's images all tasks have the same in each split."""
    red = image_cell("red", (1, 1))
    names: dict[str, dict[str, set[str]]] = {}
    for task in load_shipped_tasks():
        if task.judge.role != "train" or not task.judge.splits:
            continue
        for split, n in paper_sized(task).items():
            more = {
                "filename": [f"{split} {i}.png" for i in range(n)],
                "text": [f"{split} text {i % 602}" for i in range(n)],
                **dict.fromkeys(("source", "dataset_source"), ["one"] * n),
                task.judge.label.column: [
                    ("Unsafe", "Safe")[i % 3 > 0] if "unsafe" in task.task else i % 2
                    for i in range(n)
                ],
            }
            write_split(tmp_path, task.task, split, {"image": [red] * n, **more})
        source = find_source(task, tmp_path)
        rows = {split: load_raw(task, split, source) for split in task.splits}
        sizes = {split: len(own) for split, own in rows.items()}
        assert sizes == task.judge.card.expects, task.task
        names[task.task] = {split: set(own.column("filename")) for split, own in rows.items()}
    agin = [own for task, own in names.items() if "agin" in task]
    assert len(names) == 8
    assert all(own == agin[0] for own in agin)


def test_seetrue_split_by_text_keeps_texts_apart(tmp_path: Path) -> None:
    shipped = find_task("mtrl_judge_seetrue")
    text = shipped.path.read_text().replace("seed: 0}", "seed: 0, group_by: text}")
    changed = tmp_path / "by_text.yaml"
    changed.write_text(text.replace(f"task: {shipped.task}", "task: by_text"))
    n = 1000
    texts = [f"text {i % 90}" for i in range(n)]
    red = image_cell("red", (1, 1))
    columns = {
        "image": [red] * n,
        "text": texts,
        "label": [i % 2 for i in range(n)],
        "dataset_source": ["drawbench"] * n,
    }
    shared = {}
    for path in (shipped.path, changed):
        write_split(tmp_path, load_judge_task(path).task, "train", columns)
        task = load_judge_task(path)
        source = find_source(task, tmp_path)
        rows = {split: load_raw(task, split, source) for split in task.splits}
        kinds = [set(own.column("text")) for own in rows.values()]
        shared[path] = bool(kinds[0] & kinds[1] or kinds[0] & kinds[2])
        assert abs(len(rows["test"]) - 100) <= 12
    assert list(shared.values()) == [True, False]
