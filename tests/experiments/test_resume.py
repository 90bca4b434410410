"""An evaluation that was killed goes on where it was, and its result is the undisturbed one's."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.commands import call, python_module
from support.servers import chat_server
from support.tasks import POINTWISE_TASK, write_two_tasks

from mtrl_judge.experiments.launch import ANSWERS
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE
from mtrl_judge.leaderboard.reading import results_files

VERDICTS = {f"Is it {text}?": f"<think>{text}</think><answer>Yes</answer>" for text in "abcdef"}
FIRST_PART = 4  # requests that a backend with one connection is given at first


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def samples(out: Path) -> list[object]:
    (results,) = results_files(out)
    (file,) = results.parent.glob("*_samples_*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_a_killed_evaluation_asks_only_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm_programs: Path
) -> None:
    """Only the one that is killed starts real processes."""

    def evaluate(*words: object) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", str(warm_programs))
            assert call(*words).exit_code == 0

    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(write_two_tasks(tmp_path)))
    with chat_server(VERDICTS, at_once=1) as (server, model_args):
        words = ["eval", "--model", "openai", "--model_args", model_args, "--tasks", POINTWISE_TASK]
        words += ["--include_path", str(tmp_path), "--output-path"]
        evaluate(*words, tmp_path / "undisturbed")
        order, out = list(server.asked), tmp_path / "killed"
        server.asked.clear()
        server.answers[order[FIRST_PART]] = None
        process = subprocess.Popen([*python_module("mtrl_judge"), *words, str(out)])
        while len(server.asked) <= FIRST_PART:
            assert process.poll() is None
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        while not all(map(is_gone, children)):
            time.sleep(0.05)
        assert not results_files(out)
        (store,) = (out / ANSWERS).iterdir()
        store.write_bytes(store.read_bytes() + b'{"key": "half a li')  # of a kill within a write
        server.asked.clear()
        server.answers |= VERDICTS
        evaluate(*words, out, "--resume")
        assert server.asked == order[FIRST_PART:]
        assert samples(out) == samples(tmp_path / "undisturbed")
