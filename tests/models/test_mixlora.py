"""Adapters whose factors are chosen by the prompt, and by nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support import tiny_models
from support.adapters import FACTORS, SELECTED, adapted, shaken
from support.images import random_image
from support.judges import row
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.models.mixlora import MixLoraLinear, language_layers, with_mixlora
from mtrl_judge.models.packing import pack, prefixes_of
from mtrl_judge.models.routing import end_of_prompt
from mtrl_judge.models.shared_prefill import share_prefill
from mtrl_judge.models.transformers_judge import TransformersJudge

pytestmark = pytest.mark.usefixtures("one_thread")

FAMILIES = [tiny_models.tiny_qwen3_vl, tiny_models.tiny_llava, tiny_models.tiny_gemma3]
ANSWER = 5


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda build: build.__name__)
def folder(request: Any, tmp_path_factory: Any) -> Path:
    path: Path = request.param(tmp_path_factory.mktemp("model"))
    return path


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: Any) -> Path:
    return tiny_models.tiny_qwen3_vl(tmp_path_factory.mktemp("qwen"))


def batch_of(folder: Path, texts: list[str], first: int = 0) -> dict[str, torch.Tensor]:
    """Prompts of unequal length, padded on the left, each with the image of its text.

    Args:
        first: number of the first image; equal texts have equal images.
    """
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    judge = TransformersJudge(model, processor)
    rows = [row(text, random_image(first + texts.index(text))) for text in texts]
    prompts = [judge.prompt(render_messages(each, "direct"), each.images) for each in rows]
    return dict(judge.inputs(prompts))


TEXTS = ["Is it a red circle, or is it a blue square?", "Sound?", "Is it one, or two, or three?"]


def test_with_all_factors_and_gates_of_one_it_is_lora(folder: Path) -> None:
    inputs = batch_of(folder, TEXTS)
    plain = AutoModelForImageTextToText.from_pretrained(folder)
    ours = adapted(folder, 4, selected=4)
    lora = LoraConfig(
        r=4,
        lora_alpha=16,
        target_modules="all-linear",
        exclude_modules=language_layers(plain),
    )
    theirs = shaken(get_peft_model(plain, lora)).eval()
    weights = ours.state_dict()
    assert {name for name in weights if "lora_router" not in name} == {*theirs.state_dict()}
    theirs.load_state_dict({n: w for n, w in weights.items() if "lora_router" not in n})
    with torch.no_grad():
        apart = (ours(**inputs).logits - theirs(**inputs).logits).abs().max()
        for name, weight in ours.named_parameters():
            if "lora_router" in name:
                weight.zero_()  # equal scores
        expected = theirs(**inputs).logits
        together = (ours(**inputs).logits - expected).abs().max()
    assert apart > 1e-2, "the router makes no difference"
    assert together <= 1e-6 * expected.abs().max()


def test_a_row_alone_is_as_in_a_batch(folder: Path) -> None:
    model, inputs = adapted(folder), batch_of(folder, TEXTS)
    with torch.no_grad():
        together = model(**inputs).logits[:, -1]
        for n, text in enumerate(TEXTS):
            logits = model(**batch_of(folder, [text], first=n)).logits[0, -1]
            torch.testing.assert_close(logits, together[n], rtol=1e-4, atol=1e-4)


def continued(inputs: dict[str, torch.Tensor], answers: torch.Tensor) -> dict[str, torch.Tensor]:
    """The prompts with answers behind them."""
    longer = dict(inputs)
    for name, values in inputs.items():
        if values.shape == inputs["input_ids"].shape:
            ones = torch.full_like(answers, name == "attention_mask")
            longer[name] = torch.cat([values, answers if name == "input_ids" else ones], dim=1)
    return longer


def _prefixes(model: Any, inputs: dict[str, torch.Tensor]) -> list[Any]:
    return prefixes_of(inputs, [1] * len(inputs["input_ids"]))


@pytest.mark.parametrize("how", ["stock", "shared prefill"])
def test_cached_is_as_uncached(folder: Path, how: str) -> None:
    model = adapted(folder).get_base_model()
    inputs = batch_of(folder, [TEXTS[0], TEXTS[0], TEXTS[1]])
    settings = GenerationConfig(
        max_new_tokens=ANSWER,
        min_new_tokens=ANSWER,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    if how == "stock":
        found = model.generate(**inputs, generation_config=settings)
    else:
        with share_prefill(model, [1] * 3):
            found = model.generate(**inputs, generation_config=settings)
    cached = torch.stack(found.logits, dim=1)
    answers = found.sequences[:, -ANSWER:]
    with torch.no_grad():
        uncached = model(**continued(inputs, answers)).logits[:, -ANSWER - 1 : -1]
    torch.testing.assert_close(cached, uncached, rtol=1e-4, atol=1e-4)


def test_packed_answers_use_their_prompts_factors(folder: Path) -> None:
    model, inputs = adapted(folder).get_base_model(), batch_of(folder, TEXTS)
    answers = torch.arange(40, 40 + 2 * ANSWER).view(2, ANSWER)
    prefixes = _prefixes(model, inputs)
    packed = pack(model, prefixes, [list(answers)] * len(prefixes))
    with torch.no_grad():
        logits = model(**packed.inputs).logits
        logps = logits.log_softmax(-1).gather(-1, packed.labels_R_T.clamp(min=0)[..., None])[..., 0]
        ours = packed.unpack(logps).view(len(TEXTS), 2, ANSWER)
        for k, answer in enumerate(answers):
            more = answer.expand(len(TEXTS), -1)
            plain = model(**continued(inputs, more)).logits[:, -ANSWER - 1 : -1].log_softmax(-1)
            stock = plain.gather(-1, more[..., None])[..., 0]
            torch.testing.assert_close(ours[:, k], stock, rtol=1e-4, atol=1e-4)


def test_prompts_differ_in_their_factors_and_routers_learn(qwen: Path) -> None:
    model = adapted(qwen).train()
    seen: list[torch.Tensor] = []
    layer = next(module for module in model.modules() if isinstance(module, MixLoraLinear))
    routing, stock = layer.routing, layer.routing.gates
    routing.gates = lambda *arguments: seen.append(stock(*arguments)) or seen[-1]  # type: ignore[func-returns-value]
    model(**batch_of(qwen, TEXTS)).logits.square().mean().backward()
    used = torch.cat(seen, dim=-1)[:, 0].view(len(TEXTS), -1, FACTORS)
    assert ((used > 0).sum(dim=-1) == SELECTED).all()
    torch.testing.assert_close(used.sum(dim=-1), torch.full(used.shape[:2], float(SELECTED)))
    assert ((used[0] > 0) != (used[1] > 0)).any()
    gradients = [p.grad.norm() for n, p in model.named_parameters() if "lora_router" in n]
    assert len(gradients) == used.shape[1]
    assert min(gradients) > 0


def test_a_frozen_router_stays_and_is_saved(qwen: Path, tmp_path: Path) -> None:
    model = adapted(qwen, trains_router=False)
    model.set_adapter("default")
    routers = [p for n, p in model.named_parameters() if "lora_router" in n]
    assert routers
    assert not any(p.requires_grad for p in routers)
    assert any(p.requires_grad for n, p in model.named_parameters() if "lora_A" in n)


def test_what_is_saved_is_what_is_loaded(qwen: Path, tmp_path: Path) -> None:
    model, inputs = adapted(qwen), batch_of(qwen, TEXTS)
    model.save_pretrained(tmp_path)
    again = with_mixlora(AutoModelForImageTextToText.from_pretrained(qwen), tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    with pytest.raises(JudgeError, match="cannot be merged"):
        again.merge_and_unload()


def test_a_prompt_without_the_chat_template_is_an_error(qwen: Path) -> None:
    with pytest.raises(ValueError, match="no generation prompt of the chat template"):
        adapted(qwen)(input_ids=torch.tensor([[5, 6, 7]]))


def test_the_end_of_a_prompt_is_the_templates(qwen: Path) -> None:
    processor = AutoProcessor.from_pretrained(qwen)
    assert processor.tokenizer.decode(end_of_prompt(processor)) == "<|im_start|>assistant"
