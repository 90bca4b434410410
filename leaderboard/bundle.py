"""All items of any number of judges as a folder of static files: a page that loads data in parts.

The page works from a file and from a static host alike. A page that was opened as a file may not
fetch, but its content security policy may allow the scripts and images of its own folder, so each
part of the data is a script. It is one call with one string, which the page parses as JSON: data is
never code. The names of files are numbers and digests, never data.
"""

from __future__ import annotations

import base64
import re
import shutil
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mtrl_judge.common.files import json_text, refuse_existing, whole_folder
from mtrl_judge.common.progress import ProgressCallback
from mtrl_judge.judge_tasks.facts import check_facts, mentioned
from mtrl_judge.judge_tasks.verdicts import read_reasoning

from .board import Leaderboard
from .formats import format_date, metric_names, one_line
from .report import readable, truncated
from .samples import Answer, Item, JudgedRows, Order, TaskItems, all_items, check_include
from .tables import Cell, Table, cell_parts
from .view import View, data_table, model_table

if TYPE_CHECKING:
    from PIL import Image

    from mtrl_judge.judge_tasks.rows import JudgeRow

VERSION = 1
FLAGS = ("wrong", "null", "failed", "flipped")
"""Bits of a judge's column of flags, the lowest first; the one above says that it judged the
item."""
MAX_TEXT = 100_000
"""Characters of one text; the middle of a longer one is left out."""
_PAGE = {"bundle.html": "index.html", "bundle.js": "report.js", "bundle.css": "report.css"}
_CONTENT = {*_PAGE.values(), "data", "images"}
_PART_BYTES = 2**19
_PREVIEWS = 1_000  # items of a part of previews
_PREVIEW_LENGTH = 140
_THUMBNAIL = 112  # pixels, the longer side
_NOT_JUDGED, _NO_VERDICT, _FIRST_NAME = 0, 1, 2  # in columns of verdicts


class Bundle(NamedTuple):
    """What was written."""

    items: int
    images: int
    size: int
    """Bytes of all files."""


def write_bundle(
    board: Leaderboard,
    view: View,
    folder: Path,
    *,
    include: Sequence[Path] = (),
    force: bool = False,
    digits: int = 3,
    progress: ProgressCallback = lambda *_: None,
) -> Bundle:
    """Write the report of a leaderboard with all its items; `index.html` in the folder opens it.

    Parts and images are written one at a time. Nothing is in the folder until all is.

    Args:
        view: all tables of the board.
        include: folders with YAMLs of tasks that are not shipped, so that their images are shown.
        progress: called with each task's items.

    Raises:
        JudgeError: the folder has content that this function did not write, or an older report
            and `force` is not set; a path in `include` does not exist; or it cannot be written.
    """
    check_include(include)
    refuse_other_content(folder, force)
    with whole_folder(folder) as part:
        (part / "data").mkdir()
        for source, name in _PAGE.items():
            shutil.copyfile(Path(__file__).with_name(source), part / name)
        index = _Index([run.name for run in board.runs])
        images = _Images(part / "images")
        parts, previews = _Parts(part / "data", "items"), _Parts(part / "data", "rows", _PREVIEWS)
        tasks = []
        for number, column in enumerate(board.tasks):
            found, rows = all_items(board.runs, column.name, include)
            writer = _ItemWriter(found, rows, images, index.judges, _max_pixels(board, found.task))
            for done, item in enumerate(found.items, 1):
                content, preview = writer.write(item)
                parts.add(content)
                previews.add(preview)
                index.add(number, item)
                if done % 100 == 0 or done == found.of:
                    progress(one_line(view.labels[column.name], 40), done, found.of)
            tasks.append(_about_task(board, view, found))
        parts.close()
        previews.close()
        about = _about(board, view, digits)
        content = {**about, "tasks": tasks, "starts": parts.starts, **index.content()}
        _write_part(part / "data", "index", content)
        files = [path for path in part.rglob("*") if path.is_file()]
        return Bundle(len(index.ids), images.count, sum(path.stat().st_size for path in files))


def refuse_other_content(folder: Path, force: bool) -> None:
    """Check that a report may be written to a folder, before the work begins.

    Raises:
        JudgeError: it has content that :func:`write_bundle` did not write, or an older report and
            `force` is not set.
    """
    refuse_existing(folder, force, _is_bundle)


def _is_bundle(folder: Path) -> bool:
    if not folder.is_dir() or not (folder / "data" / "index.js").is_file():
        return False
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")} <= _CONTENT


