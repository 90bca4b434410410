"""Files and folders that are whole or not there, and never written over unasked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import DataError, JudgeError


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


def json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSONL file, each with where it stands, for a message about it.

    Raises:
        DataError: the file cannot be read, or a line is no JSON object.
    """
    try:
        with file.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    where = f"{file}: line {number}"
                    yield where, _json_object(line, where)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None


def read_json(text: str) -> Any:
    r"""The value of a JSON text; half a surrogate pair, which no file or page can hold, is "?".

    >>> read_json(r'{"model": "a\ud800", "face": "\ud83d\ude00"}')
    {'model': 'a?', 'face': '😀'}

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    value = json.loads(text)
    if "\\ud" in text.casefold():
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        row = read_json(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no JSON ({error}); is it cut?") from None
    if not isinstance(row, dict):
        raise DataError(f"{where} is no JSON object; write {{item_id, label, text}}")
    return row
