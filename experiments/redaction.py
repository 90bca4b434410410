"""What a command prints, without secrets: lmms-eval logs the token of the hub, for instance
(`cli_evaluate_single` in lmms_eval/__main__.py)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import RawIOBase
from typing import BinaryIO

from mtrl_judge.common.secrets import Redactor

_READ_BYTES = 65536
_MAX_WORD_BYTES = 8192  # longer than any secret
_END_SECONDS = 5.0


@contextmanager
def redacted(output: BinaryIO, redactor: Redactor) -> Iterator[int]:
    """Yield a file descriptor; what is written to it goes to `output`, without secrets.

    A secret has no space within it, so that text passes through up to the last space at once. Once
    `output` cannot be written, the rest is dropped.
    """
    reading, writing = os.pipe()
    thread = threading.Thread(target=_pass_on, args=(reading, output, redactor), daemon=True)
    thread.start()
    try:
        yield writing
    finally:
        os.close(writing)
        # Unless a process is left over that still has the descriptor, the end comes at once.
        thread.join(_END_SECONDS)


def _pass_on(reading: int, output: BinaryIO, redactor: Redactor) -> None:
    with open(reading, "rb", buffering=0) as pipe:
        with suppress(OSError, ValueError):  # the disk is full, or the output is closed
            try:
                _copy(pipe, output, redactor)
            except BrokenPipeError:
                # Nobody reads it any more. More data than a buffer holds fails without being kept
                # in it; something must be, so that the command's last flush fails as well and its
                # exit code says so.
                output.write(b"\n")
        # With the pipe closed, the command would end at its next line, and lose hours of work.
        while pipe.read(_READ_BYTES):
            pass


def _copy(pipe: RawIOBase, output: BinaryIO, redactor: Redactor) -> None:
    kept = b""
    while chunk := pipe.read(_READ_BYTES):
        data = kept + chunk
        complete = 1 + max(data.rfind(space) for space in (b" ", b"\n", b"\r", b"\t"))
        if len(data) - complete > _MAX_WORD_BYTES:
            complete = len(data)
        _write(output, data[:complete], redactor)
        kept = data[complete:]
    _write(output, kept, redactor)


def _write(output: BinaryIO, data: bytes, redactor: Redactor) -> None:
    text = data.decode("utf-8", "surrogateescape")  # keeps bytes that are no UTF-8
    output.write(redactor(text).encode("utf-8", "surrogateescape"))
    output.flush()