# Parts of the data


def _write_part(folder: Path, name: str, content: Any) -> None:
    text = json_text(content, indent=None)
    literal = text.replace("\\", "\\\\").replace("'", "\\'")
    (folder / f"{name}.js").write_text(f"mtrlJudgePart('{name}','{literal}');\n", encoding="utf-8")


class _Parts:
    """Lists of values in files of about the same size."""

    def __init__(self, folder: Path, name: str, length: int | None = None) -> None:
        self._folder, self._name, self._length = folder, name, length
        self._values: list[Any] = []
        self._bytes = self._count = 0
        self.starts: list[int] = []
        """The number of the first value of each file."""

    def add(self, value: Any) -> None:
        size = 0 if self._length else len(json_text(value, indent=None))
        full = len(self._values) == self._length or self._bytes + size > _PART_BYTES
        if self._values and full:
            self.close()
        self._values.append(value)
        self._bytes += size

    def close(self) -> None:
        if self._values:
            _write_part(self._folder, f"{self._name}-{len(self.starts)}", self._values)
            self.starts.append(self._count)
            self._count += len(self._values)
        self._values, self._bytes = [], 0


class _Index:
    """What filters and the list need of every item, as columns."""

    def __init__(self, judges: Sequence[str]) -> None:
        self.judges = {name: number for number, name in enumerate(judges)}
        self.ids: list[str] = []
        self._names: dict[str, int] = {}
        self._groups: dict[str, int] = {}
        self._columns = {name: array("I") for name in ("task", "group", "label", "item", "length")}
        self._of_judges = {
            name: [array("I") for _ in judges] for name in ("flags", "straight", "swapped", "sure")
        }

    def add(self, task: int, item: Item) -> None:
        self.ids.append(readable(item.item_id))
        first = item.orders[0]
        answers = [answer for order in item.orders for answer in order.answers.values()]
        groups = (answer.sample.record.group for answer in answers)
        group = next((group for group in groups if group is not None), None)
        values = {
            "task": task,
            "group": 0 if group is None else self._number(self._groups, group) + 1,
            "label": _NO_VERDICT if first.label is None else self._name(first.label),
            "item": item.disagreed + 2 * (len(item.orders) > 1),
            "length": min(sum(len(answer.sample.text) for answer in answers), 2**32 - 1),
        }
        for name, value in values.items():
            self._columns[name].append(value)
        for judge, number in self.judges.items():
            flags = item.flags.get(judge)
            bits = 0
            if flags is not None:
                bits = sum(2**bit for bit, flag in enumerate(FLAGS) if flag in flags)
                bits += 2 ** len(FLAGS)
            self._of_judges["flags"][number].append(bits)
            own = [order.answers.get(judge) for order in item.orders]
            for name, answer in zip(("straight", "swapped"), (*own, None), strict=False):
                self._of_judges[name][number].append(self._verdict(answer))
            known = [c for answer in own if answer for c in [_sure(answer)] if c is not None]
            self._of_judges["sure"][number].append(1 + round(200 * max(known)) if known else 0)

    def _verdict(self, answer: Answer | None) -> int:
        if answer is None or answer.sample.record.failed:
            return _NOT_JUDGED
        verdict = answer.sample.record.verdict
        return _NO_VERDICT if verdict is None else self._name(verdict)

    def _name(self, text: str) -> int:
        return _FIRST_NAME + self._number(self._names, text)

    def _number(self, numbers: dict[str, int], text: str) -> int:
        return numbers.setdefault(text, len(numbers))

    def content(self) -> dict[str, Any]:
        ranks_N = np.empty(len(self.ids), dtype=np.uint32)
        ranks_N[sorted(range(len(self.ids)), key=lambda n: _natural(self.ids[n]))] = np.arange(
            len(self.ids)
        )
        return {
            "judges": [readable(name) for name in self.judges],
            "ids": self.ids,
            "names": [_short(name) for name in self._names],
            "groups": [_short(name) for name in self._groups],
            "columns": {
                **{name: _packed(column) for name, column in self._columns.items()},
                "rank": _packed(ranks_N),
            },
            "of_judges": {
                name: [_packed(column) for column in columns]
                for name, columns in self._of_judges.items()
            },
        }


def _short(name: str) -> str:
    head, left_out, tail = truncated(readable(name), 200)
    return f"{head}…{tail}" if left_out else head


