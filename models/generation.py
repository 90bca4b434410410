"""How answers are generated: the defaults, and a task's own settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtrl_judge.common.booleans import boolean
from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.spec import GENERATION_KEYS

# Greedy, so that scores reproduce. Without `until` lmms-eval stops at a blank line and cuts
# reasoning short (TaskConfig in lmms_eval/api/task.py); 1,024 tokens hold the reasoning.
GENERATION: Mapping[str, Any] = {
    "max_new_tokens": 1024,
    "do_sample": False,
    "temperature": 0,
    "until": [],
}


def generation_settings(
    requested: Mapping[str, Any], max_new_tokens: int | None = None
) -> dict[str, Any]:
    """:meth:`.BaseJudge.generate`'s settings for a task's `generation_kwargs`; greedy by default.

    Args:
        max_new_tokens: overrides the task's own.

    Raises:
        JudgeError: a setting is unknown.
    """
    for key in requested:
        if key not in GENERATION_KEYS:
            raise JudgeError(
                f"generation_kwargs: unknown key {key!r}; {did_you_mean(key, GENERATION_KEYS)}"
            )
    sample = boolean("do_sample", requested.get("do_sample") or False)
    temperature = requested.get("temperature")
    if temperature is None:
        temperature = 1.0 if sample else 0.0
    until = requested.get("until") or []
    settings = {
        "do_sample": temperature > 0,
        "max_new_tokens": max_new_tokens
        or requested.get("max_new_tokens")
        or GENERATION["max_new_tokens"],
        "num_beams": requested.get("num_beams") or 1,
        "repetition_penalty": requested.get("repetition_penalty") or 1.0,
        "until": [stop for stop in ([until] if isinstance(until, str) else until) if stop],
    }
    if temperature > 0:
        # transformers' default top_k is 50; 0 keeps the whole vocabulary.
        settings |= {
            "temperature": temperature,
            "top_p": requested.get("top_p") or 1.0,
            "top_k": requested.get("top_k") or 0,
        }
    return settings
