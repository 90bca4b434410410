"""Items that evaluation shares with training: identical or near-duplicate images, identical texts.

A judge that was trained on an item is not tested by it. Training calls :func:`find_leaks` first and
does not start if :func:`refused` returns any.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from mtrl_judge.common.errors import DataError, JudgeError, first_line
from mtrl_judge.common.hashing import digest
from mtrl_judge.common.progress import ProgressCallback
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.sources import Source, data_root, find_source, load_raw
from mtrl_judge.judge_tasks.spec import JudgeTask, SplitName
from mtrl_judge.judge_tasks.templates import question_columns

from .near_duplicates import find_near_duplicates

LeakKind: TypeAlias = Literal["identical image", "near-duplicate", "identical text"]
# Two people may both write "a dog" without knowing of each other.
_MIN_WORDS, _MIN_CHARACTERS = 3, 12


class Leak(NamedTuple):
    """An evaluation item and the first training item of a task that it shares something with."""

    kind: LeakKind
    train_task: str
    train_item: str
    task: str
    split: SplitName
    item: str
    expected: bool
    """The task's own YAML cuts splits by row, so that a text may be in several of them."""


class LeakReport(NamedTuple):
    """All leaks, and what was compared."""

    leaks: Sequence[Leak]
    roles: Mapping[str, str]
    """By task."""
    checked: Mapping[str, Mapping[SplitName, int]]
    """Items by task and split."""
    left_out: Mapping[str, str]
    """Why tasks were not compared: their data is not in a folder."""


class _Item(NamedTuple):
    task: JudgeTask
    split: SplitName
    name: str


class _Images(Sequence[bytes]):
    """Images in their datasets; each is read when it is accessed."""

    def __init__(self, cells: Sequence[tuple[RawSplit, int, int]]) -> None:
        self.cells = cells

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
        raw, row, number = self.cells[index]
        return raw.image_bytes(row)[number]


class _Side:
    """The items of training or of evaluation, by what they may share."""

    def __init__(self) -> None:
        self.by_digest: dict[str, list[_Item]] = {}
        self.by_text: dict[str, list[_Item]] = {}
        self.cells: dict[str, tuple[RawSplit, int, int]] = {}
        """Where the first image of each digest is."""

    def add(self, raw: RawSplit, split: SplitName) -> int:
        """Add a split, less its known bad items; the number of items."""
        judge = raw.task.judge
        known_bad = {bad.item for bad in judge.known_bad}
        items = {
            row: _Item(raw.task, split, name)
            for row, name in enumerate(raw.ids)
            if name not in known_bad
        }
        for row, item in items.items():
            for number, image_digest in _image_digests(raw, row).items():
                self.by_digest.setdefault(image_digest, []).append(item)
                self.cells.setdefault(image_digest, (raw, row, number))
        for column in sorted(question_columns(judge.question) - set(judge.images)):
            values = raw.column(column)
            for row, item in items.items():
                if text := normalized(str(values[row])):
                    self.by_text.setdefault(text, []).append(item)
        return len(items)


def _image_digests(raw: RawSplit, row: int) -> dict[int, str]:
    """The digests of a row's readable images by their number."""
    digests = [digest([data]) for data in raw.image_bytes(row)]
    return {number: value for number, value in enumerate(digests) if value != _UNREADABLE}


_UNREADABLE = digest([b""])


