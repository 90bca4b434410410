"""How an evaluation asks: reasoning first or the verdict alone, generated or by probabilities."""

from __future__ import annotations

import os
from typing import Literal, TypeAlias, get_args

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.spec import STYLES, JudgeTask, Style

Scoring: TypeAlias = Literal["generation", "logprob"]

STYLE_VARIABLE = "MTRL_JUDGE_STYLE"
_checkpoint_style: Style | None = None
_scoring: Scoring = "generation"


def set_checkpoint_style(style: str | None, *, scoring: Scoring = "generation") -> None:
    """Called by the backend when a model is loaded: the style its checkpoint was trained on.

    Args:
        scoring: how the backend comes to its verdicts.

    Raises:
        JudgeError: the checkpoint names a style there is not.
    """
    global _checkpoint_style, _scoring
    _checkpoint_style = None if style is None else _checked(style, "the checkpoint's card")
    _scoring = scoring


def evaluation_scoring() -> Scoring:
    """How the loaded backend comes to its verdicts."""
    return _scoring


def checked_scoring(scoring: str) -> Scoring:
    """A backend's ``scoring`` argument.

    Raises:
        JudgeError: there is no such scoring, or ``MTRL_JUDGE_STYLE`` contradicts it.
    """
    for known in get_args(Scoring):
        if scoring == known:
            if known == "logprob":
                _refuse_reasoning()
            return known  # type: ignore[no-any-return]
    near = did_you_mean(scoring, get_args(Scoring))
    raise JudgeError(f"scoring: no scoring {scoring!r}; {near}")


def _refuse_reasoning() -> None:
    style = os.environ.get(STYLE_VARIABLE)
    if style and _checked(style, STYLE_VARIABLE) != "direct":
        raise JudgeError(
            f"{STYLE_VARIABLE} is {style!r}, but scoring=logprob judges by the probability of each "
            "verdict right after the prompt, without reasoning; leave one of the two out"
        )


def evaluation_style(task: JudgeTask) -> Style:
    """``MTRL_JUDGE_STYLE`` if set, else the checkpoint's style, else the YAML's.

    Where verdicts are judged by their probability it is always "direct".

    Raises:
        JudgeError: the variable names a style there is not, or contradicts the scoring.
    """
    if _scoring == "logprob":
        _refuse_reasoning()
        return "direct"
    override = os.environ.get(STYLE_VARIABLE)
    if override:
        return _checked(override, STYLE_VARIABLE)
    return _checkpoint_style or task.judge.style


def _checked(style: str, where: str) -> Style:
    for known in STYLES:
        if style == known:
            return known
    raise JudgeError(f"{where}: no style {style!r}; {did_you_mean(style, STYLES)}")
