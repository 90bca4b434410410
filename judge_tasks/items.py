"""Which rows of a dataset an item is made of: ``judge.where``, ``judge.gather``, ``judge.each``.

An item is usually one row. ``gather`` makes one item of several rows, ``each`` several items of
one. Only indices are kept, so that no image is copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, TypeAlias

from mtrl_judge.common.errors import DataError, shortened

from .column_paths import MISSING, ColumnPath, Step, mapped, parse_path, value_at
from .fields import is_null, label_key, lookup
from .spec import ColumnOf, JudgeTask
from .templates import IMAGE_MARK, question_columns

# What is gathered is shown to a judge together.
MAX_GATHERED = 100

Read: TypeAlias = Callable[[str], Sequence[Any]]
"""The values of a column of the dataset, one for each of its rows."""


@dataclass(frozen=True)
class Items:
    """The items of a split; N is their number."""

    task: JudgeTask
    columns: Sequence[str]
    """Of the dataset."""
    rows_N: Sequence[Sequence[int]]
    """The indices of the dataset's rows that each item is made of."""
    entries_N: Sequence[int]
    """The entry of ``judge.each`` that each item is made by; 0 without any."""

    def __len__(self) -> int:
        return len(self.rows_N)

    @cached_property
    def names(self) -> list[str]:
        """The columns of an item: the dataset's, and those that ``judge.each`` defines."""
        defined = self.task.judge.each[0] if self.task.judge.each else {}
        return [*self.columns, *(name for name in defined if name not in self.columns)]

    def path_of(self, path: str) -> ColumnPath:
        """The column of an item that a path begins with, and the steps from there."""
        return parse_path(path, self.names)

    def origins(self, name: str) -> list[Any]:
        """Where each entry of ``judge.each`` takes a column of an item from.

        A path into the dataset, or a constant.
        """
        found: list[Any] = []
        for entry in self.task.judge.each or ({},):
            cell = entry.get(name, ColumnOf(column=name))
            is_path = isinstance(cell, ColumnOf)
            found.append(parse_path(cell.column, self.columns) if is_path else cell)
        return found

    def places(self, path: str) -> Iterator[ColumnPath]:
        """What a path of an item leads to in the rows of the dataset."""
        name, steps = self.path_of(path)
        for origin in self.origins(name):
            if isinstance(origin, ColumnPath):
                all_steps: tuple[Step, ...] = (*origin.steps, *steps)
                # The first step into a gathered column chooses among the rows.
                in_row = all_steps[1:] if origin.column in self._gathered else all_steps
                yield ColumnPath(origin.column, in_row)

    @cached_property
    def compared_images(self) -> frozenset[str]:
        """Paths of images that are candidates by themselves, in a list or one by one."""
        alone = [self.path_of(group[0]) for group in self.task.candidates if len(group) == 1]
        paths = {path: self.path_of(path) for path in self.task.judge.images}
        return frozenset(
            path
            for path, (name, steps) in paths.items()
            if any(name == other and steps in (to, to[:-1]) for other, to in alone)
        )

    @cached_property
    def dispensable_images(self) -> frozenset[str]:
        """Paths of images that an item can be without: where the question places images as values,
        or something else is judged and no mark stands for the image."""
        texts = self.task.questions.values()
        shown = {name for text in texts for name in question_columns(text)}
        beside = bool(self.task.candidates) and not any(IMAGE_MARK in text for text in texts)
        return frozenset(
            path
            for path in self.task.judge.images
            if path not in self.compared_images and (beside or self.path_of(path).column in shown)
        )

    @cached_property
    def _gathered(self) -> Sequence[str]:
        gather = self.task.judge.gather
        return gather.columns if gather else ()

    def column(self, name: str, read: Read) -> list[Any]:
        """The N values of a column.

        Raises:
            DataError: a path of ``judge.each`` leads nowhere in a row.
        """
        origins = self.origins(name)
        columns = {o.column: read(o.column) for o in origins if isinstance(o, ColumnPath)}
        values_N = [
            self.value(origins[entry], rows, columns)
            for entry, rows in zip(self.entries_N, self.rows_N, strict=True)
        ]
        lost = [n for n, value in enumerate(values_N) if value is MISSING]
        if lost:
            entry = self.entries_N[lost[0]]
            raise DataError(
                f"{self.task.path}: judge.each.{entry}.{name}: leads nowhere in {len(lost)} of "
                f"{len(values_N)} items, the first of them made of row {self.rows_N[lost[0]][0]}; "
                "expected that value in every row"
            )
        return values_N

    def value(self, origin: Any, rows: Sequence[int], columns: Mapping[str, Any]) -> Any:
        """What an item has at an origin.

        Args:
            columns: of the dataset, by name and row.
        """
        if not isinstance(origin, ColumnPath):
            return origin
        column = columns[origin.column]
        if origin.column in self._gathered:
            return value_at([column[row] for row in rows], origin.steps)
        return value_at(column[rows[0]], origin.steps)

    def select(self, indices: Iterable[int]) -> tuple[Items, list[int]]:
        """Some of the items, made of the rows that follow: those of the dataset they need."""
        chosen = list(indices)
        rows_N = [self.rows_N[index] for index in chosen]
        used = list(dict.fromkeys(chain.from_iterable(rows_N)))
        place = {row: number for number, row in enumerate(used)}
        entries_N = [self.entries_N[index] for index in chosen]
        moved_N = [tuple(place[row] for row in rows) for rows in rows_N]
        return replace(self, rows_N=moved_N, entries_N=entries_N), used

    def differing(self, values: Sequence[Any]) -> list[int]:
        """The items within whose rows a column of the dataset is not everywhere the same."""
        return [
            n
            for n, rows in enumerate(self.rows_N)
            if any(not _same(values[row], values[rows[0]]) for row in rows[1:])
        ]


