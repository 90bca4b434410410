"""Files that are whole or not there, and never written over unasked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtrl_judge.judge_tasks.errors import JudgeError


def refuse_existing(path: Path, force: bool) -> None:
    """Stop before work is done for a place that is taken.

    Raises:
        JudgeError: something is there and ``force`` is not set.
    """
    if path.exists() and not force:
        raise JudgeError(f"{path}: is there already; name another place or give --force")


@contextmanager
def whole_file(path: Path, force: bool) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its name when the block ends well."""
    refuse_existing(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, force: bool) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its name when the block ends well."""
    refuse_existing(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        yield part
        if path.exists():
            shutil.rmtree(path)
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
