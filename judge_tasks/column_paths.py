"""Paths to values inside a column: ``response[0]``, ``conversations[1].value``, ``meta.category``.

A path without ``.`` and ``[`` is a column. ``parts[].image`` is the list of all ``image`` in the
list ``parts``. A column whose own name looks like a path is found by that name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

Step: TypeAlias = str | int | None
"""A key, an index, or None for every item of a list."""

_STEP = re.compile(r"\.([^.\[\]]+)|\[(-?[0-9]{1,6})?\]")
_PATH = re.compile(rf"[^.\[\]]+(?:{_STEP.pattern})+")
MISSING = object()
"""What a path leads to in a row where it leads nowhere."""


class ColumnPath(NamedTuple):
    column: str
    steps: tuple[Step, ...] = ()


def parse_path(path: str, columns: Collection[str] = ()) -> ColumnPath:
    """The column that a path begins with, and the steps from there.

    Args:
        columns: the columns of the data; one with exactly this name is meant.

    >>> parse_path("conversations[1].value")
    ColumnPath(column='conversations', steps=(1, 'value'))
    >>> parse_path("meta.x", ["meta.x"])
    ColumnPath(column='meta.x', steps=())
    """
    if path in columns or not _PATH.fullmatch(path):
        return ColumnPath(path)
    start = re.search(r"[.\[]", path)
    assert start is not None
    steps: list[Step] = []
    for key, index in _STEP.findall(path[start.start() :]):
        steps.append(key or (int(index) if index else None))
    return ColumnPath(path[: start.start()], tuple(steps))


def value_at(value: Any, steps: tuple[Step, ...]) -> Any:
    """The value that steps lead to, or MISSING; through a null they lead to None.

    >>> value_at({"a": [{"b": 1}, {"b": 2}]}, ("a", None, "b"))
    [1, 2]
    """
    for number, step in enumerate(steps):
        if value is None:
            return None
        if step is None:
            if not isinstance(value, list):
                return MISSING
            found = [value_at(item, steps[number + 1 :]) for item in value]
            return MISSING if any(item is MISSING for item in found) else found
        value = _step(value, step)
        if value is MISSING:
            return MISSING
    return value


def replaced(value: Any, steps: tuple[Step, ...], new: Any) -> Any:
    """A copy of a value with another one where the steps lead; what is not on the way is shared."""
    if not steps:
        return new
    step, rest = steps[0], steps[1:]
    changed = replaced(value[step], rest, new)
    if isinstance(value, Mapping):
        return {**value, step: changed}
    items = list(value)
    items[step] = changed  # type: ignore[index]  # a path of one value has no None
    return items


def leaves(value: Any, steps: tuple[Step, ...]) -> Iterator[Any]:
    """The single values that steps lead to, in order; a list at the end counts item by item.

    MISSING is one of them where they lead nowhere.
    """
    found = value_at(value, steps)
    if isinstance(found, list):
        for item in found:
            yield from leaves(item, ())
    else:
        yield found


def mapped(value: Any, steps: tuple[Step, ...], function: Callable[[Any], Any]) -> Any:
    """A copy of a value in which a function replaces what the steps lead to, lists as a whole."""
    if value is None or not steps:
        return function(value)
    step, rest = steps[0], steps[1:]
    if step is None and isinstance(value, list):
        return [mapped(item, rest, function) for item in value]
    found = None if step is None else _step(value, step)
    if found is MISSING or step is None:
        return value
    return replaced(value, (step,), mapped(found, rest, function))


def _step(value: Any, step: str | int) -> Any:
    if isinstance(step, int) and isinstance(value, list):
        return value[step] if -len(value) <= step < len(value) else MISSING
    if isinstance(step, str) and isinstance(value, Mapping):
        return value.get(step, MISSING)
    return MISSING
