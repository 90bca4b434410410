"""``mtrl-judge eval``: a thin front to the stock lmms-eval command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mtrl_judge.judge_tasks.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.spec import STYLES


def run_lmms_eval(
    model: str,
    tasks: str,
    *,
    output_path: Path,
    style: str | None = None,
    extra: Sequence[str] = (),
) -> int:
    """Run lmms-eval in a process of its own with samples logged; its exit code.

    lmms-eval 0.7.3 exits 0 after an error in an evaluation, so a run that leaves no new results
    file counts as failed.

    Raises:
        JudgeError: there is no such style.
    """
    if style is not None and style not in STYLES:
        raise JudgeError(f"--style: no style {style!r}; {did_you_mean(style, STYLES)}")
    command = [sys.executable, "-m", "lmms_eval", "--model", model, "--tasks", tasks]
    command += ["--output_path", str(output_path), "--log_samples", *extra]
    environment = {**os.environ, **({"MTRL_JUDGE_STYLE": style} if style else {})}
    before = results_files(output_path)
    code = subprocess.call(command, env=environment)
    if code == 0 and not results_files(output_path) - before:
        return 1
    return code


def results_files(output_path: Path) -> set[Path]:
    """The aggregated results that lmms-eval has written under a folder."""
    return set(output_path.glob("**/*_results.json"))
