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
# `mtrl-judge eval` with another command in the place of lmms-eval's.
EVALUATION = """
import sys
from mtrl_judge.cli.main import main
from mtrl_judge.experiments import launch
run, code = launch.run_command, sys.argv[1]
launch.run_command = lambda name, command, **keys: run(name, [sys.executable, "-c", code])
sys.argv = ["mtrl-judge", "eval", "--tasks", "mtrl_judge_seetrue"]
main()
"""
# It gets a signal within its Nth call of Popen: when the process is there, before Popen returns it.
SIGNALED_IN_POPEN = """
import os, pathlib, subprocess, sys
execute, started = subprocess.Popen._execute_child, []
place, number = map(int, sys.argv[2:])
def execute_and_signal(self, *words):
    execute(self, *words)
    started.append(str(self.pid))
    if len(started) == place:
        pathlib.Path("processes").write_text(" ".join(started))
        os.kill(os.getpid(), number)
subprocess.Popen._execute_child = execute_and_signal
"""
COMMAND_PROCESS, WATCHER = 1, 2


def start_evaluation(
    folder: Path,
    command: str,
    *words: object,
    before: str = "",
) -> subprocess.Popen[str]:
    """`mtrl-judge eval` that runs a Python command, after the code `before`."""
    python = [sys.executable, "-c", before + EVALUATION, command, *map(str, words)]
    return subprocess.Popen(python, cwd=folder, stderr=subprocess.PIPE, text=True)


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_stopped_evaluation_leaves_no_process(
    tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    process = start_evaluation(tmp_path, COMMAND)
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


@pytest.mark.parametrize("place", [COMMAND_PROCESS, WATCHER])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_just_being_started_is_stopped_too(
    tmp_path: Path, number: signal.Signals, place: int
) -> None:
    process = start_evaluation(tmp_path, COMMAND, place, int(number), before=SIGNALED_IN_POPEN)
    said = process.communicate()[1]
    assert process.returncode == 128 + number
    assert not [pid for pid in (tmp_path / "processes").read_text().split() if is_left(int(pid))]
    assert said == "stopped; run the same command with --resume to go on\n"


def is_left(process_id: int) -> bool:
    try:
        return not is_gone(psutil.Process(process_id))
    except psutil.NoSuchProcess:
        return False


def test_an_interrupt_does_not_stop_what_a_script_runs_in_its_background(tmp_path: Path) -> None:
    """A shell has it ignored there: it is meant for what runs in the foreground."""
    interrupt = [COMMAND_PROCESS, int(signal.SIGINT)]
    before = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN){SIGNALED_IN_POPEN}"
    process = start_evaluation(tmp_path, "raise SystemExit(3)", *interrupt, before=before)
    assert "lmms-eval: failed with exit code 3" in process.communicate()[1]
    assert process.returncode == 3
