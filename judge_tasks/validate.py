"""Check a task: all faults of its YAML, and that a gold answer for each verdict scores 1.0.

The gold answer goes through prompt, parser and scorer, without a model and without data, as in
``Task.validate`` of verifiers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtrl_judge.common.errors import DataError

from .column_paths import parse_path
from .facts import read_facts
from .kinds import KINDS
from .loading import load_judge_task
from .prompts import Rendered, gold_answer, render_messages, render_question, render_text
from .row_checks import identical_fault, identical_pairs, revealed_labels
from .rows import JudgeRow, render_variant, to_rows
from .scoring import score
from .sources import Source, find_source, load_raw
from .spec import NOT_STATED, STYLES, JudgeTask, SplitName
from .templates import StandInImage, StandInNumber, StandInText, question_columns

# Values for a column when there is no data: the question must render with one of them.
_STAND_INS: tuple[Any, ...] = (StandInText("1"), StandInNumber(1), ["1", "1"], {})


def validate(path: Path | str, rows: int = 0) -> list[str]:
    """The faults of a task; empty if there are none.

    Args:
        rows: number of real rows of each split to check as well.

    Raises:
        JudgeTaskError: with every fault of the YAML.
        DataError: the data is not available (only if ``rows`` asks for it).
    """
    task = load_judge_task(path)
    row, faults = _stand_in_row(task)
    if row is not None:
        faults += _gold_faults(task, row)
    if rows:
        source = find_source(task)
        for split in task.splits:
            faults += _row_faults(task, split, source, rows)
        faults += _fact_faults(task, source)
    return [f"{task.path}: {fault}" for fault in faults]


def remarks(path: Path | str) -> list[str]:
    """What is no fault, but should be known to those who use the task."""
    task = load_judge_task(path)
    if task.judge.card.license != NOT_STATED:
        return []
    return [f"{task.path}: judge.card: is missing; state the data's license, url and citation"]


def repeated_rows(path: Path | str) -> list[str]:
    """Rows of each split that show a judge the same, and those that are labeled otherwise.

    They are no faults: the data of many tasks has some.
    """
    task = load_judge_task(path)
    source = find_source(task)
    threshold = None
    if task.judge.label.uses_train_median:
        threshold = load_raw(task, "train", source).train_median()
    splits = {split: load_raw(task, split, source) for split in task.splits}
    return [
        f"{task.path}: {split}: {line}"
        for split, raw in splits.items()
        for line in raw.repeats(raw.labels(threshold)).lines()
    ]


def _stand_in_row(task: JudgeTask) -> tuple[JudgeRow | None, list[str]]:
    """A row, or None if its question does not render, and the faults of all questions."""
    rendered, faults = {}, []
    for field, template in task.questions.items():
        try:
            rendered[field] = _stand_in_question(task, field, template)
        except DataError as error:
            faults.append(str(error))
    question = rendered.get("judge.question")
    if question is None:
        return None, faults
    row = JudgeRow(
        "stand-in",
        task.task,
        task.judge.kind,
        question.text,
        task.judge.verdicts,
        None,
        len(question.images),
    )
    return row, faults


def _stand_in_question(task: JudgeTask, field: str, template: str) -> Rendered:
    """The question with one image for each image column, or those that the template places."""
    columns, paths = question_columns(template), map(parse_path, task.judge.images)
    names = {path.column for path in paths}
    for value in _STAND_INS:
        placed: list[int] = []
        values: dict[str, Any] = dict.fromkeys(columns, value)
        values |= {name: StandInImage(0, placed) for name in names & columns}
        try:
            if names & columns:
                return render_question(template, values, None, field, placed)
            return render_question(template, values, len(task.judge.images), field)
        except DataError as error:
            fault = error
    raise fault


def _gold_faults(task: JudgeTask, row: JudgeRow) -> Iterator[str]:
    kind, verdicts = task.kind, task.judge.verdicts
    for label in kind.gold_labels(verdicts):
        for style in STYLES:
            labeled = replace(row, label=label)
            text = gold_answer(kind.gold(label, verdicts), style)
            scored = score(labeled, text)
            if scored.correct != kind.attainable(label, verdicts):
                read = scored.verdict.value
                why = scored.verdict.reason if read is None else f"read as {read!r}"
                yield (
                    f"judge.verdicts: the {style} gold answer {text!r} does not score 1.0 ({why}); "
                    "choose verdicts that are distinguishable in text"
                )
            if style != "direct" and scored.format != 1.0:
                yield f"judge.verdicts: the gold answer {text!r} is not well formed"
            yield from _prompt_faults(labeled, style)


def _prompt_faults(row: JudgeRow, style: Any) -> Iterator[str]:
    parts = render_messages(row, style)[0]["content"]
    placed = sum(part["type"] == "image" for part in parts)
    if placed != row.n_images:
        yield f"judge.question: {placed} images placed of {row.n_images}"
    if KINDS[row.kind].verdict_form(row.verdicts) not in render_text(row, style):
        yield f"judge.verdicts: not all of them are named in the {style} prompt"


def _fact_faults(task: JudgeTask, source: Source) -> Iterator[str]:
    """Facts of items that no split has; of every row, since a file lists those of all splits."""
    if source.facts_file is None:
        return
    known = {item for split in task.splits for item in load_raw(task, split, source).ids}
    unknown = [item for item in read_facts(source.facts_file) if item not in known]
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        yield (
            f"{source.facts_file}: facts of items that no split has: {', '.join(unknown[:5])}{more}"
            "; expected the ids of items, as in results"
        )


def _row_faults(task: JudgeTask, split: SplitName, source: Source, rows: int) -> Iterator[str]:
    threshold = None
    if task.judge.label.uses_train_median:
        threshold = load_raw(task, "train", source).train_median()
    raw = load_raw(task, split, source)
    for fault in revealed_labels(raw, raw.labels(threshold)):
        yield f"{split}: {fault}"
    raw = raw.select(range(min(rows, len(raw))))
    known_bad = {bad.item for bad in task.judge.known_bad}
    for index, why in raw.faults.items():
        if raw.ids[index] not in known_bad:
            yield f"{split}: item {raw.ids[index]}: its image cannot be shown to a judge: {why}"
    seen = [index for index in range(len(raw)) if index not in raw.faults]
    if not seen:
        return
    taken = to_rows(raw.select(seen), threshold)
    for field in task.questions:
        render_variant(taken, field)
    if identical := identical_pairs(taken):
        yield f"{split}: {identical_fault(identical, taken.n_items)}"
    for doc in taken.dataset:
        row = JudgeRow.from_doc(doc)
        if len(row.images) != row.n_images:
            yield f"{split}: item {row.item_id}: {len(row.images)} images of {row.n_images}"
        if row.label is None:
            continue
        text = gold_answer(task.kind.gold(row.label, row.verdicts), "reasoned")
        expected = task.kind.attainable(row.label, row.verdicts)
        if score(row, text)[1:] != (expected, 1.0):
            yield f"{split}: item {row.item_id}: its gold answer does not score {expected:g}"