def _sure(answer: Answer) -> float | None:
    """How sure the judge was of its verdict, from 0 to 1; None where nothing tells."""
    record, votes = answer.sample.record, answer.sample.votes
    if record.verdict is None:
        return None
    if record.probabilities is not None:
        return max(record.probabilities)
    return votes.count(record.verdict) / len(votes) if len(votes) > 1 else None


def _natural(text: str) -> list[tuple[int, int, str]]:
    """A key by which "item 9" comes before "item 10"."""
    words = re.findall(r"\d{1,18}|\D+", text[:1_000])
    return [(0, int(w), "") if w[0].isdecimal() and w.isascii() else (1, 0, w) for w in words]


def _packed(column: Any) -> str:
    """Bytes of the smallest unsigned integers that hold all values, after their size in bytes."""
    values_N = np.asarray(column, dtype=np.uint32)
    high = int(values_N.max(initial=0))
    size = 1 if high < 2**8 else 2 if high < 2**16 else 4
    data = values_N.astype(f"<u{size}").tobytes()
    return f"{size}{base64.b64encode(data).decode('ascii')}"


# Items


class _ItemWriter:
    """The items of one task as the page reads them."""

    def __init__(
        self,
        task: TaskItems,
        rows: JudgedRows | None,
        images: _Images,
        judges: Mapping[str, int],
        max_pixels: int | None,
    ) -> None:
        self._common_question, self._rows, self._images = task.question, rows, images
        # What all questions begin with says nothing about an item.
        questions = [item.orders[0].question for item in task.items]
        ends = zip(min(questions, default=""), max(questions, default=""), strict=False)
        same = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], ends))
        self._same = same.rfind(" ") + 1
        self._judges, self._max_pixels = judges, max_pixels

    def write(self, item: Item) -> tuple[dict[str, Any], list[str]]:
        """All of an item, and its preview for the list: a line of text and an image."""
        orders, thumbnail = [], ""
        for order in item.orders:
            row = None if self._rows is None else self._rows.row(item.item_id, order.swapped)
            images = []
            for image in row.images if row else ():
                images.append(self._images.add(image, self._max_pixels))
                thumbnail = thumbnail or self._images.add_thumbnail(image, images[0][0])
            orders.append(self._order(order, images, row))
        text = "" if self._common_question else item.orders[0].question[self._same :]
        answers = [answer for order in item.orders for answer in order.answers.values()]
        text = text or next(filter(None, (part for a in answers for part in a.parts)), "")
        line = " ".join(readable(text[: 4 * _PREVIEW_LENGTH]).split())[:_PREVIEW_LENGTH]
        humans = (answer.sample.human for answer in answers)
        human = next((human for human in humans if human is not None), None)
        content: dict[str, Any] = {"orders": orders}
        if human is not None:
            content["human"] = f"{human.rating:g}"
        return content, [line, thumbnail]

    def _order(self, order: Order, images: list[Any], row: JudgeRow | None) -> dict[str, Any]:
        content: dict[str, Any] = {
            "swapped": order.swapped,
            "label": None if order.label is None else _text(order.label),
            "answers": [
                self._answer(self._judges[judge], answer, row)
                for judge, answer in order.answers.items()
            ],
        }
        if not self._common_question:
            content["question"] = _text(order.question)
        if images:
            content["images"] = images
        return content

    def _answer(self, judge: int, answer: Answer, row: JudgeRow | None) -> dict[str, Any]:
        sample = answer.sample
        reasoning, rest = answer.parts
        content: dict[str, Any] = {
            "judge": judge,
            "state": sample.record.state,
            "verdict": None if sample.record.verdict is None else _text(sample.record.verdict),
            "wrong": answer.wrong,
        }
        if reasoning:
            content["reasoning"] = _text(reasoning)
        if rest and rest != sample.record.verdict:
            content["answer"] = _text(rest)
        if sample.probabilities:
            # A probability may be anything that a file says; what is no number is not shown.
            content["probabilities"] = [
                [_text(name), round(p, 6)]
                for name, p in sample.probabilities.items()
                if isinstance(p, int | float) and 0 <= p <= 1
            ]
        if sample.votes:
            counts = Counter(sample.votes).most_common()
            content["votes"] = [[None if v is None else _text(v), n] for v, n in counts]
        if sample.record.facts is not None:
            content["facts"] = _facts(answer, row)
        return content


