"""A dataset's own files to ``<data root>/<task>/``: streamed, checked, whole or not there.

Tasks whose YAMLs name the same files are read once; the others get links to what was written, so
that AGIN's three tasks take the room of one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import Dataset, Features
from datasets import Image as ImageFeature

from mtrl_judge.common.errors import DataError, JudgeError, nearest
from mtrl_judge.common.files import is_free, read_json, write_json
from mtrl_judge.common.hashing import digest
from mtrl_judge.common.progress import ProgressCallback
from mtrl_judge.judge_tasks.images import encoded, truncation_refused
from mtrl_judge.judge_tasks.prompts import question_columns
from mtrl_judge.judge_tasks.rows import MAX_UNDECODABLE_SHARE, labels_of, train_median
from mtrl_judge.judge_tasks.sources import split_files
from mtrl_judge.judge_tasks.spec import DATA_CARD, SPLITS, JudgeTask, Pictures, SplitName

from .image_files import Picture, PictureIndex, checked, read_picture
from .places import FileThere, HubRepository, Place, ZipArchive, find_place, matching
from .shards import Shards
from .tables import Table, WholeTable, read_table

_VERSION = 1  # of what is written; it goes up when a prepared set of before is not the same


@dataclass(frozen=True)
class Choices:
    """What the user decides."""

    source: Path | None = None
    """A folder or archive; None is the hub."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The YAML's name of a column by the table's."""
    any_count: bool = False
    """Take other numbers of rows than the card expects."""
    force: bool = False
    """Replace what is there."""


class Outcome(NamedTuple):
    """What became of one task."""

    task: str
    folder: Path
    card: Mapping[str, Any]
    was_there: bool


def prepare(
    tasks: Sequence[JudgeTask], root: Path, choices: Choices, progress: ProgressCallback
) -> Iterator[Outcome]:
    """Bring tasks' data into a data root, one dataset after the other.

    A set that is there already and would be the same is left as it is. What a kill interrupted is
    gone on with by the same call.

    Raises:
        JudgeError: a task names no files, its files are not there or not what the YAML says, there
            is no room, or something else is at the place. Nothing is left then.
    """
    for group in _groups(tasks):
        part = root / f".{group[0].task}.part"
        try:
            yield from _Preparation(group, root, part, choices, progress).run()
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            told = f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
            raise JudgeError(f"{root}: cannot be written: {told}; nothing was kept") from None
        except JudgeError:
            shutil.rmtree(part, ignore_errors=True)
            raise


def _groups(tasks: Sequence[JudgeTask]) -> list[list[JudgeTask]]:
    groups: dict[str, list[JudgeTask]] = {}
    for task in tasks:
        if task.judge.raw is None:
            raise JudgeError(
                f"{task.path}: judge.raw: is missing; name the dataset's files there, or write "
                f"{{train,validation,test}}.parquet into <data root>/{task.task}/ yourself"
            )
        key = json.dumps([task.dataset_path, task.revision, task.judge.raw.model_dump(mode="json")])
        groups.setdefault(key, []).append(task)
    return list(groups.values())


class _Split(NamedTuple):
    """One split of the dataset's own, ready to be read."""

    name: SplitName
    table: Table
    pictures: PictureIndex | None
    schema: pa.Schema
    images: Sequence[str]


