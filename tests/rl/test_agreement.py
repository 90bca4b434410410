"""What one process finds stops all of them, with one message."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.commands import python_module
from support.training import environment

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.rl.agreement import raise_in_all

PROGRAM = """
import os
from accelerate import PartialState
from mtrl_judge.common.errors import JudgeError
from mtrl_judge.rl.agreement import raise_in_all

PartialState(cpu=True)
raise_in_all(None)
try:
    raise_in_all("a fault" if os.environ["RANK"] == "1" else None)
except JudgeError as error:
    os.write(1, f"{os.environ['RANK']} {error}\\n".encode())  # in one piece
PartialState().destroy_process_group()
"""


@pytest.mark.usefixtures("warm")
def test_a_fault_of_the_second_process_is_raised_by_both(tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(PROGRAM)
    done = subprocess.run(
        python_module("faulty", 2),
        env=environment(ACCELERATE_USE_CPU="true"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert sorted(done.stdout.split("\n")[:2]) == ["0 a fault", "1 a fault"], done.stderr


def test_a_fault_of_the_only_process_is_raised() -> None:
    raise_in_all(None)
    with pytest.raises(JudgeError, match="a fault"):
        raise_in_all("a fault")
