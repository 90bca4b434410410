"""Steps run once, in order, and an interrupted job is resumed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.experiments.pipeline import Step, list_steps, run_steps


def marking(folder: Path, name: str, *, fails: bool = False) -> Step:
    """A step that writes a file, and a line in a diary each time it runs."""

    def run() -> None:
        with (folder / "diary").open("a") as diary:
            diary.write(f"{name}\n")
        if fails:
            raise JudgeError(f"{name}: no")
        (folder / name).touch()

    return Step(name, "mark", (folder / name).is_file, run, f"touch {name}")


def test_finished_steps_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    durations = tmp_path / "steps.json"
    broken = [marking(tmp_path, "a"), marking(tmp_path, "b", fails=True), marking(tmp_path, "c")]
    with pytest.raises(JudgeError, match="b: no"):
        list(run_steps(broken, durations))
    steps = [marking(tmp_path, name) for name in "abc"]
    listed = list_steps(steps)
    assert "[1/3] a: done\n[2/3] b: to do" in listed
    assert listed.endswith("next:\n  touch b")
    assert [step.name for step in run_steps(steps, durations)] == ["b", "c"]
    assert list(run_steps(steps, durations)) == []
    assert (tmp_path / "diary").read_text().split() == ["a", "b", "b", "c"]
    recorded = json.loads(durations.read_text())
    assert all(entry["done"] and entry["kind"] == "mark" for entry in recorded.values())
    assert "[2/3] b" in capsys.readouterr().out


def test_a_step_without_its_output_is_an_error(tmp_path: Path) -> None:
    step = Step("empty", "mark", lambda: False, lambda: None, "true")
    with pytest.raises(JudgeError, match="empty: finished, but its output is incomplete"):
        list(run_steps([step], tmp_path / "steps.json"))


def test_sigterm_lets_a_training_write_its_checkpoint(tmp_path: Path) -> None:
    child = (
        "import pathlib, signal, sys, time\n"
        "def stop(*_): pathlib.Path('saved').touch(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop); print('ready', flush=True); time.sleep(60)\n"
    )
    parent = (
        "import pathlib, sys\n"
        "from mtrl_judge.experiments.launch import run_command\n"
        "from mtrl_judge.experiments.pipeline import Step, run_steps\n"
        f"run = lambda: run_command('t', [sys.executable, '-c', {child!r}])\n"
        "list(run_steps([Step('t', 'train', lambda: False, run, '')], pathlib.Path('s.json')))\n"
    )
    command = [sys.executable, "-c", parent]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line == "ready\n" for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
    assert (tmp_path / "saved").exists()
    assert json.loads((tmp_path / "s.json").read_text())["t"]["done"] is False
