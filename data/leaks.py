"""What evaluation shares with training: the same picture, a near copy of it, or the same text.

A judge that has seen an item is not tested by it. Training asks :func:`find_leaks` first and does
not start where :func:`refused` has something.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.common.hashing import digest
from mtrl_judge.common.progress import ProgressCallback
from mtrl_judge.judge_tasks.images import encoded
from mtrl_judge.judge_tasks.prompts import question_columns
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.sources import find_source, load_raw
from mtrl_judge.judge_tasks.spec import JudgeTask, SplitName

from .near_duplicates import near_copies

if TYPE_CHECKING:
    from datasets import Dataset

Kind: TypeAlias = Literal["bytes", "picture", "text"]
KINDS: Mapping[Kind, str] = {
    "bytes": "same picture",
    "picture": "near copy",
    "text": "same text",
}
# "a dog" is what two people write who know nothing of each other.
_LEAST_WORDS, _LEAST_CHARACTERS = 3, 12


class Leak(NamedTuple):
    """An item of evaluation and the first one of training that it shares something with."""

    kind: Kind
    train_task: str
    train_item: str
    task: str
    split: SplitName
    item: str
    expected: bool
    """Text that the task's own YAML lets stand in several splits, as it cuts by row."""


class LeakReport(NamedTuple):
    """All that was found, and what was looked at."""

    leaks: Sequence[Leak]
    roles: Mapping[str, str]
    checked: Mapping[str, Mapping[SplitName, int]]
    """Items by task and split."""
    left_out: Mapping[str, str]
    """Tasks whose data is not here, and why."""


class _Item(NamedTuple):
    task: JudgeTask
    split: SplitName
    name: str


class _Pictures(Sequence[bytes]):
    """Pictures where they lie; each is read when it is asked for."""

    def __init__(self) -> None:
        self.places: list[tuple[Dataset, int, str]] = []

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: int) -> bytes:  # type: ignore[override]
        cells, row, column = self.places[place]
        return _bytes_of(cells[row][column])


class _Side:
    """What one side, training or evaluation, has: items by picture and by text."""

    def __init__(self) -> None:
        self.by_bytes: dict[str, list[_Item]] = {}
        self.by_text: dict[str, list[_Item]] = {}
        self.pictures = _Pictures()
        self.digests: list[str] = []

    def add(self, task: JudgeTask, split: SplitName, raw: RawSplit) -> int:
        """Take a split in; the number of its items."""
        bad = {each.item for each in task.judge.known_bad}
        items = [None if name in bad else _Item(task, split, name) for name in raw.ids]
        cells = raw.encoded
        for row in range(len(cells)):
            item = items[row]
            if item is None:
                continue
            for column, cell in cells[row].items():
                data = _bytes_of(cell)
                if data:
                    self._add_picture(digest([data]), item, (cells, row, column))
        for column in sorted(question_columns(task.judge.question) - set(task.judge.images)):
            for item, value in zip(items, raw.column(column), strict=True):
                text = normalised(str(value))
                if item is not None and text:
                    self.by_text.setdefault(text, []).append(item)
        return sum(item is not None for item in items)

    def _add_picture(self, name: str, item: _Item, place: tuple[Dataset, int, str]) -> None:
        if name not in self.by_bytes:
            self.digests.append(name)
            self.pictures.places.append(place)
        self.by_bytes.setdefault(name, []).append(item)


