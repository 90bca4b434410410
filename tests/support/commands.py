"""Commands as users call them: ours in this process, others in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mtrl_judge.cli.main import app, main
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE


def call(*arguments: object) -> Result:
    """Run ``mtrl-judge`` in this process; a user's mistake is the result's ``exception``."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fails(capsys: pytest.CaptureFixture[str], monkeypatch: Any, *arguments: object) -> str:
    """The one message that the command prints as it stops with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["mtrl-judge", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def python_module(name: str, processes: int = 1) -> list[str]:
    """The words that start a module, in one process or in several through accelerate."""
    module = ["-m", name]
    if processes > 1:
        # With `--cpu`, accelerate 1.15 starts one process, whatever --num_processes says.
        launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=1"]
        launch += [f"--num_processes={processes}", "--main_process_port=0"]
        module = [*launch, "--mixed_precision=no", "--dynamo_backend=no", *module]
    return [sys.executable, *module]


def lmms_eval(
    root: Path, *arguments: object, processes: int = 1, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the stock ``lmms-eval`` on data in ``root``; ``variables`` are of the environment."""
    if processes > 1:
        variables = {"ACCELERATE_USE_CPU": "true", **variables}
    return subprocess.run(
        [*python_module("lmms_eval", processes), *map(str, arguments)],
        env={**os.environ, DATA_ROOT_VARIABLE: str(root), "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


HOLD = """
import sys
from pathlib import Path
from typing import Any
from mtrl_judge.common.locks import locked_folder
with locked_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process holds a folder until its standard input is closed."""
    words = [sys.executable, "-c", HOLD, str(folder), "--token", "secret"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
