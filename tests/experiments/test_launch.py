"""Commands in processes of their own: what they get, and how their failures are reported."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.results import sample, write_results

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.experiments import launch
from mtrl_judge.experiments.evaluation_checks import check_tasks
from mtrl_judge.experiments.launch import ANSWERS, CommandError, run_command, run_lmms_eval
from mtrl_judge.harness_plugin.answer_store import REUSE_VARIABLE, STORE_VARIABLE
from mtrl_judge.harness_plugin.prompt_style import STYLE_VARIABLE

TASKS = "mtrl_judge_seetrue,mtrl_judge_unsafebench"  # on the hub


def test_lmms_eval_gets_style_and_flags_and_must_write_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[Sequence[str], Mapping[str, str]]] = []

    def start(_: str, command: Sequence[str], environment: Mapping[str, str], **__: Any) -> None:
        started.append((command, environment))
        if "--limit" in command:
            write_results(tmp_path / "model", {"t": []})

    monkeypatch.setattr(launch, "run_command", start)
    evaluate = {"output_path": tmp_path, "style": "direct", "environment": {"A": "b"}}
    run_lmms_eval("mtrl_judge", TASKS, flags=["--limit", "2"], **evaluate)
    ((command, environment),) = started
    assert " ".join(command).startswith(f"{sys.executable} -m lmms_eval --model mtrl_judge ")
    assert f"--tasks {TASKS} --output_path {tmp_path} --log_samples --limit 2" in " ".join(command)
    assert environment.items() >= {"A": "b", STYLE_VARIABLE: "direct", REUSE_VARIABLE: ""}.items()
    assert environment[STORE_VARIABLE] == str(tmp_path / ANSWERS)
    with pytest.raises(CommandError, match="lmms-eval: wrote no results"):
        run_lmms_eval("mtrl_judge", TASKS, **evaluate)
    with pytest.raises(JudgeError, match="no style 'directly'; did you mean 'direct'"):
        run_lmms_eval("mtrl_judge", TASKS, output_path=tmp_path, style="directly")
    assert len(started) == 2


@pytest.mark.parametrize(("kept", "reason"), [(1, "1 of 2 samples"), (None, "no samples of t")])
def test_lmms_eval_must_write_all_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int | None, reason: str
) -> None:
    def start(*_: Any, **__: Any) -> None:
        write_results(tmp_path, {"t": [sample(n, "Yes", "No") for n in range(2)]})
        (samples,) = tmp_path.glob("*_samples_t.jsonl")
        if kept is None:
            samples.unlink()
        else:
            samples.write_text("".join(samples.read_text().splitlines(keepends=True)[:kept]))

    monkeypatch.setattr(launch, "run_command", start)
    with pytest.raises(CommandError, match=f"lmms-eval: incomplete results: .*{reason}") as failed:
        run_lmms_eval("mtrl_judge", TASKS, output_path=tmp_path)
    assert failed.value.exit_code == 1


def test_the_end_of_a_failed_commands_log_is_in_the_message(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "command.log"
    code = "import os, sys; print('the reason' + os.environ['MARK']); sys.exit(3)"
    with pytest.raises(
        CommandError, match=r"(?s)it: failed with exit code 3.*the reason!"
    ) as failed:
        run_command("it", [sys.executable, "-c", code], environment={"MARK": "!"}, log=log)
    assert failed.value.exit_code == 3
    assert log.read_text() == "the reason!\n"


def test_a_command_that_a_signal_ends_is_reported_as_shells_do(tmp_path: Path) -> None:
    """Also a Ctrl-C that reaches the command, which has the same terminal, before this process."""
    command = [sys.executable, "-c", "import os, sys; os.kill(os.getpid(), int(sys.argv[1]))"]
    for number, name in ((2, "Interrupt"), (15, "Terminated"), (9, "Killed")):
        with pytest.raises(CommandError, match=rf"ended by signal {number} \({name}\)") as failed:
            run_command("it", [*command, str(number)], log=tmp_path / "log")
        assert failed.value.exit_code == 128 + number


def test_patterns_without_a_star_are_left_to_lmms_eval() -> None:
    check_tasks("mm?,mm[e-f]", [], None)
    with pytest.raises(JudgeError, match="no task 'mtrl_judge_seetru'"):
        check_tasks("mm?,mtrl_judge_seetru", [], None)
