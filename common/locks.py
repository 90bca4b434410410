"""One process at a time: locks on files that are changed and on folders that a command writes.

A lock belongs to the operating system (`flock`, through filelock), so it ends with the process
that holds it, however that process ends; a file that it leaves behind blocks nobody. On NFS, Linux
turns flock into a lock on the server, which other machines respect if the server has locks. Where
there is no flock at all, filelock warns and takes the existence of the file for the lock.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path

from .errors import JudgeError

FOLDER_LOCK = "_running.lock"
"""In a folder while a command writes it. Uploads of a training leave out names with an underscore
(`Trainer.push_to_hub` in transformers/trainer.py)."""
_PATIENCE_S = 60.0  # longer than reading and writing a file takes


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Keep other processes from changing a file (or folder) while it is read and written.

    Waits for a process that does the same; a process may lock a file again that it has locked.

    Raises:
        JudgeError: another process has kept it for a minute.
    """
    path = path.resolve()
    with _lock(path.with_name(f".{path.name}.lock"), path, wait_s=_PATIENCE_S):
        yield


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Claim an output folder, which is created, for a command.

    Raises:
        JudgeError: another process writes it; the message says which.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _lock(folder.resolve() / FOLDER_LOCK, folder, wait_s=0):
            yield
    finally:
        if is_new:
            with suppress(OSError):  # it has content now
                folder.rmdir()


@contextmanager
def _lock(file: Path, guarded: Path, *, wait_s: float) -> Iterator[None]:
    from filelock import FileLock, Timeout  # takes a tenth of a second, which help can do without

    lock = FileLock(file, timeout=wait_s, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise JudgeError(
            f"{guarded}: in use by {_holder(file)}; wait until it has ended, or choose another path"
        ) from None
    try:
        if lock.lock_counter == 1:
            with _named_holder(file):
                yield
        else:
            yield
    finally:
        lock.release()


@contextmanager
def _named_holder(file: Path) -> Iterator[None]:
    """Write into a lock's file who holds it, and remove the file before it is released.

    filelock sees that a file it has waited for is gone, and opens a new one.
    """
    record = json.dumps(_this_process())
    try:
        file.write_text(record, encoding="utf-8")
        yield
    finally:
        # Unless somebody has removed it, and another process has made its own.
        with suppress(OSError):
            if file.read_text(encoding="utf-8") in ("", record):
                file.unlink()


def _this_process() -> dict[str, str | int]:
    # Without options, whose values may be keys.
    words = takewhile(lambda word: not word.startswith("-"), sys.argv[1:])
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="microseconds"),
        "command": " ".join([Path(sys.argv[0]).name, *words]),
    }


def _holder(file: Path) -> str:
    try:
        holder = json.loads(file.read_text(encoding="utf-8"))
        return (
            f"process {holder['pid']} on {holder['host']} since {holder['since'][:19]} UTC "
            f"({holder['command']})"
        )
    except (OSError, ValueError, KeyError, TypeError):  # not written yet, or just removed
        return "another process"
