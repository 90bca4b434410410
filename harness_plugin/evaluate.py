"""The stock lmms-eval command in a process of its own, and whether what it left is whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mtrl_judge.judge_tasks.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.spec import STYLES

from .style import STYLE_VARIABLE

RESULTS_SUFFIX = "_results.json"


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


def results_files(output_path: Path) -> list[Path]:
    """The aggregated results that lmms-eval has written under a folder, the newest last."""
    files = output_path.glob(f"**/*{RESULTS_SUFFIX}")
    return sorted(files, key=lambda path: path.stat().st_mtime_ns)


def whole_results(output_path: Path, tasks: Iterable[str]) -> Path | None:
    """The newest results with all of the tasks and every sample of them; None where none are."""
    wanted = list(tasks)
    for file in reversed(results_files(output_path)):
        if _is_whole(file, wanted):
            return file
    return None


def _is_whole(file: Path, tasks: Sequence[str]) -> bool:
    """Whether nothing was cut off: lmms-eval writes the results first and the samples after."""
    date = file.name.removesuffix(RESULTS_SUFFIX)
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
        for task in tasks:
            with file.with_name(f"{date}_samples_{task}.jsonl").open("rb") as samples:
                lines = sum(line.endswith(b"\n") for line in samples)
            if task not in run["results"] or lines != run["n-samples"][task]["effective"]:
                return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True
