"""Mistakes of a user, each told in one message that the command line prints as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple


class JudgeError(Exception):
    """Something the user can mend; ``str`` is all that needs to be shown."""


class DataError(JudgeError):
    """The rows of a task are missing, unreadable or not what its YAML says."""


class Fault(NamedTuple):
    """One fault of a YAML: ``file: field: wrong; right``."""

    file: Path
    field: str
    wrong: str
    right: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field}: {self.wrong}; {self.right}"


class JudgeTaskError(JudgeError):
    """Every fault of a task's YAML at once, one a line."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


def nearest(word: object, known: Iterable[object]) -> str | None:
    """The known name most like ``word``, or None where none is near.

    >>> nearest("dimention", ["dimension", "role"])
    'dimension'
    """
    by_lower = {str(name).casefold(): str(name) for name in known}
    matches = get_close_matches(str(word).casefold(), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """``did you mean 'x'?`` where a known name is near, else the list of known names.

    >>> did_you_mean("tset", ["train", "test"])
    "did you mean 'test'?"
    >>> did_you_mean("qq", ["train", "test"])
    'known: train, test'
    """
    names = list(known)
    match = nearest(word, names)
    return f"did you mean {match!r}?" if match else f"known: {', '.join(map(str, names))}"


class Problem(NamedTuple):
    field: str
    wrong: str
    right: str
