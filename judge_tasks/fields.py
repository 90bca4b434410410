"""The types of a judge YAML's fields, shared by :mod:`.spec` and the kinds of tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError


class Frozen(BaseModel):
    """Immutable; unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        strict=False,
        protected_namespaces=(),  # before 2.10, pydantic warns of a field named model_…
    )


def _text_only(value: object) -> object:
    """YAML 1.1 reads a bare Yes, No or 1 as a boolean or a number; a verdict is text."""
    if isinstance(value, bool):
        word = "Yes" if value else "No"
        raise PydanticCustomError(
            "bare_boolean",
            "is the boolean {value}, not text; write it in quotes, such as {word}",
            {"value": str(value).lower(), "word": f'"{word}"'},
        )
    if isinstance(value, int | float):
        raise PydanticCustomError(
            "bare_number",
            "is the number {value}, not text; write it in quotes: {quoted}",
            {"value": value, "quoted": f'"{value}"'},
        )
    return value


def label_key(value: object) -> str:
    """The text by which a raw label value is looked up: 1, 1.0 and "1" are one key.

    >>> [label_key(v) for v in (1, 1.0, "Unsafe", True)]
    ['1', '1', 'Unsafe', 'true']
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    return str(value)


def as_tuple(value: object) -> object:
    """A single name stands for a list of one."""
    return (value,) if isinstance(value, str) else value


Text: TypeAlias = Annotated[str, StringConstraints(min_length=1), BeforeValidator(_text_only)]
Column: TypeAlias = Annotated[str, StringConstraints(min_length=1)]
Columns: TypeAlias = Annotated[tuple[Column, ...], BeforeValidator(as_tuple), Field(min_length=1)]


# For checks of a raw mapping, before pydantic has seen it: whatever has another shape counts as
# empty, since pydantic reports it.


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def strings(value: object) -> list[str]:
    """The strings of a list, or the one string that stands for such a list."""
    if isinstance(value, str):
        return [value]
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []
