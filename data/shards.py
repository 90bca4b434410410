"""A split as parquet files of bounded size, each whole or not there: a killed run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mtrl_judge.common.files import read_json, whole_file, write_json
from mtrl_judge.judge_tasks.sources import split_files
from mtrl_judge.judge_tasks.spec import SplitName

SHARD_ROWS, SHARD_BYTES = 2_048, 256 * 2**20
_GROUP_ROWS, _GROUP_BYTES = 128, 16 * 2**20


class Shards:
    """The files of one split in a folder; notes on rows lie beside each until all is done."""

    def __init__(self, folder: Path, split: SplitName, schema: pa.Schema) -> None:
        self.folder, self.split, self.schema = folder, split, schema
        self.number = len(split_files(folder, split))
        self.rows = sum(pq.read_metadata(file).num_rows for file in split_files(folder, split))

    def shard(self) -> Shard:
        """The next one, to be filled."""
        path = self.folder / f"{self.split}-{self.number:05d}.parquet"
        self.number += 1
        return Shard(path, self.schema)

    def notes(self) -> dict[str, dict[str, str]]:
        """What was noted of all rows: by kind, by row."""
        found: dict[str, dict[str, str]] = {}
        for file in split_files(self.folder, self.split):
            for kind, notes in read_json(_notes_of(file)).items():
                found.setdefault(kind, {}).update(notes)
        return found


class Shard:
    """One file while it is written."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self.rows = self.bytes = 0
        self.notes: dict[str, dict[str, str]] = {}

    @property
    def full(self) -> bool:
        return self.rows >= SHARD_ROWS or self.bytes >= SHARD_BYTES

    def write(self, batches: Any) -> None:
        """Take batches until the shard is full, then put it in place with its notes."""
        with whole_file(self.path, force=False) as part:
            with pq.ParquetWriter(part, self.schema) as writer:
                group: list[pa.RecordBatch] = []
                for batch, notes in batches:
                    self._take(batch, notes)
                    group.append(batch)
                    size = sum(each.nbytes for each in group)
                    if size >= _GROUP_BYTES or sum(len(each) for each in group) >= _GROUP_ROWS:
                        writer.write_table(pa.Table.from_batches(group))
                        group = []
                    if self.full:
                        break
                if group:
                    writer.write_table(pa.Table.from_batches(group))
            write_json(_notes_of(self.path), self.notes)

    def _take(self, batch: pa.RecordBatch, notes: Mapping[str, Mapping[str, str]]) -> None:
        self.rows += len(batch)
        self.bytes += batch.nbytes
        for kind, own in notes.items():
            self.notes.setdefault(kind, {}).update(own)


def _notes_of(shard: Path) -> Path:
    return shard.with_suffix(".notes.json")
