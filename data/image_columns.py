"""Columns with images: where in a cell they are, and how `datasets` types them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Image as ImageFeature
from datasets import LargeList, List, Value

from mtrl_judge.common.errors import DataError
from mtrl_judge.judge_tasks.column_paths import MISSING, Step, leaves, mapped, parse_path, value_at
from mtrl_judge.judge_tasks.items import Items, image_paths, without_images
from mtrl_judge.judge_tasks.spec import JudgeTask


@dataclass(frozen=True)
class ImageColumn:
    """A column that is written with images."""

    name: str
    source: str
    """The column or path of the tables that has the images, or names their files."""
    paths: Sequence[tuple[Step, ...]]
    """Where images are in a value; at its end, a list is any number of them."""
    needed: Sequence[tuple[Step, ...]]
    """Those of the paths without whose images an item is not complete."""

    def values(self, columns: Callable[[str], Sequence[Any]], names: Iterable[str]) -> list[Any]:
        """What the tables have in place of the images, one value for each row.

        Args:
            columns: the values of a column of the tables.
            names: of these columns.

        Raises:
            DataError: the path of the source leads nowhere in a row.
        """
        name, steps = parse_path(self.source, [*names])
        values = [value_at(value, steps) for value in columns(name)]
        if any(value is MISSING for value in values):
            raise DataError(f"judge.raw.images.named_by: {self.source!r} leads nowhere in a row")
        return values

    def masked(self, value: Any) -> Any:
        """A value with True in place of each image."""
        return without_images(value, self.paths)

    def replaced(self, value: Any, function: Callable[[Any], Any]) -> Any:
        """A value in which a function replaces each image that is there, in their order."""
        for path in self.paths:
            value = mapped(value, path, lambda cells: _each(cells, function))
        return value

    def lacks(self, value: Any) -> bool:
        """Whether an image is null that an item needs."""
        return any([*leaves(value, path)] == [None] for path in self.needed)

    def feature(self, feature: Any) -> Any:
        """The type of the column with images.

        Args:
            feature: its type in the tables.

        Raises:
            DataError: a path does not lead to anything in values of this type.
        """
        for path in self.paths:
            feature = _with_images(feature, path, self.name)
        return feature

    def may_be_text(self, feature: Any) -> bool:
        """Whether the tables have texts in place of images: addresses, file names or base64."""
        return any(_is_text(feature, path) for path in self.paths)


def image_columns(tasks: Sequence[JudgeTask], found: Sequence[str]) -> list[ImageColumn]:
    """The columns with images that tasks of one dataset need.

    Args:
        found: the columns of the tables.
    """
    files = tasks[0].judge.raw.images if tasks[0].judge.raw else None
    named = files.columns if files else {}
    names = [*dict.fromkeys([*found, *named])]
    paths: dict[str, list[tuple[Step, ...]]] = {name: [()] for name in named}
    needed: dict[str, list[tuple[Step, ...]]] = {name: [] for name in named}
    for task in tasks:
        for name, steps in image_paths(task, names).items():
            if name in names:
                inside = [()] if name in named else map(_in_every_entry, steps)
                paths[name] = [*dict.fromkeys([*paths.get(name, []), *inside])]
        items = Items(task, names, (), ())
        for path in task.judge.images:
            if path not in items.dispensable_images:
                for place in items.places(path):
                    needed.setdefault(place.column, []).append(place.steps)
    return [
        ImageColumn(name, named.get(name, name), steps, [*dict.fromkeys(needed.get(name, []))])
        for name, steps in paths.items()
    ]


def _in_every_entry(path: Sequence[Step]) -> tuple[Step, ...]:
    """The path to the images of all entries of a list, since a list has values of one type."""
    steps = [step if isinstance(step, str) else None for step in path]
    while steps and steps[-1] is None:  # at the end, a list is any number of images
        steps.pop()
    return tuple(steps)


def _each(cells: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(cells, list):
        return [_each(cell, function) for cell in cells]
    return None if cells is None else function(cells)


def _with_images(feature: Any, path: Sequence[Step], name: str) -> Any:
    if isinstance(feature, List | LargeList):
        rest = path[1:] if path and not isinstance(path[0], str) else path
        inner = _with_images(feature.feature, rest, name)
        fixed = {"length": feature.length} if isinstance(feature, List) else {}
        return type(feature)(inner, **fixed)
    if not path:
        return feature if isinstance(feature, ImageFeature) else ImageFeature()
    step = path[0]
    if not isinstance(feature, dict) or step not in feature:
        there = ", ".join(feature) if isinstance(feature, dict) else "no fields"
        raise DataError(f"judge.images: column {name!r} has no {step!r}; found: {there}")
    return {**feature, step: _with_images(feature[step], path[1:], name)}


def _is_text(feature: Any, path: Sequence[Step]) -> bool:
    if isinstance(feature, List | LargeList):
        return _is_text(
            feature.feature, path[1:] if path and not isinstance(path[0], str) else path
        )
    if path:
        return isinstance(feature, dict) and _is_text(feature.get(path[0]), path[1:])
    return isinstance(feature, Value) and "string" in feature.dtype
