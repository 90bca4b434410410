"""What a question must not show, and what it must, as far as its YAML tells."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from mtrl_judge.common.errors import Problem

from .column_paths import Step, parse_path
from .fields import mapping, strings
from .kinds import KINDS
from .templates import QuestionError, question_columns, question_paths

# How names tell the first of two things from the second.
_ORDINALS = frozenset(
    {("0", "1"), ("1", "2"), ("a", "b"), ("first", "second"), ("one", "two"), ("left", "right")}
)


def shown_problems(field: str, template: str, judge: Mapping[str, Any]) -> Iterator[Problem]:
    """Faults between a template and the other fields of a ``judge:`` block as it was written."""
    try:
        columns = question_columns(template)
    except QuestionError:
        return  # reported as a fault of the template
    for name, what in _answers(judge):
        if reads_path(template, name):
            wrong = f"reads the column {name!r}, {what}"
            yield Problem(field, wrong, "show only what a judge may know")
    images = strings(judge.get("images"))
    candidates = compared_paths(judge.get("candidates"))
    # Images that the question does not place stand before it.
    shown = {*columns, *(parse_path(path).column for path in images)}
    unseen = [path for path in candidates if parse_path(path).column not in shown]
    if unseen:
        wrong = f"never shows {' and '.join(map(repr, unseen))}, which judge.candidates compares"
        yield Problem(field, wrong, f"write {{{{ {unseen[0]} }}}} where the candidate stands")
    kind = KINDS.get(str(judge.get("kind")))
    compared = candidates or (images if kind is not None and kind.compares else [])
    if len(compared) == 2 and not any(parse_path(path).steps for path in compared):
        # The images beside two texts need not belong to them.
        others = {*columns, *images} if compared[0] in images else {*columns} - {*images}
        yield from _left_behind(field, sorted(others - {*compared}), compared)


def _answers(judge: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The columns that say what a judge is to find out."""
    human, label = mapping(judge.get("human")), mapping(judge.get("label"))
    columns = (
        (label.get("column"), "the label"),
        (label.get("larger_of"), "the label"),
        (label.get("answer"), "the label"),
        (human.get("column"), "people's ratings"),
        (human.get("rank"), "people's ranking"),
        (judge.get("reasoning"), "the reasoning of a good answer"),
        (mapping(judge.get("facts")).get("column"), "the facts that a judge is to see itself"),
    )
    for names, what in columns:
        for name in strings(names):
            yield name, what


def compared_paths(candidates: object) -> list[str]:
    """The columns and paths of all candidates as they were written."""
    if isinstance(candidates, str):
        return [candidates]
    each = candidates if isinstance(candidates, list) else []
    return [path for group in each for path in strings(group)]


def reads_path(template: str, path: str) -> bool:
    """Whether a template may read what a path leads to.

    Of a column that it goes through, as in a loop, it may read the keys that it names anywhere.
    """
    name, steps = parse_path(path)
    for column, read in question_paths(template):
        apart = any(_differ(*pair) for pair in zip(read, steps, strict=False))
        if column != name or apart:
            continue
        if all(key in template for key in steps[len(read) :] if isinstance(key, str)):
            return True
    return False


def _differ(step: Step, other: Step) -> bool:
    """Whether two steps lead to different places; of a list, the end may be any position."""
    if isinstance(step, int) and isinstance(other, int):
        return step != other and (step < 0) == (other < 0)
    return isinstance(step, str) and isinstance(other, str) and step != other


def _left_behind(field: str, columns: list[str], candidates: list[str]) -> Iterator[Problem]:
    """Two columns that belong to the candidates, by their names, and do not change places.

    In the other order of a pair, only the candidates do. ``caption0`` would then stand beside the
    image of ``caption1``.
    """
    ends = _slots(*candidates)
    for first, second in combinations(columns, 2):
        for pair in ((first, second), (second, first)):
            slots = _slots(*pair)
            if slots == ends or (slots in _ORDINALS and ends in _ORDINALS):
                wrong = (
                    f"shows {pair[0]!r} and {pair[1]!r}, which by their names belong to the "
                    f"candidates {' and '.join(map(repr, candidates))} but do not change places "
                    "with them in the other order"
                )
                right = "leave them out; if they belong to neither candidate, rename them"
                yield Problem(field, wrong, right)


def _slots(first: str, second: str) -> tuple[str, str]:
    """The words in which two names differ, without case: ("0", "1") for image0 and image1.

    >>> _slots("left_image", "right_image"), _slots("answerA", "answerB")
    (('left', 'right'), ('a', 'b'))
    """
    words = [_words(name) for name in (first, second)]
    different = [pair for pair in zip(*words, strict=False) if pair[0] != pair[1]]
    if len(words[0]) != len(words[1]) or len(different) != 1:
        return "", first + second  # like no other pair
    return different[0]


def _words(name: str) -> list[str]:
    """Parts of a name: words, numbers, and a single capital at its end."""
    return re.findall(r"[0-9]+|[a-z]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z]$)", "_", name).lower())
