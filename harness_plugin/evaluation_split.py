"""Which split of its tasks an lmms-eval process judges."""

from __future__ import annotations

import os

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.spec import JudgeTask, SplitName

SPLIT_VARIABLE = "MTRL_JUDGE_SPLIT"
EVALUATED: tuple[SplitName, ...] = ("validation", "test")


def check_split(name: str, option: str) -> SplitName:
    """
    Raises:
        JudgeError: a judge is not evaluated on such a split.
    """
    known = {split: split for split in EVALUATED}
    if name not in known:
        raise JudgeError(f"{option}: no split {name!r} to evaluate; {did_you_mean(name, known)}")
    return known[name]


def evaluated_split(task: JudgeTask) -> SplitName:
    """``MTRL_JUDGE_SPLIT`` if set, else the task's own (:attr:`JudgeTask.evaluation_split`).

    Raises:
        JudgeError: the variable names another split.
    """
    name = os.environ.get(SPLIT_VARIABLE)
    return check_split(name, SPLIT_VARIABLE) if name else task.evaluation_split
