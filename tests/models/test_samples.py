"""Several answers to a prompt: one prefill, and random numbers of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.images import random_image
from support.judges import FAMILIES, row, tiny_judge
from transformers import GenerationConfig, LogitsProcessorList

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.models.base_judge import prompt_seed
from mtrl_judge.models.seeded_sampling import SeededSampling
from mtrl_judge.models.transformers_judge import Batch, TransformersJudge

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS, SAMPLES = 6, 3
SETTINGS: dict[str, Any] = {
    "do_sample": True,
    "num_beams": 1,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "max_new_tokens": TOKENS,
}
ROWS = [
    row("Is it safe?", random_image(1)),
    row("Is it natural, that is, could it be a photograph?", random_image(2)),
]


def batch_of(judge: TransformersJudge, rows: Sequence[JudgeRow]) -> Batch:
    prompts = (judge.prompt(render_messages(row, "reasoned"), row.images) for row in rows)
    (batch,) = judge.batches(prompts, len(rows))
    return batch


def sampled(
    judge: TransformersJudge, rows: Sequence[JudgeRow], seed: int = 0, samples: int = SAMPLES
) -> list[list[str]]:
    """The texts of each row's samples."""
    batch = batch_of(judge, rows)
    answers = judge.sample(batch, samples, seed, **SETTINGS)
    texts = [[answer.text for answer in answers_K] for answers_K in answers]
    return [texts[batch.indices.index(index)] for index in range(len(rows))]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> TransformersJudge:
    return tiny_judge("qwen3_vl", tmp_path_factory.mktemp("judge"))


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_are_those_that_stock_generation_draws(family: str, tmp_path: Path) -> None:
    judge = tiny_judge(family, tmp_path)
    passes: list[int] = []
    hook = judge.model.register_forward_hook(lambda *_: passes.append(1))
    texts = sampled(judge, ROWS)
    hook.remove()
    assert len(passes) <= 1 + TOKENS, "one prefill, and all samples decoded together"
    for one, drawn in zip(ROWS, texts, strict=True):
        batch = batch_of(judge, [one] * SAMPLES)
        start = batch.inputs["input_ids"].shape[1]
        seed = prompt_seed(0, batch.prompts[0])
        draw = SeededSampling([seed], SAMPLES, TOKENS, start, SETTINGS)
        tokens = judge.model.generate(
            **batch.inputs,
            generation_config=GenerationConfig(
                max_new_tokens=TOKENS, do_sample=False, eos_token_id=judge.eos_ids
            ),
            logits_processor=LogitsProcessorList([draw]),
        )
        stock = [judge.answer(row, start, ()).text for row in tokens[:, start:].tolist()]
        assert drawn == stock
        assert len(set(drawn)) > 1


def test_samples_belong_to_the_prompt_and_the_seed(judge: TransformersJudge) -> None:
    texts = sampled(judge, ROWS)
    assert sampled(judge, ROWS[::-1]) == texts[::-1], "not to the place in the batch"
    assert sampled(judge, ROWS[:1]) == texts[:1], "nor to the other prompts"
    assert sampled(judge, ROWS[:1], samples=SAMPLES + 2)[0][:SAMPLES] == texts[0]
    assert sampled(judge, ROWS, seed=1) != texts
    before = torch.get_rng_state()
    sampled(judge, ROWS)
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_follow_the_distribution() -> None:
    """Of 4,000 rows each token has its share, within four standard deviations."""
    shares = torch.tensor([0.1, 0.0, 0.6, 0.3])
    rows = 4000
    draw = SeededSampling([7], rows, 1, 0, {"temperature": 1.0})
    scores = shares.log().expand(rows, -1)
    drawn = draw(torch.empty(rows, 0, dtype=torch.long), scores).argmax(dim=-1)
    found = torch.bincount(drawn, minlength=4) / rows
    assert ((found - shares).abs() <= 4 * (shares * (1 - shares) / rows).sqrt()).all()
    cold = SeededSampling([7], rows, 1, 0, {"temperature": 1.0, "top_p": 0.5})
    assert set(cold(torch.empty(rows, 0, dtype=torch.long), scores).argmax(dim=-1).tolist()) == {2}


def test_beams_are_refused(judge: TransformersJudge) -> None:
    with pytest.raises(JudgeError, match="num_beams: not with samples"):
        judge.sample(batch_of(judge, ROWS), 2, 0, **{**SETTINGS, "num_beams": 2})
