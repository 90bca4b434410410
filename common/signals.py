"""SIGINT and SIGTERM end a command, whatever the code that they interrupt makes of that.

A handler raises in the middle of any code, and not all code passes that on: numpy's `import_array`
makes it an ImportError, Python drops it in finalizers, and a process that `subprocess.Popen` has
started but not returned yet is lost. So a signal that was received is noted, and signals wait where
nothing may be lost.

A SIGINT that was ignored when the command started stays ignored: so shells start what runs in the
background of a script (POSIX.1-2017, Shell Command Language, 2.11).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

_received: list[int] = []


@contextmanager
def noted_interrupts() -> Iterator[None]:
    """Meanwhile, a SIGINT is noted for :func:`exit_code_of_signal` and raises KeyboardInterrupt."""
    default = signal.default_int_handler
    if not _in_main_thread() or signal.getsignal(signal.SIGINT) is not default:
        yield  # ignored, or noted already
        return
    _received.clear()
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, default)


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Meanwhile, SIGTERM raises SystemExit, so that the block can clean up; exit code 143."""
    if not _in_main_thread():
        yield  # Python handles signals in the main thread only
        return
    handler = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def signals_wait() -> Iterator[Callable[[], None]]:
    """Signals wait until the function that is yielded is called, or until the end of the block."""
    handlers: dict[int, Any] = {}
    waiting: list[int] = []

    def deliver() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        handlers.clear()
        while waiting:
            signal.raise_signal(waiting.pop(0))

    if _in_main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(number)):
                handlers[number] = signal.signal(number, lambda n, _: waiting.append(n))
    try:
        yield deliver
    finally:
        deliver()


def exit_code_of_signal() -> int | None:
    """The exit code of a command that has received a signal: 128 + its number; else None."""
    return 128 + _received[-1] if _received else None


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    _received.append(number)
    raise KeyboardInterrupt


def _exit(number: int, _: FrameType | None) -> NoReturn:
    _received.append(number)
    raise SystemExit(128 + number)
