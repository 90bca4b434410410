"""SFT of a judge."""

from __future__ import annotations

from trl import SFTTrainer

from .validation import JudgeTraining


class JudgeSFTTrainer(JudgeTraining, SFTTrainer):  # type: ignore[misc]  # TRL has no types
    """TRL's SFTTrainer, validated by verdicts: only the answer's tokens carry loss."""
