"""How much a command prints: its results, also its progress, or also what it starts prints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum

from .errors import JudgeError


class Verbosity(Enum):
    QUIET = "quiet"
    NORMAL = "normal"
    VERBOSE = "verbose"


_current = ContextVar("verbosity", default=Verbosity.NORMAL)


@contextmanager
def verbosity(*, quiet: bool, verbose: bool) -> Iterator[None]:
    """The block runs as a command with these flags.

    Raises:
        JudgeError: both are given.
    """
    if quiet and verbose:
        raise JudgeError("--quiet: excludes --verbose; leave one of them out")
    chosen = Verbosity.QUIET if quiet else Verbosity.VERBOSE if verbose else Verbosity.NORMAL
    token = _current.set(chosen)
    try:
        yield
    finally:
        _current.reset(token)


def is_quiet() -> bool:
    """Whether to show results only."""
    return _current.get() is Verbosity.QUIET


def is_verbose() -> bool:
    """Whether to show what other programs print, too."""
    return _current.get() is Verbosity.VERBOSE


def report(line: str, end: str = "\n") -> None:
    """Print how far a command is."""
    if not is_quiet():
        print(line, end=end, flush=True)
