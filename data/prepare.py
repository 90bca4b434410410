"""Write a dataset's published files to ``<data root>/<task>/``: streamed, checked, all or nothing.

Tasks whose YAMLs name the same files are read once, also in several calls; their folders share the
written files through hard links, so that AGIN's tasks need the space of one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from mtrl_judge.common.errors import DataError, JudgeError, nearest
from mtrl_judge.common.files import (
    is_free,
    json_text,
    read_json,
    remove_leftovers,
    whole_folder,
    write_json,
    write_text,
)
from mtrl_judge.common.hashing import digest
from mtrl_judge.common.locks import locked_folder
from mtrl_judge.common.progress import ProgressCallback
from mtrl_judge.judge_tasks.facts import FACTS_FILE
from mtrl_judge.judge_tasks.images import encoded, is_base64, truncation_refused
from mtrl_judge.judge_tasks.labels import labels_of, train_median
from mtrl_judge.judge_tasks.rows import MAX_UNDECODABLE_SHARE
from mtrl_judge.judge_tasks.sources import has_only_facts, split_files
from mtrl_judge.judge_tasks.spec import DATA_CARD, SPLITS, JudgeTask, SplitName

from .downloads import Downloads, hosts, is_address
from .image_columns import ImageColumn, image_columns
from .image_files import CheckedImage, ImageIndex, check_image
from .raw_files import Archive, HubRepository, RawFiles, open_source
from .shards import NOTE_KINDS, Notes, Shards, no_notes
from .source_splits import (
    SourceSplit,
    TableItems,
    addresses,
    has_images,
    needed_columns,
    source_feature,
    values_of,
    without,
)
from .table_files import IMAGE_SUFFIXES, MemoryTable, Table, read_table, table_of_images

# Increase it when the same files would be written differently, so that they are prepared again.
_FORMAT_VERSION = 1
DOWNLOADS_FILE = "downloads.jsonl"  # beside the data: which address each image was fetched from


@dataclass(frozen=True)
class PrepareOptions:
    """What the user decides."""

    source: Path | None = None
    """A folder or archive; None is the hub."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The YAML's name of a column by the table's name."""
    any_count: bool = False
    """Accept other numbers of rows than the card expects."""
    force: bool = False
    """Replace folders of other prepared data; never those with files of the user."""
    download: bool = False
    """Fetch images that are web addresses."""
    download_limit: float = 20e9
    """Bytes of all images that are fetched."""
    allow_missing: bool = False
    """Leave rows out whose images cannot be fetched, however many they are."""
    private_hosts: Sequence[str] = ()
    """`host:port` that may be asked for images although they are not public."""


class PreparedTask(NamedTuple):
    """One task's folder in the data root."""

    task: str
    folder: Path
    card: Mapping[str, Any]
    existed: bool
    """It was up to date and has not been written."""


def prepare(
    tasks: Sequence[JudgeTask], root: Path, options: PrepareOptions, progress: ProgressCallback
) -> Iterator[PreparedTask]:
    """Write the data of tasks into a data root, one dataset after the other.

    Folders that are up to date are left alone. A run that was killed is resumed by the same call.

    Raises:
        JudgeError: a task has no ``raw`` block, its files are missing or not as the YAML says, the
            disk is full, a folder has other content, or another process writes into the data root.
            Nothing is left behind.
    """
    datasets = _by_dataset(tasks)
    with locked_folder(root):
        for dataset_tasks in datasets:
            work = root / f".{dataset_tasks[0].task}.work"
            try:
                yield from _Preparation(dataset_tasks, root, work, options, progress).run()
            except (OSError, JudgeError) as error:
                shutil.rmtree(work, ignore_errors=True)
                if isinstance(error, JudgeError):
                    raise
                file = f" ({error.filename})" if error.filename else ""
                raise JudgeError(
                    f"{root}: cannot be written: {error.strerror or error}{file}; nothing was kept"
                ) from None


def _by_dataset(tasks: Sequence[JudgeTask]) -> Iterable[list[JudgeTask]]:
    groups: dict[str, list[JudgeTask]] = {}
    for task in tasks:
        if task.judge.raw is None:
            raise JudgeError(
                f"{task.path}: judge.raw: missing; describe the dataset's files there, or write "
                f"{{train,validation,test}}.parquet into <data root>/{task.task}/ yourself"
            )
        key = json_text([task.dataset_path, task.revision, task.judge.raw.model_dump(mode="json")])
        groups.setdefault(key, []).append(task)
    return groups.values()


