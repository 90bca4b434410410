"""A tiny judge of each model family, and rows for it to judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tiny_models import (
    tiny_llava,
    tiny_llava_onevision,
    tiny_qwen2_5_vl,
    tiny_qwen3_vl,
    tiny_qwen3_vl_moe,
)

from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.models.checkpoint import load_model, load_processor
from mtrl_judge.models.judge import Judge

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "qwen3_vl": tiny_qwen3_vl,
    "qwen3_vl_moe": tiny_qwen3_vl_moe,
    "qwen2_5_vl": tiny_qwen2_5_vl,
    "llava": tiny_llava,
    "llava_onevision": tiny_llava_onevision,
}


def tiny_judge(family: str, folder: Path) -> Judge:
    checkpoint = str(FAMILIES[family](folder))
    return Judge(load_model(checkpoint), load_processor(checkpoint))


def picture(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    """Coarse random blocks; each call a copy of its own."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def row(question: str, *images: Image.Image) -> JudgeRow:
    return JudgeRow("id", "task", question, ("Yes", "No"), "Yes", len(images), images=images)
