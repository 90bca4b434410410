"""The benchmark of kills, in its smallest form, and that it notices what is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# A command that writes a file in two parts, in place or under another name, and takes a file that
# exists for a whole one. The benchmark forks, so it runs in a process of its own.
TWO_PARTS = """
import json, tempfile, time
from pathlib import Path
from benchmarks.kills import Command, files, is_loss, kill_often


def write_in_two_parts(target, part):
    if not target.exists():
        part.write_text("first")
        time.sleep(0.3)
        part.write_text("first and second")
        part.rename(target)


def losses_when_written_as(name):
    def write(inputs, out):
        write_in_two_parts(out / "file", out / name)

    command = Command(4, lambda inputs: None, lambda out: files(out).get("file"), write)
    with tempfile.TemporaryDirectory() as folder:
        return is_loss(kill_often(command, Path(folder), 4, "seed"))


print(json.dumps([losses_when_written_as(name) for name in ("file", "file.part")]))
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_is_lost_when_a_command_that_writes_a_file_is_killed() -> None:
    done = run("-m", "benchmarks.kills", "--only", "leaderboard add", "--kills", "4")
    figures = json.loads(done.stdout.splitlines()[-1])["leaderboard add"]
    assert (figures["kills"], figures["same"], figures["lost"]) == (4, 4, 0)
    assert done.returncode == 0


def test_a_file_that_is_written_in_place_counts_as_lost() -> None:
    done = run("-c", TWO_PARTS)
    assert not done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [True, False]


# Answers that are written by replacing the file's content, as a program that forgets "a" does.
STORE_IN_PLACE = """
import tempfile
from pathlib import Path
from benchmarks.kills import COMMANDS, kill_often
from mtrl_judge.common.files import json_text
from mtrl_judge.harness_plugin.answer_store import AnswerStore


def append(self, lines):
    self.folder.mkdir(exist_ok=True)
    before = self._file.read_text() if self._file.exists() else ""
    self._file.write_text(before + "".join(json_text(line, indent=None) + "\\n" for line in lines))


AnswerStore.append = append
with tempfile.TemporaryDirectory() as folder:
    print(kill_often(COMMANDS["answers"], Path(folder), 8, "seed")["lost"])
"""


@pytest.mark.slow
def test_a_store_of_answers_that_is_written_in_place_loses_some() -> None:
    done = run("-c", STORE_IN_PLACE)
    assert not done.stderr
    assert int(done.stdout.splitlines()[-1]) > 0