class _Preparation:
    """One dataset for the tasks that are made from it."""

    def __init__(
        self,
        tasks: Sequence[JudgeTask],
        root: Path,
        part: Path,
        choices: Choices,
        progress: ProgressCallback,
    ) -> None:
        self.tasks, self.root, self.part = tasks, root, part
        self.choices, self.progress = choices, progress
        self.first = tasks[0]
        raw = self.first.judge.raw
        assert raw is not None
        self.raw = raw
        self.used: dict[str, int] = {}

    def run(self) -> Iterator[Outcome]:
        with ExitStack() as stack:
            place = self._place()
            stack.callback(place.close)
            files = self._files(place)
            plan = self._plan(place, files)
            left = [task for task in self.tasks if not self._is_there(task, plan)]
            for task in self.tasks:
                if task not in left:
                    folder = self.root / task.task
                    yield Outcome(
                        task.task,
                        folder,
                        read_json(folder / DATA_CARD, missing_ok=True),
                        was_there=True,
                    )
            if not left:
                return
            self._check_room()
            self._begin(plan)
            splits = [
                self._split(name, tables, archives, place, stack)
                for name, (tables, archives) in files.items()
            ]
            expected = self._check_counts(splits)
            self._check_rows(splits)
            notes = {split.name: self._write(split) for split in splits}
            card = self._card(place, plan, splits, expected, notes)
            yield from self._put(left, card)

    # What there is

    def _place(self) -> Place:
        if self.choices.source is not None:
            return find_place(self.choices.source, self.part / "spool")
        if self.first.dataset_path is None:
            raise JudgeError(
                f"{self.first.task}: is not on the hub; get it ({self.first.judge.card.url}) and "
                "name its folder or archive: --from"
            )
        return HubRepository(self.first)

    def _files(self, place: Place) -> dict[SplitName, tuple[list[FileThere], list[FileThere]]]:
        """Tables and archives of each split."""
        archives = self.raw.pictures.archives if self.raw.pictures else {}
        found = {}
        for name in SPLITS:
            if name in self.raw.tables:
                tables = matching(place, self.raw.tables[name])
                own = matching(place, archives[name]) if name in archives else []
                found[name] = (tables, own)
                self.used |= {file.name: file.size for file in (*tables, *own)}
        return found

    def _plan(self, place: Place, files: Mapping[Any, Any]) -> str:
        """A digest of all that decides what is written."""
        parts = [
            _VERSION,
            self.raw.model_dump(mode="json"),
            place.revision,
            sorted(self.choices.columns.items()),
            files,
        ]
        return digest([json.dumps(parts).encode()])

    def _is_there(self, task: JudgeTask, plan: str) -> bool:
        folder = self.root / task.task
        if is_free(folder):
            return False
        if self.choices.force:
            return False
        if read_json(folder / DATA_CARD, missing_ok=True).get("plan") == plan:
            return True
        raise JudgeError(
            f"{folder}: holds something else already; name another data root, or give --force "
            "to replace it"
        )

    def _check_room(self) -> None:
        """What is written is about as large as what is read; a picture is never unpacked."""
        self.root.mkdir(parents=True, exist_ok=True)
        needed, free = sum(self.used.values()), shutil.disk_usage(self.root).free
        if needed > free:
            raise JudgeError(
                f"{self.root}: {free / 1e9:,.1f} GB are free, about {needed / 1e9:,.1f} GB are "
                "needed; make room, or name another data root"
            )

    def _begin(self, plan: str) -> None:
        """The folder in which all is written; one that a killed run left is gone on with."""
        kept = self.part / "plan"
        if not kept.is_file() or kept.read_text(encoding="utf-8") != plan:
            shutil.rmtree(self.part, ignore_errors=True)
            self.part.mkdir(parents=True)
            kept.write_text(plan, encoding="utf-8")
        for broken in self.part.glob(".*.part"):
            broken.unlink()

    # What is in it

    def _split(
        self,
        name: SplitName,
        tables: Sequence[FileThere],
        archives: Sequence[FileThere],
        place: Place,
        stack: ExitStack,
    ) -> _Split:
        pictures = self.raw.pictures
        local = [place.local(file.name) for file in tables]
        table = read_table(local, self.choices.columns, whole=pictures is not None)
        self._check_columns(table.schema.names, tables)
        if pictures is None:
            images = [c for c in self.first.judge.images if c in table.schema.names]
            return _Split(name, table, None, _schema(table.schema, images), images)
        places: list[Place] = [ZipArchive(place.local(file.name), self.part) for file in archives]
        for each in places:
            stack.callback(each.close)
        index = PictureIndex(places or [place])
        assert isinstance(table, WholeTable)
        if pictures.subset:
            table = table.kept(lambda value: index.find(value) is not None, pictures.named_by)
        schema = _schema(_with_image(table.schema, pictures), [pictures.image])
        return _Split(name, table, index, schema, [pictures.image])

    def _check_columns(self, there: Sequence[str], tables: Sequence[FileThere]) -> None:
        needed = {column for task in self.tasks for column in _needed(task)}
        missing, free = sorted(needed - {*there}), [name for name in there if name not in needed]
        if not missing:
            return
        guesses = ",".join(f"{nearest(name, free) or 'THEIRS'}={name}" for name in missing)
        raise DataError(
            f"{tables[0].name}: no column {', '.join(map(repr, missing))}; columns there: "
            f"{', '.join(there)}\nif they only have other names: --columns {guesses}"
        )

    def _check_counts(self, splits: Sequence[_Split]) -> dict[str, int]:
        """What the card says of the dataset's own splits."""
        expected, wrong = {}, []
        for split in splits:
            made = [n for n, rule in self.first.judge.splits.items() if rule.source == split.name]
            counts = [self.first.judge.card.expects.get(each) for each in (split.name, *made)]
            if None in counts:
                continue
            expected[str(split.name)] = sum(count or 0 for count in counts)
            if split.table.rows != expected[split.name]:
                wrong.append(
                    f"{split.name}: {split.table.rows:,} rows, expected {expected[split.name]:,}"
                )
        if wrong and not self.choices.any_count:
            raise DataError(
                f"{self.first.task}: not the number of rows that its card expects "
                f"(judge.card.expects):\n  "
                + "\n  ".join(wrong)
                + "\nif this is the data you mean: --any-count"
            )
        return expected

    def _check_rows(self, splits: Sequence[_Split]) -> None:
        """The label rules must cover every row, before anything is written."""
        for task in self.tasks:
            column = task.judge.label.column
            values = {
                split.name: Dataset.from_dict({column: split.table.column(column)})
                for split in splits
            }
            median = train_median(task, values["train"]) if "train" in values else None
            for own in values.values():
                labels_of(task, own, threshold=median)

    # What is written

    def _write(self, split: _Split) -> dict[str, dict[str, str]]:
        shards = Shards(self.part, split.name, split.schema)
        broken = len(shards.notes().get("undecodable", {}))
        label = f"{self.first.task}: {split.name}"
        self.progress(label, shards.rows, split.table.rows)
        with truncation_refused(), ThreadPoolExecutor() as pool:
            batches = self._filled(split, shards.rows, broken, label, pool)
            for batch in batches:
                shards.shard().write(chain([batch], batches))
        return shards.notes()

    def _filled(
        self, split: _Split, start: int, broken: int, label: str, pool: ThreadPoolExecutor
    ) -> Iterator[tuple[pa.RecordBatch, Mapping[str, Mapping[str, str]]]]:
        """Batches with their pictures, and notes on them by kind and row."""
        row = start
        for batch in split.table.batches(start):
            columns = {name: batch.column(name) for name in batch.schema.names}
            notes: dict[str, dict[str, str]] = {"undecodable": {}, "changed": {}}
            for name in split.images:
                pictures, paths = _pictures(split, batch, name, self.raw.pictures, pool)
                cells = [
                    {"bytes": picture.data, "path": path if picture.data else None}
                    for picture, path in zip(pictures, paths, strict=True)
                ]
                columns[name] = pa.array(cells, type=split.schema.field(name).type)
                for place, picture in enumerate(pictures):
                    for kind, text in (("undecodable", picture.fault), ("changed", picture.change)):
                        if text is not None:
                            notes[kind][f"{row + place} {name}"] = text
            row += len(batch)
            broken += len(notes["undecodable"])
            if broken > MAX_UNDECODABLE_SHARE * split.table.rows:
                shown = "\n".join(f"  row {k}: {why}" for k, why in notes["undecodable"].items())
                raise DataError(
                    f"{label}: over {MAX_UNDECODABLE_SHARE:.0%} of the pictures do not decode, "
                    f"the last ones:\n{shown}\nfetch them again"
                )
            arrays = [columns[field.name].cast(field.type) for field in split.schema]
            yield pa.RecordBatch.from_arrays(arrays, schema=split.schema), notes
            self.progress(label, row, split.table.rows)

    def _card(
        self,
        place: Place,
        plan: str,
        splits: Sequence[_Split],
        expected: Mapping[str, int],
        notes: Mapping[SplitName, Mapping[str, Mapping[str, str]]],
    ) -> dict[str, Any]:
        return {
            "source": "prepared",
            "dataset": self.first.dataset_path,
            "revision": place.revision,
            "files": self.used,
            "splits": {split.name: split.table.rows for split in splits},
            "expected": dict(expected),
            **{
                kind: {split: own.get(kind, {}) for split, own in notes.items()}
                for kind in ("undecodable", "changed")
            },
            "columns": dict(self.choices.columns),
            "plan": plan,
            "version": version("mtrl-judge"),
        }

    def _put(self, tasks: Sequence[JudgeTask], card: Mapping[str, Any]) -> Iterator[Outcome]:
        """Each task's folder at once, with links to the one copy of the rows."""
        rows = [file for name in SPLITS for file in split_files(self.part, name)]
        for task in tasks:
            folder, new = self.root / task.task, self.root / f".{task.task}.new"
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            for file in rows:
                _link(file, new / file.name)
            write_json(new / DATA_CARD, card)
            if folder.exists():
                shutil.rmtree(folder)
            new.rename(folder)
            yield Outcome(task.task, folder, card, was_there=False)
        shutil.rmtree(self.part, ignore_errors=True)


