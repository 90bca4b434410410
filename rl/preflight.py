"""What training refuses unless a flag allows it: data whose license or terms forbid training, and
items that evaluation data shares.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.loading import load_shipped_tasks
from mtrl_judge.judge_tasks.spec import JudgeTask

logger = logging.getLogger(__name__)


def accepted_licenses(
    tasks: Sequence[JudgeTask], data: Mapping[str, Mapping[str, Any]], accepted: Sequence[str]
) -> dict[str, str]:
    """By task, what its card says against training on it, where the user accepted that.

    The sample corpus imitates the datasets and is not under their terms.

    Args:
        data: by task, the record of its training rows.
        accepted: names of tasks, short (seetrue) or full.

    Raises:
        JudgeError: a card forbids training and that was not accepted, or a name is unknown.
    """
    known = {task.short_name for task in (*load_shipped_tasks(), *tasks)}
    names = {name.removeprefix("mtrl_judge_") for name in accepted}
    for name in sorted(names - known):
        raise JudgeError(f"accept_license: no task {name!r}; {did_you_mean(name, known)}")
    forbidden = [
        task
        for task in tasks
        if task.judge.card.forbids_training and data[task.task]["source"] != "sample"
    ]
    refused = [task for task in forbidden if task.short_name not in names]
    if refused:
        lines = [f"{task.task}: {task.judge.card.forbids_training}" for task in refused]
        flags = " ".join(task.short_name for task in refused)
        lines.append(f"leave it out (--tasks), or train on it anyway: --accept-license {flags}")
        raise JudgeError("\n".join(lines))
    return {task.task: str(task.judge.card.forbids_training) for task in forbidden}


def checked_leaks(
    tasks: Sequence[JudgeTask], root: Path | None, *, allowed: bool
) -> dict[str, Any]:
    """What a run records of the items that its training data shares with evaluation data.

    Warns of out-of-distribution tasks that could not be compared.

    Raises:
        JudgeError: a validation or test split shares items with the training data, and that is not
            allowed.
    """
    from mtrl_judge.common.progress import ProgressBars
    from mtrl_judge.data.leak_cache import known_leaks
    from mtrl_judge.data.leaks import leak_table, refused

    with ProgressBars(transient=True) as bars:
        report = known_leaks(tasks, load_shipped_tasks(), root, bars.report)
    unchecked = [task for task in report.left_out if report.roles[task] == "ood"]
    if unchecked:
        by_reason: dict[str, list[str]] = {}
        for task in unchecked:
            by_reason.setdefault(report.left_out[task], []).append(task)
        logger.warning(
            "not checked whether the training data contains items of these out-of-distribution "
            "tasks:\n%s",
            "\n".join(f"  {reason}: {', '.join(names)}" for reason, names in by_reason.items()),
        )
    forbidden = refused(report)
    if forbidden and not allowed:
        raise JudgeError(
            f"evaluation data shares items with the training data:\n{leak_table(forbidden)}\n"
            "leave tasks out (--tasks), fix the data (known_bad in a YAML leaves items out), or "
            "train anyway: --allow_leaks"
        )
    return {
        "found": dict(Counter(leak.kind for leak in report.leaks)),
        "refused": len(forbidden),
        "allowed": allowed,
        "checked": report.checked,
        "left_out": report.left_out,
    }
