"""A `Judge` around a loaded model: what it reads, what it writes, and what it leaves behind."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.images import random_image
from support.judges import row

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.models.checkpoint import (
    check_config,
    load_model,
    load_processor,
    read_checkpoint_card,
)
from mtrl_judge.models.judge import Batch, Judge
from mtrl_judge.models.pixels import fit_pixels

NEW_TOKENS = 12


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def processor(random_judge: Path) -> Any:
    return load_processor(str(random_judge))


@pytest.fixture
def model(random_judge: Path) -> Any:
    return load_model(str(random_judge))


ROWS = [
    row("Is it safe?", random_image(1)),
    row("Which is better, <image> or <image>?", random_image(2, (96, 40)), random_image(3)),
    row("Is a circle round? No picture is needed for that."),
    row("Is it natural, that is, could it be a photograph? " * 5, random_image(4, (128, 128))),
    row("Does it match the text <|im_end|>?", random_image(5, (33, 71))),
    row("Is it sound?", random_image(6)),
]


def stock_answer(model: Any, processor: Any, row: JudgeRow) -> str:
    """What stock transformers writes greedily about one row, all by itself."""
    text = processor.apply_chat_template(
        render_messages(row, "reasoned"), tokenize=False, add_generation_prompt=True
    )
    # A row's text is data: what would be markup there is broken up for every judge.
    text = text.replace("<|im_end|>?", "<\u200b|im_end|>?")
    inputs = processor(text=[text], images=list(row.images) or None, return_tensors="pt")
    output = model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)
    written: str = processor.tokenizer.decode(
        output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return written


def judged(model: Any, processor: Any, rows: Sequence[JudgeRow] = ROWS) -> list[str]:
    return Judge(model, processor).judge(rows, "reasoned", batch_size=4, max_new_tokens=NEW_TOKENS)


def test_answers_are_the_stock_ones_in_the_order_of_the_rows(model: Any, processor: Any) -> None:
    texts = judged(model, processor)
    assert texts == [stock_answer(model, processor, row) for row in ROWS]
    assert len(set(texts)) == len(ROWS), "equal answers would hide a wrong order"
    assert judged(model, processor, []) == []


def test_the_style_is_what_is_asked(model: Any, processor: Any) -> None:
    judge = Judge(model, processor)
    answers = {
        style: judge.judge(ROWS[:1], style, batch_size=1, max_new_tokens=NEW_TOKENS)
        for style in ("reasoned", "direct")
    }
    assert answers["reasoned"] != answers["direct"]


def batch_of(judge: Judge, row: JudgeRow) -> Batch:
    (batch,) = judge.batches([judge.prompt(render_messages(row, "reasoned"), row.images)], 1)
    return batch


@contextmanager
def no_warnings() -> Iterator[None]:
    """Fail on a warning of Python's or of transformers', also one that is given only once."""
    from transformers.utils.logging import warning_once

    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    warning_once.cache_clear()
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        logger.removeHandler(handler)
    assert not told


def in_training(model: Any, forbidden: Sequence[int], lora: bool) -> Any:
    """A model as a trainer holds it: settings of its own, a frozen part, checkpointed gradients."""
    import torch

    model.generation_config.update(
        do_sample=True,
        temperature=0.3,
        top_k=20,
        top_p=0.8,
        repetition_penalty=3.0,
        bad_words_ids=[[token] for token in forbidden],
    )
    model.config.use_cache = False
    if lora:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=4,
            lora_dropout=0.5,
            target_modules=["q_proj", "v_proj"],
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(weight, std=0.5)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    model.train()
    next(module for name, module in model.named_modules() if name.endswith("visual")).eval()
    return model


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_model_in_training_is_left_as_it_was(
    model: Any, processor: Any, random_judge: Path, lora: bool
) -> None:
    import torch

    untouched = load_model(str(random_judge))
    favourite = processor.tokenizer(judged(untouched, processor)[0])["input_ids"][:4]
    model = in_training(model, favourite, lora)
    base = model.get_base_model() if lora else model
    settings, before = base.generation_config, base.generation_config.to_dict()
    modes = [module.training for module in model.modules()]
    drawn = torch.get_rng_state()

    with no_warnings():
        texts = judged(model, processor)

    assert [module.training for module in model.modules()] == modes
    assert not all(modes)
    assert any(modes)
    assert base.generation_config is settings
    assert base.generation_config.to_dict() == before
    assert "generation_config" not in vars(model) or not lora
    assert base.config.use_cache is False
    assert base.is_gradient_checkpointing
    assert torch.equal(torch.get_rng_state(), drawn)
    assert texts == judged(model, processor)

    judge = Judge(model, processor)
    batch = batch_of(judge, ROWS[0])
    model.eval()
    leaking = judge.generate(batch, do_sample=False, max_new_tokens=NEW_TOKENS)[0].text
    assert leaking != texts[0], "settings that change nothing would prove nothing"
    base.generation_config = untouched.generation_config
    assert texts[0] == stock_answer(model, processor, ROWS[0])
    if not lora:
        assert texts == judged(untouched, processor)


def test_training_goes_on_between_judgings(model: Any, processor: Any) -> None:
    """The gradient is the one without judging, and the next answers are the new weights'."""
    import torch

    model = in_training(model, [5], lora=True)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    inputs = batch_of(Judge(model, processor), ROWS[0]).inputs

    def gradient() -> torch.Tensor:
        model.zero_grad()
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    expected = gradient()
    first = judged(model, processor)
    assert torch.allclose(gradient(), expected)
    assert expected.abs().max() > 0
    torch.optim.SGD(model.parameters(), lr=5.0).step()
    second = judged(model, processor)
    model.eval()
    model.generation_config.update(do_sample=False, repetition_penalty=1.0)
    model.generation_config.bad_words_ids = None
    assert second == [stock_answer(model, processor, row) for row in ROWS]
    assert first != second


