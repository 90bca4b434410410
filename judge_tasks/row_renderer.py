"""The images of a row as values of its question, and candidates that change places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from mtrl_judge.common.errors import DataError

from .column_paths import MISSING, ColumnPath, leaves, mapped, replaced, value_at
from .prompts import Rendered, render_question
from .raw_split import RawSplit
from .templates import Place, Places, question_columns


class RowRenderer:
    """Renders one template for the rows of a split.

    Args:
        field: where the YAML has the template. It may read image columns, and thereby decides where
            their images stand.
    """

    def __init__(self, raw: RawSplit, field: str) -> None:
        task = raw.task
        self.field, self.template = field, task.questions[field]
        self.images = [raw.path_of(path) for path in task.judge.images]
        self.candidates = [[raw.path_of(path) for path in group] for group in task.candidates]
        # In columns with images there is True for each of them.
        names = {path.column for path in self.images}
        self.columns = {**raw.texts(self.template), **{name: raw.column(name) for name in names}}
        self.places_images = not names.isdisjoint(question_columns(self.template))

    def render(self, index: int, order: Sequence[int] | None = None) -> Rendered:
        """The question of one row.

        Args:
            order: the candidate that is shown in the place of each; None: as in the dataset.

        Raises:
            DataError: as :func:`~.prompts.render_question`.
        """
        values = {name: column[index] for name, column in self.columns.items()}
        placed: list[int] = []
        numbers = count()
        for name, steps in self.images:
            values[name] = mapped(values[name], steps, lambda v: _places(v, numbers, placed))
        if order is not None:
            values = _arranged(values, self.candidates, order)
        shown = [
            place.index
            for name, steps in self.images
            for place in leaves(values[name], steps)
            if isinstance(place, Place)
        ]
        if self.places_images:
            return render_question(self.template, values, len(shown), self.field, placed)
        rendered = render_question(self.template, values, len(shown), self.field)
        return rendered._replace(images=shown)


def _places(images: Any, numbers: Iterator[int], placed: list[int]) -> Place | Places:
    """One image, or a list of any number."""
    if images is True:
        return Place(next(numbers), placed)
    found = Places()
    for image in images or ():
        place = _places(image, numbers, placed)
        found += [place] if isinstance(place, Place) else place
    return found


def _arranged(
    values: Mapping[str, Any], candidates: Sequence[Sequence[ColumnPath]], order: Sequence[int]
) -> dict[str, Any]:
    """The values with the candidate ``order[p]`` in the place of the candidate p."""
    arranged = dict(values)
    for place, source in enumerate(order):
        for (name, steps), (from_name, from_steps) in zip(
            candidates[place], candidates[source], strict=True
        ):
            value = value_at(values[from_name], from_steps)
            if value is MISSING or value_at(values[name], steps) is MISSING:
                raise DataError(f"judge.candidates: no candidate {place + 1} in the item")
            arranged[name] = replaced(arranged[name], steps, value)
    return arranged
