"""The benchmark of kills, in its smallest form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_nothing_is_lost_when_a_command_that_writes_a_file_is_killed() -> None:
    words = ["-m", "benchmarks.kills", "--only", "leaderboard add", "--kills", "4"]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    figures = json.loads(done.stdout.splitlines()[-1])["leaderboard add"]
    assert (figures["kills"], figures["same"], figures["lost"]) == (4, 4, 0)
    assert done.returncode == 0
