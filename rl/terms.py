"""What training does not start with unasked: data whose card speaks against training on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtrl_judge.judge_tasks.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.loading import load_shipped_tasks
from mtrl_judge.judge_tasks.spec import JudgeTask


def accepted_licences(
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