def normalised(text: str) -> str:
    """A text without case, punctuation and spacing; empty where it is too short to tell anything.

    >>> normalised("  A Zebra, to the RIGHT…"), normalised("a dog")
    ('a zebra to the right', '')
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", folded))
    joined = " ".join(words)
    # Some languages write no spaces.
    unspaced = not joined.isascii() and len(joined) >= _LEAST_CHARACTERS
    return joined if len(words) >= _LEAST_WORDS or unspaced else ""


def find_leaks(
    trained: Sequence[JudgeTask],
    others: Sequence[JudgeTask],
    root: Path | None = None,
    progress: ProgressCallback = lambda *_: None,
) -> LeakReport:
    """Compare the training splits of tasks with every other split of theirs and of other tasks.

    Of `others` only those whose data is in a folder take part: nothing is fetched to be compared.

    Args:
        progress: called with what is done, how much of it, and of how much.

    Raises:
        JudgeError: the training data is not to be had.
    """
    train, evaluation = _Side(), _Side()
    checked: dict[str, dict[SplitName, int]] = {}
    left_out: dict[str, str] = {}
    own = {task.task for task in trained}
    tasks = [*trained, *(task for task in others if task.task not in own)]
    for done, task in enumerate(tasks):
        progress("reading", done, len(tasks))
        if task.task in own:
            counts = dict(_added(train, task, ["train"], root))
            counts |= dict(_added(evaluation, task, _evaluated(task, root), root))
        else:
            try:
                if find_source(task, root).folder is None:
                    raise DataError("is not in the data root")
                counts = dict(_added(evaluation, task, _evaluated(task, root), root))
            except JudgeError as error:
                left_out[task.task] = str(error).splitlines()[0].removeprefix(f"{task.task}: ")
                continue
        checked[task.task] = counts
    leaks = [*_shared(train, evaluation, progress)]
    return LeakReport(leaks, {t.task: t.judge.role for t in tasks}, checked, left_out)


def _evaluated(task: JudgeTask, root: Path | None) -> list[SplitName]:
    """The splits that a task has and nobody trains on."""
    source = find_source(task, root)
    return [
        split
        for split in task.splits
        if split != "train"
        and (
            split in source.splits
            or (split in task.judge.splits and task.judge.splits[split].source in source.splits)
        )
    ]


def _added(
    side: _Side, task: JudgeTask, splits: Sequence[SplitName], root: Path | None
) -> Iterator[tuple[SplitName, int]]:
    source = find_source(task, root)
    for split in splits:
        yield split, side.add(task, split, load_raw(task, split, source))


def _shared(train: _Side, evaluation: _Side, progress: ProgressCallback) -> Iterator[Leak]:
    for name, items in evaluation.by_bytes.items():
        yield from _between("bytes", train.by_bytes.get(name, ()), items)
    known = _without(train, evaluation), _without(evaluation, train)
    for one, other in near_copies(known[0][1], known[1][1], progress):
        first = train.by_bytes[known[0][0][one]]
        yield from _between("picture", first, evaluation.by_bytes[known[1][0][other]])
    for text, items in evaluation.by_text.items():
        yield from _between("text", train.by_text.get(text, ()), items)


def _without(side: _Side, other: _Side) -> tuple[list[str], _Pictures]:
    """The pictures whose very bytes the other side does not have."""
    digests, pictures = [], _Pictures()
    for name, place in zip(side.digests, side.pictures.places, strict=True):
        if name not in other.by_bytes:
            digests.append(name)
            pictures.places.append(place)
    return digests, pictures


def _between(kind: Kind, trained: Sequence[_Item], judged: Sequence[_Item]) -> Iterator[Leak]:
    first: dict[str, _Item] = {}
    for item in trained:
        first.setdefault(item.task.task, item)
    for item in judged:
        for task, origin in first.items():
            expected = kind == "text" and task == item.task.task and _by_row(item)
            yield Leak(kind, task, origin.name, item.task.task, item.split, item.name, expected)


def _by_row(item: _Item) -> bool:
    rule = item.task.judge.splits.get(item.split)
    return rule is not None and rule.source == "train" and rule.group_by is None


def refused(report: LeakReport) -> list[Leak]:
    """The leaks that training must not start with: into a test split or out of distribution."""
    return [
        leak
        for leak in report.leaks
        if not leak.expected and (leak.split == "test" or report.roles[leak.task] == "ood")
    ]


def leak_table(leaks: Sequence[Leak]) -> str:
    """A line for what two tasks share in one way; items are counted once."""
    from tabulate import tabulate

    groups: dict[tuple[str, str, str, str], dict[str, Leak]] = {}
    for leak in leaks:
        kind = KINDS[leak.kind] + (" (split by row)" if leak.expected else "")
        key = (leak.train_task, leak.task, leak.split, kind)
        groups.setdefault(key, {}).setdefault(leak.item, leak)
    lines = [
        {
            "trained on": train_task,
            "judged": f"{task} ({split})",
            "shared": kind,
            "items": len(found),
            "such as": "; ".join(f"{e.train_item} → {e.item}" for e in list(found.values())[:2]),
        }
        for (train_task, task, split, kind), found in groups.items()
    ]
    return tabulate(lines, headers="keys", maxcolwidths=[None, None, None, None, 60])


def _bytes_of(cell: object) -> bytes:
    try:
        return encoded(cell)
    except (OSError, ValueError):
        return b""
