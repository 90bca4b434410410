"""From the columns of a dataset to labels, by the rule of a YAML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean, median
from typing import Any

from mtrl_judge.common.errors import DataError, shortened

from .fields import is_null, label_key, lookup
from .kinds.base import AnswerLabel, LabelRule
from .spec import JudgeTask


def label_values(task: JudgeTask, column: Callable[[str], Sequence[Any]], n: int) -> list[Any]:
    """What the label rule reads of each of N rows.

    Args:
        column: the N values of a column or path.
        n: N, for a rule that reads no column.

    Raises:
        DataError: values to average are not numbers, or too large.
    """
    rule = task.judge.label
    columns = [column(path) for path in rule.columns]
    if rule.reduce is None:
        return (
            [rule.gather(values) for values in zip(*columns, strict=True)]
            if columns
            else [rule.gather(())] * n
        )
    values_N = []
    for cells in zip(*columns, strict=True):
        each = [v for cell in cells for v in (cell if isinstance(cell, list) else [cell])]
        try:
            values_N.append(_reduced(rule.reduce, [v for v in each if not is_null(v)]))
        except (TypeError, ValueError, OverflowError):
            raise DataError(
                f"{task.path}: judge.label.reduce: {each!r} in column {_names(rule)} have no "
                f"{rule.reduce}; expected numbers"
            ) from None
    return values_N


def _reduced(how: str, values: Sequence[Any]) -> Any:
    """One value of several; None of none, and where no value has the most votes."""
    if not values:
        return None
    if how == "mean":
        return fmean(map(float, values))
    if how == "median":
        return median(map(float, values))
    if how in ("min", "max"):  # of booleans, whether all or any of them are true
        return (min if how == "min" else max)(values, key=float)
    votes = Counter(map(label_key, values)).most_common(2)
    return None if len(votes) > 1 and votes[0][1] == votes[1][1] else votes[0][0]


def is_dropped(task: JudgeTask, values_N: Sequence[Any]) -> Iterator[bool]:
    """Whether each row is left out for its label's value, or for one of several."""
    dropped = dict.fromkeys(task.judge.label.drop or (), True)
    for value in values_N:
        each = value if isinstance(value, list | tuple) else (value,)
        yield any(lookup(dropped, one, False) for one in each) if dropped else False


def labels_of(
    task: JudgeTask,
    values_N: Sequence[Any],
    verdicts_N: Sequence[Sequence[str]],
    threshold: float | None = None,
) -> list[str | None]:
    """The verdicts that the values of the label column stand for, N; None where one is null.

    Args:
        verdicts_N: those that each row can have.
        threshold: the median of the training split, where the rule asks for it
            (:func:`train_median`).

    Raises:
        DataError: naming every value the rule does not cover, with its count.
    """
    rule = task.judge.label
    if rule.uses_train_median and threshold is None:
        raise DataError(f"{task.task}: the training split's median is needed for the labels")
    labels_N: list[str | None] = []
    unknown: Counter[str] = Counter()
    for value, dropped, verdicts in zip(
        values_N, is_dropped(task, values_N), verdicts_N, strict=True
    ):
        label = None
        if not dropped and not is_null(value):
            try:
                label = (
                    task.kind.label_from(str(value), verdicts)
                    if isinstance(rule, AnswerLabel)
                    else rule.verdict(value, verdicts, threshold)
                )
            except LookupError:
                unknown[label_key(value)] += 1
        labels_N.append(label)
    if unknown:
        found = ", ".join(f"{value!r} ({count} rows)" for value, count in unknown.most_common(10))
        raise DataError(
            f"{task.path}: judge.label: column {_names(rule)} has values that the rule does not "
            f"cover: {found}; covered: {rule.covered(task.judge.verdicts)}"
        )
    if isinstance(rule, AnswerLabel) and labels_N and not any(labels_N):
        first = next((value for value in values_N if not is_null(value)), None)
        raise DataError(
            f"{task.path}: judge.label.answer: no text in column {_names(rule)} has a verdict, "
            f"such as {shortened(repr(first), 80)}; expected answers that say one "
            f"of: {', '.join(task.judge.verdicts)}"
        )
    return labels_N


def train_median(task: JudgeTask, values_N: Sequence[Any]) -> float | None:
    """The median of the label column of the training split, where the rule asks for it.

    Nulls do not count.

    Raises:
        DataError: a value is not a number.
    """
    if not task.judge.label.uses_train_median:
        return None
    numbers = []
    for value in values_N:
        try:
            numbers += [] if is_null(value) else [float(value)]
        except (TypeError, ValueError):
            column = _names(task.judge.label)
            raise DataError(
                f"{task.path}: judge.label: {value!r} in column {column} is not a number"
            ) from None
    if not numbers:
        raise DataError(f"{task.task}: the label column of the training split is null throughout")
    return median(numbers)


def _names(rule: LabelRule) -> str:
    return ", ".join(map(repr, rule.columns))
