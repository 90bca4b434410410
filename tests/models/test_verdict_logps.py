"""Log-probabilities of verdicts: those of stock transformers, in one forward pass."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.images import random_image
from support.judges import row, tiny_judge
from torch.nn.functional import linear
from transformers import Gemma2Config, Gemma2ForCausalLM

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.spec import Style
from mtrl_judge.models.checkpoint import load_model, load_processor
from mtrl_judge.models.transformers_judge import TransformersJudge, unwrap_adapters
from mtrl_judge.models.verdict_logps import float32_logits

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen2_5_vl", "llava", "llava_onevision"])
def judge(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> TransformersJudge:
    return tiny_judge(request.param, tmp_path_factory.mktemp(request.param))


ONE = [
    row("Is it safe?", random_image(1)),
    row("Is it natural, that is, could it be a photograph? " * 3, random_image(2, (96, 40))),
    row("Is it safe?", random_image(1)),
    row("Does it match the text: a red circle left of a blue square?", random_image(3, (33, 71))),
]
TWO = [
    row("Which is better, <image> or <image>?", random_image(4), random_image(5, (96, 40))),
    row("Which is better, <image> or <image>?", random_image(5, (96, 40)), random_image(4)),
    row("Which of <image> and <image> matches 'a red circle'?", random_image(6), random_image(6)),
]
NONE = [row("Is a circle round?"), row("Is a square round? No image is needed for that.")]

# One token each, several, and some whose tokens are a prefix of another's.
VERDICTS = (("Yes", "No"), ("1", "2", "tie"), ("a red circle", "no", "unsafe!"), ("1", "10", "100"))


def stock_logps(
    judge: TransformersJudge,
    row: JudgeRow,
    verdicts: Sequence[str],
    reasoning: str | None = None,
    style: Style = "direct",
) -> list[float]:
    """By stock transformers, with one forward pass for each verdict; also after reasoning."""
    tokenizer = judge.tokenizer
    tokens_V = [tokenizer(verdict)["input_ids"] for verdict in verdicts]
    ambiguous = any(a != b and b[: len(a)] == a for a in tokens_V for b in tokens_V)
    begun = judge.prompt(render_messages(row, style), row.images)
    end_ids = judge.eos_ids
    if reasoning is not None:
        begun = replace(begun, text=f"{begun.text}{reasoning}<answer>")
        end_ids = tokenizer("</answer>")["input_ids"][:1]
    prompt = judge.inputs([begun])
    logps_V = []
    for tokens in tokens_V:
        tokens = [*tokens, *end_ids[:1]] if ambiguous else tokens
        more = torch.tensor([tokens])
        inputs = dict(prompt)
        inputs["input_ids"] = torch.cat([prompt["input_ids"], more], dim=1)
        for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
            if name in prompt:
                inputs[name] = torch.cat([prompt[name], torch.full_like(more, value)], dim=1)
        with torch.no_grad():
            logits = judge.model(**inputs).logits[0, -len(tokens) - 1 : -1]
        logps = logits.log_softmax(dim=-1)
        ends = logps[-1, end_ids].logsumexp(dim=0)
        steps = [logps[n, token] for n, token in enumerate(tokens)]
        logps_V.append(float(sum(steps[:-1]) + (ends if ambiguous else steps[-1])))
    return logps_V


def logps(
    judge: TransformersJudge, rows: Sequence[JudgeRow], verdicts: Sequence[str]
) -> np.ndarray[Any, Any]:
    prompts = [judge.prompt(render_messages(row, "direct"), row.images) for row in rows]
    logps_N_V = np.empty((len(rows), len(verdicts)))
    with torch.inference_mode():
        for batch in judge.batches(prompts, 8):
            logps_N_V[list(batch.indices)] = judge.verdict_logps(batch, verdicts).logps_B_V
    return logps_N_V


@pytest.mark.parametrize("verdicts", VERDICTS, ids="|".join)
@pytest.mark.parametrize("rows", [ONE, TWO, NONE], ids=["one", "two", "no image"])
def test_logps_equal_stock_forward_passes(
    judge: TransformersJudge, rows: list[JudgeRow], verdicts: Sequence[str]
) -> None:
    ours = logps(judge, rows, verdicts)
    expected = [stock_logps(judge, row, verdicts) for row in rows]
    np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=0)
    assert np.exp(ours).sum(axis=1).max() <= 1, "verdicts exclude each other"


@pytest.mark.parametrize("verdicts", VERDICTS[1:], ids="|".join)
def test_without_packing_logps_are_the_same(
    judge: TransformersJudge, verdicts: Sequence[str], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    shared = [logps(judge, rows, verdicts) for rows in (ONE, TWO)]
    reason = f"of {verdicts} in {judge.model.config.model_type}"
    monkeypatch.setattr(
        "mtrl_judge.models.verdict_logps.packing_unsupported_reason", lambda _: reason
    )
    for rows, expected in zip((ONE, TWO), shared, strict=True):
        np.testing.assert_allclose(logps(judge, rows, verdicts), expected, atol=1e-5, rtol=0)
    assert [reason in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize("verdicts", VERDICTS, ids="|".join)
def test_logps_after_reasoning_equal_stock_forward_passes(
    judge: TransformersJudge, verdicts: Sequence[str]
) -> None:
    (batch,) = judge.batches(
        [judge.prompt(render_messages(row, "direct"), row.images) for row in ONE], len(ONE)
    )
    reasoning = [f"<think>It is number {index}.</think>" for index in batch.indices]
    continued = judge.continued(batch, [f"{text}<answer>" for text in reasoning])
    assert continued.indices == batch.indices
    with torch.inference_mode():
        found = judge.verdict_logps(continued, verdicts, "</answer>").logps_B_V
    expected = [
        stock_logps(judge, ONE[index], verdicts, text)
        for index, text in zip(batch.indices, reasoning, strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_probabilities_after_an_answers_own_reasoning(judge: TransformersJudge) -> None:
    rows = [*ONE, *(replace(row, verdicts=("1", "2", "tie")) for row in TWO)]
    thoughts = [f"<think>It is number {index}.</think>" for index in range(len(rows) - 1)]
    texts = [f"{thought}<answer>No</answer>" for thought in thoughts]
    thoughts.append("<think>cut off</think>")
    texts.append("<think>cut off")
    judge.model.train()
    found = judge.verdict_probabilities(rows, texts, "reasoned", batch_size=3)
    assert judge.model.training
    judge.model.eval()
    for judged, thought, probabilities in zip(rows, thoughts, found, strict=True):
        logps = torch.tensor(stock_logps(judge, judged, judged.verdicts, thought, "reasoned"))
        np.testing.assert_allclose(probabilities, logps.softmax(0), atol=1e-5)
    direct = judge.verdict_probabilities(ONE, ["Yes"] * len(ONE), "direct", batch_size=8)
    expected = torch.tensor([stock_logps(judge, one, ("Yes", "No")) for one in ONE]).softmax(1)
    np.testing.assert_allclose(direct, expected, atol=1e-5)


def test_one_forward_pass_and_few_logits(judge: TransformersJudge) -> None:
    passes: list[int] = []
    rows: list[int] = []
    text = judge.model.base_model.language_model
    head = judge.model.get_output_embeddings()
    hooks = [
        text.register_forward_hook(lambda *call: passes.append(1)),
        head.register_forward_hook(lambda *call: rows.append(call[2].shape[:-1].numel())),
    ]
    try:
        logps(judge, ONE, ("Yes", "No"))
    finally:
        for hook in hooks:
            hook.remove()
    tokens = sum(len(judge.tokenizer(verdict)["input_ids"]) for verdict in ("Yes", "No"))
    distinct = 3  # two of the prompts are equal
    assert passes == [1]
    assert rows == [distinct * tokens]


def nearly_tied(judge: TransformersJudge) -> TransformersJudge:
    """In bfloat16, with large logits, and with nearly the same ones for the verdicts 1 and 2."""
    model = copy.deepcopy(judge.model).bfloat16()
    one, two = (judge.tokenizer.convert_tokens_to_ids(verdict) for verdict in "12")
    with torch.no_grad():
        weight_K_H = model.get_output_embeddings().weight.mul_(16)
        weight_K_H[two] = weight_K_H[one]
        weight_K_H[one, 0], weight_K_H[two, 0] = 2.0, 2.0 + 2**-6  # neighbors in bfloat16
    return TransformersJudge(model, judge.processor)


def still_nearly_tied(judge: TransformersJudge) -> None:
    """Let the adapter of the output embedding treble the difference between the verdicts 1 and 2.

    Like the difference itself, from one hidden unit: a sum over all of them may cancel, and so be
    as small as the rounding of the hidden states.
    """
    head = unwrap_adapters(judge.model).get_output_embeddings()
    one, two = (judge.tokenizer.convert_tokens_to_ids(verdict) for verdict in "12")
    down_R_H, up_K_R = (getattr(head, f"lora_{name}")["default"].weight for name in "AB")
    with torch.no_grad():
        down_R_H.zero_()[:, 0] = 1 / (head.scaling["default"] * len(down_R_H))
        up_K_R[two] = up_K_R[one] + 2 * 2**-6


def float32_margins(judge: TransformersJudge) -> np.ndarray[Any, Any]:
    """log p(1) - log p(2) after each prompt of ONE, from stock hidden states, in float32."""
    model = unwrap_adapters(judge.model)
    head = model.get_output_embeddings()
    weight_K_H = head.weight.float()
    if hasattr(head, "lora_A"):
        down, up = (getattr(head, f"lora_{name}")["default"].weight.float() for name in "AB")
        weight_K_H = weight_K_H + head.scaling["default"] * up @ down
    one, two = (judge.tokenizer.convert_tokens_to_ids(verdict) for verdict in "12")
    margins = []
    for item in ONE:
        inputs = judge.inputs([judge.prompt(render_messages(item, "direct"), item.images)])
        inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
        with torch.no_grad():
            hidden_H = model.base_model(**inputs).last_hidden_state[0, -1]
            logits_K = linear(hidden_H.float(), weight_K_H)
        margins.append(float(logits_K[one] - logits_K[two]))
    return np.array(margins)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize("adapter", [False, True], ids=["plain", "lora"])
def test_logits_of_a_bfloat16_model_are_not_rounded(
    judge: TransformersJudge, packed: bool, adapter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounded = nearly_tied(judge)
    if adapter:
        torch.manual_seed(0)
        lora = LoraConfig(target_modules=["lm_head"], r=2, init_lora_weights=False)
        rounded = TransformersJudge(get_peft_model(rounded.model, lora), judge.processor)
        still_nearly_tied(rounded)
    if not packed:
        monkeypatch.setattr(
            "mtrl_judge.models.verdict_logps.packing_unsupported_reason", lambda _: "of the test"
        )
    found = logps(rounded, ONE, ("1", "2"))
    margins = found[:, 0] - found[:, 1]
    assert (margins != 0).all(), "ties come from rounding alone"
    np.testing.assert_allclose(margins, float32_margins(rounded), atol=2e-3, rtol=0.05)


def test_float32_logits_with_softcapping_and_with_offloaded_weights(caplog: Any) -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4}
    config = Gemma2Config(**sizes, **heads, final_logit_softcapping=5.0, tie_word_embeddings=False)
    model = Gemma2ForCausalLM(config).bfloat16()
    head, ids = model.get_output_embeddings(), torch.tensor([[3, 4, 5]])
    with torch.no_grad(), float32_logits(model):
        logits = model(input_ids=ids).logits
        hidden = model.base_model(input_ids=ids).last_hidden_state
    expected = 5 * torch.tanh(linear(hidden.float(), head.weight.float()) / 5)
    torch.testing.assert_close(logits, expected)
    assert model.get_output_embeddings() is head
    head.to("meta")
    with float32_logits(model):
        assert model.get_output_embeddings() is head
    assert "rounded to torch.bfloat16: the output embedding is offloaded" in caplog.text


def test_several_end_tokens(random_judge: Path) -> None:
    model, processor = load_model(str(random_judge)), load_processor(str(random_judge))
    model.generation_config.eos_token_id = [3, 4]
    judge = TransformersJudge(model, processor)
    assert len(judge.eos_ids) == 3
    expected = [stock_logps(judge, row, ("1", "10")) for row in ONE]
    np.testing.assert_allclose(logps(judge, ONE, ("1", "10")), expected, atol=1e-5, rtol=0)


def test_indistinguishable_verdicts_are_refused(random_judge: Path) -> None:
    judge = TransformersJudge(load_model(str(random_judge)), load_processor(str(random_judge)))
    for verdicts, message in (
        (("Yes", "Yes"), "'Yes' and 'Yes' have the same tokens"),
        (("Yes", ""), "cannot represent ''"),
        (("Yes", "No<|im_end|>"), re.escape("cannot represent 'No<|im_end|>'")),
    ):
        with pytest.raises(JudgeError, match=message):
            logps(judge, ONE, verdicts)


def test_logps_that_are_not_finite_are_an_error(random_judge: Path) -> None:
    model = load_model(str(random_judge))
    with torch.no_grad():
        model.lm_head.weight.fill_(math.inf)
    with pytest.raises(JudgeError, match=r"not finite in torch\.float32"):
        logps(TransformersJudge(model, load_processor(str(random_judge))), ONE, ("Yes", "No"))
