"""Runs that have ended: what they record; and quick answers to some mistakes.

Nothing here imports torch, which takes many seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import expanded, read_json

from .arguments import Method
from .fields import flag_words, read_recipe
from .recipes import find_recipe

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


# Names in ``report_to`` that are the names of packages; others are left to :mod:`.packages`.
_TRACKERS = (
    "clearml",
    "codecarbon",
    "comet_ml",
    "dvclive",
    "mlflow",
    "swanlab",
    "trackio",
    "wandb",
)


def refuse_early(method: Method, argv: Sequence[str]) -> None:
    """Stop before anything is loaded if ``--resume`` names a run that has ended, or if a tracker is
    not installed.

    Other faults of flags and recipes are left to :func:`.settings.parse_settings`.

    Raises:
        JudgeError: the run has ended, or a tracker is not installed.
    """
    words = flag_words(argv)
    given: dict[str, Any] = {name: " ".join(values) for name, values in words.items()}
    if recipe := given.get("recipe"):
        given = {**read_recipe(find_recipe(recipe, method))[0], **given}
    trackers = given.get("report_to", ())
    for name in trackers.replace(",", " ").split() if isinstance(trackers, str) else trackers:
        if name in _TRACKERS and find_spec(name) is None:
            raise JudgeError(f"report_to: needs {name}, which is not installed; pip install {name}")
    if str(given.get("resume", "false")).casefold() in ("false", "0", "no"):
        return
    try:
        folder, max_steps = expanded(str(given["output_dir"])), int(given.get("max_steps", -1))
    except (KeyError, ValueError):
        return
    refuse_finished(folder, max_steps)
