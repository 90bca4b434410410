"""The tables of a dataset: CSV whole, parquet as a stream, with the columns that a YAML names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from mtrl_judge.common.errors import DataError

# Rows that are in memory at once, several times over: as they are read, checked and written.
BATCH, _BATCH_BYTES = 16, 8 * 2**20
_BUFFER = 2**20
# Arrow ends a page after 1,024 rows at the soonest, however large they are. Measured: up to 2.1
# times the size of a row group of one page a column, 2.9 times that of the pages of a larger one.
_PAGE_ROWS, _MEMORY_OF_A_PAGE = 1_024, 3


class Table(Protocol):
    """Rows in order."""

    schema: pa.Schema
    rows: int

    def column(self, name: str) -> list[Any]:
        """All values of a column without pictures."""

    def batches(self, start: int) -> Iterator[pa.RecordBatch]:
        """The rows from a place on, at most BATCH at a time."""


class WholeTable:
    """In memory: a table without pictures in it."""

    def __init__(self, table: pa.Table) -> None:
        self.table, self.schema, self.rows = table, table.schema, table.num_rows

    def column(self, name: str) -> list[Any]:
        values: list[Any] = self.table.column(name).to_pylist()
        return values

    def batches(self, start: int) -> Iterator[pa.RecordBatch]:
        for first in range(start, self.rows, BATCH):
            yield from self.table.slice(first, BATCH).combine_chunks().to_batches()

    def kept(self, keep: Callable[[Any], bool], column: str) -> WholeTable:
        """The rows whose value of a column is to be kept."""
        return WholeTable(self.table.filter(pa.array([keep(v) for v in self.column(column)])))


class ParquetFiles:
    """Read row group by row group, each in batches.

    A page is read at once: memory goes by the largest 1,024 rows of a row group, and by no file's
    size.

    Raises:
        DataError: they are larger than this machine can read.
    """

    def __init__(self, files: Sequence[Path], names: Mapping[str, str]) -> None:
        self.files, self.names = files, names
        for file in files:
            _check_memory(file)
        self.rows_of = [_parquet(file).metadata.num_rows for file in files]
        self.rows = sum(self.rows_of)
        self.schema = _renamed(_parquet(files[0]).schema_arrow, names)
        for file in files[1:]:
            other = _renamed(_parquet(file).schema_arrow, names)
            if other.names != self.schema.names:
                raise DataError(
                    f"{file}: its columns are not those of {files[0].name}: "
                    f"{', '.join(other.names)} instead of {', '.join(self.schema.names)}"
                )

    def column(self, name: str) -> list[Any]:
        theirs = {ours: own for own, ours in self.names.items()}.get(name, name)
        tables = [_parquet(file).read(columns=[theirs]) for file in self.files]
        return [value for table in tables for value in table.column(0).to_pylist()]

    def batches(self, start: int) -> Iterator[pa.RecordBatch]:
        for file, rows in zip(self.files, self.rows_of, strict=True):
            if start >= rows:
                start -= rows
                continue
            for batch in self._batches_of(file):
                skipped = min(start, batch.num_rows)
                start -= skipped
                if skipped < batch.num_rows:
                    yield batch.slice(skipped).rename_columns(self.schema.names)

    def _batches_of(self, file: Path) -> Iterator[pa.RecordBatch]:
        opened = _parquet(file)
        try:
            yield from opened.iter_batches(_batch_of(opened.metadata), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file}: is broken ({_line(error)}); fetch it again") from None


def read_table(files: Sequence[Path], names: Mapping[str, str], *, whole: bool) -> Table:
    """The files one after the other.

    Args:
        names: our name for a column by theirs.
        whole: it holds no pictures and is read at once.

    Raises:
        DataError: a file cannot be read, or the files' columns differ.
    """
    if any(file.suffix != ".parquet" for file in files):
        tables = [_csv(file, names) for file in files]
    elif whole:
        tables = [_parquet(file).read() for file in files]
        tables = [table.rename_columns(_renamed(table.schema, names).names) for table in tables]
    else:
        return ParquetFiles(files, names)
    for file, table in zip(files, tables, strict=True):
        if table.column_names != tables[0].column_names:
            raise DataError(
                f"{file}: its columns are not those of {files[0].name}: "
                f"{', '.join(table.column_names)} instead of {', '.join(tables[0].column_names)}"
            )
    return WholeTable(pa.concat_tables(tables, promote_options="permissive"))


def _parquet(file: Path) -> pq.ParquetFile:
    try:
        # Without the pre-buffer, which is a whole row group's columns.
        return pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER)
    except (OSError, pa.ArrowException) as error:
        told = f"{file}: cannot be read as parquet ({_line(error)}); is it cut? fetch it again"
        raise DataError(told) from None


def _batch_of(metadata: Any) -> int:
    """Rows of a batch, from the mean size of a row."""
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    size = sum(int(group.total_byte_size) for group in groups) // max(1, int(metadata.num_rows))
    return max(1, min(BATCH, _BATCH_BYTES // max(1, size)))


def _check_memory(file: Path) -> None:
    import psutil

    metadata = _parquet(file).metadata
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    largest = max((_at_once(group) for group in groups), default=0.0)
    needed, free = largest * _MEMORY_OF_A_PAGE, psutil.virtual_memory().available
    if needed > free:
        raise DataError(
            f"{file}: has {largest / 1e9:.1f} GB in one piece, which take up to "
            f"{needed / 1e9:.1f} GB of memory to read, and {free / 1e9:.1f} GB are free; prepare "
            "it on a larger machine, or write the file again with smaller row groups"
        )


def _at_once(group: Any) -> float:
    """Bytes of the rows of a row group that may stand in one page of each column."""
    size, rows = int(group.total_byte_size), int(group.num_rows)
    return size * min(1.0, _PAGE_ROWS / max(1, rows))


def _csv(file: Path, names: Mapping[str, str]) -> pa.Table:
    import pandas as pd

    try:
        # A prompt may be the word "None" or "NA".
        frame = pd.read_csv(file, encoding="utf-8-sig", keep_default_na=False, na_values=[""])
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is no UTF-8 text ({error.reason}); save it as UTF-8") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OSError) as error:
        raise DataError(f"{file}: cannot be read as CSV: {_line(error)}") from None
    table = pa.Table.from_pandas(frame.rename(columns=dict(names)), preserve_index=False)
    return table.replace_schema_metadata(None)


def _renamed(schema: pa.Schema, names: Mapping[str, str]) -> pa.Schema:
    fields = [field.with_name(names.get(field.name, field.name)) for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
