"""Columns whose texts are JSON (``judge.json_columns``), so that paths lead into them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mtrl_judge.common.errors import DataError, first_line, shortened
from mtrl_judge.common.files import parse_json

from .spec import JudgeTask


def with_json(task: JudgeTask, name: str, values: Iterable[Any]) -> list[Any]:
    """The values of a column of the dataset, in which lists and objects are no texts.

    Other texts stay what they are: a column of values of several types has them beside JSON.

    Raises:
        DataError: a text begins like a list or an object and is none.
    """
    if name not in task.judge.json_columns:
        return list(values)
    parsed = []
    for index, value in enumerate(values):
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            try:
                value = parse_json(value)
            except (RecursionError, ValueError) as error:
                raise DataError(
                    f"{task.path}: judge.json_columns: column {name!r}: row {index} has "
                    f"{shortened(repr(value), 60)}: {first_line(error)}; expected JSON"
                ) from None
        parsed.append(value)
    return parsed