def _needed(task: JudgeTask) -> set[str]:
    """The columns that a table must have."""
    judge, raw = task.judge, task.judge.raw
    pictures = raw.pictures if raw else None
    made = {pictures.image} if pictures else set()
    named = {pictures.named_by} if pictures else set()
    wanted = {*judge.images, *(judge.id or ()), *(task.candidates or ()), judge.label.column}
    wanted |= {name for text in task.questions.values() for name in question_columns(text)}
    wanted |= {column for column in (judge.reasoning, judge.cluster_by) if column}
    return (wanted - made) | named


def _with_image(schema: pa.Schema, pictures: Pictures) -> pa.Schema:
    field = pa.field(pictures.image, pa.binary())
    if pictures.image in schema.names:
        return schema.set(schema.get_field_index(pictures.image), field)
    return schema.append(field)


def _schema(schema: pa.Schema, images: Iterable[str]) -> pa.Schema:
    """The columns as `datasets` types them, pictures as its images."""
    features = Features.from_arrow_schema(schema)
    for name in images:
        features[name] = ImageFeature()
    return features.arrow_schema


def _pictures(
    split: _Split,
    batch: pa.RecordBatch,
    column: str,
    pictures: Pictures | None,
    pool: ThreadPoolExecutor,
) -> tuple[list[Picture], list[str | None]]:
    """The pictures of a batch, checked, and the names they are kept under."""
    if split.pictures is not None and pictures is not None:
        values = batch.column(pictures.named_by).to_pylist()
        found = [split.pictures.find(value) for value in values]
        return [read_picture(each) for each in found], [str(value) for value in values]
    cells = batch.column(column).to_pylist()
    return list(pool.map(_checked_cell, cells)), [_path_of(cell) for cell in cells]


def _checked_cell(cell: Any) -> Picture:
    try:
        return checked(encoded({**cell, "path": None} if isinstance(cell, dict) else cell))
    except ValueError as error:
        return Picture(None, str(error))


def _path_of(cell: Any) -> str | None:
    path = cell.get("path") if isinstance(cell, dict) else None
    return None if path is None else Path(str(path)).name


def _link(file: Path, place: Path) -> None:
    try:
        os.link(file, place)
    except OSError:  # a file system without links
        shutil.copyfile(file, place)
