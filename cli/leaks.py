"""``mtrl-judge data leaks``: does evaluation data contain training data?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mtrl_judge.common.errors import DataError, JudgeError

from .options import AllowLocalFiles, AsJson, DataRoot, TaskNames, echo, use_data_root

if TYPE_CHECKING:
    from mtrl_judge.judge_tasks.spec import JudgeTask


def leaks(
    tasks: TaskNames = None,
    as_json: AsJson = False,
    data_root: DataRoot = None,
    allow_local_files: AllowLocalFiles = False,
) -> None:
    """Find images, near-duplicate images and texts that training shares with evaluation.

    Exit code: 1 if training would refuse any of them, else 0. Only data in the data root is
    compared.
    """
    from mtrl_judge.common.files import json_text
    from mtrl_judge.common.progress import ProgressBars
    from mtrl_judge.data.leak_cache import known_leaks
    from mtrl_judge.data.leaks import leak_table, refused
    from mtrl_judge.judge_tasks.loading import find_tasks

    use_data_root(data_root)
    judge_tasks = find_tasks(tasks or [])
    trained = [task for task in judge_tasks if _has_training_data(task)]
    if not trained:
        raise DataError(
            "no task has a training split in the data root; see: mtrl-judge data status"
        )
    with ProgressBars(transient=True) as bars:
        report = known_leaks(trained, judge_tasks, progress=bars.report)
    n_refused = len(refused(report))
    if as_json:
        result = {
            "leaks": [leak._asdict() for leak in report.leaks],
            "refused": n_refused,
            "checked": report.checked,
            "left_out": report.left_out,
        }
        echo(json_text(result))
    else:
        for task, reason in report.left_out.items():
            echo(f"{task}: not compared: {reason}", err=True)
        if report.leaks:
            echo(leak_table(report.leaks))
        items = sum(n for splits in report.checked.values() for n in splits.values())
        echo(f"{items:,} items compared; {n_refused} leaks that training refuses")
    sys.exit(n_refused > 0)


def _has_training_data(task: JudgeTask) -> bool:
    from mtrl_judge.judge_tasks.sources import find_source

    try:
        source = find_source(task)
    except JudgeError:
        return False
    return task.judge.role == "train" and source.folder is not None and "train" in source.splits
