"""An output folder that vanishes in the middle ends a command in one message and exit code 2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.commands import fails
from support.results import judged_rows, write_results
from support.shared import random_judge
from support.training import small_world, values

from mtrl_judge.demo.corpus import Sizes, write_sample
from mtrl_judge.experiments import launch, stages
from mtrl_judge.rl.callbacks import JsonLog

STRIKES = pytest.mark.parametrize("strike", ["moved away", "a file in its place"])


class Strike:
    """Moves a folder away, or puts a file in its place, once."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.elsewhere = folder.with_name("elsewhere")
        self.before: Mapping[Path, bytes] = {}

    def __call__(self) -> None:
        self.folder.rename(self.elsewhere)
        self.before = self.content()
        if self.kind == "a file in its place":
            self.folder.write_text("of somebody else", encoding="utf-8")

    def content(self) -> Mapping[Path, bytes]:
        return {file: file.read_bytes() for file in self.elsewhere.rglob("*") if file.is_file()}

    def check(self) -> None:
        """It happened, and nothing that was there has changed since then."""
        assert self.before
        assert self.content() == self.before
        if self.kind == "a file in its place":
            assert self.folder.read_text(encoding="utf-8") == "of somebody else"


@STRIKES
@pytest.mark.parametrize("command", ["eval", "robustness --perturbations swap"])
def test_during_an_evaluation(
    command: str, strike: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vanish = Strike(tmp_path / "out", strike)

    def judge(*_: Any, **__: Any) -> None:
        write_results(vanish.folder / "unchanged", {"mtrl_judge_a": judged_rows(20, 0.8, 0)})
        vanish()

    monkeypatch.setattr(launch, "run_command", judge)
    words = (*command.split(), "--tasks", "mtrl_judge_seetrue")
    message = fails(capsys, monkeypatch, *words, "--output-path", vanish.folder)
    assert message.startswith(f"{vanish.folder}")
    assert message.endswith("vanished while lmms-eval wrote into it; run the command again\n")
    assert message.count("\n") == 1
    vanish.check()


@STRIKES
@pytest.mark.parametrize("command", ["demo", "experiment --recipe tiny_cpu"])
def test_during_a_step_of_many(
    command: str, strike: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vanish = Strike(tmp_path / "out", strike)
    small = partial(write_sample, sizes=Sizes(train=8, validation=8, test=8, test_pairs=2))
    monkeypatch.setattr(stages, "write_sample", interrupted_by(small, vanish))
    message = fails(capsys, monkeypatch, *command.split(), "--out", vanish.folder)
    expected = {
        "moved away": ": finished, but its output is incomplete\n",
        "a file in its place": "steps.json: cannot be written: ",
    }[strike]
    assert expected in message
    assert len(message.split("\n")) <= 3  # the first ends the progress bar
    vanish.check()


@STRIKES
def test_during_a_training(
    strike: str, tmp_path: Path, base: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vanish = Strike(tmp_path / "run", strike)
    monkeypatch.setattr(JsonLog, "on_log", interrupted_by(JsonLog.on_log, vanish))
    fields = {"max_steps": 2, "logging_steps": 1, "save_strategy": "no"}
    given = values(small_world(base), vanish.folder, random_judge(base), **fields)
    words = [word for name, value in given.items() for word in flag(name, value)]
    message = fails(capsys, monkeypatch, "train", "sft", *words).splitlines()[-1]
    assert str(vanish.folder) in message
    vanish.check()


def interrupted_by(function: Callable[..., Any], strike: Strike) -> Callable[..., Any]:
    """The function, with the strike after its first call."""

    def call_and_strike(*words: Any, **named: Any) -> None:
        function(*words, **named)
        if not strike.before:
            strike()

    return call_and_strike


def flag(name: str, value: Any) -> list[str]:
    return [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
