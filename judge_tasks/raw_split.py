"""The items of one split in the dataset's own columns, and what is computed from them once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain, islice, repeat
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.progress import track

from mtrl_judge.common.errors import DataError, did_you_mean
from mtrl_judge.common.hashing import digest
from mtrl_judge.common.surrogates import replace_surrogates
from mtrl_judge.common.verbosity import is_quiet
from mtrl_judge.metrics.human import HumanRating

from .column_paths import ColumnPath, Step, leaves, parse_path, value_at
from .facts import Fact, as_facts, read_facts
from .fields import is_null, label_key, lookup
from .images import encoded, fault_of, shown, truncation_refused
from .items import (
    Items,
    Taken,
    check_gathered,
    check_reached,
    find_items,
    image_paths,
    without_images,
)
from .json_columns import with_json
from .labels import is_dropped, label_values, labels_of, train_median
from .spec import ColumnOf, JudgeTask
from .templates import question_columns

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
    """The items of a split before they are judged; N is their number.

    An item is a row of the dataset, unless ``judge.gather`` or ``judge.each`` says otherwise
    (:mod:`.items`).

    Args:
        dataset: in the dataset's own columns, images as encoded cells or as ``datasets`` images.
        folder: as for :func:`~.images.encoded`.
        facts_file: the file with the facts of the items, where there is one.
        items: of the dataset; by default, those that the YAML makes of it.

    Raises:
        DataError: a column that the YAML names is missing; names every such column. Or the rows do
            not make items.
    """

    def __init__(
        self,
        task: JudgeTask,
        dataset: Dataset,
        folder: Path | None = None,
        facts_file: Path | None = None,
        items: Items | None = None,
    ) -> None:
        # Of Arrow's values `datasets` decodes none: it would open any path or address in a cell.
        self.task, self.dataset, self.folder = task, dataset.with_format("arrow"), folder
        self.facts_file = facts_file
        _check_columns(task, dataset.column_names)
        self._columns: dict[str, list[Any]] = {}
        self._dataset_columns: dict[str, list[Any]] = {}
        self._digests_N: list[str] | None = None
        self.left_out: dict[str, int] = {}
        """Rows and items that are left out, by the field of the YAML that says so."""
        if items is None:
            names = dataset.column_names
            items, self.left_out = find_items(task, names, len(dataset), self._dataset_column)
            self.items = items
            self._check_gathered()
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def select(self, indices: Iterable[int]) -> RawSplit:
        """Some of the items, in the given order; their images are not hashed again."""
        chosen = list(indices)
        items, rows = self.items.select(chosen)
        part = RawSplit(self.task, self.dataset.select(rows), self.folder, self.facts_file, items)
        part.left_out = self.left_out
        if self._digests_N is not None:
            part._digests_N = [self._digests_N[index] for index in chosen]
        return part

    @property
    def column_names(self) -> list[str]:
        """The columns of an item."""
        return self.items.names

    def column(self, path: str) -> list[Any]:
        """The N values of a column or of a path; images in them are True.

        Raises:
            DataError: there is no such column, or the path leads nowhere in a row.
        """
        if path not in self._columns:
            name, steps = self.path_of(path)
            if name not in self.column_names:
                raise DataError(
                    f"{self.task.path}: no column {name!r} in the data; "
                    f"{did_you_mean(name, self.column_names)}"
                )
            if steps:
                values_N = [value_at(value, steps) for value in self.column(name)]
                check_reached(self.task, path, values_N)
            else:
                values_N = self.items.column(name, self._dataset_column)
            self._columns[path] = values_N
        return self._columns[path]

    def path_of(self, path: str) -> ColumnPath:
        return self.items.path_of(path)

    def _dataset_column(self, name: str) -> list[Any]:
        """The values of a column of the dataset, of all its rows; images in them are True."""
        if name not in self._dataset_columns:
            column = (
                self._without_images(name)
                if name in self._image_paths
                else self.dataset.select_columns([name])[:][name].to_pylist()
            )
            self._dataset_columns[name] = with_json(self.task, name, column)
        return self._dataset_columns[name]

    @cached_property
    def _image_paths(self) -> dict[str, list[tuple[Step, ...]]]:
        """Where images are in a row of the dataset, by column."""
        return image_paths(self.task, self.dataset.column_names)

    def _without_images(self, name: str) -> list[Any]:
        """The values of a column with True in place of each image, so that none stays in memory."""
        from pyarrow.types import is_nested, is_struct

        values: list[Any] = []
        for start in range(0, len(self.dataset), _BATCH):
            column = self.encoded[start : start + _BATCH][name]
            single = is_struct(column.type) or not is_nested(column.type)
            if self._image_paths[name] == [()] and single:
                values += [valid or None for valid in column.is_valid().to_pylist()]
                continue
            paths = self._image_paths[name]
            values += [without_images(value, paths) for value in column.to_pylist()]
        return values

    def _check_gathered(self) -> None:
        """What the rows of an item must have in common, images included."""
        gather = self.task.judge.gather
        if gather is None:
            return
        shared = [name for name in self._image_paths if name not in gather.columns]
        digests = self._image_digests(shared)

        def read(name: str) -> Sequence[Any]:
            values = self._dataset_column(name)
            return list(zip(values, digests[name], strict=True)) if name in digests else values

        named = chain.from_iterable(named_columns(self.task).values())
        used = [place.column for path in named for place in self.items.places(path)]
        check_gathered(self.items, used, read)

    def _image_digests(self, names: Sequence[str]) -> dict[str, list[str]]:
        """A digest of the images in each row of the dataset, by column."""
        digests: dict[str, list[str]] = {name: [] for name in names}
        for start in range(0, len(self.dataset) if names else 0, _BATCH):
            batch = self.encoded[start : start + _BATCH]
            for name in names:
                paths = self._image_paths[name]
                for value in batch[name].to_pylist():
                    cells = chain.from_iterable(leaves(value, path) for path in paths)
                    digests[name].append(self._digest(cells))
        return digests

    def cell(self, index: int, path: str) -> Any:
        """One value of any column or path; of an image column the decoded image.

        Raises:
            ValueError: the image cannot be shown.
            OSError: its file cannot be read.
        """
        from datasets import Image

        name, steps = self.path_of(path)
        value = value_at(self._values([index], [name])[0][name], steps)
        places = [*self.items.places(path)]
        is_image = any(isinstance(self.dataset.features[place.column], Image) for place in places)
        return self._shown(value) if is_image or path in self.task.judge.images else value

    def _shown(self, cell: Any) -> Any:
        """An image, or a list of them; a null stays one."""
        if isinstance(cell, list):
            return [self._shown(each) for each in cell]
        return None if cell is None else shown(encoded(cell, self.folder))

    def _values(self, indices: Sequence[int], names: Iterable[str]) -> list[dict[str, Any]]:
        """The values of columns of some items, images included."""
        origins = {name: self.items.origins(name) for name in names}
        columns = {o.path.column for each in origins.values() for o in each if isinstance(o, Taken)}
        rows = sorted(set(chain.from_iterable(self.items.rows_N[index] for index in indices)))
        cells: dict[str, dict[int, Any]] = {}
        if columns and rows:
            has_all = columns <= self._image_paths.keys()
            dataset = self.encoded if has_all else self.dataset.select_columns([*columns])
            together = rows[-1] - rows[0] + 1 == len(rows)  # a slice of Arrow's memory is no copy
            batch = dataset[slice(rows[0], rows[-1] + 1) if together else rows]
            for name in columns:
                values = with_json(self.task, name, batch[name].to_pylist())
                cells[name] = dict(zip(rows, values, strict=True))
        return [
            {name: self.items.value(n, of_column, cells) for name, of_column in origins.items()}
            for n in indices
        ]

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

    def _cells_of(self, values: Mapping[str, Any]) -> list[Any]:
        """The image cells of an item's values, in the order of ``judge.images``.

        A null is no image, but stays where the item is not complete without it.
        """
        cells: list[Any] = []
        for path in self.task.judge.images:
            name, steps = self.path_of(path)
            found = list(leaves(values[name], steps))
            dispensable = path in self.items.dispensable_images
            if dispensable or (found != [None] and path not in self.items.compared_images):
                found = [cell for cell in found if cell is not None]
            cells += found
        return cells

    @cached_property
    def _image_names(self) -> list[str]:
        """The columns of an item that have images."""
        return [*dict.fromkeys(self.path_of(path).column for path in self.task.judge.images)]

    def image_cells(self, index: int) -> list[Any]:
        """The encoded image cells of one item, in the order of ``judge.images``."""
        return self._cells_of(self._values([index], self._image_names)[0])

    def image_bytes(self, index: int) -> list[bytes]:
        """The encoded images of one item; empty where one is null or cannot be read."""
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
        console = Console(stderr=True)
        with truncation_refused(), ThreadPoolExecutor() as pool:
            checked = track(
                _map_in_batches(pool, check, self._cells()),
                description=f"{self.task.task}: checking images",
                total=len(self),
                # What vanishes at its end would leave an empty line where it cannot vanish.
                disable=few or is_quiet() or not console.is_terminal,
                transient=True,
                console=console,
            )
            results = list(checked)
        if not hashed:
            self._digests_N = [row_digest for row_digest, _ in results]
        return {index: why for index, (_, why) in enumerate(results) if why}

    def _cells(self) -> Iterator[list[Any]]:
        """The encoded image cells of each item, N."""
        for values in self._image_values():
            yield self._cells_of(values)

    def _image_values(self) -> Iterator[dict[str, Any]]:
        """The values of the columns with images, N; a few rows of the dataset at a time."""
        batch: list[int] = []
        rows = 0
        for index, of_item in enumerate(self.items.rows_N):
            if batch and rows + len(of_item) > _BATCH:
                yield from self._values(batch, self._image_names)
                batch, rows = [], 0
            batch.append(index)
            rows += len(of_item)
        yield from self._values(batch, self._image_names)

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

    # Candidates

    @cached_property
    def n_candidates(self) -> list[int]:
        """How many candidates each item has, N; 0 where nothing is compared."""
        return count_candidates(self.task, self.column, len(self))

    @cached_property
    def verdicts(self) -> list[Sequence[str]]:
        """The verdicts that each item can have, N."""
        kind, verdicts = self.task.kind, self.task.judge.verdicts
        # As they are: those of pairs say which change places (`PairVerdicts` of metrics/slots.py).
        return [kind.verdicts_of(verdicts, number) for number in self.n_candidates]

    @cached_property
    def candidate_names(self) -> list[list[str] | None]:
        """A name for each candidate by its content, N × 2, of pairs that can have one in common.

        None where nothing says which pairs do: neither ``cluster_by`` nor ``each``.
        """
        judge = self.task.judge
        if not self.task.kind.compares or not (judge.cluster_by or judge.each):
            return [None] * len(self)
        images = {
            path: [p for p in judge.images if p == path or p.startswith((f"{path}[", f"{path}."))]
            for path in self._compared
        }
        image_values = self._image_values() if any(images.values()) else repeat({}, len(self))
        names: list[list[str] | None] = []
        for index, values in enumerate(image_values):
            of_item = []
            for group in self.task.candidates:
                parts = [str(self.column(path)[index]) for path in group]
                for name, steps in (self.path_of(p) for path in group for p in images[path]):
                    parts.append(self._digest(leaves(values[name], steps)))
                of_item.append(digest(part.encode() for part in parts)[:16])
            names.append(of_item)
        return names

    # Identity

    @cached_property
    def _names(self) -> list[str]:
        """The id columns of each row, or else a hash of all that a judge is shown, N."""
        texts = self.texts()
        if self.task.judge.id:
            columns = [self.keys(column) for column in self.task.judge.id]
            if self.task.judge.each:
                columns.append([part.number for part in self.items.parts_N])
            return ["/".join(map(str, parts)) for parts in zip(*columns, strict=True)]
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
    def families(self) -> Sequence[str]:
        """A name for what the items of each row of the dataset have in common, N.

        It follows from the row's content. Items that are no more than one of a row have their own.
        """
        if not self.task.judge.each:
            return self._names
        members = _groups(self.items.rows_N)
        names = {
            rows: digest(sorted(self._names[index].encode() for index in indices))[:16]
            for rows, indices in members.items()
        }
        return [names[rows] for rows in self.items.rows_N]

    @cached_property
    def clusters(self) -> Sequence[str]:
        """A name for what each item shares with others, N; one that shares nothing has its id.

        By default, items with one name are a cluster, since they are the same item, and so are the
        items of one row and those that have to be right together.
        """
        judge = self.task.judge
        if judge.cluster_by is None:
            named = zip(self.joint, self.families, strict=True)
            return [family if joint is None else joint for joint, family in named]
        if judge.cluster_by in judge.images:
            return self.keys(judge.cluster_by)
        return [_shared(value) for value in self.column(judge.cluster_by)]

    def keys(self, path: str) -> list[Any]:
        """The N values of a column that items are told apart by: of images, a digest."""
        if path not in self.task.judge.images:
            return self.column(path)
        name, steps = self.path_of(path)
        cells_N = (leaves(values[name], steps) for values in self._image_values())
        return [self._digest(cells)[:16] for cells in cells_N]

    @cached_property
    def joint(self) -> list[str | None]:
        """A name for the rows that have to be right together, N; None where the value is null."""
        column = self.task.judge.joint_by
        if column is None:
            return [None] * len(self)
        return [None if is_null(value) else _shared(value) for value in self.keys(column)]

    @cached_property
    def groups(self) -> list[str | None]:
        """The group of each row, N; None where the column of groups is null, or none is named.

        Raises:
            DataError: the column has more values than a table can show, or values that are texts
                or are in no group of the map.
        """
        groups = self.task.judge.groups
        if groups is None:
            return [None] * len(self)
        column, values_N = groups.column, self.keys(groups.column)
        if groups.map:
            return self._mapped_groups(groups.map, values_N)
        groups_N = [
            None if is_null(value) else replace_surrogates(label_key(value)) for value in values_N
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

    def _mapped_groups(
        self, group_of: Mapping[str, str], values_N: Sequence[Any]
    ) -> list[str | None]:
        found_N = [None if is_null(value) else lookup(group_of, value, "") for value in values_N]
        lost = Counter(
            label_key(value) for value, group in zip(values_N, found_N, strict=True) if group == ""
        )
        if lost:
            found = ", ".join(f"{value!r} ({n} rows)" for value, n in lost.most_common(10))
            raise DataError(
                f"{self.task.path}: judge.groups.map: values that are in no group: {found}; "
                f"covered: {', '.join(group_of)}"
            )
        return found_N

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
        groups_N = self.keys(human.group) if human.group else nothing
        return [
            None
            if rating is None
            # Only whether two groups are the same matters, and the value may be a long text.
            else HumanRating(rating, None if is_null(group) else _shared(group), rank)
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
        try:
            return labels_of(self.task, self.label_values, self.verdicts, threshold)
        except DataError as error:
            raise DataError("\n".join([str(error), *self._class_names()])) from None

    def _class_names(self) -> Iterator[str]:
        """What the numbers of label columns stand for, where the dataset has names for them."""
        from datasets import ClassLabel

        for path in self.task.judge.label.columns:
            for column, steps in self.items.places(path):
                feature = self.dataset.features[column]
                if isinstance(feature, ClassLabel) and not steps:
                    names = ", ".join(
                        f"{n} is {name!r}" for n, name in enumerate(feature.names[:50])
                    )
                    yield f"column {column!r} has numbers that stand for names: {names}"

    def train_median(self) -> float | None:
        """The median that the labels are cut at, where the rule asks for one."""
        return train_median(self.task, self.label_values)

    @cached_property
    def label_values(self) -> list[Any]:
        """What the label rule reads of each row, N."""
        return label_values(self.task, self.column, len(self))

    # Items that are left out

    def kept(self) -> RawSplit:
        """The items that ``judge.label.drop`` leaves, with the count of others.

        Raises:
            DataError: none is left.
        """
        if not self.task.judge.label.drop:
            return self
        dropped_N = list(is_dropped(self.task, self.label_values))
        kept = self.select(index for index, dropped in enumerate(dropped_N) if not dropped)
        if any(dropped_N):
            kept.left_out = {**self.left_out, "judge.label.drop": sum(dropped_N)}
        if len(self) and not len(kept):
            raise DataError(
                f"{self.task.path}: judge.label.drop leaves none of {len(self)} items; expected "
                "values of some of them"
            )
        return kept


def count_candidates(task: JudgeTask, column: Callable[[str], Sequence[Any]], n: int) -> list[int]:
    """How many candidates each of N items has; 0 where nothing is compared.

    Args:
        column: the N values of a column or path.

    Raises:
        DataError: a column of lists has another number than the task's kind compares.
    """
    listed = task.judge.candidates
    if not isinstance(listed, str):
        return [len(task.candidates)] * n
    counts = [len(cell) if isinstance(cell, list) else 0 for cell in column(listed)]
    wrong: dict[int, int] = {}
    expected = ""
    for index, number in enumerate(counts):
        try:
            task.kind.verdicts_of(task.judge.verdicts, number)
        except LookupError as error:
            wrong[index], expected = number, str(error.args[0])
    if wrong:
        index, number = next(iter(wrong.items()))
        raise DataError(
            f"{task.path}: judge.candidates: column {listed!r} has another number of candidates in "
            f"{len(wrong)} of {n} items, the first of them item {index} with {number}; expected a "
            f"list of {expected}"
        )
    return counts


def named_columns(task: JudgeTask) -> dict[str, list[str]]:
    """The columns of an item that a task's YAML names, by the field that names them."""
    judge = task.judge
    human = judge.human.model_dump() if judge.human else {}
    return {
        "judge.images": [*judge.images],
        **{field: sorted(question_columns(text)) for field, text in task.questions.items()},
        "judge.label.column": [*judge.label.columns],
        "judge.id": [*(judge.id or ())],
        "judge.candidates": [path for group in task.candidates for path in group],
        "judge.reasoning": [judge.reasoning] if judge.reasoning else [],
        "judge.cluster_by": [judge.cluster_by] if judge.cluster_by else [],
        "judge.joint_by": [judge.joint_by] if judge.joint_by else [],
        "judge.groups": [judge.groups.column] if judge.groups else [],
        "judge.facts.column": [judge.facts.column] if judge.facts else [],
        **{f"judge.human.{field}": [name] for field, name in human.items() if name},
    }


