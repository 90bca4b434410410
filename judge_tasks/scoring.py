"""The only scorer there is: evaluation and training both call :func:`score`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from .verdicts import Verdict, parse_verdict


class Labelled(Protocol):
    """What a text is scored against: a :class:`~.rows.JudgeRow` or anything shaped like one."""

    @property
    def label(self) -> str | None: ...
    @property
    def verdicts(self) -> Sequence[str]: ...


class Score(NamedTuple):
    """The parts of the paper's reward, R_total = (1 − α)·correct + α·format."""

    verdict: Verdict
    correct: float | None
    """1.0 right, 0.0 wrong or no verdict, None where the row has no label."""
    format: float
    """1.0 where the text reasons first and then answers in the required form, else 0.0."""


def score(row: Labelled, text: str) -> Score:
    """Score what a judge wrote for a row.

    >>> from types import SimpleNamespace
    >>> row = SimpleNamespace(label="Yes", verdicts=("Yes", "No"))
    >>> score(row, "<think>A knife.</think><answer>Yes</answer>")[1:]
    (1.0, 1.0)
    >>> score(row, "Hard to say.")[1:]
    (0.0, 0.0)
    """
    verdict = parse_verdict(text, row.verdicts)
    correct = None if row.label is None else float(verdict.value == row.label)
    return Score(verdict, correct, float(verdict.well_formed))
