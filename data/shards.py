"""A split as parquet files of limited size, each complete or absent, so that a run can resume."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from mtrl_judge.common.files import read_json, whole_file, write_json
from mtrl_judge.judge_tasks.sources import split_files
from mtrl_judge.judge_tasks.spec import SplitName

SHARD_ROWS, SHARD_BYTES = 2_048, 256 * 2**20
_GROUP_ROWS, _GROUP_BYTES = 128, 16 * 2**20

NOTE_KINDS = ("undecodable", "changed")
Notes: TypeAlias = dict[str, dict[str, str]]
"""Why images cannot be shown to a judge and how they were changed: by kind, by row and column."""


def no_notes() -> Notes:
    return {kind: {} for kind in NOTE_KINDS}


class Shards:
    """The files of one split in a folder, with a file of notes beside each."""

    def __init__(self, folder: Path, split: SplitName, schema: pa.Schema) -> None:
        self.folder, self.split, self.schema = folder, split, schema
        files = split_files(folder, split)
        self.rows = sum(pq.read_metadata(file).num_rows for file in files)
        self.notes = no_notes()
        for file in files:
            _add_notes(self.notes, read_json(_notes_file(file)))

    def write(self, batches: Iterator[tuple[pa.RecordBatch, Notes]]) -> None:
        """Append batches, with the notes on each, in as many files as they need."""
        for first in batches:
            number = len(split_files(self.folder, self.split))
            self._write_shard(
                self.folder / f"{self.split}-{number:05d}.parquet", chain([first], batches)
            )

    def _write_shard(self, path: Path, batches: Iterator[tuple[pa.RecordBatch, Notes]]) -> None:
        """Take batches until a file is full, then put it in place after its notes."""
        shard_notes = no_notes()
        rows = size = 0
        with whole_file(path) as part:
            with pq.ParquetWriter(part, self.schema) as writer:
                group: list[pa.RecordBatch] = []
                for batch, notes in batches:
                    _add_notes(shard_notes, notes)
                    rows, size = rows + len(batch), size + batch.nbytes
                    full = rows >= SHARD_ROWS or size >= SHARD_BYTES
                    group.append(batch)
                    group_size = sum(batch.nbytes for batch in group)
                    group_rows = sum(len(batch) for batch in group)
                    if full or group_rows >= _GROUP_ROWS or group_size >= _GROUP_BYTES:
                        writer.write_table(pa.Table.from_batches(group))
                        group = []
                    if full:
                        break
                if group:
                    writer.write_table(pa.Table.from_batches(group))
            write_json(_notes_file(path), shard_notes)
        self.rows += rows
        _add_notes(self.notes, shard_notes)


def _add_notes(notes: Notes, more: Notes) -> None:
    for kind in NOTE_KINDS:
        notes[kind] |= more[kind]


def _notes_file(shard: Path) -> Path:
    return shard.with_suffix(".notes.json")
