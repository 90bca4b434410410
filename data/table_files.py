"""The tables of a dataset: CSV and JSON files in memory, parquet files as a stream of batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from mtrl_judge.common.errors import DataError, first_line
from mtrl_judge.common.files import json_text, parse_json, read_json_lines
from mtrl_judge.judge_tasks.fields import label_key
from mtrl_judge.judge_tasks.parquet_limits import check_growth

# Rows in memory at once, several times over: as they are read, checked and written.
BATCH_ROWS, _BATCH_BYTES = 16, 8 * 2**20
_BUFFER_BYTES = 2**20
# Each takes time and memory, however few rows there are. Tables of datasets have some dozens.
MAX_COLUMNS = 10_000
# Arrow ends a page after 1,024 rows at the earliest, however large they are, and reads a page of
# each column at once. Measured: 2.1 times the size of a row group with one page per column, 2.9
# times the size of the pages of a larger one.
_PAGE_ROWS, _MEMORY_PER_PAGE = 1_024, 3
# Measured for CSV files with short and with long texts: 4.1 and 2.8 times the size of the file.
_MEMORY_PER_TABLE = 5


IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}  # of images.FORMATS
)


class MemoryTable:
    """A table without images, in memory."""

    def __init__(self, table: pa.Table) -> None:
        self.table, self.schema, self.rows = table, table.schema, table.num_rows

    def column(self, name: str) -> list[Any]:
        """All values of a column."""
        values: list[Any] = self.table.column(name).to_pylist()
        return values

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows in order, at most BATCH_ROWS at a time; of all columns by default."""
        table = self.table if columns is None else self.table.select([*columns])
        for first in range(0, self.rows, BATCH_ROWS):
            yield from table.slice(first, BATCH_ROWS).combine_chunks().to_batches()

    def kept(self, keep: Sequence[bool]) -> MemoryTable:
        """The rows for which that is true."""
        return MemoryTable(self.table.filter(pa.array(keep, pa.bool_())))


