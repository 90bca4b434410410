"""One split of a dataset in its own columns, and what is computed from them once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.progress import track

from mtrl_judge.common.errors import DataError, did_you_mean
from mtrl_judge.common.hashing import digest
from mtrl_judge.common.surrogates import replace_surrogates
from mtrl_judge.metrics.human import HumanRating

from .column_paths import MISSING, ColumnPath, Step, leaves, mapped, parse_path, value_at
from .facts import Fact, as_facts, read_facts
from .fields import is_null, label_key, lookup
from .images import encoded, fault_of, shown, truncation_refused
from .labels import is_dropped, label_values, labels_of, train_median
from .spec import JudgeTask
from .templates import IMAGE_MARK, question_columns

if TYPE_CHECKING:
    from datasets import Dataset

MAX_GROUPS = 50
MAX_GROUP_NAME = 100  # characters
_BATCH = 64
_PROGRESS_FROM = 2_000  # images; fewer are checked in less than two seconds


class Repeats(NamedTuple):
    """Rows that a judge is shown more than once."""

    duplicates: int
    """Rows that show the same as an earlier one."""
    contradictory: Sequence[Sequence[str]]
    """The ids of rows that show the same and are not labeled the same, group by group."""

    def lines(self) -> list[str]:
        """What to report, if anything."""
        lines = []
        if self.duplicates:
            lines.append(f"{self.duplicates} rows show a judge the same as an earlier row")
        if self.contradictory:
            count = sum(map(len, self.contradictory))
            examples = "; ".join(", ".join(ids[:3]) for ids in self.contradictory[:3])
            lines.append(f"{count} rows show the same but differ in their labels, as {examples}")
        return lines


class RawSplit:
    """The raw rows of a split; N is their number.

    Args:
        dataset: in the dataset's own columns, images as encoded cells or as ``datasets`` images.
        folder: as for :func:`~.images.encoded`.
        facts_file: the file with the facts of the items, where there is one.

    Raises:
        DataError: a column that the YAML names is missing; names every such column.
    """

    def __init__(
        self,
        task: JudgeTask,
        dataset: Dataset,
        folder: Path | None = None,
        facts_file: Path | None = None,
    ) -> None:
        # Of Arrow's values `datasets` decodes none: it would open any path or address in a cell.
        self.task, self.dataset, self.folder = task, dataset.with_format("arrow"), folder
        self.facts_file = facts_file
        _check_columns(task, dataset.column_names)
        self._columns: dict[str, list[Any]] = {}
        self._digests_N: list[str] | None = None
        self.left_out: dict[str, int] = {}
        """Rows that :meth:`kept` left out, by the field of the YAML that says so."""

    def __len__(self) -> int:
        return len(self.dataset)

    def select(self, indices: Iterable[int]) -> RawSplit:
        """Some of the rows, in the given order; their images are not hashed again."""
        chosen = list(indices)
        part = RawSplit(self.task, self.dataset.select(chosen), self.folder, self.facts_file)
        part.left_out = self.left_out
        if self._digests_N is not None:
            part._digests_N = [self._digests_N[index] for index in chosen]
        return part

    def column(self, path: str) -> list[Any]:
        """The N values of a column or of a path; images in them are True.

        Raises:
            DataError: there is no such column, or the path leads nowhere in a row.
        """
        if path not in self._columns:
            name, steps = self.path_of(path)
            if name not in self.dataset.column_names:
                raise DataError(
                    f"{self.task.path}: no column {name!r} in the data; "
                    f"{did_you_mean(name, self.dataset.column_names)}"
                )
            if steps:
                values_N = [value_at(value, steps) for value in self.column(name)]
                _check_reached(self.task, path, values_N)
            elif name in self._image_paths:
                values_N = self._without_images(name)
            else:
                values_N = self.dataset.select_columns([name])[:][name].to_pylist()
            self._columns[path] = values_N
        return self._columns[path]

    def path_of(self, path: str) -> ColumnPath:
        return parse_path(path, self.dataset.column_names)

    @cached_property
    def _image_paths(self) -> dict[str, list[tuple[Step, ...]]]:
        """Where images are, by column."""
        paths: dict[str, list[tuple[Step, ...]]] = {}
        for name, steps in map(self.path_of, self.task.judge.images):
            paths.setdefault(name, []).append(steps)
        return paths

    def _without_images(self, name: str) -> list[Any]:
        """The values of a column with True in place of each image, so that none stays in memory."""
        from pyarrow.types import is_nested, is_struct

        values_N: list[Any] = []
        for start in range(0, len(self), _BATCH):
            column = self.encoded[start : start + _BATCH][name]
            single = is_struct(column.type) or not is_nested(column.type)
            if self._image_paths[name] == [()] and single:
                values_N += [valid or None for valid in column.is_valid().to_pylist()]
                continue
            for value in column.to_pylist():
                for steps in self._image_paths[name]:
                    value = mapped(value, steps, _present)
                values_N.append(value)
        return values_N

    def cell(self, index: int, path: str) -> Any:
        """One value of any column or path; of an image column the decoded image.

        Raises:
            ValueError: the image cannot be shown.
            OSError: its file cannot be read.
        """
        from datasets import Image

        name, steps = self.path_of(path)
        value = value_at(self.dataset.select_columns([name])[index][name][0].as_py(), steps)
        is_image = isinstance(self.dataset.features[name], Image)
        if value is None or not (is_image or path in self.task.judge.images):
            return value
        return shown(encoded(value, self.folder))

    def texts(self, template: str | None = None) -> dict[str, list[Any]]:
        """The columns that a template (default: the question) reads or that name an item."""
        judge = self.task.judge
        names = question_columns(template or judge.question)
        names |= {*(judge.id or ()), *(self.path_of(path).column for path in self._compared)}
        return {name: self.column(name) for name in sorted(names - set(judge.images))}

    @property
    def _compared(self) -> set[str]:
        """The paths of all candidates."""
        return {path for group in self.task.candidates for path in group}

    # Images

    @cached_property
    def encoded(self) -> Dataset:
        """The columns with images alone, as encoded cells in Arrow tables."""
        return self.dataset.select_columns(list(self._image_paths))

    def cells_of(self, row: Mapping[str, Any]) -> list[Any]:
        """The image cells of a row of :attr:`encoded`, in the order of ``judge.images``.

        A null is no image, but stays where the item is not complete without it.
        """
        cells: list[Any] = []
        for path in self.task.judge.images:
            name, steps = self.path_of(path)
            found = list(leaves(row[name], steps))
            if found != [None] or path in self._may_be_null:
                found = [cell for cell in found if cell is not None]
            cells += found
        return cells

    @cached_property
    def _may_be_null(self) -> frozenset[str]:
        """Image columns that an item can be without: where the question places images as values, or
        something else is judged and no mark stands for the image."""
        judge = self.task.judge
        shown = {name for text in self.task.questions.values() for name in question_columns(text)}
        marked = any(IMAGE_MARK in text for text in self.task.questions.values())
        alone = {self.path_of(group[0]).column for group in self.task.candidates if len(group) == 1}
        beside = not marked and bool(self.task.candidates)
        names = {path: self.path_of(path).column for path in judge.images}
        return frozenset(
            path for path, name in names.items() if name in shown or (beside and name not in alone)
        )

    def image_cells(self, index: int) -> list[Any]:
        """The image cells of one row; see :meth:`cells_of`."""
        if not self._image_paths:
            return []
        row = self.encoded[index]
        return self.cells_of({name: row[name][0].as_py() for name in self._image_paths})

    def image_bytes(self, index: int) -> list[bytes]:
        """The encoded images of one row; empty where one is null or cannot be read."""
        return [_bytes_of(cell, self.folder) for cell in self.image_cells(index)]

    @property
    def digests(self) -> list[str]:
        """A digest of each row's image bytes, N; an unreadable image counts as empty."""
        if self._digests_N is None:
            self._digests_N = [self._digest(cells) for cells in self._cells()]
        return self._digests_N

    @cached_property
    def faults(self) -> dict[int, str]:
        """Why images cannot be shown to a judge, by the index of the row."""
        few = len(self) * max(1, len(self.task.judge.images)) < _PROGRESS_FROM
        hashed = self._digests_N is not None
        check = self._fault if hashed else self._digest_and_fault
        with truncation_refused(), ThreadPoolExecutor() as pool:
            checked = track(
                _map_in_batches(pool, check, self._cells()),
                description=f"{self.task.task}: checking images",
                total=len(self),
                disable=few,
                transient=True,
                console=Console(stderr=True),
            )
            results = list(checked)
        if not hashed:
            self._digests_N = [row_digest for row_digest, _ in results]
        return {index: why for index, (_, why) in enumerate(results) if why}

    def _cells(self) -> Iterator[list[Any]]:
        """The encoded image cells of each row."""
        if not self._image_paths:
            yield from ([] for _ in range(len(self)))
        for start in range(0, len(self) if self._image_paths else 0, _BATCH):
            batch = self.encoded[start : start + _BATCH]
            columns = {name: batch[name].to_pylist() for name in self._image_paths}
            for values in zip(*columns.values(), strict=True):
                yield self.cells_of(dict(zip(columns, values, strict=True)))

    def _digest(self, cells: Iterable[Any]) -> str:
        return digest(_bytes_of(cell, self.folder) for cell in cells)

    def _fault(self, cells: Iterable[Any]) -> tuple[str, str | None]:
        try:
            faults = [fault_of(encoded(cell, self.folder)) for cell in cells]
        except (OSError, ValueError) as error:
            faults = [str(error)]
        return "", next(filter(None, faults), None)

    def _digest_and_fault(self, cells: Sequence[Any]) -> tuple[str, str | None]:
        return self._digest(cells), self._fault(cells)[1]

    # Identity

    @cached_property
    def _names(self) -> list[str]:
        """The id columns of each row, or else a hash of all that a judge is shown, N."""
        texts = self.texts()
        if self.task.judge.id:
            parts_N = zip(*(texts[column] for column in self.task.judge.id), strict=True)
            return ["/".join(map(str, parts)) for parts in parts_N]
        shown_N = zip(self.digests, *texts.values(), strict=True)
        return [digest(str(part).encode() for part in shown)[:16] for shown in shown_N]

    @cached_property
    def ids(self) -> list[str]:
        """The id of each row, N: its name, numbered where several rows have the same.

        The numbers follow the rows' content, so that the order of rows does not matter.
        """
        unique = list(self._names)
        taken = set(unique)
        for name, indices in _groups(self._names).items():
            number = 1
            for index in sorted(indices, key=self._content)[1:] if len(indices) > 1 else ():
                number += 1
                while f"{name}#{number}" in taken:
                    number += 1
                unique[index] = f"{name}#{number}"
        return unique

    def _content(self, index: int) -> tuple[str, ...]:
        """All of a row that decides how it is judged and scored; equal rows are interchangeable."""
        if self._digests_N is None:  # hashing all images takes long
            images = digest(self.image_bytes(index))
        else:
            images = self._digests_N[index]
        texts = (str(values[index]) for values in self.texts().values())
        label = label_key(self.label_values[index])
        return images, *texts, label, self.reasoning[index] or ""

    def repeats(self, labels_N: Sequence[str | None]) -> Repeats:
        """The rows that show a judge the same as another one, and those with another label."""
        judge = self.task.judge
        names = question_columns(judge.question)
        names |= {self.path_of(path).column for path in self._compared}
        texts = [self.column(name) for name in sorted(names - set(judge.images))]
        shown_N = zip(self.digests, *(map(str, values) for values in texts), strict=True)
        groups = [indices for indices in _groups(shown_N).values() if len(indices) > 1]
        contradictory = [
            indices
            for indices in groups
            if len({labels_N[index] for index in indices} - {None}) > 1
        ]
        return Repeats(
            sum(len(indices) - 1 for indices in groups),
            [sorted(self.ids[index] for index in indices) for indices in contradictory],
        )

    @cached_property
    def clusters(self) -> Sequence[str]:
        """A name for what each row shares with others, N; a row that shares nothing has its id.

        By default, rows with one name are a cluster: they are the same item.
        """
        judge = self.task.judge
        if judge.cluster_by is None:
            return self._names
        if judge.cluster_by in judge.images:
            name, steps = self.path_of(judge.cluster_by)
            cells_N = (leaves(row[name][0].as_py(), steps) for row in self.encoded)
            return [self._digest(cells)[:16] for cells in cells_N]
        return [digest([str(value).encode()])[:16] for value in self.column(judge.cluster_by)]

    @cached_property
    def groups(self) -> list[str | None]:
        """The group of each row, N; None where the column of groups is null, or none is named.

        Raises:
            DataError: the column has more values than a table can show, or values that are texts.
        """
        column = self.task.judge.groups
        if column is None:
            return [None] * len(self)
        groups_N = [
            None if is_null(value) else replace_surrogates(label_key(value))
            for value in self.column(column)
        ]
        if not self.task.kind.counted:  # there are no rates of each group
            return groups_N
        names = {name for name in groups_N if name is not None}
        where = f"{self.task.path}: judge.groups: column {column!r}"
        if len(names) > MAX_GROUPS:
            raise DataError(
                f"{where} has {len(names):,} values; expected at most {MAX_GROUPS}. Name a coarser "
                "column; what only makes rows depend on each other is cluster_by"
            )
        longest = max(names, key=len, default="")
        if len(longest) > MAX_GROUP_NAME:
            raise DataError(
                f"{where} has a value of {len(longest):,} characters ({longest[:30]!r}…); expected "
                f"names of groups, of at most {MAX_GROUP_NAME}"
            )
        return groups_N

    @cached_property
    def human(self) -> list[HumanRating | None]:
        """What people thought of each row, N; None where the rating is null or not named.

        Raises:
            DataError: a rating or rank is not a number.
        """
        human = self.task.judge.human
        if human is None:
            return [None] * len(self)
        nothing = [None] * len(self)
        ratings_N = self._numbers("judge.human.column", human.column)
        ranks_N = self._numbers("judge.human.rank", human.rank) if human.rank else nothing
        groups_N = self.column(human.group) if human.group else nothing
        return [
            None
            if rating is None
            # Only whether two groups are the same matters, and the value may be a long text.
            else HumanRating(
                rating, None if is_null(group) else digest([str(group).encode()])[:16], rank
            )
            for rating, group, rank in zip(ratings_N, groups_N, ranks_N, strict=True)
        ]

    @property
    def has_facts(self) -> bool:
        """Whether the task's YAML or a file says what items show."""
        return self.task.judge.facts is not None or self.facts_file is not None

    @cached_property
    def facts(self) -> list[tuple[Fact, ...]]:
        """What each row shows, N; empty for a row without facts.

        Raises:
            DataError: facts are malformed, or are both in a column and in a file.
        """
        facts = self.task.judge.facts
        if self.facts_file is None:
            if facts is None:
                return [()] * len(self)
            where = f"{self.task.path}: judge.facts: column {facts.column!r}"
            cells = zip(self.ids, self.column(facts.column), strict=True)
            return [as_facts(cell, f"{where}: item {item}") for item, cell in cells]
        if facts is not None:
            raise DataError(
                f"{self.task.path}: judge.facts: names the column {facts.column!r}, and there is "
                f"the file {self.facts_file}; expected one source of facts, remove one of them"
            )
        by_item = read_facts(self.facts_file)
        return [by_item.get(item, ()) for item in self.ids]

    def _numbers(self, field: str, column: str) -> list[float | None]:
        """The N values of a column as numbers; None where one is null."""
        numbers: list[float | None] = []
        for value in self.column(column):
            try:
                number = None if is_null(value) else float(value)
            except (TypeError, ValueError):
                number = inf
            if number is not None and not isfinite(number):
                raise DataError(
                    f"{self.task.path}: {field}: {value!r} in column {column!r} is no number"
                )
            numbers.append(number)
        return numbers

    @property
    def reasoning(self) -> list[str | None]:
        """The reasoning of a good answer for each row, N."""
        if self.task.judge.reasoning is None:
            return [None] * len(self)
        return [None if v is None else str(v) for v in self.column(self.task.judge.reasoning)]

    # Labels

    def labels(self, threshold: float | None = None) -> list[str | None]:
        """The verdict each row is labeled with, N; see :func:`~.labels.labels_of`."""
        return labels_of(self.task, self.label_values, threshold)

    def train_median(self) -> float | None:
        """The median that the labels are cut at, where the rule asks for one."""
        return train_median(self.task, self.label_values)

    @cached_property
    def label_values(self) -> list[Any]:
        """What the label rule reads of each row, N."""
        return label_values(self.task, self.column, len(self))

    # Rows that are left out

    def kept(self) -> RawSplit:
        """The rows that ``judge.where`` and ``judge.label.drop`` leave, with the counts of others.

        Raises:
            DataError: none is left.
        """
        judge = self.task.judge
        if not judge.where and not judge.label.drop:
            return self
        reasons_N = [
            "judge.where" if not selected else "judge.label.drop" if dropped else None
            for selected, dropped in zip(
                self._selected(), is_dropped(self.task, self.label_values), strict=True
            )
        ]
        kept = self.select(index for index, why in enumerate(reasons_N) if why is None)
        kept.left_out = dict(sorted(Counter(filter(None, reasons_N)).items()))
        if len(self) and not len(kept):
            found = {
                path: sorted({label_key(value) for value in self.column(path)})[:5]
                for path in judge.where
            }
            raise DataError(
                f"{self.task.path}: judge.where and judge.label.drop leave no row: "
                f"{kept.left_out}; values in the data: {found}"
            )
        return kept

    def _selected(self) -> Iterator[bool]:
        where = self.task.judge.where
        columns = [self.column(path) for path in where]
        for index in range(len(self)):
            yield all(
                lookup(dict.fromkeys(allowed, True), values[index], False)
                for allowed, values in zip(where.values(), columns, strict=True)
            )


