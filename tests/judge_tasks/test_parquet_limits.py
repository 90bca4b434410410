"""Parquet files that are small and become huge are refused; files that are only large are not."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.images import image_cell
from support.tasks import write_split, write_yaml

from benchmarks.hostile_attacks import HUGE_TABLES
from mtrl_judge.common.errors import DataError
from mtrl_judge.data.tables import read_table
from mtrl_judge.judge_tasks import parquet_limits
from mtrl_judge.judge_tasks.dataset_keys import LOCAL_FILES_VARIABLE, read_dataset
from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.judge_tasks.parquet_limits import check_growth
from mtrl_judge.judge_tasks.sources import load_rows

REFUSED = r"test\.parquet: its \d\.\d MB become more than 537 MB when they are read"


# Of those of the benchmark, the ones that are quickly written.
@pytest.mark.parametrize("name", [name for name in HUGE_TABLES if " in all rows" in name])
def test_a_small_file_that_becomes_huge_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "test.parquet"
    HUGE_TABLES[name](file)
    assert file.stat().st_size < 2**20
    with pytest.raises(DataError, match=REFUSED):
        check_growth(file)
    for in_memory in (True, False):
        with pytest.raises(DataError, match=REFUSED):
            read_table([file], {}, in_memory=in_memory)


def test_a_task_with_such_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_judge_task(write_yaml(tmp_path, "mine"))
    columns = {"image": [image_cell("red")], "text": ["a"], "label": [1]}
    write_split(tmp_path, "mine", "test", columns)
    load_rows(task, "test", tmp_path)
    HUGE_TABLES["one image in all rows"](tmp_path / "mine" / "test.parquet")
    with pytest.raises(DataError, match=REFUSED):
        load_rows(task, "test", tmp_path)
    monkeypatch.setenv(LOCAL_FILES_VARIABLE, "1")
    with pytest.raises(DataError, match=REFUSED):
        read_dataset(str(tmp_path / "mine"), None, {}, "test")


def test_a_full_cache_is_not_called_a_damaged_file(tmp_path: Path) -> None:
    """As far as a limit on the size of files is a full disk; both are an OSError of write()."""
    task = load_judge_task(write_yaml(tmp_path, "mine"))
    columns = {"image": [image_cell("red")] * 99, "text": ["a"] * 99, "label": [1] * 99}
    write_split(tmp_path, "mine", "test", columns)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"into the cache of .*: File too large"):
            load_rows(task, "test", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    load_rows(task, "test", tmp_path)


TEXT, ROWS = "x" * 2**20, 40
REPEATED: dict[str, tuple[Any, dict[str, Any]]] = {
    "texts": (pa.array([TEXT] * ROWS), {}),
    "large texts": (pa.array([TEXT] * ROWS, pa.large_string()), {"store_schema": False}),
    "dictionary": (pa.array([TEXT] * ROWS).dictionary_encode(), {}),
    "cells": ([{"bytes": TEXT.encode(), "path": None}, None] * ROWS, {"row_group_size": 7}),
    "lists": (pa.array([[TEXT] * (ROWS // 2), [], None, [TEXT] * (ROWS // 2)]), {}),
    "maps": (pa.array([[("key", TEXT)]] * ROWS, pa.map_(pa.string(), pa.string())), {}),
    "compressed": (
        pa.array([TEXT] * ROWS),
        {"use_dictionary": False, "compression": "zstd"},
    ),
    "runs": (pa.repeat(1, ROWS * 2**17), {}),
    "continued": (
        pa.array([TEXT] * ROWS),
        {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"},
    ),
}


@pytest.mark.parametrize("name", REPEATED)
def test_bytes_are_counted_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file, (column, options) = tmp_path / "a.parquet", REPEATED[name]
    pq.write_table(pa.table({"column": column}), file, **options)
    check_growth(file)
    monkeypatch.setattr(parquet_limits, "MAX_GROWTH", 0)
    size = ROWS * 2**20
    monkeypatch.setattr(parquet_limits, "ALWAYS_ACCEPTED_BYTES", size + 10_000)
    check_growth(file)
    monkeypatch.setattr(parquet_limits, "ALWAYS_ACCEPTED_BYTES", size - 10_000)
    with pytest.raises(DataError, match="become more than 42 MB"):
        check_growth(file)


def test_a_large_file_may_be_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read value by value if a row group is too large to be read at once."""
    file, rng = tmp_path / "a.parquet", np.random.default_rng(0)
    pq.write_table(pa.table({"bytes": [rng.bytes(10_000) for _ in range(100)]}), file)
    monkeypatch.setattr(parquet_limits, "ALWAYS_ACCEPTED_BYTES", 100_000)
    for at_once in (10**7, 10**5):
        monkeypatch.setattr(parquet_limits, "_AT_ONCE_BYTES", at_once)
        check_growth(file)