@dataclass
class _Preparation:
    """One dataset for the tasks that are made from it."""

    tasks: Sequence[JudgeTask]
    root: Path
    work: Path
    """A folder for unfinished files, which a killed run leaves and the next one continues."""
    options: PrepareOptions
    progress: ProgressCallback

    def __post_init__(self) -> None:
        self.first = self.tasks[0]
        assert self.first.judge.raw is not None
        self.raw = self.first.judge.raw
        # Kept after an error, so that a later run goes on.
        self.downloads = Downloads(
            self.root / f".{self.first.task}.downloads",
            self.options.download_limit,
            self.options.private_hosts,
        )

    def run(self) -> Iterator[PreparedTask]:
        with ExitStack() as stack:
            source = self._open_source()
            stack.callback(source.close)
            files = self._find_files(source)
            names = dict.fromkeys(chain.from_iterable(chain.from_iterable(files.values())))
            sizes = {name: source.sizes[name] for name in names}
            inputs = {
                "dataset": self.first.dataset_path,
                "revision": source.revision,
                "files": sizes,
                "columns": dict(sorted(self.options.columns.items())),
            }
            # A digest of everything that decides what is written.
            raw = self.raw.model_dump(mode="json")
            if self.raw.file_column is None:
                del raw["file_column"]  # plans without it stay what they were
            parts = [_FORMAT_VERSION, raw, inputs, files]
            plan = digest([json_text(parts).encode()])
            existing = [task for task in self.tasks if self._is_up_to_date(task, plan)]
            for task in existing:
                folder = self.root / task.task
                yield PreparedTask(task.task, folder, read_json(folder / DATA_CARD), existed=True)
            if existing == self.tasks:
                self._clean_up()  # after a run killed at its very end
                return
            added = [task for task in self.tasks if task not in existing]
            prepared = None if self.options.force else self._prepared_before(plan)
            if prepared is not None:
                self._check_prepared(prepared)
                card = read_json(prepared / DATA_CARD)
                yield from (self._install(task, card, prepared) for task in added)
                self._clean_up()
                return
            self._start_or_resume(plan, needed=sum(sizes.values()))
            splits = [self._open_split(name, *files[name], source, stack) for name in files]
            self._check_items(splits)
            urls = [url for split in splits for url in split.urls]
            self._download(urls)
            self._rewrite_unless_same_failures()
            rows = {split.name: split.table.rows for split in splits}
            if self.options.allow_missing and self.downloads.failed:
                splits = [without(split, {*self.downloads.failed}) for split in splits]
            notes = {split.name: self._write(split) for split in splits}
            card = {
                "source": "prepared",
                **inputs,
                "splits": {split.name: split.table.rows for split in splits},
                **{kind: {name: notes[name][kind] for name in notes} for kind in NOTE_KINDS},
                **self._about_downloads(urls),
                **({"left_out": lost} if (lost := _lost_rows(splits, rows)) else {}),
                "plan": plan,
                "version": version("mtrl-judge"),
            }
            if urls:
                self.downloads.write_manifest(urls, self.work / DOWNLOADS_FILE)
            yield from (self._install(task, card, self.work) for task in added)
            self._clean_up()

    def _clean_up(self) -> None:
        for folder in (self.work, self.downloads.folder):
            shutil.rmtree(folder, ignore_errors=True)

    # Find the files and decide whether there is something to do.

    def _open_source(self) -> RawFiles:
        if self.options.source is not None:
            return open_source(self.options.source, self.work / "spool")
        if self.first.dataset_path is None:
            raise JudgeError(
                f"{self.first.task}: not on the hub; download it ({self.first.judge.card.url}) and "
                "pass its folder or archive with --from"
            )
        return HubRepository(self.first)

    def _find_files(self, source: RawFiles) -> dict[SplitName, tuple[list[str], list[str]]]:
        """Tables and archives of each split."""
        archives = self.raw.images.archives if self.raw.images else {}
        return {
            name: (source.matching(self.raw.tables[name]), source.matching(archives.get(name, ())))
            for name in SPLITS
            if name in self.raw.tables
        }

    def _is_up_to_date(self, task: JudgeTask, plan: str) -> bool:
        folder = self.root / task.task
        remove_leftovers(folder)
        if is_free(folder) or (folder.is_dir() and has_only_facts(folder)):
            return False
        card = read_json(folder / DATA_CARD, missing_ok=True) if folder.is_dir() else {}
        if not self.options.force and card.get("plan") == plan and self._has_our_images(folder):
            return True
        if not _is_prepared(folder, card):
            raise JudgeError(
                f"{folder}: contains files that `mtrl-judge data prepare` did not write; choose "
                "another data root, or move the folder away"
            )
        if self.options.force:
            return False
        raise JudgeError(
            f"{folder}: contains other data; choose another data root, or replace it with --force"
        )

    def _prepared_before(self, plan: str) -> Path | None:
        """The folder of any task that holds the same files already."""
        for card_file in sorted(self.root.glob(f"*/{DATA_CARD}")):
            card = read_json(card_file)
            same = card.get("plan") == plan and _is_prepared(card_file.parent, card)
            if same and self._has_our_images(card_file.parent):
                return card_file.parent
        return None

    def _has_our_images(self, folder: Path) -> bool:
        """Whether prepared files have images wherever these tasks need them."""
        for name in SPLITS:
            for file in split_files(folder, name):
                features = Features.from_arrow_schema(pq.read_schema(file))
                for column in image_columns(self.tasks, [*features]):
                    there = features.get(column.name)
                    if there is None or column.feature(there) != there:
                        return False
        return True

    def _check_prepared(self, folder: Path) -> None:
        """Columns, items and labels of files that another task was prepared with."""
        splits = []
        for name in SPLITS:
            if files := split_files(folder, name):
                table = read_table(files, {}, in_memory=False)
                self._check_columns(table.schema.names, files[0].name)
                images = {
                    column.name: column for column in image_columns(self.tasks, table.schema.names)
                }
                splits.append(SourceSplit(name, table, ImageIndex([]), images, table.schema))
        self._check_items(splits)

    def _start_or_resume(self, plan: str, needed: int) -> None:
        """Make the work folder, unless a killed run of the same plan left it."""
        # What is written is about as large as what is read: images stay compressed.
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise JudgeError(
                f"{self.root}: {free / 1e9:,.1f} GB are free, about {needed / 1e9:,.1f} GB are "
                "needed; free some space, or choose another data root"
            )
        plan_file = self.work / "plan"
        if not plan_file.is_file() or plan_file.read_text(encoding="utf-8") != plan:
            shutil.rmtree(self.work, ignore_errors=True)
            write_text(plan_file, plan)

    # Read and check.

    def _open_split(
        self,
        name: SplitName,
        tables: Sequence[str],
        archives: Sequence[str],
        source: RawFiles,
        stack: ExitStack,
    ) -> SourceSplit:
        image_files = self.raw.images
        table: Table
        if all(PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES for name in tables):
            table = table_of_images(tables, self.options.columns)
        else:
            table = read_table(
                [source.local_path(name) for name in tables],
                self.options.columns,
                in_memory=image_files is not None,
                file_column=self.raw.file_column,
            )
        found = table.schema.names
        self._check_columns(found, tables[0])
        opened = [Archive(source.local_path(name), self.work) for name in archives]
        for archive in opened:
            stack.callback(archive.close)
        index = ImageIndex(opened or [source])
        images = {column.name: column for column in image_columns(self.tasks, found)}
        if image_files is not None and image_files.subset:
            assert isinstance(table, MemoryTable)
            table = table.kept(has_images(table, images.values(), index))
        # The columns as `datasets` types them, so that it reads the files as image datasets.
        features = Features.from_arrow_schema(table.schema)
        theirs = {name: source_feature(column, features) for name, column in images.items()}
        features.update({name: images[name].feature(theirs[name]) for name in images})
        split = SourceSplit(name, table, index, images, features.arrow_schema)
        texts = [column for name, column in images.items() if column.may_be_text(theirs[name])]
        return split._replace(urls=addresses(split, texts))

    def _check_columns(self, found: Sequence[str], file: str) -> None:
        needed = {column for task in self.tasks for column in needed_columns(task, found)}
        missing = sorted(needed - {*found})
        unused = [name for name in found if name not in needed]
        if missing:
            guesses = ",".join(f"{nearest(name, unused) or 'THEIRS'}={name}" for name in missing)
            raise DataError(
                f"{file}: no column {', '.join(map(repr, missing))}; found: {', '.join(found)}\n"
                f"if only the names differ: --columns {guesses}"
            )

    def _check_items(self, splits: Sequence[SourceSplit]) -> None:
        """The items that the card expects must be there, with labels that the rule covers.

        Checked before anything is written.
        """
        wrong: list[str] = []
        for task in self.tasks:
            items = {split.name: TableItems(task, split) for split in splits}
            for name, of_split in items.items():
                count = _expected_items(task, name)
                if count is not None and of_split.kept != count:
                    wrong.append(f"  {name}: {of_split.kept:,} items, expected {count:,}")
            if wrong and not self.options.any_count:
                raise DataError(
                    f"{task.task}: judge.card.expects: other numbers of items than expected\n"
                    + "\n".join(wrong)
                    + "\nto use the data anyway: --any-count"
                )
            median = train_median(task, items["train"].values) if "train" in items else None
            for of_split in items.values():
                labels_of(task, of_split.values, of_split.verdicts(), threshold=median)

    # Write.

    def _write(self, split: SourceSplit) -> Notes:
        """Write the rows that the shards do not have yet; notes on all images of the split."""
        shards = Shards(self.work, split.name, split.schema)
        with truncation_refused(), ThreadPoolExecutor() as pool:
            shards.write(self._batches_with_images(split, shards, pool))
        return shards.notes

    def _batches_with_images(
        self, split: SourceSplit, shards: Shards, pool: ThreadPoolExecutor
    ) -> Iterator[tuple[pa.RecordBatch, Notes]]:
        """The batches that follow the shards, with checked images and notes on them."""
        row = shards.rows
        n_undecodable = len(shards.notes["undecodable"])
        label = f"{self.first.task}: {split.name}"
        self.progress(label, row, split.table.rows)
        for batch in _skip_rows(split.table.batches(), row):
            columns = {name: batch.column(name) for name in batch.schema.names}
            notes = no_notes()
            for name, column in split.images.items():
                values = column.values(values_of(batch), batch.schema.names)
                written = self._with_images(split, column, values, row, notes, pool)
                columns[name] = pa.array(written, type=split.schema.field(name).type)
            row += len(batch)
            n_undecodable += len(notes["undecodable"])
            if n_undecodable > MAX_UNDECODABLE_SHARE * split.table.rows:
                last = "\n".join(f"  row {k}: {why}" for k, why in notes["undecodable"].items())
                raise DataError(
                    f"{label}: over {MAX_UNDECODABLE_SHARE:.0%} of the images cannot be shown to a "
                    f"judge, among them\n{last}\ndownload them again"
                )
            arrays = [columns[field.name].cast(field.type) for field in split.schema]
            yield pa.RecordBatch.from_arrays(arrays, schema=split.schema), notes
            self.progress(label, row, split.table.rows)

    def _with_images(
        self,
        split: SourceSplit,
        column: ImageColumn,
        values: Sequence[Any],
        row: int,
        notes: Notes,
        pool: ThreadPoolExecutor,
    ) -> list[Any]:
        """Values with cells of checked images, and notes on these.

        Args:
            row: the number of the first.
        """
        cells: list[tuple[str, Any, dict[str, Any]]] = []
        written = []
        for number, value in enumerate(values, row):
            first = len(cells)

            def take(cell: Any, number: int = number, first: int = first) -> dict[str, Any]:
                place = len(cells) - first  # of the image in the row's value
                key = f"{number} {column.name}" + (f"[{place}]" if place else "")
                cells.append((key, cell, {"bytes": None, "path": None}))
                return cells[-1][2]

            written.append(column.replaced(value, take))
            if column.lacks(value):
                notes["undecodable"][f"{number} {column.name}"] = "the image cell is empty"
        # One after the other: members of an archive share its file.
        contents = [self._content(split, cell) for _, cell, _ in cells]
        images = pool.map(_checked, contents)
        for (key, cell, taken), image in zip(cells, images, strict=True):
            taken |= {"bytes": image.data, "path": _file_name(cell) if image.data else None}
            if image.fault is not None:
                notes["undecodable"][key] = image.fault
            if image.change is not None:
                notes["changed"][key] = image.change
        return written

    def _content(self, split: SourceSplit, cell: Any) -> bytes | ValueError:
        """The encoded image that a cell has or names, or why there is none."""
        try:
            if is_address(cell):
                return self.downloads.read(cell)
            if isinstance(cell, bytes | dict) or (isinstance(cell, str) and is_base64(cell)):
                # A path without bytes is of another machine.
                return encoded({**cell, "path": None} if isinstance(cell, dict) else cell)
            return split.image_index.read(cell)
        except ValueError as error:
            return error

    # Download.

    def _download(self, urls: Sequence[str]) -> None:
        """Fetch the images that are not here.

        Raises:
            DataError: the user has not allowed it, or too many could not be fetched.
        """
        if not urls:
            return
        named = Counter(hosts(urls)).most_common(5)
        servers = ", ".join(f"{host} ({n:,})" for host, n in named)
        if not self.options.download:
            raise DataError(
                f"{self.first.task}: {len(urls):,} images are web addresses, of {servers}; nothing "
                "was fetched. To fetch them: --download"
            )
        label = f"{self.first.task}: "
        self.downloads.fetch(urls, lambda what, *done: self.progress(label + what, *done))
        failed = self.downloads.failed
        too_many = len(failed) > MAX_UNDECODABLE_SHARE * len(set(urls))
        if too_many and not self.options.allow_missing:
            raise DataError(
                f"{self.first.task}: {len(failed):,} of {len(set(urls)):,} images could not be "
                f"downloaded:\n{self.downloads.reasons()}\nrun the same command again to fetch "
                "them, the others are kept; or leave their rows out: --allow-missing"
            )

    def _rewrite_unless_same_failures(self) -> None:
        """What a killed run has written is of use if it could fetch the same images."""
        failures = digest(sorted(url.encode() for url in self.downloads.failed))
        file = self.work / "failed"
        if file.is_file() and file.read_text(encoding="utf-8") == failures:
            return
        for written in chain.from_iterable(split_files(self.work, name) for name in SPLITS):
            written.unlink()
        write_text(file, failures)

    def _about_downloads(self, urls: Sequence[str]) -> dict[str, Any]:
        if not urls:
            return {}
        found = {"addresses": len(set(urls)), "hosts": dict(hosts(set(urls)))}
        return {"downloads": {**found, "failed": dict(sorted(self.downloads.failed.items()))}}

    def _install(self, task: JudgeTask, card: Mapping[str, Any], written: Path) -> PreparedTask:
        """Put the written files into a task's folder; tasks of one dataset share them, and make
        other items of them."""
        counts = {name: _expected_items(task, name) for name in SPLITS if name in card["splits"]}
        expected = {str(name): count for name, count in counts.items() if count is not None}
        card = {**card, "expected": expected}
        with whole_folder(self.root / task.task) as folder:
            for file in chain.from_iterable(split_files(written, name) for name in SPLITS):
                try:
                    os.link(file, folder / file.name)
                except OSError:  # a file system without hard links
                    shutil.copyfile(file, folder / file.name)
            for split, rows in card["splits"].items():
                there = sum(pq.read_metadata(file).num_rows for file in split_files(folder, split))
                if there != rows:
                    raise DataError(
                        f"{folder.parent / task.task}: {split}: {there:,} of {rows:,} rows were "
                        "written; did something else change the data root? Prepare the data again"
                    )
            write_json(folder / DATA_CARD, card)
            if (written / DOWNLOADS_FILE).exists():
                shutil.copyfile(written / DOWNLOADS_FILE, folder / DOWNLOADS_FILE)
            # Facts are by item, whatever files the items are in, and may have cost a strong judge.
            facts = self.root / task.task / FACTS_FILE
            if facts.exists():
                shutil.copyfile(facts, folder / FACTS_FILE)
        return PreparedTask(task.task, self.root / task.task, card, existed=False)


