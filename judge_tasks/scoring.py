"""The one scorer: evaluation and training both call :func:`score`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from .kinds import KINDS
from .verdicts import Verdict


class Labeled(Protocol):
    """What a text is scored against: a :class:`~.rows.JudgeRow` or anything with its fields."""

    @property
    def kind(self) -> str: ...
    @property
    def label(self) -> str | None: ...
    @property
    def verdicts(self) -> Sequence[str]: ...


class Score(NamedTuple):
    """The parts of the paper's reward, R_total = (1 − α)·correct + α·format."""

    verdict: Verdict
    correct: float | None
    """From 0.0 (wrong, or no verdict) to 1.0 (right); None where the row has no label."""
    format: float
    """1.0 where the text reasons first and then answers in the required form, else 0.0."""


def score(row: Labeled, text: str) -> Score:
    """Score a judge's output for a row.

    >>> from types import SimpleNamespace
    >>> row = SimpleNamespace(kind="pointwise", label="Yes", verdicts=("Yes", "No"))
    >>> score(row, "<think>A knife.</think><answer>Yes</answer>")[1:]
    (1.0, 1.0)
    >>> score(row, "Hard to say.")[1:]
    (0.0, 0.0)
    """
    kind = KINDS[row.kind]
    verdict = kind.read(text, row.verdicts)
    correct = None
    if row.label is not None:
        correct = kind.correctness(verdict.value, row.label, row.verdicts)
    return Score(verdict, correct, float(verdict.well_formed))
