"""A tiny judge of each model family, and rows for it to judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.models.checkpoint import load_model, load_processor
from mtrl_judge.models.transformers_judge import TransformersJudge

from .tiny_models import (
    tiny_gemma3,
    tiny_internvl,
    tiny_llava,
    tiny_llava_onevision,
    tiny_qwen2_5_vl,
    tiny_qwen3_5,
    tiny_qwen3_vl,
    tiny_qwen3_vl_moe,
)

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "qwen3_vl": tiny_qwen3_vl,
    "qwen3_vl_moe": tiny_qwen3_vl_moe,
    "qwen2_5_vl": tiny_qwen2_5_vl,
    "llava": tiny_llava,
    "llava_onevision": tiny_llava_onevision,
    "qwen3_5": tiny_qwen3_5,
    "gemma3": tiny_gemma3,
    "internvl": tiny_internvl,
}


def tiny_judge(family: str, folder: Path) -> TransformersJudge:
    checkpoint = str(FAMILIES[family](folder))
    return TransformersJudge(load_model(checkpoint), load_processor(checkpoint))


def row(question: str, *images: Image.Image) -> JudgeRow:
    return JudgeRow(
        "id", "task", "pointwise", question, ("Yes", "No"), "Yes", len(images), images=images
    )
