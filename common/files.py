"""Writing files atomically, reading files of others, and reading and writing JSON.

A file or folder is written under a temporary name beside its destination and renamed once it is
complete and on the disk: a process that is killed, or a full disk, leaves the previous content,
never half of the new one. One process at a time writes to a destination.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import secrets
import shutil
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import DataError, JudgeError
from .locks import FOLDER_LOCK, locked_file
from .surrogates import replace_surrogates


def expanded(path: str | Path) -> Path:
    """The path with its ``~`` or ``~user`` replaced by a home folder, if there is one.

    Where there is none, `Path.expanduser` raises RuntimeError; here the path stays as it is, and
    whoever opens it says that it does not exist.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111


def is_free(path: Path) -> bool:
    """Whether nothing exists at a path, or only a folder with nothing in it but a lock."""
    if not path.is_dir():
        return not path.exists()
    return all(entry.name == FOLDER_LOCK for entry in path.iterdir())


def refuse_existing(
    path: Path,
    force: bool | None = None,
    replaceable: Callable[[Path], bool] = lambda path: True,
) -> None:
    """Check that output may be written to a path, before the work that produces it begins.

    Args:
        force: the command's ``--force``; None for a command without one.
        replaceable: whether what exists is an older output of the same command, the only thing
            that ``force`` replaces.

    Raises:
        JudgeError: a file or a folder with content exists there and may not be replaced.
    """
    if is_free(path):
        return
    if not replaceable(path):
        raise JudgeError(
            f"{path}: contains files that this command did not write; choose another path"
        )
    if not force:
        hint = "" if force is None else " or pass --force"
        raise JudgeError(f"{path}: already exists; choose another path{hint}")


