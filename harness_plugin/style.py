"""Which answer style an evaluation uses: reasoning first, or the verdict alone."""

from __future__ import annotations

import os

from mtrl_judge.judge_tasks.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.spec import STYLES, JudgeTask, Style

STYLE_VARIABLE = "MTRL_JUDGE_STYLE"
_checkpoint_style: Style | None = None


def set_checkpoint_style(style: str | None) -> None:
    """Called by the backend when a model is loaded: the style its checkpoint was trained on.

    Raises:
        JudgeError: the checkpoint names a style there is not.
    """
    global _checkpoint_style
    _checkpoint_style = None if style is None else _checked(style, "the checkpoint's card")


def evaluation_style(task: JudgeTask) -> Style:
    """``MTRL_JUDGE_STYLE`` if set, else the checkpoint's style, else the YAML's.

    Raises:
        JudgeError: the variable names a style there is not.
    """
    override = os.environ.get(STYLE_VARIABLE)
    if override:
        return _checked(override, STYLE_VARIABLE)
    return _checkpoint_style or task.judge.style


def _checked(style: str, where: str) -> Style:
    for known in STYLES:
        if style == known:
            return known
    raise JudgeError(f"{where}: no style {style!r}; {did_you_mean(style, STYLES)}")