class ParquetTable:
    """Parquet files, read in batches.

    Memory depends on the largest 1,024 rows of a row group, not on the size of a file.

    Raises:
        DataError: the files' columns differ, or they need more memory than is free.
    """

    def __init__(self, files: Sequence[Path], names: Mapping[str, str]) -> None:
        self.files, self.names = files, names
        for file in files:
            check_growth(file)
        opened = [_open_parquet(file) for file in files]
        for file, parquet in zip(files, opened, strict=True):
            _check_width(file, len(parquet.schema_arrow.names))
            _check_memory(file, parquet.metadata)
        columns = [_renamed(parquet.schema_arrow.names, names) for parquet in opened]
        _check_columns(files, columns)
        self.rows = sum(parquet.metadata.num_rows for parquet in opened)
        first = opened[0].schema_arrow
        fields = [field.with_name(name) for field, name in zip(first, columns[0], strict=True)]
        self.schema = pa.schema(fields, metadata=first.metadata)

    def column(self, name: str) -> list[Any]:
        """All values of a column that holds no images."""
        original = {ours: theirs for theirs, ours in self.names.items()}.get(name, name)
        tables = (_open_parquet(file).read(columns=[original]) for file in self.files)
        return list(chain.from_iterable(table.column(0).to_pylist() for table in tables))

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows in order, at most BATCH_ROWS at a time; of all columns by default."""
        names = self.schema.names if columns is None else [*columns]
        theirs = {ours: theirs for theirs, ours in self.names.items()}
        original = [theirs.get(name, name) for name in names]
        for file in self.files:
            parquet = _open_parquet(file)
            size = sum(size for size, _ in _row_groups(parquet.metadata))
            mean_size = size // max(1, parquet.metadata.num_rows)
            rows = max(1, min(BATCH_ROWS, _BATCH_BYTES // max(1, mean_size)))
            try:
                for batch in parquet.iter_batches(rows, columns=original, use_threads=False):
                    yield batch.select(original).rename_columns(names)
            except (OSError, pa.ArrowException) as error:
                reason = first_line(error)
                raise DataError(f"{file}: damaged ({reason}); download it again") from None


Table: TypeAlias = MemoryTable | ParquetTable


def read_table(
    files: Sequence[Path],
    names: Mapping[str, str],
    *,
    in_memory: bool,
    file_column: str | None = None,
) -> Table:
    """The files one after the other.

    Args:
        names: our name of a column by the files' name.
        in_memory: the table holds no images and is read at once. CSV and JSON files always are.
        file_column: a column to add, with the name of each row's file without its ending; tables
            that have it are read at once.

    Raises:
        DataError: a file cannot be read or does not fit in memory, or the files' columns differ.
    """
    in_memory = in_memory or file_column is not None
    if not in_memory and all(file.suffix == ".parquet" for file in files):
        return ParquetTable(files, names)
    readers = {".parquet": _read_parquet, ".json": _read_json, ".jsonl": _read_json}
    tables = [readers.get(file.suffix, _read_csv)(file) for file in files]
    tables = [table.rename_columns(_renamed(table.column_names, names)) for table in tables]
    _check_columns(files, [table.column_names for table in tables])
    if file_column is not None:
        pairs = zip(files, tables, strict=True)
        tables = [_with_file_name(file, table, file_column) for file, table in pairs]
    return MemoryTable(pa.concat_tables(tables, promote_options="permissive"))


def table_of_images(files: Sequence[str], names: Mapping[str, str]) -> MemoryTable:
    """A row for each image file, where folders say what their images are.

    Args:
        files: paths in the dataset.
        names: as for :func:`read_table`.

    Returns:
        the columns `file`, with the path, and `folder`, with the name of the file's folder.
    """
    paths = [PurePosixPath(file) for file in files]
    columns = {"file": [*files], "folder": [path.parent.name for path in paths]}
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    return MemoryTable(table.rename_columns(_renamed(table.column_names, names)))


def _with_file_name(file: Path, table: pa.Table, column: str) -> pa.Table:
    if column in table.column_names:
        raise DataError(f"{file}: has a column {column!r} already; choose another raw.file_column")
    return table.append_column(column, pa.array([file.stem] * len(table), pa.string()))


def _renamed(columns: Sequence[str], names: Mapping[str, str]) -> list[str]:
    return [names.get(column, column) for column in columns]


def _check_columns(files: Sequence[Path], columns: Sequence[Sequence[str]]) -> None:
    for file, found in zip(files, columns, strict=True):
        if found != columns[0]:
            raise DataError(
                f"{file}: columns: found {', '.join(found)}; expected those of {files[0].name}: "
                f"{', '.join(columns[0])}"
            )


def _open_parquet(file: Path) -> pq.ParquetFile:
    """A file that :func:`check_growth` has accepted."""
    # The pre-buffer would hold all columns of a row group.
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)


def _read_parquet(file: Path) -> pa.Table:
    check_growth(file)
    parquet = _open_parquet(file)
    _check_width(file, len(parquet.schema_arrow.names))
    _check_size(file, sum(size for size, _ in _row_groups(parquet.metadata)))
    return parquet.read()


def _read_json(file: Path) -> pa.Table:
    """A list of rows, a mapping of ids to rows, or a row on each line.

    A column with values of several types has texts, lists and objects as JSON.
    """
    _check_size(file, file.stat().st_size)
    rows = list(_json_rows(file))
    columns: dict[str, list[Any]] = {name: [] for row in rows for name in row}
    _check_width(file, len(columns))
    if not columns:
        raise DataError(
            f"{file}: has no rows; expected a list or mapping of objects, or one on each line"
        )
    for row in rows:
        for name, values in columns.items():
            values.append(row.get(name))
    arrays = []
    for values in columns.values():
        try:
            array = pa.array(values)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            array = pa.array(map(_as_text, values), pa.string())
        if _has_no_fields(array.type):  # parquet has no type for it
            array = pa.nulls(len(array))
        arrays.append(array)
    return pa.Table.from_arrays(arrays, names=[*columns])


def _as_text(value: Any) -> str | None:
    """A value of a column whose values have several types."""
    if value is None:
        return None
    return json_text(value, indent=None) if isinstance(value, list | dict) else label_key(value)


def _json_rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open("rb") as opened:
        start = opened.read(4096).decode("utf-8-sig", "replace").lstrip()[:1]
    if start != "[" and (file.suffix == ".jsonl" or not _is_mapping_of_rows(file)):
        yield from (row for _, row in read_json_lines(file))
        return
    try:
        rows = parse_json(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as JSON: {first_line(error)}") from None
    for number, row in enumerate(rows.values() if isinstance(rows, dict) else rows):
        if not isinstance(row, dict):
            raise DataError(f"{file}: entry {number}: found {row!r:.60}; expected an object")
        yield row


def _is_mapping_of_rows(file: Path) -> bool:
    try:
        whole = parse_json(file.read_text(encoding="utf-8-sig"))
    except (RecursionError, ValueError):
        return False  # a row on each line, or no JSON at all
    return isinstance(whole, dict) and all(isinstance(row, dict) for row in whole.values())


def _has_no_fields(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.num_fields == 0 or any(_has_no_fields(field.type) for field in kind)
    return pa.types.is_list(kind) and _has_no_fields(kind.value_type)


def _check_width(file: Path, columns: int) -> None:
    if columns > MAX_COLUMNS:
        raise DataError(f"{file}: has {columns:,} columns; expected up to {MAX_COLUMNS:,}")


def _check_size(file: Path, size: int) -> None:
    """Refuse a table that is read at once and does not fit in memory."""
    import psutil

    needed, free = size * _MEMORY_PER_TABLE, psutil.virtual_memory().available
    if needed > free:
        raise DataError(
            f"{file}: has {size / 1e9:.1f} GB, which need up to {needed / 1e9:.1f} GB of memory to "
            f"read; {free / 1e9:.1f} GB are free. Prepare it on a larger machine"
        )


def _row_groups(metadata: Any) -> list[tuple[int, int]]:
    """Bytes and rows of each row group."""
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    return [(int(group.total_byte_size), int(group.num_rows)) for group in groups]


def _check_memory(file: Path, metadata: Any) -> None:
    import psutil

    pages = [size * min(1.0, _PAGE_ROWS / max(1, rows)) for size, rows in _row_groups(metadata)]
    largest, free = max(pages, default=0.0), psutil.virtual_memory().available
    if largest * _MEMORY_PER_PAGE > free:
        raise DataError(
            f"{file}: has {largest / 1e9:.1f} GB in one piece, which need up to "
            f"{largest * _MEMORY_PER_PAGE / 1e9:.1f} GB of memory to read; {free / 1e9:.1f} GB are "
            "free. Prepare it on a larger machine, or rewrite the file with smaller row groups"
        )


def _read_csv(file: Path) -> pa.Table:
    """Cells are separated by commas, in a .tsv file by tabs."""
    import pandas as pd

    separator = "\t" if file.suffix == ".tsv" else ","

    _check_size(file, file.stat().st_size)
    with file.open("rb") as opened:
        _check_width(file, opened.readline().count(separator.encode()) + 1)
    try:
        # Only empty cells are missing: a prompt may be the word "None" or "NA".
        frame = pd.read_csv(
            file, sep=separator, encoding="utf-8-sig", keep_default_na=False, na_values=[""]
        )
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OSError) as error:
        raise DataError(f"{file}: cannot be read as CSV: {first_line(error)}") from None
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
