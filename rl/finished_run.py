"""Runs that have ended: what they record.

Nothing here imports torch, which takes many seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import read_json

RUN_FILE = "run.json"
LOG_FILE = "log.jsonl"
JUDGE = "judge"
"""In a run's folder: the best checkpoint, ready to be evaluated."""


def finished_run(folder: Path) -> Mapping[str, Any] | None:
    """When and how the run in a folder ended: time, step, scores; None if it has not.

    Raises:
        DataError: its record cannot be read.
    """
    finished: Mapping[str, Any] | None = _record(folder).get("finished")
    return finished


def refuse_finished(folder: Path, max_steps: int) -> None:
    """
    Raises:
        JudgeError: the run in the folder has ended, and no more steps are asked for than then.
    """
    record = _record(folder)
    if not record.get("finished"):
        return
    step = int(record["finished"]["step"])
    starts = record.get("starts") or [{}]
    # A run that its patience ended before its last step is over, too.
    planned = max(step, int(starts[-1].get("settings", {}).get("max_steps", -1)))
    if max_steps <= planned:
        raise JudgeError(
            f"resume: the run in {folder} finished at step {step}; a --max_steps above {planned} "
            "extends it, and another --output_dir starts a new one"
        )


def _record(folder: Path) -> Mapping[str, Any]:
    return read_json(folder / RUN_FILE, missing_ok=True)
