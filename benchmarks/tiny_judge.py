"""The corpus and the model that benchmarks run on: how good the model is does not matter."""

from __future__ import annotations

from pathlib import Path

from mtrl_judge.demo.corpus import SMALL, write_sample
from mtrl_judge.demo.pretrain import BRIEF, pretrain_tiny_model


def write_tiny_judge(folder: Path) -> tuple[Path, Path]:
    """A small sample corpus and a briefly pretrained model: data root and checkpoint."""
    root, checkpoint = folder / "data", folder / "judge"
    write_sample(root, sizes=SMALL)
    pretrain_tiny_model(root, checkpoint, schedule=BRIEF)
    return root, checkpoint