def dataset_columns(task: JudgeTask, there: Collection[str]) -> dict[str, list[str]]:
    """The columns of the dataset that a task's YAML names, by the field that names them.

    Args:
        there: the columns that the dataset has.
    """
    judge = task.judge
    named = {
        "judge.where": [*judge.where],
        "judge.json_columns": [*judge.json_columns],
        **{
            f"judge.each.{number}.{name}": [cell.column]
            for number, entry in enumerate(judge.each)
            for name, cell in entry.items()
            if isinstance(cell, ColumnOf)
        },
    }
    if judge.gather is not None:
        named["judge.gather.by"] = [judge.gather.by]
        named["judge.gather.columns"] = [*judge.gather.columns]
    found = {
        field: [parse_path(path, there).column for path in paths] for field, paths in named.items()
    }
    defined = judge.each[0] if judge.each else {}
    for field, paths in named_columns(task).items():
        columns = [parse_path(path, {*there, *defined}).column for path in paths]
        found[field] = [name for name in columns if name not in defined]
    return {field: [*dict.fromkeys(names)] for field, names in found.items()}


def _check_columns(task: JudgeTask, there: Sequence[str]) -> None:
    faults = [
        f"{task.path}: {field}: no column {name!r} in the data; {did_you_mean(name, there)}"
        for field, names in dataset_columns(task, there).items()
        for name in names
        if name not in there
    ]
    defined = task.judge.each[0] if task.judge.each else {}
    faults += [
        f"{task.path}: judge.each: {name!r} is a column of the data already; choose another name"
        for name in defined
        if name in there
    ]
    if faults:
        raise DataError("\n".join([*faults, f"columns in the data: {', '.join(there)}"]))


def _shared(value: Any) -> str:
    """A name for a value that only has to be told from others, and may be a long text."""
    return digest([str(value).encode()])[:16]


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