def _facts(answer: Answer, row: JudgeRow | None) -> dict[str, Any]:
    """What the reasoning makes of the facts: their counts, and, if the data is there and still
    gives these counts, each fact with what the reasoning says about it."""
    counts = answer.sample.record.facts
    assert counts is not None
    content: dict[str, Any] = {"counts": [counts.stated, counts.contradicted, counts.total]}
    if row is None or not row.facts:
        return content
    reasoning = read_reasoning(answer.sample.text)
    found = check_facts(reasoning, row.facts)
    if found.counts != counts:
        return content
    content["each"] = [
        [
            _text(fact.phrase),
            "wrong"
            if fact.phrase in found.contradicted
            else "right"
            if fact.phrase in found.stated
            else "in question"
            if fact.in_question
            else "not stated",
            [_text(said) for said in sorted(mentioned(reasoning, fact.instead))],
        ]
        for fact in row.facts
    ]
    return content


def _text(text: str) -> str | list[Any]:
    """A text as the page shows it; of a long one the head, the number of characters that are left
    out, and the tail."""
    head, left_out, tail = truncated(readable(text), MAX_TEXT)
    return [head, left_out, tail] if left_out else head


# Images


class _Images:
    """Images by content, each once, in folders of a few thousand."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.count = 0

    def add(self, image: Image.Image, max_pixels: int | None) -> list[Any]:
        """The name of the image in the resolution that was judged, its width and its height."""
        image = image.convert("RGB")
        width, height = image.size
        if max_pixels and width * height > max_pixels:
            scale = (max_pixels / (width * height)) ** 0.5
            width, height = max(1, int(width * scale)), max(1, int(height * scale))
        pixels = blake2b(image.tobytes(), digest_size=12, salt=b"%dx%d" % (width, height))
        digest = pixels.hexdigest()
        name = f"{digest[:2]}/{digest[2:]}"
        file = self._folder / f"{name}.webp"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            image = image if image.size == (width, height) else image.resize((width, height))
            image.save(file, "WEBP", quality=88, method=1)
            self.count += 1
        return [name, width, height]

    def add_thumbnail(self, image: Image.Image, name: str) -> str:
        file = self._folder / f"{name}.s.webp"
        if not file.exists():
            small = image.convert("RGB")
            small.thumbnail((_THUMBNAIL, _THUMBNAIL))
            small.save(file, "WEBP", quality=70, method=1)
        return name


def _max_pixels(board: Leaderboard, task: str) -> int | None:
    """The most pixels of an image that a judge of the task saw; None if one saw all of them, or
    does not say how many it saw."""
    limits = [run.tasks[task].metadata.get("max_pixels") for run in board.runs if task in run.tasks]
    known = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    return max(known) if limits and len(known) == len(limits) else None


# What the items are of


def _about(board: Leaderboard, view: View, digits: int) -> dict[str, Any]:
    tables = [*view.tables, model_table(board.runs), data_table(board.runs)]
    results = [result for run in board.runs for result in run.tasks.values()]
    return {
        "version": VERSION,
        "metric": metric_names(board.metrics),
        "dates": sorted({format_date(run.date) for run in board.runs}),
        "resamples": board.resamples,
        "seed": board.seed,
        "is_sample": any(result.metadata.get("source") == "sample" for result in results),
        "notes": [readable(note) for note in board.notes],
        "tables": [_table(table, view.labels, digits) for table in tables if table.rows],
    }


def _about_task(board: Leaderboard, view: View, found: TaskItems) -> dict[str, Any]:
    results = [run.tasks[found.task] for run in board.runs if found.task in run.tasks]
    return {
        "name": readable(found.task),
        "label": readable(view.labels[found.task]),
        "kind": results[0].kind.name,
        "items": found.of,
        "question": _text(found.question),
        "notes": [readable(note) for note in found.notes],
    }


def _table(table: Table, labels: Mapping[str, str], digits: int) -> dict[str, Any]:
    def named(text: str) -> str:
        return readable(labels.get(text, text))

    return {
        "title": readable(table.title),
        "note": readable(table.note),
        "head": [named(title) for title in (table.group, table.corner, *table.columns) if title],
        "rows": [
            {
                "style": row.style,
                "group": named(row.group) if table.group else None,
                "title": named(row.title),
                "cells": [_cell(cell, digits) for cell in cells],
            }
            for row, cells in table.lines
        ],
    }


def _cell(cell: Cell, digits: int) -> list[Any]:
    """Its text, its interval or share, its rank, whether it is bold, and whether it is a text."""
    value, more = map(readable, cell_parts(cell, digits))
    rank = "" if cell.rank is None else f"#{cell.rank}"
    return [value, more, rank, cell.bold, cell.kind in ("text", "name")]
