"""The style in which a judge is asked."""

from __future__ import annotations

from typing import Literal, TypeAlias, cast

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.demonstrations import demonstrated_style
from mtrl_judge.judge_tasks.spec import STYLES, JudgeTask, Style

from .logprob import Scoring

StyleSource: TypeAlias = Literal["scoring", "override", "checkpoint", "task", "demonstrations"]


def chosen_style(
    task: JudgeTask, override: str | None, scoring: Scoring, trained: str | None
) -> tuple[Style, StyleSource]:
    """The style of a task's prompts, and what decided it.

    Args:
        override: what the user says; it comes first.
        scoring: "logprob" means "direct".
        trained: the style that the checkpoint was trained in, if its card names one.

    Demonstrations without reasoning to show make it "direct" in any case.
    """
    style, source = _asked_for(task, override, scoring, trained)
    if demonstrated_style(task, style) != style:
        return "direct", "demonstrations"
    return style, source


def _asked_for(
    task: JudgeTask, override: str | None, scoring: Scoring, trained: str | None
) -> tuple[Style, StyleSource]:
    if override is not None:
        return check_style(override, "style"), "override"
    if scoring == "logprob":
        return "direct", "scoring"
    if trained is not None:
        return cast(Style, trained), "checkpoint"
    return task.judge.style, "task"


def check_style(style: str, source: str) -> Style:
    """
    Args:
        source: where it stands, for the message.

    Raises:
        JudgeError: the style is unknown.
    """
    if style not in STYLES:
        raise JudgeError(f"{source}: unknown style {style!r}; {did_you_mean(style, STYLES)}")
    return style