def test_within_the_unwrapping_of_trl(model: Any, processor: Any) -> None:
    from accelerate import Accelerator
    from trl.models.utils import unwrap_model_for_generation

    expected = judged(model, processor)
    accelerator = Accelerator(cpu=True)
    wrapped = accelerator.prepare(in_training(model, [5], lora=False))
    with unwrap_model_for_generation(wrapped, accelerator) as unwrapped:
        assert judged(unwrapped, processor) == expected
    assert wrapped.training
    assert unwrapped.is_gradient_checkpointing


def test_a_fault_while_judging_leaves_the_model_in_training(model: Any, processor: Any) -> None:
    model = in_training(model, [5], lora=False)
    settings = model.generation_config
    blind = JudgeRow("id", "task", "pointwise", "Is it safe?", ("Yes", "No"), "Yes", 1)
    with pytest.raises(ValueError, match="1 image parts in the messages, but 0 images"):
        judged(model, processor, [blind])
    assert model.training
    assert model.generation_config is settings


def test_pixel_limits_are_the_judges_own(model: Any, processor: Any) -> None:
    """A trainer that shares the processor keeps seeing its pictures as before."""
    before = dict(processor.image_processor.size)
    messages = render_messages(ROWS[3], "direct")
    patches = {}
    for most in (None, 32 * 32):
        judge = Judge(model, processor, max_pixels=most)
        inputs = judge.inputs([judge.prompt(messages, ROWS[3].images)])
        patches[most] = len(inputs["pixel_values"])
    assert patches == {None: (128 // 8) ** 2, 32 * 32: (32 // 8) ** 2}
    assert dict(processor.image_processor.size) == before


def test_reasoning_tags_survive_decoding(model: Any, random_judge: Path) -> None:
    """Also where a tokenizer calls them special; the chat's own markup never shows."""
    processor = load_processor(str(random_judge))
    processor.tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<think>", "</think>", "<answer>", "</answer>"]}
    )
    text = "<think>red</think><answer>Yes</answer>"
    tokens = processor.tokenizer(f"{text}<|im_end|><|endoftext|>")["input_ids"]
    assert Judge(model, processor).decode(tokens) == text


def test_the_answer_ends_where_the_model_ends_it(model: Any, processor: Any) -> None:
    """With a token that the model writes made its end token, the answer ends there."""
    judge = Judge(model, processor)
    batch = batch_of(judge, ROWS[0])
    inputs = batch.inputs
    output = model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)
    written = output[0, inputs["input_ids"].shape[1] :].tolist()
    model.generation_config.eos_token_id = written[3]
    kept = written[: written.index(written[3]) + 1]
    texts = judged(model, processor)
    assert texts[0] == judge.decode(kept)
    (answer,) = Judge(model, processor).generate(batch, max_new_tokens=NEW_TOKENS)
    assert (answer.text, answer.output_tokens) == (texts[0], len(kept))
    assert answer.input_tokens == inputs["input_ids"].shape[1]


def test_a_model_that_never_ends_is_refused(model: Any, random_judge: Path) -> None:
    processor = load_processor(str(random_judge))
    processor.tokenizer.eos_token = None
    model.generation_config.eos_token_id = None
    with pytest.raises(JudgeError, match="no end-of-sequence token"):
        Judge(model, processor)


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.none() | st.integers(1, 60_000),
    st.none() | st.integers(1, 60_000),
)
def test_fit_pixels_keeps_its_bounds(
    width: int, height: int, least: int | None, most: int | None
) -> None:
    fitted = fit_pixels(Image.new("RGB", (width, height)), least, most)
    pixels = fitted.width * fitted.height
    assert pixels >= 1
    assert most is None or pixels <= most
    if least is not None and (most is None or least * 2 < most) and most != 1:
        assert most is not None or pixels >= least


def test_what_does_not_load_is_a_judge_error(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="found: nothing"):
        check_config(str(tmp_path))
    assert read_checkpoint_card(tmp_path) == {}
    (tmp_path / "mtrl_judge.json").write_text('{"style": "verbose"}')
    with pytest.raises(JudgeError, match="style: found 'verbose'; expected reasoned or direct"):
        read_checkpoint_card(tmp_path)
