"""What training does not start with unasked: data whose card speaks against training on it, and
items that evaluation has too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.loading import load_shipped_tasks
from mtrl_judge.judge_tasks.spec import JudgeTask


def accepted_licenses(
    tasks: Sequence[JudgeTask], data: Mapping[str, Mapping[str, Any]], accepted: Sequence[str]
) -> dict[str, str]:
    """By task, what its card says against training on it, where that was accepted.

    The sample corpus is made for the tasks and under no terms of theirs.

    Args:
        data: by task, the record of its training rows.
        accepted: tasks' names, short (seetrue) or whole.

    Raises:
        JudgeError: a card forbids training and that was not accepted, or a name is no task's.
    """
    known = {task.short_name for task in (*load_shipped_tasks(), *tasks)}
    names = {name.removeprefix("mtrl_judge_") for name in accepted}
    for name in sorted(names - known):
        raise JudgeError(f"accept_license: no task {name!r}; {did_you_mean(name, known)}")
    forbidden = {
        task.short_name: task
        for task in tasks
        if task.judge.card.forbids_training and data[task.task]["source"] != "sample"
    }
    refused = [task for name, task in forbidden.items() if name not in names]
    if refused:
        lines = [f"{task.task}: {task.judge.card.forbids_training}" for task in refused]
        flags = " ".join(task.short_name for task in refused)
        raise JudgeError(
            "\n".join(lines)
            + f"\nleave it out (--tasks), or train on it all the same: --accept-license {flags}"
        )
    return {task.task: str(task.judge.card.forbids_training) for task in forbidden.values()}


def checked_leaks(
    tasks: Sequence[JudgeTask], root: Path | None, *, allowed: bool
) -> dict[str, Any]:
    """What a run records of the items that its training data shares with evaluation data.

    Raises:
        JudgeError: a test split or data out of distribution has items of the training data, and
            that is not allowed.
    """
    from mtrl_judge.common.progress import ProgressBars
    from mtrl_judge.data.leaks import find_leaks, leak_table, refused

    with ProgressBars(transient=True) as bars:
        report = find_leaks(tasks, load_shipped_tasks(), root, bars.report)
    bad = refused(report)
    if bad and not allowed:
        raise JudgeError(
            f"evaluation has items of the training data:\n{leak_table(bad)}\n"
            "leave tasks out (--tasks), mend the data (known_bad in a YAML leaves items out), or "
            "train all the same: --allow_leaks"
        )
    return {
        "found": dict(Counter(leak.kind for leak in report.leaks)),
        "refused": len(bad),
        "allowed": allowed,
        "checked": report.checked,
        "left_out": report.left_out,
    }
