"""Facts of items, collected from the reasoning of a judge that answered them correctly.

Perception-R1 (arXiv 2506.07218) takes its annotations from reasoning of a stronger model whose
answer was right. Here each sentence of such a reasoning becomes a fact.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.common.files import json_text, read_json_lines, whole_file
from mtrl_judge.judge_tasks.facts import FACTS_FILE, MAX_FACTS, as_facts, mentioned
from mtrl_judge.judge_tasks.sources import data_root as root_of_variable
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.judge_tasks.verdicts import read_reasoning

_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|[\n;]+")
_MARKS = " \t.!。！,:-–*•"


class Collected(NamedTuple):
    """What became of a judge's answers."""

    file: Path
    written: int
    """Items whose facts are new in the file."""
    kept: int
    """Items that had facts in it already, which are unchanged."""
    wrong: int
    """Answers that were not correct, or had no usable sentence."""
    training_items: int
    """Items of the training split that now have facts, of all that it has."""
    of_training_items: int


def collect_facts(
    task: JudgeTask, answers: Iterable[tuple[str, bool, str]], root: Path | None = None
) -> Collected:
    """Add the facts in a judge's reasoning to the task's file of facts in the data root.

    Args:
        answers: item id, whether the verdict is correct, and the text, of each answer.
        root: the data root; None is that of the variable.

    Raises:
        JudgeError: the task is judged in both orders, its facts are in a column, or there is no
            data root.
    """
    if task.paired:
        raise JudgeError(
            f"{task.task}: is judged in both orders, and what a judge says of the first image is "
            "not true of the other order; facts cannot be collected from its reasoning"
        )
    if task.judge.facts is not None:
        raise JudgeError(f"{task.path}: judge.facts: facts are read from a column; remove it first")
    root = root or root_of_variable()
    if root is None:
        raise DataError(f"{task.task}: no data root for the facts; give --data-root")
    file = root / task.task / FACTS_FILE
    lines = [line for _, line in read_json_lines(file)] if file.is_file() else []
    known = {str(line.get("id")) for line in lines}
    kept, wrong, new = set(), 0, dict[str, list[str]]()
    for item, correct, text in answers:
        facts = sentences(read_reasoning(text), task.judge.verdicts) if correct else []
        if item in known:
            kept.add(item)
        elif facts and item not in new:
            new[item] = facts
        elif not facts:
            wrong += 1
    file.parent.mkdir(parents=True, exist_ok=True)
    lines += [{"id": item, "facts": facts} for item, facts in new.items()]
    _write(file, lines)
    training = load_rows(task, "train", root).rows.dataset.with_format(None)["item_id"][:]
    with_facts = known | new.keys()
    return Collected(
        file, len(new), len(kept), wrong, len(set(training) & with_facts), len(set(training))
    )


def _write(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    with whole_file(file) as part, part.open("w", encoding="utf-8") as out:
        for line in lines:
            out.write(json_text(dict(line), indent=None) + "\n")


def sentences(reasoning: str, verdicts: Sequence[str]) -> list[str]:
    """The sentences of a reasoning that can be facts; those that name a verdict or ask are not.

    >>> sentences("I see a red circle. Is it red? So the answer is Yes.", ["Yes", "No"])
    ['I see a red circle']
    """
    found: dict[str, None] = {}
    for part in _SENTENCE_END.split(reasoning):
        sentence = part.strip(_MARKS)
        if sentence.endswith(("?", "？")) or mentioned(sentence, set(verdicts), denied=True):
            continue
        try:
            as_facts([sentence], "")
        except DataError:  # empty, or too long for a phrase
            continue
        found[sentence] = None
    return list(found)[:MAX_FACTS]
