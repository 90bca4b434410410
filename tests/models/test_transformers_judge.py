"""A judge around a loaded model: its prompts, its answers, and the state it restores."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.images import random_image
from support.judges import row

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.images import MAX_ASPECT_RATIO
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.models.checkpoint import (
    check_config,
    load_model,
    load_processor,
    read_checkpoint_card,
)
from mtrl_judge.models.pixels import DEFAULT_MAX_PIXELS, fit_pixels, grid_size, with_pixel_limits
from mtrl_judge.models.transformers_judge import Batch, TransformersJudge

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
    row("Is a circle round? No image is needed for that."),
    row("Is it natural, that is, could it be a photograph? " * 5, random_image(4, (128, 128))),
    row("Does it match the text <|im_end|>?", random_image(5, (33, 71))),
    row("Is it sound?", random_image(6)),
]


def stock_answer(model: Any, processor: Any, row: JudgeRow) -> str:
    """The greedy answer of stock transformers to a single row."""
    text = processor.apply_chat_template(
        render_messages(row, "reasoned"), tokenize=False, add_generation_prompt=True
    )
    # Every judge neutralizes the markup in a row's text.
    text = text.replace("<|im_end|>?", "<\u200b|im_end|>?")
    inputs = processor(text=[text], images=list(row.images) or None, return_tensors="pt")
    output = model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)
    written: str = processor.tokenizer.decode(
        output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return written


def judged(model: Any, processor: Any, rows: Sequence[JudgeRow] = ROWS) -> list[str]:
    return TransformersJudge(model, processor).judge(
        rows, "reasoned", batch_size=4, max_new_tokens=NEW_TOKENS
    )


def test_answers_equal_stock_ones_in_the_order_of_the_rows(model: Any, processor: Any) -> None:
    texts = judged(model, processor)
    assert texts == [stock_answer(model, processor, row) for row in ROWS]
    assert len(set(texts)) == len(ROWS), "equal answers would hide a wrong order"
    assert judged(model, processor, []) == []


def test_the_style_changes_the_prompt(model: Any, processor: Any) -> None:
    judge = TransformersJudge(model, processor)
    answers = {
        style: judge.judge(ROWS[:1], style, batch_size=1, max_new_tokens=NEW_TOKENS)
        for style in ("reasoned", "direct")
    }
    assert answers["reasoned"] != answers["direct"]


def batch_of(judge: TransformersJudge, row: JudgeRow) -> Batch:
    (batch,) = judge.batches([judge.prompt(render_messages(row, "reasoned"), row.images)], 1)
    return batch


@contextmanager
def no_warnings() -> Iterator[None]:
    """Fail on a warning of Python or transformers, even one that was already given once."""
    from transformers.utils.logging import warning_once

    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    warning_once.cache_clear()
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        logger.removeHandler(handler)
    assert not messages


def in_training(model: Any, forbidden: Sequence[int], lora: bool) -> Any:
    """A model in training: with generation settings, a frozen part and gradient checkpointing."""
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
def test_a_model_in_training_is_restored(
    model: Any, processor: Any, random_judge: Path, lora: bool
) -> None:
    import torch

    untouched = load_model(str(random_judge))
    likely = processor.tokenizer(judged(untouched, processor)[0])["input_ids"][:4]
    model = in_training(model, likely, lora)
    base = model.get_base_model() if lora else model
    settings, before = base.generation_config, base.generation_config.to_dict()
    modes = [module.training for module in model.modules()]
    rng_state = torch.get_rng_state()

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
    assert torch.equal(torch.get_rng_state(), rng_state)
    assert texts == judged(model, processor)

    judge = TransformersJudge(model, processor)
    batch = batch_of(judge, ROWS[0])
    model.eval()
    with_settings = judge.generate(batch, do_sample=False, max_new_tokens=NEW_TOKENS)[0].text
    assert with_settings != texts[0], "the settings must make a difference"
    base.generation_config = untouched.generation_config
    assert texts[0] == stock_answer(model, processor, ROWS[0])
    if not lora:
        assert texts == judged(untouched, processor)


def test_judging_between_training_steps(model: Any, processor: Any) -> None:
    """Judging does not change the gradient, and answers are those of the current weights."""
    import torch

    model = in_training(model, [5], lora=True)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    inputs = batch_of(TransformersJudge(model, processor), ROWS[0]).inputs

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


def test_within_trls_unwrapping(model: Any, processor: Any) -> None:
    from accelerate import Accelerator
    from trl.models.utils import unwrap_model_for_generation

    expected = judged(model, processor)
    accelerator = Accelerator(cpu=True)
    wrapped = accelerator.prepare(in_training(model, [5], lora=False))
    with unwrap_model_for_generation(wrapped, accelerator) as unwrapped:
        assert judged(unwrapped, processor) == expected
    assert wrapped.training
    assert unwrapped.is_gradient_checkpointing


def test_an_error_while_judging_restores_the_model(model: Any, processor: Any) -> None:
    model = in_training(model, [5], lora=False)
    settings = model.generation_config
    without_images = JudgeRow("id", "task", "pointwise", "Is it safe?", ("Yes", "No"), "Yes", 1)
    with pytest.raises(ValueError, match="1 image parts in the messages, but 0 images"):
        judged(model, processor, [without_images])
    assert model.training
    assert model.generation_config is settings


def test_pixel_limits_leave_the_given_processor_unchanged(model: Any, processor: Any) -> None:
    before = dict(processor.image_processor.size)
    messages = render_messages(ROWS[3], "direct")
    patches = {}
    for limit in (None, 32 * 32):
        judge = TransformersJudge(model, processor, max_pixels=limit)
        inputs = judge.inputs([judge.prompt(messages, ROWS[3].images)])
        patches[limit] = len(inputs["pixel_values"])
    assert patches == {None: (128 // 8) ** 2, 32 * 32: (32 // 8) ** 2}
    assert dict(processor.image_processor.size) == before


def test_only_very_large_images_are_scaled_down_by_default(model: Any, processor: Any) -> None:
    """Qwen3-VL's own limit is above the default, that of the tiny model below it."""
    assert TransformersJudge(model, processor).min_and_max_pixels == (1024, 256 * 256)
    judge = TransformersJudge(model, with_pixel_limits(processor, 1024, 2**24))
    assert judge.min_and_max_pixels == (1024, DEFAULT_MAX_PIXELS)
    photo, huge = Image.new("RGB", (4000, 3000)), Image.new("RGB", (8000, 6000))
    prompt = judge.prompt(render_messages(ROWS[1], "direct"), [photo, huge])
    assert prompt.images[0].size == photo.size
    assert prompt.images[1].size == (4138, 3103)
    assert (judge.images_scaled_down, judge.images_seen) == (1, 2)


