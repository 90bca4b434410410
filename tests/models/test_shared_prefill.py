"""A prompt's cache is computed once for all rows that have the prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.images import random_image
from support.judges import FAMILIES, row, tiny_judge
from transformers import GenerationConfig

from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.models.shared_prefill import share_prefill

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("family", FAMILIES)
def test_passes_do_not_depend_on_which_prompts_are_equal(family: str, tmp_path: Path) -> None:
    """Processes of a sharded model wait for each other in every pass."""
    judge = tiny_judge(family, tmp_path)
    rows = [row(f"Is it {n}?", random_image(n)) for n in range(3)]
    passes: list[int] = []
    hook = judge.model.register_forward_hook(lambda *_: passes.append(1))
    tokens = 4
    settings = GenerationConfig(max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
    counts, answers = [], []
    for batch in ([rows[0]] * 3, [rows[0], rows[1], rows[0]], rows):
        prompts = [judge.prompt(render_messages(row, "direct"), row.images) for row in batch]
        inputs = judge.inputs(prompts)
        passes.clear()
        with share_prefill(judge.model, [1] * 3):
            answers.append(judge.model.generate(**inputs, generation_config=settings))
        counts.append(len(passes))
    hook.remove()
    assert counts == [1 + tokens] * 3
    stock = judge.model.generate(**inputs, generation_config=settings)
    assert torch.equal(answers[-1], stock)
