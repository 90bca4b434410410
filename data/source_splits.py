"""A split of a dataset as it is read: its table, where its images are, and the items it makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import Features, LargeList, List

from mtrl_judge.common.errors import DataError
from mtrl_judge.judge_tasks.column_paths import parse_path, value_at
from mtrl_judge.judge_tasks.items import check_reached, find_items
from mtrl_judge.judge_tasks.json_columns import with_json
from mtrl_judge.judge_tasks.labels import is_dropped, label_values
from mtrl_judge.judge_tasks.raw_split import count_candidates, dataset_columns
from mtrl_judge.judge_tasks.spec import JudgeTask, SplitName

from .downloads import is_address
from .image_columns import ImageColumn
from .image_files import ImageIndex
from .table_files import MemoryTable, Table


class SourceSplit(NamedTuple):
    """One of the dataset's own splits, opened for reading."""

    name: SplitName
    table: Table
    image_index: ImageIndex
    """Finds images that are files."""
    images: Mapping[str, ImageColumn]
    """The columns with images."""
    schema: pa.Schema
    """Of what is written."""
    urls: Sequence[str] = ()
    """The web addresses of images."""

    def column(self, name: str) -> list[Any]:
        """The values of a column; True in place of images."""
        column = self.images.get(name)
        if column is None:
            return self.table.column(name)
        if pa.types.is_struct(self.schema.field(name).type) and column.paths == [()]:
            return [True] * self.table.rows  # images need not be read
        return [column.masked(value) for value in self.values(column)]

    def values(self, column: ImageColumn) -> Iterator[Any]:
        """What the tables have in place of images, row by row."""
        name = parse_path(column.source, self.table.schema.names).column
        for batch in self.table.batches([name]):
            yield from column.values(values_of(batch), [name])


class TableItems:
    """The items that a task makes of a table, and what its label rule reads of each."""

    def __init__(self, task: JudgeTask, split: SourceSplit) -> None:
        self.task, self.split = task, split
        names = split.schema.names
        self.items, _ = find_items(task, names, split.table.rows, self._read)
        self.values = label_values(task, self._column, len(self.items))
        self.kept = sum(not dropped for dropped in is_dropped(task, self.values))

    def _read(self, name: str) -> list[Any]:
        return with_json(self.task, name, self.split.column(name))

    def verdicts(self) -> list[Sequence[str]]:
        """Those that each item can have."""
        counts = count_candidates(self.task, self._column, len(self.items))
        verdicts_of, verdicts = self.task.kind.verdicts_of, self.task.judge.verdicts
        return [verdicts_of(verdicts, number) for number in counts]

    def _column(self, path: str) -> list[Any]:
        name, steps = self.items.path_of(path)
        values = [value_at(v, steps) for v in self.items.column(name, self._read)]
        check_reached(self.task, path, values)
        return values


def values_of(batch: pa.RecordBatch) -> Callable[[str], list[Any]]:
    return lambda name: list(batch.column(name).to_pylist())


def needed_columns(task: JudgeTask, there: Sequence[str]) -> set[str]:
    """The columns that the dataset's tables must have."""
    columns = {*chain.from_iterable(dataset_columns(task, there).values())}
    files = task.judge.raw.images if task.judge.raw else None
    named = files.columns if files else {}
    return columns - named.keys() | {parse_path(path, there).column for path in named.values()}


def has_images(table: MemoryTable, columns: Iterable[ImageColumn], index: ImageIndex) -> list[bool]:
    """Whether all files that a row names are there."""
    keep = [True] * table.rows
    for column in columns:
        for row, value in enumerate(column.values(table.column, table.schema.names)):
            names: list[Any] = []
            column.replaced(value, names.append)
            keep[row] = keep[row] and all(index.find(name) is not None for name in names)
    return keep


def source_feature(column: ImageColumn, features: Features) -> Any:
    """The type of what the tables have in place of images."""
    name, steps = parse_path(column.source, [*features])
    feature = features[name]
    for step in steps:
        is_list = isinstance(feature, List | LargeList) and not isinstance(step, str)
        feature = feature.feature if is_list else isinstance(feature, dict) and feature.get(step)
        if not feature:
            raise DataError(f"judge.raw.images.named_by: {column.source!r} leads nowhere")
    return feature


def addresses(split: SourceSplit, columns: Iterable[ImageColumn]) -> list[str]:
    """The web addresses in place of images."""
    found: list[Any] = []
    for column in columns:
        for value in split.values(column):
            column.replaced(value, found.append)
    return [cell for cell in found if is_address(cell)]


def without(split: SourceSplit, failed: Set[str]) -> SourceSplit:
    """The rows all of whose images are there.

    Raises:
        DataError: there are none.
    """
    keep = [True] * split.table.rows
    for column in split.images.values():
        for row, value in enumerate(split.values(column)):
            cells: list[Any] = []
            column.replaced(value, cells.append)
            keep[row] = keep[row] and failed.isdisjoint(filter(is_address, cells))
    if keep and not any(keep):
        raise DataError(f"{split.name}: no image of its {len(keep):,} rows could be downloaded")
    table = split.table
    if not isinstance(table, MemoryTable):
        table = MemoryTable(pa.Table.from_batches(list(table.batches()), table.schema))
    return split._replace(table=table.kept(keep))
