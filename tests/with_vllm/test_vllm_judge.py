"""A judge on vLLM against one on transformers, without lmms-eval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.images import random_image
from support.judges import row

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.models.base_judge import Answer, BaseJudge
from mtrl_judge.models.checkpoint import end_tokens, load_model, load_processor
from mtrl_judge.models.transformers_judge import TransformersJudge
from mtrl_judge.models.vllm_judge import VLLMJudge

pytest.importorskip("vllm", reason="vLLM is not installed; see `make test-vllm`")
pytestmark = pytest.mark.slow

ROWS = [
    row("Is it safe?", random_image(1)),
    row("Is it natural, that is, could it be a photograph? " * 3, random_image(2, (96, 40))),
    row("Which is better, <image> or <image>?", random_image(4), random_image(5, (96, 40))),
    row("Which is better, <image> or <image>?", random_image(5, (96, 40)), random_image(4)),
    row("Is a circle round?"),
]


@pytest.fixture(scope="module")
def ours(tiny: Path) -> TransformersJudge:
    return TransformersJudge(load_model(str(tiny)), load_processor(str(tiny)))


@pytest.fixture(scope="module")
def on_vllm(tiny: Path) -> VLLMJudge:
    folder = str(tiny)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        return VLLMJudge(
            folder,
            load_processor(folder),
            dtype=torch.float32,
            eos_token_id=end_tokens(folder),
            enforce_eager=True,
            max_model_len=512,
        )


def logps(judge: BaseJudge, verdicts: Sequence[str]) -> tuple[np.ndarray[Any, Any], list[int]]:
    prompts = [judge.prompt(render_messages(row, "direct"), row.images) for row in ROWS]
    (batch,) = judge.batches(prompts, len(ROWS))
    with torch.inference_mode():
        logps_B_V, tokens_B = judge.verdict_logps(batch, verdicts)
    return logps_B_V.numpy(), list(tokens_B)


def answers(judge: BaseJudge, rows: Sequence[JudgeRow] = ROWS, **settings: Any) -> list[Answer]:
    prompts = [judge.prompt(render_messages(row, "reasoned"), row.images) for row in rows]
    (batch,) = judge.batches(prompts, len(rows))
    given = {"do_sample": False, "num_beams": 1, "max_new_tokens": 48, **settings}
    return judge.generate(batch, **given)


@pytest.mark.parametrize(
    "verdicts",
    [("Yes", "No"), ("a red circle", "no", "unsafe!"), ("1", "10", "100")],
    ids="|".join,
)
def test_verdicts_have_the_same_log_probabilities(
    ours: TransformersJudge, on_vllm: VLLMJudge, verdicts: Sequence[str]
) -> None:
    """Of one token and of several, and where one verdict's tokens begin another's."""
    expected, found = logps(ours, verdicts), logps(on_vllm, verdicts)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-4, rtol=0)
    assert found[1] == expected[1]
    assert np.ptp(expected[0], axis=0).min() > 1e-2, "prompts differ"


def test_answers_and_counts_are_the_same(ours: TransformersJudge, on_vllm: VLLMJudge) -> None:
    for settings in ({}, {"until": ["</think>"]}, {"repetition_penalty": 1.5}):
        expected = answers(ours, **settings)
        assert len({answer.text for answer in expected}) > 1
        found = answers(on_vllm, **settings)
        assert [answer.text for answer in found] == [answer.text for answer in expected]
        if "until" not in settings:  # vLLM stops there, transformers cuts the text afterwards
            assert found == expected


def test_samples_depend_on_the_seed_and_differ_between_repeats(on_vllm: VLLMJudge) -> None:
    sampled = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    first = answers(on_vllm, [ROWS[0]] * 8, **sampled)
    assert len({answer.text for answer in first}) > 1
    assert answers(on_vllm, [ROWS[0]] * 8, **sampled) == first


def test_what_vllm_cannot_do_is_an_error(on_vllm: VLLMJudge) -> None:
    with pytest.raises(JudgeError, match="num_beams: engine=vllm has no beam search"):
        answers(on_vllm, num_beams=2)
    with pytest.raises(JudgeError, match=r"vLLM refuses a prompt: .*512"):
        answers(on_vllm, [row("Is it? " * 600, random_image(1))])
    assert len(answers(on_vllm)) == len(ROWS), "it still answers"
