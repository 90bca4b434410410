"""Locks exclude other processes, say who holds them, and end with their process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import HOLD, held_elsewhere

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import is_free, refuse_existing
from mtrl_judge.common.locks import locked_file, locked_folder


def test_a_folder_in_use_is_refused_with_its_holder(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    with held_elsewhere(folder) as process:
        assert is_free(folder)
        refuse_existing(folder)
        with pytest.raises(JudgeError) as refused, locked_folder(folder):
            pass
        message = str(refused.value)
        assert message.startswith(f"{folder}: in use by process {process.pid} on {os.uname()[1]}")
        assert f"-c {folder})" in message
        assert "secret" not in message
    with locked_folder(folder):
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_a_lock_of_a_dead_process_blocks_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with held_elsewhere(folder) as process:
        process.send_signal(signal.SIGKILL)
    assert [*folder.iterdir()], "its lock is still there"
    with locked_folder(folder):
        pass
    assert not [*folder.iterdir()]


# A command that starts a process which ends with standard input.
HOLD_AND_START = """
import subprocess, sys
from pathlib import Path
from mtrl_judge.common.locks import inherited_locks, locked_folder
with locked_folder(Path(sys.argv[1])):
    words = [sys.executable, "-c", "import sys; print('started', flush=True); sys.stdin.read()"]
    subprocess.run(words, pass_fds=inherited_locks())
"""


def test_what_a_killed_command_has_started_is_waited_for(tmp_path: Path) -> None:
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    words = [sys.executable, "-c", HOLD_AND_START, tmp_path]
    with subprocess.Popen(words, text=True, **streams) as killed:
        assert killed.stdout.readline() == "started\n"
        with pytest.raises(JudgeError), locked_folder(tmp_path):
            pass
        killed.kill()
        killed.wait()
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, tmp_path], text=True, **streams
        ) as rerun:
            said = rerun.stderr.readline()
            assert said.startswith(f"{tmp_path}: waiting for what process {killed.pid} on ")
            killed.stdin.close()
            assert rerun.stdout.readline() == "held\n"
            rerun.stdin.close()
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_got_no_content_is_removed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked_folder(tmp_path / "run"):
        raise RuntimeError
    assert not [*tmp_path.iterdir()]


def test_a_process_may_lock_a_file_again(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with locked_file(file), locked_file(file):
        pass
    assert not [*tmp_path.iterdir()]