def normalized(text: str) -> str:
    """A text without case, punctuation and spacing; empty if it is too short to identify an item.

    >>> normalized("  A Zebra, to the RIGHT…"), normalized("a dog")
    ('a zebra to the right', '')
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", folded))
    joined = " ".join(words)
    # Some languages write no spaces.
    unspaced = not joined.isascii() and len(joined) >= _MIN_CHARACTERS
    return joined if len(words) >= _MIN_WORDS or unspaced else ""


def find_leaks(
    trained: Sequence[JudgeTask],
    others: Sequence[JudgeTask],
    root: Path | None = None,
    progress: ProgressCallback = lambda *_: None,
) -> LeakReport:
    """Compare the training splits of tasks with the other splits of these and of other tasks.

    Of `others` only tasks whose data is in a folder are compared: nothing is downloaded for this.

    Raises:
        JudgeError: the training data cannot be loaded.
    """
    training, evaluation = _Side(), _Side()
    checked: dict[str, dict[SplitName, int]] = {}
    left_out: dict[str, str] = {}
    root = root or data_root()
    names = {task.task for task in trained}
    tasks = [*trained, *(task for task in others if task.task not in names)]
    for done, task in enumerate(tasks):
        progress("reading", done, len(tasks))
        counts: dict[SplitName, int] = {}
        try:
            if task.task not in names and not (root and (root / task.task).is_dir()):
                raise DataError("not in the data root")
            source = find_source(task, root)
            if task.task in names:
                counts["train"] = training.add(load_raw(task, "train", source), "train")
            elif source.folder is None:
                raise DataError("only facts in the data root")
            for split in _evaluation_splits(task, source):
                counts[split] = evaluation.add(load_raw(task, split, source), split)
            checked[task.task] = counts
        except JudgeError as error:
            if task.task in names:
                raise
            left_out[task.task] = first_line(error).removeprefix(f"{task.task}: ")
    leaks = [*_shared(training, evaluation, progress)]
    return LeakReport(leaks, {task.task: task.judge.role for task in tasks}, checked, left_out)


def _evaluation_splits(task: JudgeTask, source: Source) -> list[SplitName]:
    """The splits that are not trained on and can be loaded."""
    rules = task.judge.splits
    return [
        split
        for split in task.splits
        if split != "train"
        and (split in source.splits or (split in rules and rules[split].source in source.splits))
    ]


def _shared(training: _Side, evaluation: _Side, progress: ProgressCallback) -> Iterator[Leak]:
    for image, items in evaluation.by_digest.items():
        yield from _leaks("identical image", training.by_digest.get(image, ()), items)
    known = [image for image in training.cells if image not in evaluation.cells]
    asked = [image for image in evaluation.cells if image not in training.cells]
    duplicates = find_near_duplicates(
        _Images([training.cells[image] for image in known]),
        _Images([evaluation.cells[image] for image in asked]),
        progress,
    )
    for first, second in duplicates:
        items = evaluation.by_digest[asked[second]]
        yield from _leaks("near-duplicate", training.by_digest[known[first]], items)
    for text, items in evaluation.by_text.items():
        yield from _leaks("identical text", training.by_text.get(text, ()), items)


def _leaks(kind: LeakKind, trained: Sequence[_Item], judged: Sequence[_Item]) -> Iterator[Leak]:
    """A leak for each judged item and each training task that shares something with it."""
    first_items: dict[str, str] = {}
    for item in trained:
        first_items.setdefault(item.task.task, item.name)
    for task, split, name in judged:
        rule = task.judge.splits.get(split)
        cut_by_row = rule is not None and rule.source == "train" and rule.group_by is None
        for train_task, train_item in first_items.items():
            expected = kind == "identical text" and train_task == task.task and cut_by_row
            yield Leak(kind, train_task, train_item, task.task, split, name, expected)


def refused(report: LeakReport) -> list[Leak]:
    """The leaks that training refuses: into test splits, and into validation splits, which select
    the checkpoint and calibrate probabilities.
    """
    return [leak for leak in report.leaks if not leak.expected]


def leak_table(leaks: Sequence[Leak]) -> str:
    """A line for each pair of tasks and kind of leak; items are counted once."""
    from tabulate import tabulate

    groups: dict[tuple[str, str, str, str], dict[str, Leak]] = {}
    for leak in leaks:
        kind = leak.kind + (" (split by row)" if leak.expected else "")
        key = (leak.train_task, leak.task, leak.split, kind)
        groups.setdefault(key, {}).setdefault(leak.item, leak)
    lines = []
    for (train_task, task, split, kind), by_item in groups.items():
        examples = list(by_item.values())[:2]
        lines.append(
            {
                "trained on": train_task,
                "judged": f"{task} ({split})",
                "shared": kind,
                "items": len(by_item),
                "examples": "; ".join(f"{leak.train_item} → {leak.item}" for leak in examples),
            }
        )
    return tabulate(lines, headers="keys", maxcolwidths=[None, None, None, None, 60])
