"""Paths in cells: only image files below the dataset's own folder are read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features, Image, Value
from support.images import encode, image_cell, random_image
from support.tasks import write_task

from mtrl_judge.common.errors import DataError
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.sources import find_source, load_raw, load_rows
from mtrl_judge.judge_tasks.validate import validate

SECRET = encode(random_image(0))


def path_cell(path: str | Path) -> dict[str, Any]:
    return {"bytes": None, "path": str(path)}


def load(root: Path, columns: Mapping[str, list[Any]]) -> RawSplit:
    """A split with cells as images of `datasets`, which itself would not write such cells."""
    kinds = {dict: Image(), str: Value("string"), int: Value("int64")}
    features = Features({name: kinds[type(values[0])] for name, values in columns.items()})
    (root / "my_task").mkdir(exist_ok=True)
    table = pa.Table.from_pydict(dict(columns), schema=features.arrow_schema)
    pq.write_table(table, root / "my_task" / "test.parquet")
    task = write_task(root)
    return load_raw(task, "test", find_source(task, root))


def split_of(root: Path, paths: list[str]) -> RawSplit:
    """A split with a cell for each path, without bytes, and one with an image."""
    cells = [*map(path_cell, paths), image_cell("red")]
    n = len(cells)
    return load(root, {"image": cells, "text": [str(i) for i in range(n)], "label": [1] * n})


def test_a_path_is_read_below_the_folder_of_the_data(tmp_path: Path) -> None:
    images = tmp_path / "my_task" / "images"
    images.mkdir(parents=True)
    (images / "one.png").write_bytes(SECRET)
    (images / "two.png").symlink_to("one.png")
    raw = split_of(tmp_path, ["images/one.png", str(images / "two.png")])
    assert raw.faults == {}
    assert [raw.image_bytes(index) for index in (0, 1)] == [[SECRET], [SECRET]]
    assert raw.digests[0] == raw.digests[1]
    assert load_rows(raw.task, "test", tmp_path).rows.dataset[1]["images"][0].size == (64, 64)


def test_checking_many_images_prints_nothing_where_a_bar_could_not_vanish(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    n = 2_000
    columns = {"image": [image_cell("red")] * n, "text": ["a"] * n, "label": [1] * n}
    assert load(tmp_path, columns).faults == {}
    assert capsys.readouterr().err == ""


def test_no_other_file_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my_task"
    (folder / "folder").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "secret.png"
    secret.write_bytes(SECRET)
    (folder / "link.png").symlink_to(secret)
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "fifo.png")
    large = folder / "large.png"
    large.touch()
    os.truncate(large, 2**40)
    paths = [
        *(str(secret), "secret.png", "../secret.png", "link.png", "loop.png"),
        *("/dev/zero", "/dev/random", "fifo.png", "folder", "large.png", "nul\0.png", "long" * 99),
        *("https://example.org/secret.png", f"file://{secret}", f"zip://secret.png::{secret}"),
    ]
    raw = split_of(tmp_path, paths)
    assert list(raw.faults) == list(range(len(paths)))
    assert "leads out of the data's folder" in raw.faults[0]
    assert [raw.image_bytes(index) for index in raw.faults] == [[b""]] * len(raw.faults)
    with pytest.raises(DataError, match=r"15 of 16 items .* cannot be shown"):
        load_rows(raw.task, "test", tmp_path)


def test_validate_reports_every_image_that_cannot_be_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = split_of(tmp_path, ["/dev/zero", "gone.png"])
    task = write_task(tmp_path, known_bad=f"[{{item: {raw.ids[1]}, reason: lost}}]")
    monkeypatch.setenv("MTRL_JUDGE_DATA", str(tmp_path))
    shutil.copy(tmp_path / "my_task" / "test.parquet", tmp_path / "my_task" / "train.parquet")
    faults = validate(task.path, rows=3)
    for split, fault in zip(("train", "test"), faults, strict=True):
        assert f"{split}: item {raw.ids[0]}: its image cannot be shown to a judge: the" in fault


def test_columns_of_images_are_not_decoded(tmp_path: Path) -> None:
    """`datasets` would open the file, and wait for a FIFO's other end for ever."""
    os.mkfifo(tmp_path / "fifo.png")
    cell = path_cell(tmp_path / "fifo.png")
    raw = load(tmp_path, {"image": [image_cell("red")], "text": [cell], "label": [1]})
    assert raw.column("text") == [cell]
