"""``mtrl-judge data leaks``: does evaluation hold what training has seen?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from mtrl_judge.common.errors import DataError, JudgeError

from .options import AsJson, DataRoot, TaskNames, use_data_root

if TYPE_CHECKING:
    from mtrl_judge.judge_tasks.spec import JudgeTask


def leaks(tasks: TaskNames = None, as_json: AsJson = False, data_root: DataRoot = None) -> None:
    """Find items that training shares with evaluation: same bytes, near copies, same text.

    Exit code: 0 none that training would refuse, 1 some. Only data in the data root is looked at.
    """
    from mtrl_judge.common.files import json_text
    from mtrl_judge.common.progress import ProgressBars
    from mtrl_judge.data.leaks import find_leaks, leak_table, refused
    from mtrl_judge.judge_tasks.loading import find_tasks

    use_data_root(data_root)
    found = find_tasks(tasks or [])
    trained = [task for task in found if _has_training(task)]
    if not trained:
        raise DataError("no task here has a training split; see: mtrl-judge data status")
    with ProgressBars(transient=True) as bars:
        report = find_leaks(trained, found, progress=bars.report)
    bad = refused(report)
    if as_json:
        about = {
            "leaks": [leak._asdict() for leak in report.leaks],
            "refused": len(bad),
            "checked": report.checked,
            "left_out": report.left_out,
        }
        typer.echo(json_text(about))
    else:
        for task, why in report.left_out.items():
            typer.echo(f"{task}: not looked at: {why}", err=True)
        if report.leaks:
            typer.echo(leak_table(report.leaks))
        items = sum(n for splits in report.checked.values() for n in splits.values())
        typer.echo(f"{items:,} items looked at; {len(bad)} leaks that training refuses")
    sys.exit(bool(bad))


def _has_training(task: JudgeTask) -> bool:
    """Whether there is a training split of it in the data root."""
    from mtrl_judge.judge_tasks.sources import find_source

    try:
        source = find_source(task)
    except JudgeError:
        return False
    return task.judge.role == "train" and source.folder is not None and "train" in source.splits
