"""Refuse parquet files that are small and become huge when they are read.

A dictionary stores a value once, whatever the number of rows that have it; runs and nulls take
hardly any space; pages are compressed. So 50 kB can be 20 GB in memory and in the cache of
``datasets``, which writes what it reads to the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mtrl_judge.common.errors import DataError, first_line

from .parquet_lengths import DELTA_BYTE_ARRAY, DELTA_LENGTH_BYTE_ARRAY, PLAIN, check_lengths
from .parquet_pages import Page, read_pages

# Compressed text is a third to a tenth of its size, and images do not become smaller. Columns that
# repeat a few texts grow more, but hardly to this size.
MAX_GROWTH, ALWAYS_ACCEPTED_BYTES = 10, 512 * 2**20
_AT_ONCE_BYTES, _BATCH_BYTES, _BUFFER_BYTES = 256 * 2**20, 32 * 2**20, 2**20
# Bytes of a value in memory; of texts and binary data those of the offset.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_OFFSET = 4


def check_growth(file: Path) -> None:
    """Refuse a file whose values take far more memory than the file has bytes.

    They are counted without being expanded, in the memory of what the file stores.

    Raises:
        DataError: they take more than MAX_GROWTH times the file's size, and more than
            ALWAYS_ACCEPTED_BYTES; or the file cannot be read.
    """
    import pyarrow as pa

    try:
        _check_growth(file)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"{file}: cannot be read as parquet ({first_line(error)}); is the file truncated? "
            "download it again"
        ) from None


def _check_growth(file: Path) -> None:
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(file)
    stored = file.stat().st_size
    limit = max(ALWAYS_ACCEPTED_BYTES, MAX_GROWTH * stored)
    # What the file says first: it is read only if that is within the limit.
    for sizes in (_stated_sizes(file, metadata), _counted_sizes(file, metadata)):
        total = 0
        for size in sizes:
            total += size
            if total > limit:
                raise DataError(
                    f"{file}: its {stored / 1e6:,.1f} MB become more than {limit / 1e6:,.0f} MB "
                    f"when they are read; expected at most {MAX_GROWTH} times its size, or "
                    f"{ALWAYS_ACCEPTED_BYTES / 1e6:,.0f} MB. If you trust it, write it again "
                    "without dictionaries and compression"
                )


def _stated_sizes(file: Path, metadata: Any) -> Iterator[int]:
    """The bytes of each page, without those that a dictionary saves.

    By the pages' own headers: the footer may say less, and Arrow allocates what a header says.
    """
    with file.open("rb") as opened:
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for index in range(metadata.num_columns):
                chunk, column = group.column(index), metadata.schema.column(index)
                width = _WIDTHS.get(chunk.physical_type, max(_OFFSET, column.length or 0))
                values = 0
                for page in _pages(opened, chunk):
                    yield max(page.uncompressed, page.values * width)
                    check_lengths(opened, page, chunk, column)
                    values += page.values
                # Every row has a value or a null in every column.
                if group.num_rows > values:
                    raise ValueError(f"{group.num_rows:,} rows, but {values:,} values")


def _counted_sizes(file: Path, metadata: Any) -> Iterator[int]:
    """The bytes of texts and binary data in each column and row group."""
    for index in range(metadata.num_columns):
        column = metadata.schema.column(index)
        for number in range(metadata.num_row_groups):
            chunk = metadata.row_group(number).column(index)
            if chunk.physical_type != "BYTE_ARRAY":
                continue
            with file.open("rb") as opened:
                pages = [*_pages(opened, chunk)]
            size, encodings = sum(page.uncompressed for page in pages), {p.encoding for p in pages}
            if encodings <= {PLAIN, DELTA_LENGTH_BYTE_ARRAY}:  # each text is stored where it is
                yield size
                continue
            # Arrow cannot read all encodings as a dictionary.
            as_dictionary = encodings.isdisjoint((DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY))
            repeated = column.max_repetition_level > 0
            if repeated and not as_dictionary:
                raise DataError(
                    f"{file}: {column.path}: lists of texts in the encoding DELTA_BYTE_ARRAY do "
                    "not say how large they are; write the file again with pyarrow's default "
                    "encoding"
                )
            if repeated or (size <= _AT_ONCE_BYTES and as_dictionary):
                rows = max(1, metadata.row_group(number).num_rows)
                batches = _batches(file, number, column.path, rows, read_dictionary=[column.path])
            else:
                # No value is longer than all that is stored.
                rows = max(1, _BATCH_BYTES // max(1, size))
                batches = _batches(file, number, column.path, rows)
            for batch in batches:
                yield sum(map(_value_bytes, batch.columns))


def _pages(opened: BinaryIO, chunk: Any) -> Iterator[Page]:
    # As Arrow, which begins with the dictionary only if that comes first.
    starts = chunk.dictionary_page_offset, chunk.data_page_offset
    return read_pages(opened, min(filter(None, starts)), chunk.total_compressed_size)


def _batches(file: Path, group: int, column: str, rows: int, **options: Any) -> Iterator[Any]:
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES, **options)
    batches: Iterator[Any] = parquet.iter_batches(rows, [group], [column], use_threads=False)
    return batches


def _value_bytes(array: Any) -> int:
    """The bytes of all texts and binary data in an array of any type."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(array, pa.DictionaryArray):
        lengths = pc.binary_length(array.dictionary).to_numpy(zero_copy_only=False)
        indices = array.indices.drop_null().to_numpy()
        return int(lengths[indices].sum(dtype=np.int64))
    if isinstance(array, pa.StructArray):
        return sum(map(_value_bytes, array.flatten()))
    if isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        return _value_bytes(array.flatten())
    if isinstance(array, pa.MapArray):
        return _value_bytes(array.keys) + _value_bytes(array.items)
    return int(array.nbytes)
