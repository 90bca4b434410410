"""The types of a judge YAML's fields, shared by :mod:`.spec` and the kinds of tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)
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


def _single_value(value: object) -> str:
    if isinstance(value, list | Mapping):
        what = "a list" if isinstance(value, list) else "a mapping"
        raise PydanticCustomError("no_single_value", "is {what}, no single value", {"what": what})
    return label_key(value)


_SPELLINGS = {"yes": "true", "on": "true", "no": "false", "off": "false"}


def lookup(table: Mapping[str, Any], value: object, default: Any) -> Any:
    """What a table by :func:`label_key` has for a raw value, compared by its value.

    A number of single precision is the decimal it was written as; 1 and 0 stand for true and false,
    and so do the words for which YAML 1.1 has no text (``Yes:`` without quotes is true).

    >>> import struct
    >>> (single,) = struct.unpack("f", struct.pack("f", 0.9))
    >>> [lookup({"0.9": "a", "1": "b", "false": "c"}, v, None) for v in (single, True, 0, "No")]
    ['a', 'b', 'c', 'c']
    """
    key = label_key(value)
    if key in table:
        return table[key]
    if isinstance(value, bool):
        return table.get(str(int(value)), default)
    if isinstance(value, float) and math.isfinite(value):
        return table.get(_shortest_single(value), default)
    word = key.casefold()
    word = {"1": "true", "0": "false"}.get(word) or _SPELLINGS.get(word, word)
    return table.get(word, default) if word in ("true", "false") else default


def _shortest_single(value: float) -> str:
    """The shortest decimal of a number that has single precision."""
    single = np.float32(value)
    return str(single) if float(single) == value else ""


def as_number(value: Any) -> float:
    """A raw value as a number.

    Raises:
        LookupError: it is none.
    """
    try:
        return float(value)
    except (TypeError, ValueError):
        raise LookupError("not a number") from None


def is_null(value: object) -> bool:
    """Whether a value is missing: None, or not a number."""
    return value is None or value != value  # NaN is not itself


def as_tuple(value: object) -> object:
    """A single name stands for a list of one."""
    return (value,) if isinstance(value, str) else value


# What may be written, for editors: some fields take more than what they become.
_SCALAR = {"type": ["string", "number", "boolean"]}
_NAMES = {"type": "array", "items": {"type": "string"}}
ONE_OR_MORE = WithJsonSchema({"anyOf": [{"type": "string"}, _NAMES]})
ANY_VALUES = WithJsonSchema({"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR}]})
VALUES_BY_KEY = WithJsonSchema({"type": "object", "additionalProperties": {}})
Text: TypeAlias = Annotated[str, StringConstraints(min_length=1), BeforeValidator(_text_only)]
Column: TypeAlias = Annotated[str, StringConstraints(min_length=1)]
RawValue: TypeAlias = Annotated[str, BeforeValidator(_single_value), WithJsonSchema(_SCALAR)]
Columns: TypeAlias = Annotated[
    tuple[Column, ...], BeforeValidator(as_tuple), Field(min_length=1), ONE_OR_MORE
]


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
