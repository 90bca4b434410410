"""The stock lmms-eval command in a process of its own, and whether what it left is whole."""

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
from mtrl_judge.leaderboard.reading import results_files


def run_lmms_eval(
    model: str,
    tasks: str,
    *,
    output_path: Path,
    style: str | None = None,
    extra: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> int:
    """Run lmms-eval with samples logged; its exit code.

    lmms-eval 0.7.3 exits 0 after an error in an evaluation, so a run that leaves no new results
    file counts as failed.

    Args:
        environment: variables over those of this process.
        log: a file for all that it prints, in place of this process's output.

    Raises:
        JudgeError: there is no such style.
    """
    if style is not None and style not in STYLES:
        raise JudgeError(f"--style: no style {style!r}; {did_you_mean(style, STYLES)}")
    command = [sys.executable, "-m", "lmms_eval", "--model", model, "--tasks", tasks]
    command += ["--output_path", str(output_path), "--log_samples", *extra]
    variables = {**os.environ, **(environment or {}), **({STYLE_VARIABLE: style} if style else {})}
    before = set(results_files(output_path))
    with ExitStack() as stack:
        to: dict[str, Any] = {}
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(log.open("wb"))
            to = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
        code = subprocess.call(command, env=variables, **to)
    if code == 0 and not set(results_files(output_path)) - before:
        return 1
    return code