def _is_prepared(folder: Path, card: Mapping[str, Any]) -> bool:
    """Whether a folder has the card of a prepared task, and only files that belong to one."""
    shard = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}\.parquet")
    return card.get("source") == "prepared" and all(
        path.name in (DATA_CARD, DOWNLOADS_FILE, FACTS_FILE) or shard.fullmatch(path.name)
        for path in folder.iterdir()
    )


def _skip_rows(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if rows < len(batch):
            yield batch.slice(rows)
        rows = max(0, rows - len(batch))


def _expected_items(task: JudgeTask, split: SplitName) -> int | None:
    """The items that the card expects in one of the dataset's own splits, and in those cut from it;
    None if it does not say."""
    judge = task.judge
    cut = [name for name, rule in judge.splits.items() if rule.source == split]
    if not all(name in judge.card.expects for name in (split, *cut)):
        return None
    return sum(judge.card.expects[name] for name in (split, *cut))


def _lost_rows(splits: Sequence[SourceSplit], before: Mapping[SplitName, int]) -> dict[str, int]:
    """The rows of each split that are left out, if any are."""
    lost = {str(split.name): before[split.name] - split.table.rows for split in splits}
    return {name: rows for name, rows in lost.items() if rows}


def _checked(content: bytes | ValueError) -> CheckedImage:
    if isinstance(content, ValueError):
        return CheckedImage(None, str(content))
    return check_image(content)


def _file_name(cell: Any) -> str | None:
    """What an image was called; `datasets` keeps it beside its bytes."""
    path = cell.get("path") if isinstance(cell, dict) else cell
    if path is None or isinstance(path, bytes) or is_base64(str(path)):
        return None
    return Path(str(path)).name if isinstance(cell, dict) or is_address(cell) else str(path)
