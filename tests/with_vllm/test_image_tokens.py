"""Images on the trainer's grid: vLLM's own count of their tokens is the trainer's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from support.judges import FAMILIES
from transformers import AutoProcessor
from vllm.config import ModelConfig
from vllm.multimodal import MULTIMODAL_REGISTRY

from mtrl_judge.models.pixels import grid_size, has_grid, pixel_limits, with_pixel_limits

LIMITS = (64 * 64, 512 * 512)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava_onevision"])
def test_vllm_counts_the_trainers_tokens(family: str, tmp_path: Path) -> None:
    build: Callable[[Path], Path] = FAMILIES[family]
    folder = str(build(tmp_path / family))
    ours = AutoProcessor.from_pretrained(folder)
    if has_grid(ours.image_processor):
        ours = with_pixel_limits(ours, *LIMITS)
    config = ModelConfig(model=folder, mm_processor_kwargs=pixel_limits(ours))
    info = MULTIMODAL_REGISTRY.create_processor(config).info
    random, counts = Random(0), set()
    for _ in range(1000):
        width, height = (random.randint(28, 4096) for _ in range(2))
        if has_grid(ours.image_processor):
            width, height = grid_size(width, height, ours.image_processor)
            options = {"image_processor": info.get_image_processor(), "mm_kwargs": {}}
        else:
            options = {}
        theirs = info.get_num_image_tokens(image_width=width, image_height=height, **options)
        (tokens,) = ours._get_num_multimodal_tokens([(height, width)])["num_image_tokens"]
        assert tokens == theirs, (width, height)
        counts.add(tokens)
    assert len(counts) > 3
