"""The tiny model: its tokenizer, its fast paths against Qwen3-VL's own, a short teaching."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.common.hashing import digest
from mtrl_judge.demo import pretrain as tiny
from mtrl_judge.demo.corpus import SMALL, write_sample
from mtrl_judge.demo.curriculum import load_school
from mtrl_judge.demo.pretrain import Lessons, teach_tiny_model
from mtrl_judge.demo.tiny_model import build_model, build_processor, build_tokenizer, prompt_text
from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD, STYLES, Style

GLANCE = Lessons(seeing=2, comparing=2, describing=2, pictures=4, drills=4, texts=4)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample") / "data"
    write_sample(root, sizes=SMALL)
    return root


@pytest.fixture(scope="module")
def judge(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("judge") / "tiny"
    teach_tiny_model(data_root, out, lessons=GLANCE)
    return out


@pytest.fixture(scope="module")
def processor(judge: Path) -> Any:
    return AutoProcessor.from_pretrained(judge)


@pytest.fixture(scope="module")
def model(judge: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(judge).eval()


def rows_of(data_root: Path, task: str, split: Any = "train") -> list[JudgeRow]:
    dataset = load_rows(find_task(task), split, data_root).rows.dataset
    return [JudgeRow.from_doc(doc) for doc in dataset]


def inputs_of(processor: Any, row: JudgeRow, style: Style) -> Any:
    text = processor.apply_chat_template(
        render_messages(row, style), tokenize=False, add_generation_prompt=True
    )
    return processor(text=[text], images=list(row.images), return_tensors="pt")


def test_it_is_a_qwen3_vl_of_about_a_million_parameters(model: Any) -> None:
    assert model.config.model_type == "qwen3_vl"
    assert 0.7e6 < sum(p.numel() for p in model.parameters()) < 1.3e6


def test_what_all_prompts_share_is_few_tokens_and_nothing_is_lost(
    data_root: Path, processor: Any
) -> None:
    for task in ("mtrl_judge_agin_nat", "mtrl_judge_seetrue", "mtrl_judge_unsafebench"):
        for row in rows_of(data_root, task)[:4]:
            text = prompt_text(processor.tokenizer, row, "reasoned")
            tokens = processor.tokenizer(text)["input_ids"]
            assert len(tokens) < 45 < len(text.split())
            assert processor.tokenizer.decode(tokens) == text


@given(text=st.text())
def test_any_text_survives_the_tokenizer(processor: Any, text: str) -> None:
    tokens = processor.tokenizer(text)["input_ids"]
    assert processor.tokenizer.decode(tokens) == text


def test_a_turned_picture_is_told_as_it_then_is(processor: Any) -> None:
    """A car left of a tree upside down becomes a tree left of a car upside down."""
    car = {"name": "car", "x": 16.0, "y": 16.0, "width": 26.0, "upside_down": False}
    tree = {"name": "tree", "x": 48.0, "y": 16.0, "width": 26.0, "upside_down": True}
    after = [
        {**tree, "x": 16.0, "y": 48.0, "upside_down": False},
        {**car, "x": 48.0, "y": 48.0, "upside_down": True},
    ]
    targets, expected = (
        tiny.sights([{"things": things, "fault": None}]) for things in ([car, tree], after)
    )
    picture = Image.effect_noise((64, 64), 80).convert("RGB")
    patches, turned = (tiny.patches_of(processor, [p]) for p in (picture, picture.rotate(180)))
    told_patches, told = tiny.turn(patches, targets)
    assert torch.equal(told, expected)
    assert torch.equal(told_patches, turned)


@pytest.mark.parametrize(
    ("task", "pictures"), [("mtrl_judge_seetrue", 1), ("mtrl_judge_mjbench_safety", 2)]
)
@pytest.mark.parametrize("style", STYLES)
def test_teaching_sees_what_the_model_sees(
    data_root: Path, processor: Any, model: Any, task: str, pictures: int, style: Style
) -> None:
    """The batched tower, the tokens and the positions of teaching are those of the real forward."""
    row = rows_of(data_root, task, "test")[0]
    assert len(row.images) == pictures
    inputs = inputs_of(processor, row, style)
    tokens = processor.tokenizer(prompt_text(processor.tokenizer, row, style))["input_ids"]
    assert inputs["input_ids"][0].tolist() == tokens
    positions, _ = model.model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], inputs["image_grid_thw"]
    )
    taught_positions = tiny.positions(torch.tensor(tokens), model.config.image_token_id)
    assert torch.equal(positions[:, 0], taught_positions)
    patches = tiny.patches_of(processor, row.images)
    assert torch.equal(patches.flatten(0, 1), inputs["pixel_values"])
    with torch.no_grad():
        own = model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
        taught = tiny.see(model.model.visual, patches)
    torch.testing.assert_close(taught.flatten(0, 1), own.pooler_output, atol=1e-5, rtol=1e-4)


def test_the_school_teaches_both_styles_alone_and_in_pairs(data_root: Path) -> None:
    school = load_school(data_root, seed=0)
    kinds = {(example.style, len(example.pictures)) for example in school.examples}
    assert kinds == {(style, pictures) for style in STYLES for pictures in (1, 2)}
    assert all(max(example.pictures) < len(school.pictures) for example in school.examples)
    answers = [example.answer for example in school.examples]
    assert [example.answer for example in load_school(data_root, seed=0).examples] == answers
    assert [example.answer for example in load_school(data_root, seed=1).examples] != answers


def test_the_checkpoint_says_how_it_was_made(data_root: Path, judge: Path) -> None:
    card = json.loads((judge / CHECKPOINT_CARD).read_text())
    assert (card["style"], card["base"], card["seed"]) == ("reasoned", None, 0)
    assert len(card["data"]) == 6
    record = load_rows(find_task("mtrl_judge_seetrue"), "train", data_root).record
    assert card["data"]["mtrl_judge_seetrue"] == record["fingerprint"]


def test_the_same_seed_teaches_the_same_judge(data_root: Path, judge: Path, tmp_path: Path) -> None:
    teach_tiny_model(data_root, tmp_path / "same", lessons=GLANCE)
    teach_tiny_model(data_root, tmp_path / "other", seed=1, lessons=GLANCE)
    weights = {
        folder: digest([(folder / "model.safetensors").read_bytes()])
        for folder in (judge, tmp_path / "same", tmp_path / "other")
    }
    assert weights[judge] == weights[tmp_path / "same"] != weights[tmp_path / "other"]


def test_drills_are_true_and_half_of_them_same() -> None:
    draw = Random(0)
    same = []
    for _ in range(100):
        for compared in tiny.drill(draw).removeprefix("<think>Compare ")[:-1].split("; "):
            first, second, outcome = re.split(r" and |, ", compared)
            assert outcome == ("same" if first == second else "different")
            same.append(outcome == "same")
    assert 0.4 < sum(same) / len(same) < 0.6


def test_teaching_lowers_the_loss_of_both_parts(data_root: Path) -> None:
    school = load_school(data_root, seed=0)
    torch.manual_seed(0)
    tokenizer = build_tokenizer(school.examples)
    model = build_model(tokenizer)
    patches = tiny.patches_of(build_processor(tokenizer), school.pictures)
    seen: Any = Losses()
    described: Any = Losses()
    tiny.learn_to_see(model, patches, school.truths, tiny.BRIEF, 0, seen)
    features = tiny.features_of(model, patches)
    tiny.learn_to_describe(model, tokenizer, features, school.examples, tiny.BRIEF, 0, described)
    assert seen.values[-1] < 0.9 * seen.values[0]
    assert described.values[-1] < 0.5 * described.values[0]


class Losses:
    """A progress bar that keeps the losses."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def add_task(self, name: str, **fields: Any) -> int:
        return 0

    def update(self, bar: int, *, advance: int, loss: float) -> None:
        self.values.append(loss)


def test_nothing_is_overwritten_unasked(data_root: Path, judge: Path, tmp_path: Path) -> None:
    before = (judge / "model.safetensors").read_bytes()
    with pytest.raises(JudgeError, match="--force"):
        teach_tiny_model(data_root, judge, seed=1, lessons=GLANCE)
    assert (judge / "model.safetensors").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(JudgeError, match="did not write"):
        teach_tiny_model(data_root, tmp_path / "mine", lessons=GLANCE, force=True)


def test_data_that_is_no_sample_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError):
        teach_tiny_model(tmp_path / "data", tmp_path / "out", lessons=GLANCE)
    assert not (tmp_path / "out").exists()
