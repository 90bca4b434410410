"""Nothing that a command starts outlives it, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mtrl_judge.common.locks import locked_folder

# A command with a worker in a session of its own, as launchers of several processes start them.
COMMAND = """
import os, pathlib, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
worker = subprocess.Popen(sleep, start_new_session=True)
pathlib.Path("processes.part").write_text(f"{os.getpid()} {worker.pid}")
os.rename("processes.part", "processes")
time.sleep(60)
"""
# `mtrl-judge eval` with that command in the place of lmms-eval's.
EVALUATION = f"""
import sys
from mtrl_judge.cli.main import main
from mtrl_judge.experiments import launch
run = launch.run_command
launch.run_command = lambda name, command, **keys: run(name, [sys.executable, "-c", {COMMAND!r}])
sys.argv = ["mtrl-judge", "eval"]
main()
"""


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_stopped_evaluation_leaves_no_process(
    tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", EVALUATION], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    file = tmp_path / "processes"
    while not file.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    started = [psutil.Process(int(word)) for word in file.read_text().split()]
    process.send_signal(number)
    assert process.wait() == exit_code
    # After SIGKILL, a watcher stops what is left. Until then the folder stays in use.
    with locked_folder(tmp_path / "logs"):
        assert all(map(is_gone, started))
    said = process.communicate()[1]
    assert ("run the same command with --resume" in said) == (number != signal.SIGKILL)
