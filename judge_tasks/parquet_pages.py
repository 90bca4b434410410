"""What the headers of a parquet file's pages say, without reading the pages.

The footer of a file says how large its columns are, but nothing makes it say the truth, and Arrow
allocates what the header of a page says. Headers are in Thrift's compact protocol:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift and
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

# A header also holds the least and the greatest value, which writers shorten.
_FIRST_BYTES, _MAX_HEADER_BYTES = 2**10, 2**20
_MAX_DEPTH = 8
# Field numbers of PageHeader, and in what follows for each kind of page that of its encoding.
_UNCOMPRESSED, _COMPRESSED, _ENCODINGS = 2, 3, {5: 2, 7: 2, 8: 4}
# Types of the compact protocol.
_TRUE, _FALSE, _BYTE, _INTEGERS, _DOUBLE, _BINARY = 1, 2, 3, (4, 5, 6), 7, 8
_LISTS, _STRUCT = (9, 10), 12


class Page(NamedTuple):
    """A page of a column chunk."""

    start: int
    """The first byte after the header, in the file."""
    size: int
    """Bytes in the file."""
    uncompressed: int
    """Bytes once it is decompressed."""
    values: int
    """Values in it, also those that are null."""
    encoding: int
    """A number of the format's Encoding."""
    header: dict[int, Any]
    """DataPageHeader, DictionaryPageHeader or DataPageHeaderV2, by the numbers of its fields."""
    is_v2: bool


def read_pages(file: BinaryIO, start: int, size: int) -> Iterator[Page]:
    """The pages of a column chunk, by the first of its bytes in the file and their number.

    Raises:
        ValueError: there is something else.
    """
    position, end = start, start + size
    while position < end:
        header, length = _read_header(file, position)
        kind = next((kind for kind in _ENCODINGS if isinstance(header.get(kind), dict)), None)
        body = {} if kind is None else header[kind]
        encoding = None if kind is None else body.get(_ENCODINGS[kind])
        found = header.get(_COMPRESSED), header.get(_UNCOMPRESSED), body.get(1), encoding
        numbers = [number for number in found if isinstance(number, int) and number >= 0]
        if len(numbers) < len(found):
            raise ValueError(f"no header of a page at byte {position:,}")
        size, uncompressed, values, encoding = numbers
        page = Page(position + length, size, uncompressed, values, encoding, body, kind == 8)
        yield page
        position = page.start + page.size


def _read_header(file: BinaryIO, position: int) -> tuple[dict[int, Any], int]:
    """A header and its number of bytes."""
    for size in (_FIRST_BYTES, _MAX_HEADER_BYTES):
        file.seek(position)
        reader = Reader(file.read(size))
        try:
            return reader.struct(0), reader.position
        except IndexError:
            continue
    raise ValueError(f"the header of a page at byte {position:,} has no end")


class Reader:
    """Reads values of the compact protocol; IndexError at the end of the data."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self._data, self.position = data, position

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > _MAX_DEPTH:
            raise ValueError("the header of a page is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while byte := self.byte():
            number = number + (byte >> 4) if byte >> 4 else self.integer()
            fields[number] = self._value(byte & 15, depth)
        return fields

    def byte(self) -> int:
        self.position += 1
        return self._data[self.position - 1]

    def skip(self, size: int) -> None:
        self.position += size
        if self.position > len(self._data):
            raise IndexError

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number in a page's header has no end")

    def integer(self) -> int:
        value = self.varint()
        return value >> 1 ^ -(value & 1)

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind == _BYTE:
            return self.byte()
        if kind in _INTEGERS:
            return self.integer()
        if kind == _DOUBLE:
            return self.skip(8)
        if kind == _BINARY:
            return self.skip(self.varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in _LISTS:
            return self._list(depth + 1)
        raise ValueError(f"a page's header has a field of type {kind}")

    def _list(self, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError("the header of a page is nested too deeply")
        byte = self.byte()
        for _ in range(self.varint() if byte >> 4 == 15 else byte >> 4):
            # In a list, truth values take a byte, too.
            if byte & 15 in (_TRUE, _FALSE):
                self.byte()
            else:
                self._value(byte & 15, depth)
