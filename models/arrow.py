"""Arrow: the finished adapters of single tasks as one judge, without training (arXiv 2405.11157).

Each layer scores the adapters for every token by the direction that each changes most, and adds the
best of them, weighted. PEFT has it; see ``create_arrow_model``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import ArrowConfig, PeftModel, create_arrow_model

from mtrl_judge.common.errors import JudgeError

_AT_A_TOKEN = 3  # adapters; PEFT's default


def with_arrow(model: Any, folders: Sequence[Path]) -> PeftModel:
    """A model with adapters that PEFT wrote to folders, composed by Arrow.

    Raises:
        JudgeError: they do not load, or do not adapt the same layers by as many factors.
    """
    arrow = ArrowConfig(top_k=min(_AT_A_TOKEN, len(folders)), rng_seed=0)
    try:
        return create_arrow_model(model, [str(folder) for folder in folders], arrow)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        names = ", ".join(folder.name for folder in folders)
        raise JudgeError(f"arrow: the adapters {names} cannot be composed: {error}") from None
