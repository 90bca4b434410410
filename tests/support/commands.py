"""Commands as users call them: in this process, or lmms-eval's own in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from mtrl_judge.cli.main import app
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE


def call(*arguments: object) -> Result:
    """Run ``mtrl-judge`` in this process; a user's mistake is the result's ``exception``."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def lmms_eval(
    root: Path, *arguments: object, processes: int = 1, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the stock ``lmms-eval`` on data in ``root``; ``variables`` are of the environment."""
    launcher: list[str] = []
    if processes > 1:
        # `accelerate launch --cpu --num_processes 2` starts one process (accelerate 1.15).
        launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=1"]
        launcher += [f"--num_processes={processes}", "--main_process_port=0"]
        launcher += ["--mixed_precision=no", "--dynamo_backend=no"]
        variables = {"ACCELERATE_USE_CPU": "true", **variables}
    return subprocess.run(
        [sys.executable, *launcher, "-m", "lmms_eval", *map(str, arguments)],
        env={**os.environ, DATA_ROOT_VARIABLE: str(root), "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