def named_columns(task: JudgeTask) -> dict[str, list[str]]:
    """The columns of the dataset that a task's YAML names, by the field that names them."""
    judge = task.judge
    human = judge.human.model_dump() if judge.human else {}
    return {
        "judge.images": [*judge.images],
        **{field: sorted(question_columns(text)) for field, text in task.questions.items()},
        "judge.label.column": [*judge.label.columns],
        "judge.where": [*judge.where],
        "judge.id": [*(judge.id or ())],
        "judge.candidates": [path for group in task.candidates for path in group],
        "judge.reasoning": [judge.reasoning] if judge.reasoning else [],
        "judge.cluster_by": [judge.cluster_by] if judge.cluster_by else [],
        "judge.groups": [judge.groups] if judge.groups else [],
        "judge.facts.column": [judge.facts.column] if judge.facts else [],
        **{f"judge.human.{field}": [name] for field, name in human.items() if name},
    }


def _check_columns(task: JudgeTask, there: Sequence[str]) -> None:
    named = {
        field: dict.fromkeys(parse_path(path, there).column for path in paths)
        for field, paths in named_columns(task).items()
    }
    faults = [
        f"{task.path}: {field}: no column {name!r} in the data; {did_you_mean(name, there)}"
        for field, names in named.items()
        for name in names
        if name not in there
    ]
    if faults:
        raise DataError("\n".join([*faults, f"columns in the data: {', '.join(there)}"]))


def _check_reached(task: JudgeTask, path: str, values_N: Sequence[Any]) -> None:
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


def _groups(values_N: Iterable[Hashable]) -> dict[Any, list[int]]:
    """The indices of each value."""
    groups: dict[Any, list[int]] = {}
    for index, value in enumerate(values_N):
        groups.setdefault(value, []).append(index)
    return groups


def _bytes_of(cell: Any, folder: Path | None) -> bytes:
    try:
        return encoded(cell, folder)
    except (OSError, ValueError):
        return b""


def _map_in_batches(
    pool: ThreadPoolExecutor, function: Any, items: Iterator[Any]
) -> Iterator[tuple[str, str | None]]:
    """Like ``pool.map``, a few batches at a time: the images of a split need not fit in memory."""
    while batch := list(islice(items, 4 * _BATCH)):
        yield from pool.map(function, batch, chunksize=8)
