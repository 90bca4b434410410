"""A fork that stands for a program of the tests is like a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.warm_python import warm_python

PROGRAM = """
import json, os, sys
code, *words = sys.argv[1:]
found = {"words": words, "folder": os.getcwd(), "mark": os.environ["SIGNAL"]}
found |= {"parent": os.getppid(), "file": os.fstat(int(words[0])).st_ino}
print(json.dumps(found), flush=True)
print("an error", file=sys.stderr)
sys.stdin.read()
sys.exit(int(code))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with warm_python(tmp_path_factory.mktemp("warm"), modules=["program"], imports=[]) as python:
        yield python


@pytest.fixture
def start(python: Path, tmp_path: Path) -> Any:
    """Starts a program that prints what it is given and ends with its standard input."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "elsewhere").mkdir()
    file = (tmp_path / "program.py").open()
    given = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path), "SIGNAL": "é"}

    def start(**environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [python, "-m", "program", "3", str(file.fileno()), "two words"],
            cwd=tmp_path / "elsewhere",
            env={**os.environ, **given, **environment},
            pass_fds=[file.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    with file:
        yield start


def test_it_gets_what_the_program_is_given(start: Any, tmp_path: Path) -> None:
    ends = []
    for environment in ({}, {"HF_HUB_OFFLINE": "2"}):  # libraries read the second at their import
        process = start(**environment)
        output, errors = process.communicate("")
        ends.append((json.loads(output), errors, process.returncode))
    (forked, *rest), (own, *same) = ends
    assert own.pop("parent") == os.getpid()
    assert forked.pop("parent") not in (os.getpid(), process.pid)
    assert forked == own
    assert rest == same == ["an error\n", 3]
    assert own["folder"] == str(tmp_path / "elsewhere")
    assert own["mark"] == "é"


def test_it_ends_by_the_signal_that_the_program_gets(start: Any) -> None:
    with start() as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM


def test_it_ends_with_a_program_that_is_killed(start: Any, python: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as killed_before_it_asks:
        killed_before_it_asks.connect(str(python.with_name("warm")))
    with start() as process:
        process.stdout.readline()
        process.kill()
        process.wait()
        assert process.stdout.read() == ""  # at its end nothing has the pipe open
