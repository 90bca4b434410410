"""Single items as rows of a task: what a caller gives becomes what an evaluation would judge.

An item goes through the same functions as a dataset (:class:`.RawSplit`, :func:`.to_rows`), so its
prompts are the same.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from PIL import Image

from mtrl_judge.common.errors import JudgeError, JudgeTaskError, did_you_mean, shortened
from mtrl_judge.judge_tasks.column_paths import parse_path
from mtrl_judge.judge_tasks.images import MAX_IMAGE_BYTES
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.rows import JudgeRow, Rows, to_rows
from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.judge_tasks.templates import question_columns

ImageLike: TypeAlias = Image.Image | bytes | str | Path
"""A decoded or an encoded image, a data URL or base64, or the path of a file."""

QUESTION = "question"
"""The name of the task that a free question is."""
_MAX_QUESTION_TASKS = 64

# What of a task does not decide a prompt: how rows make items, are left out, and are reported.
_ABOUT_DATASETS: Mapping[str, Any] = {
    "gather": None,
    "each": (),
    "where": {},
    "paraphrases": (),
    "known_bad": (),
    "cluster_by": None,
    "joint_by": None,
    "groups": None,
    "human": None,
    "facts": None,
    "reasoning": None,
}
# Of values that make no column of a table: of several types, too large, or not UTF-8.
_ARROW_ERRORS = (ValueError, TypeError, OverflowError, NotImplementedError)


@dataclass(frozen=True)
class Item:
    """One thing to judge; the fields are the arguments of :meth:`.Judge.score`."""

    task: str | JudgeTask
    images: Sequence[ImageLike] = ()
    texts: Sequence[str] = ()
    context: Mapping[str, Any] = field(default_factory=dict)
    verdicts: Sequence[str] | None = None


class ShownRow(NamedTuple):
    """One of the rows that an item becomes."""

    row: JudgeRow
    order: int
    """By how many places its candidates are rotated."""


class TaskItems:
    """Reads the items of one task.

    Args:
        demonstrate: gives rows their demonstrations.

    Attributes:
        original: the task.
        task: the same with all left out that says how rows of a dataset become items.
    """

    def __init__(self, task: JudgeTask, demonstrate: Callable[[Rows], Rows] | None = None) -> None:
        self.original, self._demonstrate = task, demonstrate
        judge = task.judge.model_copy(update=_ABOUT_DATASETS)
        self.image_columns = tuple(dict.fromkeys(parse_path(p).column for p in judge.images))
        of_candidates = [parse_path(path).column for group in task.candidates for path in group]
        names = {*question_columns(judge.question), *of_candidates} - {*self.image_columns}
        # In the order in which the question names them; what only is compared comes last.
        self.text_columns = tuple(
            sorted(names, key=lambda name: (_place(judge.question, name), name))
        )
        self._plain = all(path in self.image_columns for path in judge.images)
        # Where an item has the column, so that its own cluster demonstrates nothing.
        cluster = task.judge.cluster_by
        if cluster and parse_path(cluster).column in (*self.image_columns, *self.text_columns):
            judge = judge.model_copy(update={"cluster_by": cluster})
        self.task = task.model_copy(update={"judge": judge})

    @property
    def expected(self) -> str:
        """What an item of this task consists of, for a message."""
        images = _listed("image", self.image_columns) if self._plain else "images in context"
        parts = [images, _listed("text", self.text_columns)]
        return " and ".join(part for part in parts if part) or "neither images nor texts"

    def columns(self, item: Item) -> dict[str, Any]:
        """The columns of an item, by name.

        Raises:
            JudgeError: something is missing, or there is more than the task shows.
        """
        columns = dict(item.context)
        for what, values, names in (
            ("images", item.images, self.image_columns),
            ("texts", item.texts, self.text_columns),
        ):
            if not values:
                continue
            if what == "images" and not self._plain:
                raise JudgeError(
                    f"{self.task.task}: images: they are parts of columns here; give the columns "
                    f"{', '.join(self.image_columns)} in context"
                )
            open_names = [name for name in names if name not in item.context]
            if len(values) != len(open_names):
                raise JudgeError(
                    f"{self.task.task}: {what}: found {len(values)}; expected {self.expected}"
                )
            columns |= zip(open_names, values, strict=True)
        needed = (*self.image_columns, *self.text_columns)
        if missing := [name for name in needed if name not in columns]:
            unused = [name for name in columns if name not in needed]
            hint = did_you_mean(missing[0], unused) if unused else ""
            hint = f" ({hint})" if hint.startswith("did you mean") else ""
            raise JudgeError(
                f"{self.task.task}: missing {', '.join(map(repr, missing))}{hint}; expected "
                f"{self.expected}"
            )
        names_of_id = self.task.judge.id or ()
        kept = {name: _cell(columns[name]) for name in needed}
        return kept | {name: columns[name] for name in names_of_id if name in columns}

    def rows(self, items_N: Sequence[Mapping[str, Any]]) -> list[list[ShownRow] | JudgeError]:
        """The rows of each of N items, in the orders in which the task shows it.

        What an item becomes does not depend on the others.

        Args:
            items_N: from :meth:`columns`.

        Returns:
            An error in place of the rows of an item that cannot be judged.
        """
        groups: dict[object, list[int]] = {}
        for number, item in enumerate(items_N):
            # Columns of a table have one type, and of equal items the second gets another name,
            # which decides in which order it is shown.
            key = number if self.task.judge.orders == "hashed" else _shape(item)
            groups.setdefault(repr(key), []).append(number)
        found: dict[int, list[ShownRow] | JudgeError] = {}
        for numbers in groups.values():
            found |= zip(numbers, self._alike([items_N[n] for n in numbers]), strict=True)
        return [found[number] for number in range(len(items_N))]

    def _alike(self, items: Sequence[Mapping[str, Any]]) -> list[list[ShownRow] | JudgeError]:
        """The rows of items whose columns have the same types."""
        try:
            raw = self._raw(items)
            faults = raw.faults
            good = [number for number in range(len(items)) if number not in faults]
            rows = self._of_raw(raw.select(good)) if good else []
        except JudgeError as error:
            if len(items) == 1:
                return [error]
            return [rows for item in items for rows in self._alike([item])]
        shown = iter(rows)
        return [
            JudgeError(f"{self.task.task}: the image cannot be shown to a judge: {faults[number]}")
            if number in faults
            else next(shown)
            for number in range(len(items))
        ]

    def _raw(self, items: Sequence[Mapping[str, Any]]) -> RawSplit:
        from datasets import Dataset

        task = self.task
        names = [*items[0]]
        if not set(task.judge.id or ()) <= set(names):  # then the content identifies an item
            task = task.model_copy(update={"judge": task.judge.model_copy(update={"id": None})})
        labels = {parse_path(path).column for path in task.judge.label.columns} - {*names}
        columns: dict[str, list[Any]] = {name: [item[name] for item in items] for name in names}
        columns |= {name: [None] * len(items) for name in labels}
        try:
            return RawSplit(task, Dataset.from_dict(columns))
        except _ARROW_ERRORS as error:
            raise JudgeError(
                f"{task.task}: the values of the item do not make columns: {shortened(str(error))}"
            ) from None

    def _of_raw(self, raw: RawSplit) -> list[list[ShownRow]]:
        rows_N: list[list[ShownRow]] = [[] for _ in range(len(raw))]
        # There are no labels, so that no threshold of them counts.
        rows = to_rows(raw, threshold=0.0)
        if self._demonstrate is not None:
            rows = self._demonstrate(rows)
        for doc in rows.dataset:
            shown = ShownRow(JudgeRow.from_doc(doc), doc["order"])
            rows_N[doc["source_index"]].append(shown)
        return rows_N


def resolved(item: Item, find: Callable[[str], JudgeTask]) -> tuple[JudgeTask, Item]:
    """The task of an item, and the item as one of this task.

    A free question is a task of its own, whose only text is the question.

    Args:
        find: a task by its name, or by the path of its YAML.

    Raises:
        JudgeTaskError: there is no such task or file, or a fault in it.
        JudgeError: a question has no verdicts that can be told apart, or a task has some.
    """
    if isinstance(item.task, JudgeTask):
        if item.verdicts is not None:
            raise JudgeError(f"{item.task.task}: verdicts: those of a task are in its YAML")
        return item.task, item
    if item.verdicts is not None:
        if item.texts or item.context:
            raise JudgeError("texts, context: a question has none; write them into the question")
        task = question_task(tuple(item.verdicts), len(item.images))
        return task, replace(item, task=task, texts=(item.task,), verdicts=None)
    try:
        task = find(item.task)
    except JudgeTaskError as error:
        if " " in item.task.strip():
            raise JudgeError(
                f"task: {shortened(item.task, 60)!r} is no task; a question needs the verdicts to "
                'choose from, such as verdicts=["Yes", "No"]'
            ) from None
        raise error
    return task, replace(item, task=task)


@lru_cache(maxsize=_MAX_QUESTION_TASKS)
def question_task(verdicts: tuple[str, ...], n_images: int) -> JudgeTask:
    """The task of any question with these verdicts; its images stand before the question.

    Raises:
        JudgeError: the verdicts are not two or more texts that can be told apart.
    """
    names = [f"image{number}" for number in range(n_images)]
    try:
        task = JudgeTask.model_validate(
            {
                "task": QUESTION,
                "path": Path(QUESTION),
                "judge": {
                    "kind": "pointwise",
                    "role": "ood",
                    "dimension": QUESTION,
                    "images": names,
                    "question": "{{ question }}",
                    "label": {"column": "label", "map": {verdict: verdict for verdict in verdicts}},
                    "verdicts": list(verdicts),
                },
            }
        )
        readable = all(task.kind.read(verdict, verdicts).value == verdict for verdict in verdicts)
    except ValueError:  # pydantic's, or verdicts that differ in case only
        readable = False
    if not readable or len(set(verdicts)) < len(verdicts):
        raise JudgeError(
            f"verdicts: found {shortened(repr(list(verdicts)), 200)}; expected two or more texts "
            'that can be told apart in an answer, such as ["Yes", "No"]'
        )
    return task


def _place(question: str, name: str) -> int:
    position = question.find(name)
    return len(question) if position < 0 else position


def _listed(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''} ({', '.join(names)})"


def _cell(value: Any) -> Any:
    """A value as a dataset has it: images encoded, in a struct."""
    if isinstance(value, Image.Image):
        file = io.BytesIO()
        value.save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    if isinstance(value, Path):
        if value.stat().st_size > MAX_IMAGE_BYTES:
            raise JudgeError(f"{value}: larger than {MAX_IMAGE_BYTES // 2**20} MiB")
        return {"bytes": value.read_bytes(), "path": None}
    if isinstance(value, Mapping) and value.keys() == {"bytes", "path"}:  # as `datasets` has it
        return {**value, "path": None} if isinstance(value["bytes"], bytes) else dict(value)
    if isinstance(value, Mapping):
        return {name: _cell(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_cell(each) for each in value]
    return value


def _shape(value: Any) -> object:
    """The types in a value; values of equal shape make a column in which none is converted."""
    if isinstance(value, Mapping):
        return {name: _shape(each) for name, each in sorted(value.items())}
    if isinstance(value, list):
        return sorted({repr(_shape(each)) for each in value})
    return type(value).__name__
