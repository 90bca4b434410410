"""How many lengths of texts a parquet page states, in the encodings that store lengths apart.

Arrow allocates memory for as many lengths as they say, whatever the header of the page says
(`DecodeLengths` in arrow/cpp/src/parquet/decoder.cc, still in 26.0): a page of 100 bytes can take
8 GB. https://github.com/apache/parquet-format/blob/master/Encodings.md describes the encodings.
"""

from __future__ import annotations

from typing import Any, BinaryIO

from .parquet_pages import Page, Reader

# Numbers of the format's Encoding.
PLAIN, DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY = 0, 6, 7
_RLE = 3
# Field numbers of DataPageHeader and of DataPageHeaderV2.
_LEVEL_ENCODINGS, _LEVEL_BYTES, _IS_COMPRESSED = (4, 3), (6, 5), 7


def check_lengths(file: BinaryIO, page: Page, chunk: Any, column: Any) -> None:
    """Refuse a page with more lengths than values.

    Raises:
        ValueError: it has more, or cannot be read.
    """
    # Those of prefixes that are shared with the text before, and those of what follows.
    lists = {DELTA_LENGTH_BYTE_ARRAY: 1, DELTA_BYTE_ARRAY: 2}.get(page.encoding, 0)
    if not lists:
        return
    try:
        data, start = _values(file, page, chunk, column)
        reader = Reader(data, start)
        for _ in range(lists if len(data) > start else 0):
            _skip_numbers(reader, page.values)
    except LookupError:
        raise ValueError("a page ends within its lengths, or lacks a field") from None


def _values(file: BinaryIO, page: Page, chunk: Any, column: Any) -> tuple[bytes, int]:
    """A page's data, decompressed, and where the values begin after the levels of nesting."""
    levels = column.max_repetition_level, column.max_definition_level
    file.seek(page.start)
    if page.is_v2:  # its levels are not compressed
        start = sum(size for field in _LEVEL_BYTES if isinstance(size := page.header[field], int))
        file.seek(page.start + start)
        compressed = page.header.get(_IS_COMPRESSED, True)
        data = file.read(max(0, page.size - start))
        return (_decompressed(data, page.uncompressed - start, chunk) if compressed else data), 0
    data = _decompressed(file.read(page.size), page.uncompressed, chunk)
    start = 0
    for level, field in zip(levels, _LEVEL_ENCODINGS, strict=True):
        if level and page.header.get(field) != _RLE:
            raise ValueError("a page has levels of nesting in an outdated encoding")
        if level:
            start += 4 + int.from_bytes(data[start : start + 4], "little")
    return data, start


def _decompressed(data: bytes, size: int, chunk: Any) -> bytes:
    import pyarrow as pa

    codec = chunk.compression.lower()
    if codec == "uncompressed" or not data:
        return data
    # What the format calls LZ4_RAW.
    name = "lz4_raw" if codec == "lz4" else codec
    decompressed: bytes = pa.decompress(data, max(0, size), name, asbytes=True)
    return decompressed


def _skip_numbers(reader: Reader, limit: int) -> None:
    """Skip numbers in DELTA_BINARY_PACKED."""
    block, parts, count = reader.varint(), reader.varint(), reader.varint()
    if count > limit:
        raise ValueError(f"a page states {count:,} lengths of texts, but has {limit:,} values")
    size = block // max(1, parts)
    if size < 32 or size % 32:
        raise ValueError(f"a page has blocks of {block:,} lengths in {parts:,} parts")
    reader.integer()  # the first number
    left = count - 1
    while left > 0:
        reader.integer()  # the smallest difference in the block
        for width in [reader.byte() for _ in range(parts)]:
            if left > 0:
                reader.skip(size * width // 8)
                left -= size
