"""Results in W&B or trackio: a run for each judge, with its scores and samples as tables.

trackio has the interface of W&B, so that one code writes to both.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal, TypeAlias

import pandas as pd

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.markdown import inline
from mtrl_judge.common.printable import printable

from .board import Leaderboard
from .runs import Run, TaskResult
from .view import TIDY_FIELDS, tidy_records

Tracker: TypeAlias = Literal["wandb", "trackio"]
# What a run is about, of `metadata.judge`; model arguments stay out, since they may have secrets.
_ABOUT = ("role", "kind", "style", "scoring", "engine", "parser", "fingerprint", "data_fingerprint")


def require_tracker(tracker: Tracker) -> None:
    """
    Raises:
        JudgeError: it is not installed.
    """
    try:
        import_module(tracker)
    except ImportError:
        raise JudgeError(f"{tracker}: not installed; pip install {tracker}") from None


def track(board: Leaderboard, tracker: Tracker, project: str) -> list[str]:
    """Send a leaderboard; the names of the runs.

    Keys and addresses are the tracker's own: its login and its environment variables.

    Args:
        board: each of its judges becomes a run.
        project: of the tracker.

    Raises:
        JudgeError: the tracker is not installed or refuses.
    """
    require_tracker(tracker)
    client = import_module(tracker)
    scores = pd.DataFrame(tidy_records(board), columns=TIDY_FIELDS)
    names = []
    for run in board.runs:
        tables = {"scores": scores[scores.judge == run.name]} | {
            f"samples/{name}": sample_table(result, tracker) for name, result in run.tasks.items()
        }
        logged: dict[str, Any] = {
            name: client.Table(dataframe=_with_none(table))
            for name, table in tables.items()
            if len(table)
        }
        logged |= {
            f"{task.name}/{task.metric}": estimate.value
            for task in board.tasks
            if run.name in task.scores
            and (estimate := task.estimate(run.name, task.metric)).value is not None
        }
        try:
            client.init(project=project, name=run.name, config=_config(run), **_quiet(tracker))
            client.log(logged)
            client.finish()
        except Exception as error:  # their servers' errors have no common class
            raise JudgeError(f"{tracker}: {run.name}: {error}") from error
        names.append(run.name)
    return names


def sample_table(result: TaskResult, tracker: Tracker) -> pd.DataFrame:
    """The rows of a task as a judge answered them, as text.

    trackio renders texts as Markdown, so they are escaped for it.
    """

    def text(value: str) -> str:
        return inline(printable(value)) if tracker == "trackio" else printable(value)

    rows = [
        {
            "item": text(sample.item_id),
            "order": "BA" if sample.record.swapped else "AB" if sample.record.pair_id else None,
            "state": sample.record.state,
            "label": None if sample.record.label is None else text(sample.record.label),
            "verdict": None if sample.record.verdict is None else text(sample.record.verdict),
            "probability": _of_verdict(sample.probabilities, sample.record.verdict),
            "text": text(sample.text),
        }
        for sample in result.samples
    ]
    return pd.DataFrame(rows)


def _with_none(table: pd.DataFrame) -> pd.DataFrame:
    """What is missing as None, which is no NaN in their tables, and without empty columns."""
    kept = table.dropna(axis="columns", how="all").astype(object)
    return kept.where(kept.notna(), None)


def _of_verdict(probabilities: Mapping[str, float] | None, verdict: str | None) -> float | None:
    return (probabilities or {}).get(verdict) if verdict is not None else None


def _config(run: Run) -> dict[str, Any]:
    tasks = {
        name: {field: result.metadata.get(field) for field in _ABOUT}
        for name, result in run.tasks.items()
    }
    return {"model": run.model, "date": run.date, "backend": run.backend, "tasks": tasks}


def _quiet(tracker: Tracker) -> dict[str, Any]:
    """Nothing about this machine: the judge ran elsewhere or has ended."""
    if tracker == "trackio":
        return {"auto_log_gpu": False, "auto_log_cpu": False}
    from wandb import Settings

    return {
        "settings": Settings(
            console="off", disable_git=True, save_code=False, silent=True, x_disable_stats=True
        )
    }
