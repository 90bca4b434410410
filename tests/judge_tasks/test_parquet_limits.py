"""Parquet files that are small and become huge are refused; files that are only large are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.images import image_cell
from support.limits import limited_files
from support.tasks import write_split, write_yaml

from benchmarks.hostile_attacks import HUGE_TABLES, with_footer
from mtrl_judge.common.errors import DataError
from mtrl_judge.data.table_files import read_table
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
    refused = pytest.raises(DataError, match=r"into the cache of .*: File too large")
    with limited_files(1000), refused:
        load_rows(task, "test", tmp_path)
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


ENCODINGS = ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"]
FORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "required": (pa.string(), {"compression": "none"}),
    "nullable": (pa.string(), {"compression": "snappy", "data_page_version": "1.0"}),
    "second version": (pa.string(), {"compression": "zstd", "data_page_version": "2.0"}),
    "lists": (pa.list_(pa.string()), {"compression": "lz4", "data_page_version": "1.0"}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings_that_store_lengths_apart_are_read(
    tmp_path: Path, encoding: str, form: str
) -> None:
    file, (kind, options) = tmp_path / "a.parquet", FORMS[form]
    texts = [f"text {i}" * (i % 7) for i in range(1000)]
    column = pa.array([texts[:500], None, [], texts[500:]] if form == "lists" else texts, kind)
    if form not in ("required", "lists"):
        column = pa.concat_arrays([column, pa.nulls(9, kind)])
    schema = pa.schema([pa.field("text", kind, nullable=form != "required")])
    keys = {"use_dictionary": False, "column_encoding": encoding, "data_page_size": 999}
    pq.write_table(pa.table([column], schema), file, **keys, **options)
    if (encoding, form) == ("DELTA_BYTE_ARRAY", "lists"):
        with pytest.raises(DataError, match=r"lists of texts .*with pyarrow's default encoding"):
            check_growth(file)
    else:
        check_growth(file)


@pytest.mark.parametrize(
    ("encoding", "place"),
    [("DELTA_LENGTH_BYTE_ARRAY", 1), ("DELTA_BYTE_ARRAY", 1), ("DELTA_BYTE_ARRAY", 2)],
)
def test_more_lengths_than_values_are_refused(tmp_path: Path, encoding: str, place: int) -> None:
    """Arrow would reserve four bytes for each."""
    file = tmp_path / "a.parquet"
    schema = pa.schema([pa.field("text", pa.string(), nullable=False)])
    keys = {"use_dictionary": False, "column_encoding": encoding, "compression": "none"}
    pq.write_table(pa.table([["x" * 9] * 30], schema), file, **keys)
    check_growth(file)
    stated = bytes([128, 1, 4, 30])  # blocks of 128 lengths in 4 parts, and their number
    parts = file.read_bytes().split(stated)
    more = stated[:-1] + b"\37"
    file.write_bytes(stated.join(parts[:place]) + more + stated.join(parts[place:]))
    with pytest.raises(DataError, match="a page states 31 lengths of texts, but has 30 values"):
        check_growth(file)


@pytest.mark.parametrize("what", ["values", "bytes"])
def test_a_footer_that_understates_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    file, n = tmp_path / "a.parquet", 2**20
    nulls = pa.ListArray.from_arrays([0, n], pa.nulls(n, pa.int64()))
    column = nulls if what == "values" else pa.array([b"\0" * n])
    pq.write_table(pa.table({"column": column}), file, use_dictionary=False, compression="zstd")
    chunk = pq.read_metadata(file).row_group(0).column(0)
    number = chunk.num_values if what == "values" else chunk.total_uncompressed_size
    with_footer(file, (number, 1))
    chunk = pq.read_metadata(file).row_group(0).column(0)
    assert min(chunk.num_values, chunk.total_uncompressed_size) == 1
    assert file.stat().st_size < 10_000
    monkeypatch.setattr(parquet_limits, "ALWAYS_ACCEPTED_BYTES", n - 1)
    with pytest.raises(DataError, match="become more than 1 MB"):
        check_growth(file)


def test_more_rows_than_values_are_refused(tmp_path: Path) -> None:
    """Arrow reserves memory for as many rows as the footer says."""
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"] * 200}), file, use_dictionary=False)
    check_growth(file)
    with_footer(file, (200, 8191))
    with pytest.raises(DataError, match="8,191 rows, but 200 values"):
        check_growth(file)


def test_what_is_no_page_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"] * 200}), file, use_dictionary=False)
    data = file.read_bytes()
    for damage in (b"\0", b"\x1c" * 40, b"\x19\xfc" * 20, b"\xff" * 60):
        file.write_bytes(data[:4] + damage + data[4 + len(damage) :])
        with pytest.raises(DataError, match="cannot be read as parquet"):
            check_growth(file)


def test_a_large_file_may_be_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read value by value if a row group is too large to be read at once."""
    file, rng = tmp_path / "a.parquet", np.random.default_rng(0)
    pq.write_table(pa.table({"bytes": [rng.bytes(10_000) for _ in range(100)]}), file)
    monkeypatch.setattr(parquet_limits, "ALWAYS_ACCEPTED_BYTES", 100_000)
    for at_once in (10**7, 10**5):
        monkeypatch.setattr(parquet_limits, "_AT_ONCE_BYTES", at_once)
        check_growth(file)
