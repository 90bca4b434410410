"""Files and folders that are whole or not there, and never written over unasked."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import JudgeError


def refuse_existing(path: Path) -> None:
    """Stop before work is done for a place that is taken; an empty folder is not.

    Raises:
        JudgeError: something is there.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise JudgeError(f"{path}: is there already; name another place")


@contextmanager
def whole_file(path: Path, force: bool) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its name when the block ends well.

    Raises:
        JudgeError: a file is there and ``force`` is not set.
    """
    if path.exists() and not force:
        raise JudgeError(f"{path}: is there already; name another place or give --force")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends well.

    What was at ``path`` is removed then, so a caller first makes sure that it may be
    (:func:`refuse_existing`, or that it is an older one of its own).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        if path.exists():
            shutil.rmtree(path)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
