"""How an evaluation prompts and reads its judge: the prompt style and the scoring."""

from __future__ import annotations

import os
from typing import Literal, TypeAlias, cast, get_args

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.spec import STYLES, JudgeTask, Style

Scoring: TypeAlias = Literal["generation", "logprob"]

STYLE_VARIABLE = "MTRL_JUDGE_STYLE"
# lmms-eval builds the prompts apart from the model, so what the backend knows is passed on here.
_checkpoint_style: Style | None = None
_scoring: Scoring = "generation"


def set_checkpoint_style(style: str | None, *, scoring: Scoring = "generation") -> None:
    """Called by the backend when it loads a model.

    Args:
        style: the prompt style the checkpoint was trained with, if its card names one.
        scoring: how the backend obtains its verdicts.

    Raises:
        JudgeError: the style is unknown.
    """
    global _checkpoint_style, _scoring
    _checkpoint_style = None if style is None else _check_style(style, "the checkpoint's card")
    _scoring = scoring


def evaluation_scoring() -> Scoring:
    """How the loaded backend obtains its verdicts."""
    return _scoring


def check_scoring(scoring: str) -> Scoring:
    """A backend's ``scoring`` argument.

    Raises:
        JudgeError: the scoring is unknown, or ``MTRL_JUDGE_STYLE`` contradicts it.
    """
    known = get_args(Scoring)
    if scoring not in known:
        raise JudgeError(f"scoring: unknown scoring {scoring!r}; {did_you_mean(scoring, known)}")
    if scoring == "logprob":
        _refuse_reasoning()
    return cast(Scoring, scoring)


def evaluation_style(task: JudgeTask) -> Style:
    """``MTRL_JUDGE_STYLE`` if set, else the checkpoint's style, else the YAML's.

    With ``scoring=logprob`` it is always "direct".

    Raises:
        JudgeError: the variable names an unknown style, or contradicts the scoring.
    """
    if _scoring == "logprob":
        _refuse_reasoning()
        return "direct"
    override = os.environ.get(STYLE_VARIABLE)
    if override:
        return _check_style(override, STYLE_VARIABLE)
    return _checkpoint_style or task.judge.style


def _refuse_reasoning() -> None:
    style = os.environ.get(STYLE_VARIABLE)
    if style and _check_style(style, STYLE_VARIABLE) != "direct":
        raise JudgeError(
            f"{STYLE_VARIABLE} is {style!r}, but scoring=logprob reads the probability of each "
            "verdict right after the prompt, without reasoning; remove one of the two"
        )


def _check_style(style: str, source: str) -> Style:
    if style not in STYLES:
        raise JudgeError(f"{source}: unknown style {style!r}; {did_you_mean(style, STYLES)}")
    return style
