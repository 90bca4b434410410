"""Commands that run in a process of their own: trainings, and the stock lmms-eval."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.harness_plugin.prompt_style import STYLE_VARIABLE
from mtrl_judge.judge_tasks.spec import STYLES
from mtrl_judge.leaderboard.reading import load_run, results_files

from .processes import run_to_end

_LOG_LINES = 20


class CommandError(JudgeError):
    """A command failed; the message ends with the last lines of its log."""

    def __init__(self, name: str, reason: str, exit_code: int, log: Path | None) -> None:
        self.exit_code = exit_code if exit_code > 0 else 1  # negative: ended by a signal
        lines = [f"{name}: {reason}; see its output above"]
        if log is not None:
            text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
            last = [line for line in text.splitlines() if line.strip()][-_LOG_LINES:]
            lines = [f"{name}: {reason}; the end of {log}:", *last]
        super().__init__("\n".join(lines))


def run_command(
    name: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> None:
    """Run a command to its end.

    If this process is stopped, it stops the command and everything that this started, and waits for
    it: a training then writes a checkpoint.

    Args:
        environment: variables in addition to those of this process.
        log: file for everything that the command prints; None is the output of this process.

    Raises:
        CommandError: the exit code is not 0.
    """
    with ExitStack() as stack:
        streams: dict[str, Any] = {}
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(log.open("wb"))
            streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
        exit_code = run_to_end(
            command, environment={**os.environ, **(environment or {})}, **streams
        )
    if exit_code:
        raise CommandError(name, f"failed with exit code {exit_code}", exit_code, log)


def run_lmms_eval(
    model: str,
    tasks: str,
    *,
    output_path: Path,
    style: str | None = None,
    flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    name: str = "lmms-eval",
) -> None:
    """Run lmms-eval with its samples logged.

    Args:
        tasks: names or patterns, comma-separated.
        flags: further flags of lmms-eval.
        environment, log: as for :func:`run_command`.
        name: what error messages call this run.

    Raises:
        JudgeError: the style does not exist.
        CommandError: lmms-eval fails, or has not written all samples.
    """
    if style is not None and style not in STYLES:
        raise JudgeError(f"--style: no style {style!r}; {did_you_mean(style, STYLES)}")
    command = [sys.executable, "-m", "lmms_eval", "--model", model, "--tasks", tasks]
    command += ["--output_path", str(output_path), "--log_samples", *flags]
    variables = {**(environment or {}), **({STYLE_VARIABLE: style} if style else {})}
    before = set(results_files(output_path))
    run_command(name, command, environment=variables, log=log)
    # lmms-eval 0.7.3 exits with 0 after an error in an evaluation (lmms_eval/__main__.py).
    written = [file for file in results_files(output_path) if file not in before]
    if not written:
        raise CommandError(name, "wrote no results", 1, log)
    # It does so, too, after an error while it writes the samples (`save_results_samples` in
    # lmms_eval/loggers/evaluation_tracker.py).
    for file in written:
        try:
            load_run(file, samples=False)
        except JudgeError as error:
            raise CommandError(name, f"incomplete results: {error}", 1, log) from None
