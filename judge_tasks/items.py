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
from typing import Any, NamedTuple, TypeAlias

from mtrl_judge.common.errors import DataError, shortened

from .column_paths import MISSING, ColumnPath, Step, mapped, parse_path, value_at
from .fields import is_null, label_key, lookup
from .spec import ColumnOf, Gather, JudgeTask
from .templates import IMAGE_MARK, question_columns

# What is gathered is shown to a judge together.
MAX_GATHERED = 100
# Each value of a list that `judge.each` goes through is an item.
MAX_LISTED = 1_000

Read: TypeAlias = Callable[[str], Sequence[Any]]
"""The values of a column of the dataset, one for each of its rows."""


class Taken(NamedTuple):
    """Where a column of an item comes from."""

    path: ColumnPath
    listed: bool = False
    """Whether the path leads to a list, of which the item has one value."""


class Part(NamedTuple):
    """Which part of its rows an item is."""

    number: int = 0
    """Among the items of the same rows."""
    entry: int = 0
    """Of ``judge.each``."""
    position: int = 0
    """In the lists that the entry goes through."""


@dataclass(frozen=True)
class Items:
    """The items of a split; N is their number."""

    task: JudgeTask
    columns: Sequence[str]
    """Of the dataset."""
    rows_N: Sequence[Sequence[int]]
    """The indices of the dataset's rows that each item is made of."""
    parts_N: Sequence[Part]

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

        A :class:`Taken`, or a constant.
        """
        found: list[Any] = []
        for entry in self.task.judge.each or ({},):
            cell = entry.get(name, ColumnOf(column=name))
            if isinstance(cell, ColumnOf):
                cell = Taken(parse_path(cell.column, self.columns), cell.listed)
            found.append(cell)
        return found

    def places(self, path: str) -> Iterator[ColumnPath]:
        """What a path of an item leads to in the rows of the dataset."""
        name, steps = self.path_of(path)
        for origin in self.origins(name):
            if isinstance(origin, Taken):
                column, start = origin.path
                all_steps: tuple[Step, ...] = (*start, *((None,) if origin.listed else ()), *steps)
                # The first step into a gathered column chooses among the rows.
                yield ColumnPath(column, all_steps[1:] if column in self._gathered else all_steps)

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
        names = {origin.path.column for origin in origins if isinstance(origin, Taken)}
        columns = {name: read(name) for name in names}
        values_N = [self.value(n, origins, columns) for n in range(len(self))]
        lost = [n for n, value in enumerate(values_N) if value is MISSING]
        if lost:
            entry = self.parts_N[lost[0]].entry
            raise DataError(
                f"{self.task.path}: judge.each.{entry}.{name}: leads nowhere in {len(lost)} of "
                f"{len(values_N)} items, the first of them made of row {self.rows_N[lost[0]][0]}; "
                "expected that value in every row"
            )
        return values_N

    def value(self, n: int, origins: Sequence[Any], columns: Mapping[str, Any]) -> Any:
        """The value of a column of one item.

        Args:
            origins: of the column, for each entry of ``judge.each``.
            columns: of the dataset, by name and row.
        """
        part = self.parts_N[n]
        origin = origins[part.entry]
        if not isinstance(origin, Taken):
            return origin
        found = self.at(origin.path, self.rows_N[n], columns)
        return found[part.position] if origin.listed else found

    def at(self, path: ColumnPath, rows: Sequence[int], columns: Mapping[str, Any]) -> Any:
        """What a path leads to in the rows of an item; MISSING where it leads nowhere."""
        column = columns[path.column]
        if path.column in self._gathered:
            return value_at([column[row] for row in rows], path.steps)
        return value_at(column[rows[0]], path.steps)

    def select(self, indices: Iterable[int]) -> tuple[Items, list[int]]:
        """Some of the items, made of the rows that follow: those of the dataset they need."""
        chosen = list(indices)
        rows_N = [self.rows_N[index] for index in chosen]
        used = list(dict.fromkeys(chain.from_iterable(rows_N)))
        place = {row: number for number, row in enumerate(used)}
        parts_N = [self.parts_N[index] for index in chosen]
        moved_N = [tuple(place[row] for row in rows) for rows in rows_N]
        return replace(self, rows_N=moved_N, parts_N=parts_N), used

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
    groups: Sequence[Sequence[int]] = [(row,) for row in kept]
    if judge.gather is not None:
        groups, without = _gathered(task, kept, _values(task, judge.gather.by, columns, read))
        left_out["judge.gather.by"] = without
        if _are_candidates(task, judge.gather):
            several = [rows for rows in groups if len(rows) > 1]
            left_out["judge.candidates"] = len(groups) - len(several)
            if groups and not several:
                raise DataError(
                    f"{task.path}: judge.gather.by: no two rows have the same {judge.gather.by!r}; "
                    "expected the rows of an item's candidates to have it in common"
                )
            groups = several
    rows_N: list[Sequence[int]] = []
    parts_N: list[Part] = []
    for rows, lengths in zip(groups, _lengths(task, columns, groups, read), strict=True):
        parts = ((entry, at) for entry, length in enumerate(lengths) for at in range(length))
        numbered = [Part(number, *part) for number, part in enumerate(parts)]
        left_out["judge.each"] += not numbered
        rows_N += [rows] * len(numbered)
        parts_N += numbered
    if groups and not rows_N:
        raise DataError(f"{task.path}: judge.each: the lists of all {len(groups)} rows are empty")
    return Items(task, columns, rows_N, parts_N), dict(+left_out)


def _lengths(
    task: JudgeTask, columns: Sequence[str], groups: Sequence[Sequence[int]], read: Read
) -> Iterator[list[int]]:
    """How many items each entry of ``judge.each`` makes of the rows of each group.

    Raises:
        DataError: a value to go through is no list or a long one, or two lists differ in length.
    """
    items = Items(task, columns, (), ())
    listed = [
        {name: cell for name, cell in entry.items() if isinstance(cell, ColumnOf) and cell.listed}
        for entry in task.judge.each or ({},)
    ]
    paths = {
        cell.column: parse_path(cell.column, columns) for each in listed for cell in each.values()
    }
    values = {path.column: read(path.column) for path in paths.values()}
    for rows in groups:
        lengths = []
        for number, cells in enumerate(listed):
            where = f"{task.path}: judge.each.{number}"
            by_name = {}
            for name, cell in cells.items():
                found = items.at(paths[cell.column], rows, values)
                length = 0 if found is None else len(found) if isinstance(found, list) else -1
                if not 0 <= length <= MAX_LISTED:
                    what = "no list" if length < 0 else f"a list of {length:,} values"
                    raise DataError(
                        f"{where}.{name}: {cell.column!r} leads to {what} in row {rows[0]}; "
                        f"expected a list of up to {MAX_LISTED:,}, whose values become items"
                    )
                by_name[name] = length
            if len({*by_name.values()}) > 1:
                raise DataError(
                    f"{where}: lists of different lengths in row {rows[0]}: "
                    f"{', '.join(f'{name} has {length}' for name, length in by_name.items())}; "
                    "expected one value of each for every item"
                )
            lengths.append(next(iter(by_name.values()), 1))
        yield lengths


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


def _are_candidates(task: JudgeTask, gather: Gather) -> bool:
    """Whether each row of an item is a candidate, so that there is nothing to compare in one."""
    listed = task.judge.candidates
    return isinstance(listed, str) and parse_path(listed).column in gather.columns


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
