"""Commands in forks of this process, which count their operations on files and can die at one."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from mtrl_judge.cli.main import main as command_line

_OF_FILES = {"write", "writelines", "truncate", "flush", "close", "__exit__"}
_OF_NAMES = {"fsync", "mkdir", "rename", "replace", "rmdir", "unlink"}


def call(*words: object) -> None:
    """Run ``mtrl-judge`` in this process."""
    sys.argv = ["mtrl-judge", *map(str, words)]
    command_line()


def in_fork(run: Callable[[], object]) -> None:
    """Run in a fork, so that this process stays without threads, which forks do not inherit."""
    assert os.waitstatus_to_exitcode(os.waitpid(start_fork(run), 0)[1]) == 0


def start_fork(run: Callable[[], object]) -> int:
    """Run in a fork, in silence; returns its process."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silence, stream)
        run()
        code = 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    finally:
        os._exit(code)


def counted_operations(run: Callable[[], object], file: Path) -> None:
    """Run, and write into a file how many operations on files that took."""
    count = 0

    def add() -> None:
        nonlocal count
        count += 1

    try:
        _run_with(add, run)
    finally:
        file.write_text(str(count), encoding="utf-8")


def killed_at_operation(run: Callable[[], object], place: int) -> None:
    """Run, and end this process by SIGKILL before its operation on files of this number, from 0."""
    left, process = place, os.getpid()

    def die_if_last() -> None:
        nonlocal left
        if left == 0 and os.getpid() == process:
            os.kill(process, signal.SIGKILL)
        left -= 1

    _run_with(die_if_last, run)


def _run_with(act: Callable[[], None], run: Callable[[], object]) -> None:
    """Run, and act before each call from Python that changes files."""

    def on_event(frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call":
            return
        file = getattr(function, "__self__", None)
        if isinstance(file, io.IOBase):
            changes = function.__name__ in _OF_FILES and not file.closed and file.writable()
        else:
            changes = function.__module__ == os.name and function.__name__ in _OF_NAMES
        if changes:
            act()

    sys.setprofile(on_event)
    try:
        run()
    finally:
        sys.setprofile(None)
