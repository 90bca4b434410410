"""The weight β of the KL term as it changes over a run: by a schedule, or toward a target KL.

TRL's β is one number. A schedule lets a judge explore early and keeps it near the reference model
late, or the reverse (the idea of GRPO-D in OThink-MR1, arXiv 2503.16081, which gives no constants).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from mtrl_judge.common.errors import JudgeError

Beta: TypeAlias = Annotated[float, Field(ge=0)] | Mapping[str, Any]

# TRL takes a β of exactly 0 for a run without a reference model (``GRPOTrainer.__init__`` and
# ``_generate_and_score_completions``). This one is 0 in float32, the type of the loss.
ZERO = sys.float_info.min
# The proportional controller of Ziegler et al. 2019 (arXiv 1909.08593, section 2.2).
_GAIN, _LARGEST_ERROR = 0.1, 0.2
_STRICT: Any = {"extra": "forbid", "allow_inf_nan": False}


@dataclass(config=_STRICT)
class Ramp:
    """From ``start`` at the first step to ``end`` at the last one."""

    start: Annotated[float, Field(ge=0)]
    end: Annotated[float, Field(ge=0)]
    shape: Literal["linear", "cosine"]

    def beta(self, step: int, steps: int) -> float:
        """β of a step, counted from 0.

        >>> [Ramp(0.0, 0.1, "linear").beta(step, 3) for step in range(3)]
        [0.0, 0.05, 0.1]
        """
        progress = min(1.0, step / max(1, steps - 1))
        if self.shape == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return self.start + (self.end - self.start) * progress

    @property
    def largest(self) -> float:
        return max(self.start, self.end)

    def end_step(self, kl: float) -> None:
        """What a step's KL changes: nothing."""

    def state(self) -> dict[str, float]:
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        pass


@dataclass(config=_STRICT)
class TargetKL:
    """Raised while the KL is above its target and lowered while it is below.

    The KL is that of TRL's log: the mean over completion tokens, in nats. A step changes β by at
    most 2 %.
    """

    target_kl: Annotated[float, Field(gt=0)]
    start: Annotated[float, Field(gt=0)] = 0.04  # of GRPO in DeepSeekMath, arXiv 2402.03300
    now: float = field(init=False)

    def __post_init__(self) -> None:
        self.now = self.start

    def beta(self, step: int, steps: int) -> float:
        """β of the current step, whichever it is."""
        return self.now

    @property
    def largest(self) -> float:
        return self.start

    def end_step(self, kl: float) -> None:
        """Set β for the next step.

        >>> schedule = TargetKL(target_kl=0.5, start=1.0)
        >>> schedule.end_step(kl=0.525)
        >>> round(schedule.now, 9)
        1.005
        """
        error = (kl - self.target_kl) / self.target_kl
        self.now *= 1 + _GAIN * max(-_LARGEST_ERROR, min(_LARGEST_ERROR, error))

    def state(self) -> dict[str, float]:
        return {"beta": self.now}

    def restore(self, state: Mapping[str, float]) -> None:
        self.now = state["beta"]


KLSchedule: TypeAlias = Ramp | TargetKL


def kl_schedule(beta: Beta) -> KLSchedule | None:
    """The schedule that the field ``beta`` describes; None for a number, which TRL handles.

    Raises:
        JudgeError: the mapping has unknown, missing or wrong fields.
    """
    if not isinstance(beta, Mapping):
        return None
    kind: Any = TargetKL if "target_kl" in beta else Ramp
    try:
        schedule: KLSchedule = TypeAdapter(kind).validate_python(dict(beta))
    except ValidationError as error:
        raise JudgeError("\n".join(map(_fault, error.errors()))) from None
    if not schedule.largest:
        raise JudgeError("beta: start and end are 0; expected one of them above 0, or beta: 0")
    return schedule


def _fault(error: Any) -> str:
    name, forms = ".".join(map(str, error["loc"])), "{start, end, shape} or {target_kl, start}"
    if error["type"] == "missing":
        return f"beta: {name}: missing; expected {forms}"
    if error["type"] == "unexpected_keyword_argument":
        return f"beta: {name}: unknown field; expected {forms}"
    expected = error["msg"].removeprefix("Input should be ")
    return f"beta: {name}: is {error['input']!r}; expected {expected.partition(', unable')[0]}"
