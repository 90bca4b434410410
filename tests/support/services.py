"""``mtrl-judge serve`` in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from .commands import python_module


class Service(NamedTuple):
    process: subprocess.Popen[str]
    address: str


@contextmanager
def service(*arguments: object, **variables: str) -> Iterator[Service]:
    """Start a service on a free port and wait until it is ready; ``variables`` are environment."""
    words = [*python_module("mtrl_judge"), "serve", "--port", "0", *map(str, arguments)]
    with subprocess.Popen(
        words,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        found = re.search(r"serves \d+ tasks? at (http://\S+)", line)
        assert found, process.stderr.read()
        try:
            yield Service(process, found[1])
        finally:
            process.terminate()
            process.communicate(timeout=60)
