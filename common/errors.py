"""Errors that a user can fix, each with one message that the command line prints as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

_LONGEST_LINE, _LONGEST_MESSAGE = 2_000, 50_000


class JudgeError(Exception):
    """An error that the user can fix; its text is the whole message, without a traceback.

    What a message quotes from data can be of any length, so long lines, and a long message, are
    without their middle. What was found is at the beginning of a line and what to do at its end.
    """

    exit_code = 2
    """Of the command line."""

    def __str__(self) -> str:
        lines = super().__str__().split("\n")
        text = "\n".join(_without_middle(line, _LONGEST_LINE) for line in lines)
        return _without_middle(text, _LONGEST_MESSAGE)


class DataError(JudgeError):
    """A file, or the rows of a task, are missing, unreadable or not as described."""


class Problem(NamedTuple):
    """One thing wrong with a field of a file that is being checked."""

    field: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{shortened(self.field)}: {shortened(self.found)}; {shortened(self.expected)}"


class Fault(NamedTuple):
    """A :class:`Problem` with its file."""

    file: Path
    field: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.file}: {Problem(self.field, self.found, self.expected)}"


class JudgeTaskError(JudgeError):
    """All faults of a task's YAML at once, one per line."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


def shortened(text: str, limit: int = 1000) -> str:
    """The text, or its beginning and an ellipsis if it is longer than ``limit`` characters.

    >>> shortened("abcdef", 4)
    'abc…'
    """
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _without_middle(text: str, limit: int) -> str:
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]} … {text[-half:]}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the error's type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


_LONGEST_NAME = 100


def nearest(word: object, known: Iterable[object]) -> str | None:
    """The known name most similar to ``word``, or None if none is similar.

    >>> nearest("dimention", ["dimension", "role"])
    'dimension'
    """
    if len(str(word)) > _LONGEST_NAME:  # comparing long texts takes quadratic time
        return None
    by_lower = {str(name).casefold(): str(name) for name in known}
    matches = get_close_matches(str(word).casefold(), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """``did you mean 'x'?`` if a known name is similar, else the list of known names.

    >>> did_you_mean("tset", ["train", "test"])
    "did you mean 'test'?"
    >>> did_you_mean("qq", ["train", "test"])
    'known: train, test'
    """
    names = list(known)
    match = nearest(word, names)
    return f"did you mean {match!r}?" if match else f"known: {', '.join(map(str, names))}"