def find_items(
    task: JudgeTask, columns: Sequence[str], n_rows: int, read: Read
) -> tuple[Items, dict[str, int]]:
    """The items of a split, and how many rows are left out, by the field that says so.

    Items are in the order of their first rows, the rows of an item in the dataset's.

    Raises:
        DataError: no row is left, or more rows belong together than one item can have.
    """
    judge = task.judge
    kept = _selected(task, columns, n_rows, read)
    left_out = Counter({"judge.where": n_rows - len(kept)})
    groups: Iterable[Sequence[int]] = ((row,) for row in kept)
    if judge.gather is not None:
        groups, without = _gathered(task, kept, _values(task, judge.gather.by, columns, read))
        left_out["judge.gather.by"] = without
    entries = range(max(1, len(judge.each)))
    rows_N: list[Sequence[int]] = []
    entries_N: list[int] = []
    for rows in groups:
        rows_N += [rows] * len(entries)
        entries_N += entries
    return Items(task, columns, rows_N, entries_N), dict(+left_out)


def image_paths(task: JudgeTask, columns: Sequence[str]) -> dict[str, list[tuple[Step, ...]]]:
    """Where images are in a row of a dataset, by column.

    Args:
        columns: of the dataset.
    """
    paths: dict[str, list[tuple[Step, ...]]] = {}
    items = Items(task, columns, (), ())
    for name, steps in chain.from_iterable(map(items.places, task.judge.images)):
        if steps not in paths.setdefault(name, []):
            paths[name].append(steps)
    return paths


def without_images(value: Any, paths: Iterable[tuple[Step, ...]]) -> Any:
    """A value with True in place of each image, and null where there is none."""
    for path in paths:
        value = mapped(value, path, _present)
    return value


def check_gathered(items: Items, columns: Iterable[str], read: Read) -> None:
    """Columns that are not gathered have one value for each item.

    Raises:
        DataError: naming every column that has not.
    """
    gather = items.task.judge.gather
    if gather is None:
        return
    faults = []
    for name in dict.fromkeys(columns):
        if name not in gather.columns and (found := items.differing(read(name))):
            by = _values(items.task, gather.by, items.columns, read)
            first = by[items.rows_N[found[0]][0]]
            faults.append(
                f"{items.task.path}: judge.gather: column {name!r} differs within {len(found)} of "
                f"{len(items)} items, the first of them {gather.by} {shortened(repr(first), 60)}; "
                "expected one value for each item, or its name in judge.gather.columns"
            )
    if faults:
        raise DataError("\n".join(faults))


def _selected(task: JudgeTask, columns: Sequence[str], n_rows: int, read: Read) -> Sequence[int]:
    """The rows that ``judge.where`` keeps."""
    conditions = [
        (dict.fromkeys(allowed, True), _values(task, path, columns, read))
        for path, allowed in task.judge.where.items()
    ]
    if not conditions:
        return range(n_rows)
    kept = [
        row
        for row in range(n_rows)
        if all(lookup(allowed, values[row], False) for allowed, values in conditions)
    ]
    if n_rows and not kept:
        found = {
            path: sorted({label_key(value) for value in values})[:5]
            for path, (_, values) in zip(task.judge.where, conditions, strict=True)
        }
        raise DataError(
            f"{task.path}: judge.where leaves none of {n_rows} rows; values in the data: {found}"
        )
    return kept


def _gathered(
    task: JudgeTask, kept: Sequence[int], values: Sequence[Any]
) -> tuple[list[tuple[int, ...]], int]:
    """The rows with each value of ``judge.gather.by``, and the number of rows without a value."""
    gather = task.judge.gather
    assert gather is not None
    groups: dict[str, list[int]] = {}
    without = 0
    for row in kept:
        if is_null(values[row]):
            without += 1
        else:
            groups.setdefault(label_key(values[row]), []).append(row)
    where = f"{task.path}: judge.gather.by: column {gather.by!r}"
    if kept and not groups:
        raise DataError(f"{where} is null in all {len(kept)} rows; expected a value for each item")
    largest = max(groups, key=lambda value: len(groups[value]), default="")
    if groups and len(groups[largest]) > MAX_GATHERED:
        raise DataError(
            f"{where} has {shortened(repr(largest), 60)} in {len(groups[largest]):,} rows; "
            f"expected at most {MAX_GATHERED}, which become one item"
        )
    return [tuple(rows) for rows in groups.values()], without


def _values(task: JudgeTask, path: str, columns: Sequence[str], read: Read) -> Sequence[Any]:
    name, steps = parse_path(path, columns)
    values = [value_at(value, steps) for value in read(name)] if steps else read(name)
    check_reached(task, path, values)
    return values


def check_reached(task: JudgeTask, path: str, values_N: Sequence[Any]) -> None:
    """A path leads somewhere in every row.

    Raises:
        DataError: naming the first row in which it does not.
    """
    lost = [index for index, value in enumerate(values_N) if value is MISSING]
    if lost:
        raise DataError(
            f"{task.path}: {path!r} leads nowhere in {len(lost)} of {len(values_N)} rows, the "
            f"first of them row {lost[0]}; expected that entry in every row"
        )


def _present(cells: Any) -> Any:
    if isinstance(cells, list):
        return [_present(cell) for cell in cells]
    return None if cells is None else True


def _same(value: Any, other: Any) -> bool:
    return bool(value == other) or (is_null(value) and is_null(other))
