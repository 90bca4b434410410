"""How every command ends: with one message for what the user can fix, and an exit code.

0: done. 1: the command ran and the result is negative (a worse judge, leaks, failed requests, a
failed run). 2: a mistake of the user, such as an invalid YAML, or of the machine, such as a full
disk. 128 + n: ended by signal n, or by that of a command that it ran, as shells report it
(POSIX.1-2017, Shell Command Language, 2.8.2).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast

from .errors import JudgeError, first_line
from .printable import printable
from .secrets import redact
from .signals import exit_code_of_signal, noted_interrupts

CLOSED_OUTPUT = 128 + signal.SIGPIPE
_INTERRUPTED = 128 + signal.SIGINT


@contextmanager
def exits_with_message(*, quiet: bool = False) -> Iterator[None]:
    """End the process with one message on standard error where the block raises what users can fix.

    Args:
        quiet: without the message, for all but one of several processes.
    """
    with noted_interrupts():
        try:
            try:
                yield
            finally:
                # Here and not when Python ends: nobody could catch the traceback.
                if sys.stdout is not None:
                    sys.stdout.flush()
        except JudgeError as error:
            _exit(error.exit_code, "" if quiet else str(error))
        except BrokenPipeError:
            _exit(CLOSED_OUTPUT)
        except KeyboardInterrupt:
            _exit(_INTERRUPTED)
        except (OSError, MemoryError, RecursionError) as error:
            _exit(JudgeError.exit_code, "" if quiet else _message(error))
        except BaseException as error:
            succeeded = isinstance(error, SystemExit) and not error.code
            if succeeded or exit_code_of_signal() is None:
                raise
            _exit(JudgeError.exit_code)  # what the signal's exception was turned into


class _Unread:
    """A stream that drops what nobody reads any more, where Python raises BrokenPipeError."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.dropped: BrokenPipeError | None = None

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except BrokenPipeError as error:
            self.dropped = error
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError as error:
            self.dropped = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def goes_on_unread() -> Iterator[None]:
    """The block goes on if the reader of its output ends: hours of work are not lost to `| head`.

    Raises:
        BrokenPipeError: at the end of the block, if something was not read.
    """
    output, errors = _Unread(sys.stdout), _Unread(sys.stderr)
    with redirect_stdout(cast(TextIO, output)), redirect_stderr(cast(TextIO, errors)):
        yield
    if dropped := output.dropped or errors.dropped:
        raise dropped


def _message(error: OSError | MemoryError | RecursionError) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory: {first_line(error)}"
    if isinstance(error, RecursionError):
        return "the input is nested too deeply"
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or first_line(error)}"


def _exit(code: int, message: str = "") -> None:
    """End the process with this exit code, or with that of a signal which it has received."""
    if message:
        with suppress(OSError):  # nobody reads it
            print(printable(redact(message)), file=sys.stderr, flush=True)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # Python would try again as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(exit_code_of_signal() or code)


def exit_of_host(message: str) -> SystemExit:
    """For code that another program runs: prints the message; raise what it returns.

    The host may catch every ``Exception``, and go on.
    """
    message = printable(redact(message))
    print(message, file=sys.stderr, flush=True)
    error = SystemExit(message)
    error.code = JudgeError.exit_code
    return error
