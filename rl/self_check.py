"""Our log-probabilities held against TRL's own, once per run."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch

from mtrl_judge.common.errors import JudgeError

logger = logging.getLogger(__name__)


class Tolerance(NamedTuple):
    """How far two computations of the same log-probabilities may differ."""

    mean: float
    """The mean over the completions' tokens."""
    most: float
    """The maximum over them."""
    next: float
    """The mean over all possible next tokens, unlikely ones included."""


# What rounding does, with a margin; a wrong position or mask is off by 0.1 and more.
TOLERANCES = {
    torch.float32: Tolerance(1e-4, 1e-2, 1e-3),
    torch.float16: Tolerance(1e-2, 0.5, 0.05),
    torch.bfloat16: Tolerance(5e-2, 2.0, 0.2),
}


def check_difference(where: str, dtype: torch.dtype, **differences: float) -> None:
    """Stop the run where our log-probabilities and TRL's differ by more than rounding.

    Args:
        dtype: the least exact type of the computation.
        differences: by the names of :class:`Tolerance`. NaN counts as too much.

    Raises:
        JudgeError: they differ by more.
    """
    allowed = {name: getattr(TOLERANCES[dtype], name) for name in differences}
    shown = ", ".join(f"{name} {value:.2g}" for name, value in differences.items())
    if all(value <= allowed[name] for name, value in differences.items()):
        logger.info("share_prompt: log-probabilities %s match TRL's up to %s", where, shown)
        return
    limits = ", ".join(f"{name} {value:g}" for name, value in allowed.items())
    raise JudgeError(
        f"share_prompt: log-probabilities {where} differ from TRL's by {shown} (rounding in "
        f"{dtype} gives at most {limits}); train with --share_prompt false, and please report the "
        "model"
    )