@contextmanager
def whole_file(path: Path, force: bool = True) -> Iterator[Path]:
    """Yield a temporary path that is renamed to ``path`` when the block ends without an error.

    Args:
        force: replace an existing file. Pass the user's ``--force`` where the user chose the path.

    Raises:
        JudgeError: the file exists and ``force`` is false; there is something else than a file; or
            it cannot be written.
    """
    target = path.resolve()  # a link stays one
    with _errors_of_writing(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked_file(target):
            if target.exists() and not target.is_file():  # a folder, or a device like /dev/null
                raise JudgeError(f"{path}: exists and is not a file; choose another path")
            if target.exists() and not force:
                raise JudgeError(f"{path}: already exists; choose another path or pass --force")
            remove_leftovers(target)
            part = _temporary(target, "part")
            try:
                yield part
                sync_to_disk(part)
                part.replace(target)
                sync_to_disk(target.parent)
            finally:
                part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``path`` when the block ends without an error.

    An existing folder is removed, so callers first check that it may be: see
    :func:`refuse_existing`.

    Raises:
        JudgeError: there is something else than a folder, or it cannot be written.
    """
    target = path.resolve()
    with _errors_of_writing(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked_file(target):
            if target.exists() and not target.is_dir():
                raise JudgeError(f"{path}: exists and is not a folder; choose another path")
            with temporary_folder(target) as part:
                yield part
                put_in_place(part, target)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside ``path``; what is left of it when the block ends is removed.

    For whoever holds the lock of ``path``, or of the folder around it.
    """
    remove_leftovers(path)
    part = _temporary(path, "part")
    part.mkdir()
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """The content of a file that a stranger may have named or written.

    A device or a FIFO, whose content may never end, is not read. Symbolic links are followed.

    Raises:
        OSError: the file cannot be opened, is not a regular file, or is larger than ``max_bytes``.
    """
    # Without O_NONBLOCK, opening a FIFO waits for somebody to write into it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(f"larger than the limit of {max_bytes:,} bytes")
    return data


def put_in_place(part: Path, target: Path) -> None:
    """Rename a complete folder, replacing the one that has the name.

    For whoever holds the lock of ``target``, or of the folder around it.
    """
    for content in (*part.rglob("*"), part):
        sync_to_disk(content)
    aside = None
    if target.exists():
        # A folder with content cannot be replaced in one step. Until the second rename the old one
        # is aside, from where remove_leftovers() brings it back.
        aside = _temporary(target, "old")
        target.rename(aside)
    part.rename(target)
    sync_to_disk(target.parent)
    if aside is not None:
        shutil.rmtree(aside)


def remove_leftovers(path: Path) -> None:
    """Remove what a killed process has left beside a file or folder that it was writing.

    For whoever holds the lock of ``path``, or of the folder around it: another process that writes
    it is no longer there. A folder that was killed between its two renames is brought back.
    """
    ours = re.compile(rf"\.{re.escape(path.name)}\.\d+-[0-9a-f]{{8}}\.(part|old)")
    for left in sorted(path.parent.iterdir()):
        if not (found := ours.fullmatch(left.name)):
            continue
        if found[1] == "old" and not path.exists():
            left.rename(path)
        elif left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def sync_to_disk(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk.

    Before a file is renamed: otherwise a crash of the machine may keep the new name and lose the
    content.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path, kind: str) -> Path:
    """A name beside ``path`` that no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.{kind}")


@contextmanager
def _errors_of_writing(path: Path) -> Iterator[None]:
    """Report that a path cannot be written as an error with one message."""
    try:
        yield
    except BrokenPipeError:  # whoever reads what the command prints has gone
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise JudgeError(
            f"{path}: cannot be written: {error.strerror or error}{where}; what was there before "
            "is unchanged"
        ) from error


def write_text(path: Path, text: str, force: bool = True) -> None:
    """Write a UTF-8 text file atomically; ``force`` and errors as for :func:`whole_file`."""
    with whole_file(path, force) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, force: bool = True) -> None:
    """Write :func:`json_text` atomically; ``force`` and errors as for :func:`whole_file`."""
    write_text(path, json_text(value) + "\n", force)


def json_text(value: Any, indent: int | None = 2) -> str:
    r"""JSON in the one style of all our files and outputs, without a newline at the end.

    Lone surrogates, which UTF-8 cannot represent, become U+FFFD.

    Args:
        indent: None for one line, as in JSONL files.

    Raises:
        ValueError: a number is infinite or NaN, which JSON does not have.

    >>> json_text({"model": "é\ud800"}, indent=None)
    '{"model": "é�"}'
    """
    return replace_surrogates(json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False))


def parse_json(text: str) -> Any:
    r"""The value of a JSON text; lone surrogates become U+FFFD, as in :func:`json_text`.

    >>> parse_json(r'{"model": "a\ud800", "face": "\ud83d\ude00"}')
    {'model': 'a�', 'face': '😀'}

    Raises:
        ValueError: the text is not valid JSON.
        RecursionError: it is nested too deeply.
    """
    value = json.loads(text)
    if "\\ud" in text.casefold():
        value = json.loads(replace_surrogates(json.dumps(value, ensure_ascii=False)))
    return value


def read_json(
    path: Path, *, missing_ok: bool = False, advice: str = "restore or remove it"
) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        missing_ok: return an empty dictionary where there is no file.
        advice: what the error message tells the user to do.

    Raises:
        DataError: the file cannot be read or does not contain a JSON object.
    """
    if missing_ok and not path.exists():
        return {}
    try:
        return _json_object(path.read_text(encoding="utf-8"), str(path), advice)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {advice}") from None


# A few kilobytes of gzip can be a line of gigabytes.
MAX_LINE = 2**26
"""Characters of a line of a JSONL file."""


def read_json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSONL file (`.gz`: compressed), each with its location for error messages.

    Raises:
        DataError: the file cannot be read, or a line is not a JSON object or is longer
            than :data:`MAX_LINE`.
    """
    open_text = gzip.open if file.suffix == ".gz" else open
    try:
        with open_text(file, "rt", encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE + 1), ""), 1):
                where = f"{file}: line {number}"
                if len(line) > MAX_LINE:
                    raise DataError(f"{where}: longer than {MAX_LINE:,} characters; is it JSONL?")
                if line.strip():
                    yield where, _json_object(line, where, "is the file truncated?")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None


def _json_object(text: str, where: str, advice: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error}); {advice}") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: found {type(value).__name__}; expected a JSON object")
    return value
