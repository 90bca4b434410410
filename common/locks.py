"""One process at a time: locks on files that are changed and on folders that a command writes.

A lock belongs to the operating system (`flock`, through filelock), so it ends with the process
that holds it, however that process ends; a file that it leaves behind blocks nobody. What a command
starts inherits the locks of its folders (:func:`inherited_locks`): after a SIGKILL of the command,
a rerun waits until nothing writes into the folder any more. On NFS, Linux turns flock into a lock
on the server, which other machines respect if the server has locks. Where there is no flock at all,
filelock warns and takes the existence of the file for the lock.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import JudgeError
from .printable import printable

if TYPE_CHECKING:
    from filelock import BaseFileLock

FOLDER_LOCK = "_running.lock"
"""In a folder while a command writes it. Uploads of a training leave out names with an underscore
(`Trainer.push_to_hub` in transformers/trainer.py)."""
_PATIENCE_S = 60.0  # longer than reading and writing a file takes
_LOOK_S = 1.0  # how often to look whether the holder's processes have ended
_descriptors: list[int] = []
"""The locks of the folders that this process holds."""
_NAMES = ("host", "since", "command")


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

    Waits for what a command that was killed has left running.

    Raises:
        JudgeError: another command writes it; the message says which.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _lock(folder.resolve() / FOLDER_LOCK, folder, wait_s=0) as descriptor:
            _descriptors.append(descriptor)
            try:
                yield
            finally:
                _descriptors.remove(descriptor)
    finally:
        if is_new:
            with suppress(OSError):  # it has content now
                folder.rmdir()


def inherited_locks() -> tuple[int, ...]:
    """What processes that this command starts have to inherit: descriptors, as for `subprocess`.

    A folder stays locked until all of them have ended, or until this command releases the lock.
    """
    return tuple(_descriptors)


@contextmanager
def _lock(file: Path, guarded: Path, *, wait_s: float) -> Iterator[int]:
    """Hold a lock; yields its descriptor."""
    from filelock import FileLock  # takes a tenth of a second, which help can do without

    lock = FileLock(file, timeout=wait_s, is_singleton=True)
    _acquire(lock, file, guarded)
    try:
        descriptor = lock._context.lock_file_fd
        assert descriptor is not None
        if lock.lock_counter == 1:
            with _named_holder(file):
                yield descriptor
        else:
            yield descriptor
    finally:
        lock.release()


def _acquire(lock: BaseFileLock, file: Path, guarded: Path) -> None:
    """Acquire a lock, also from what a command that was killed has left running."""
    from filelock import Timeout

    timeout, is_told = None, False
    while True:
        try:
            lock.acquire(timeout)
            return
        except Timeout:
            if not _is_dead(_read_holder(file)):
                raise JudgeError(
                    f"{guarded}: in use by {_named(_read_holder(file))}; wait until it has ended, "
                    "or choose another path"
                ) from None
        if not is_told:
            left = f"what {_named(_read_holder(file))} has left running; it is being stopped"
            print(printable(f"{guarded}: waiting for {left}"), file=sys.stderr, flush=True)
        timeout, is_told = _LOOK_S, True


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


def _read_holder(file: Path) -> Mapping[str, Any] | None:
    """Who wrote itself into a lock's file; None if nobody has yet, or the file was just removed."""
    try:
        holder = json.loads(file.read_text(encoding="utf-8"))
        return {"pid": int(holder["pid"]), **{name: str(holder[name]) for name in _NAMES}}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _named(holder: Mapping[str, Any] | None) -> str:
    if holder is None:
        return "another process"
    return (
        f"process {holder['pid']} on {holder['host']} since {holder['since'][:19]} UTC "
        f"({holder['command']})"
    )


def _is_dead(holder: Mapping[str, Any] | None) -> bool:
    """Whether a holder is known to have ended; of another machine's nothing is known."""
    import psutil

    if holder is None or holder["host"] != socket.gethostname():
        return False
    try:
        return bool(psutil.Process(holder["pid"]).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