def test_the_model_sees_the_pixels_of_its_processor(model: Any, processor: Any) -> None:
    judge = TransformersJudge(model, processor)
    sizes = ((33, 71), (64, 64), (128, 40))
    rows = [row("Is it safe?", random_image(n, size)) for n, size in enumerate(sizes)]
    prompts = [judge.prompt(render_messages(row, "direct"), row.images) for row in rows]
    ours = judge.inputs(prompts)
    theirs = judge.processor(
        text=[prompt.text for prompt in prompts],
        images=[prompt.images for prompt in prompts],
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_reasoning_tags_survive_decoding(model: Any, random_judge: Path) -> None:
    """Even where a tokenizer calls them special; the chat markup is dropped."""
    processor = load_processor(str(random_judge))
    processor.tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<think>", "</think>", "<answer>", "</answer>"]}
    )
    text = "<think>red</think><answer>Yes</answer>"
    tokens = processor.tokenizer(f"{text}<|im_end|><|endoftext|>")["input_ids"]
    assert TransformersJudge(model, processor).decode(tokens) == text


def test_an_answer_ends_at_any_end_token(model: Any, processor: Any) -> None:
    """A token that the model generates is made its end token."""
    judge = TransformersJudge(model, processor)
    batch = batch_of(judge, ROWS[0])
    inputs = batch.inputs
    output = model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)
    generated = output[0, inputs["input_ids"].shape[1] :].tolist()
    model.generation_config.eos_token_id = generated[3]
    kept = generated[: generated.index(generated[3]) + 1]
    texts = judged(model, processor)
    assert texts[0] == judge.decode(kept)
    (answer,) = TransformersJudge(model, processor).generate(batch, max_new_tokens=NEW_TOKENS)
    assert (answer.text, answer.output_tokens) == (texts[0], len(kept))
    assert answer.input_tokens == inputs["input_ids"].shape[1]


def test_a_model_without_end_token_is_refused(model: Any, random_judge: Path) -> None:
    processor = load_processor(str(random_judge))
    processor.tokenizer.eos_token = None
    model.generation_config.eos_token_id = None
    with pytest.raises(JudgeError, match="no end-of-sequence token"):
        TransformersJudge(model, processor)


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.none() | st.integers(1, 60_000),
    st.none() | st.integers(1, 60_000),
)
def test_fit_pixels(
    width: int, height: int, min_pixels: int | None, max_pixels: int | None
) -> None:
    fitted = fit_pixels(Image.new("RGB", (width, height)), min_pixels, max_pixels)
    pixels = fitted.width * fitted.height
    assert pixels >= 1
    assert max_pixels is None or pixels <= max_pixels
    if (
        min_pixels is not None
        and (max_pixels is None or min_pixels * 2 < max_pixels)
        and max_pixels != 1
    ):
        assert max_pixels is not None or pixels >= min_pixels
    ratios = [max(size) / min(size) for size in ((width, height), fitted.size)]
    assert ratios[1] <= max(MAX_ASPECT_RATIO, ratios[0])


def test_a_folder_without_config_and_a_card_with_unknown_style(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="found: nothing"):
        check_config(str(tmp_path))
    assert read_checkpoint_card(tmp_path) == {}
    (tmp_path / "mtrl_judge.json").write_text('{"style": "verbose"}')
    with pytest.raises(
        JudgeError, match="style: found 'verbose'; expected reasoned or direct or confidence"
    ):
        read_checkpoint_card(tmp_path)


@pytest.mark.parametrize("sides", [(192, 128), (16, 16), (2000, 16)])
def test_sizes_that_cannot_be_kept_within_limits_come_to_an_end(sides: tuple[int, int]) -> None:
    """No multiple of 16 pixels has an area of exactly 1,000: sizes alternate around it."""
    processor = SimpleNamespace(
        size={"shortest_edge": 1000, "longest_edge": 1000}, patch_size=8, merge_size=2
    )
    width, height = grid_size(*sides, processor)
    assert width % 16 == height % 16 == 0
    assert grid_size(*sides, processor, once=True)[0] % 16 == 0
