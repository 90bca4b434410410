"""Errors that all processes of a run raise together."""

from __future__ import annotations

from accelerate.utils import gather_object

from mtrl_judge.common.errors import JudgeError


def raise_in_all(fault: str | None) -> None:
    """Raise the first fault that any process found; every process must call this.

    An error of one process would leave the others waiting for it, and only the first process prints
    messages.

    Raises:
        JudgeError: a process has a fault.
    """
    faults = [found for found in gather_object([fault]) if found is not None]
    if faults:
        raise JudgeError(faults[0])
