"""The tiny model: its tokenizer, its vision tower against Qwen3-VL's own, a short pretraining."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.limits import limited_files
from transformers import AutoModelForImageTextToText, AutoProcessor

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.demo import pretrain
from mtrl_judge.demo.curriculum import load_curriculum
from mtrl_judge.demo.pretrain import BRIEF, Phase, Schedule, pretrain_tiny_model
from mtrl_judge.demo.tiny_model import build_model, build_processor, build_tokenizer, prompt_text
from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD, STYLES, Style

FEW_STEPS = Schedule(Phase(2, 4, 2e-3), Phase(2, 4, 5e-3), Phase(2, 4, 2.5e-3))


@pytest.fixture(scope="module")
def judge(sample_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("judge") / "tiny"
    pretrain_tiny_model(sample_root, out, schedule=FEW_STEPS)
    return out


@pytest.fixture(scope="module")
def processor(judge: Path) -> Any:
    return AutoProcessor.from_pretrained(judge)


@pytest.fixture(scope="module")
def model(judge: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(judge).eval()


def rows_of(sample_root: Path, task: str, split: Any = "train") -> list[JudgeRow]:
    dataset = load_rows(find_task(task), split, sample_root).rows.dataset
    return [JudgeRow.from_doc(doc) for doc in dataset]


def inputs_of(processor: Any, row: JudgeRow, style: Style) -> Any:
    text = processor.apply_chat_template(
        render_messages(row, style), tokenize=False, add_generation_prompt=True
    )
    return processor(text=[text], images=list(row.images), return_tensors="pt")


def test_it_is_a_qwen3_vl_of_about_a_million_parameters(model: Any) -> None:
    assert model.config.model_type == "qwen3_vl"
    assert 0.7e6 < sum(p.numel() for p in model.parameters()) < 1.3e6


def test_prompts_are_few_tokens(sample_root: Path, processor: Any) -> None:
    """Each passage that all prompts of a task share is one token, and decodes to itself."""
    for task in ("mtrl_judge_agin_nat", "mtrl_judge_seetrue", "mtrl_judge_unsafebench"):
        for row in rows_of(sample_root, task)[:4]:
            text = prompt_text(processor.tokenizer, row, "reasoned")
            tokens = processor.tokenizer(text)["input_ids"]
            assert len(tokens) < 45 < len(text.split())
            assert processor.tokenizer.decode(tokens) == text


@given(text=st.text())
def test_the_tokenizer_is_lossless(processor: Any, text: str) -> None:
    tokens = processor.tokenizer(text)["input_ids"]
    assert processor.tokenizer.decode(tokens) == text


def test_targets_of_a_rotated_image(processor: Any) -> None:
    """A car left of a tree upside down becomes a tree left of a car upside down."""
    car = {"name": "car", "x": 16.0, "y": 16.0, "width": 26.0, "upside_down": False}
    tree = {"name": "tree", "x": 48.0, "y": 16.0, "width": 26.0, "upside_down": True}
    after = [
        {**tree, "x": 16.0, "y": 48.0, "upside_down": False},
        {**car, "x": 48.0, "y": 48.0, "upside_down": True},
    ]
    targets, expected_targets = (
        pretrain.vision_targets([{"things": things, "fault": None}])
        for things in ([car, tree], after)
    )
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    patches, expected_patches = (
        pretrain.image_patches(processor, [i]) for i in (image, image.rotate(180))
    )
    rotated_patches, rotated_targets = pretrain.rotate(patches, targets)
    assert torch.equal(rotated_targets, expected_targets)
    assert torch.equal(rotated_patches, expected_patches)


@pytest.mark.parametrize(
    ("task", "images"), [("mtrl_judge_seetrue", 1), ("mtrl_judge_mjbench_safety", 2)]
)
@pytest.mark.parametrize("style", STYLES)
def test_pretraining_sees_what_the_model_sees(
    sample_root: Path, processor: Any, model: Any, task: str, images: int, style: Style
) -> None:
    """The tokens and image features of pretraining are those of the real forward pass."""
    row = rows_of(sample_root, task, "test")[0]
    assert len(row.images) == images
    inputs = inputs_of(processor, row, style)
    tokens = processor.tokenizer(prompt_text(processor.tokenizer, row, style))["input_ids"]
    assert inputs["input_ids"][0].tolist() == tokens
    patches = pretrain.image_patches(processor, row.images)
    assert torch.equal(patches.flatten(0, 1), inputs["pixel_values"])
    with torch.no_grad():
        stock = model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
        ours = pretrain.vision_features(model.model.visual, patches)
    torch.testing.assert_close(ours.flatten(0, 1), stock.pooler_output, atol=1e-5, rtol=1e-4)


def test_the_curriculum_has_both_styles_for_one_image_and_for_pairs(sample_root: Path) -> None:
    curriculum = load_curriculum(sample_root, seed=0)
    combinations = {(example.style, len(example.images)) for example in curriculum.examples}
    assert combinations == {
        (style, images) for style in ("reasoned", "direct") for images in (1, 2)
    }
    assert all(max(example.images) < len(curriculum.images) for example in curriculum.examples)
    same, other = (load_curriculum(sample_root, seed=seed).examples for seed in (0, 1))
    answers = [example.answer for example in curriculum.examples]
    assert [example.answer for example in same] == answers
    assert [example.answer for example in other] != answers


def test_the_card_records_seed_and_data(sample_root: Path, judge: Path) -> None:
    card = json.loads((judge / CHECKPOINT_CARD).read_text())
    assert (card["style"], card["base"], card["seed"]) == ("reasoned", None, 0)
    assert len(card["data"]) == 6
    record = load_rows(find_task("mtrl_judge_seetrue"), "train", sample_root).record
    assert card["data"]["mtrl_judge_seetrue"] == record["fingerprint"]


def test_the_same_seed_gives_the_same_weights(
    sample_root: Path, judge: Path, tmp_path: Path
) -> None:
    pretrain_tiny_model(sample_root, tmp_path / "same", schedule=FEW_STEPS)
    pretrain_tiny_model(sample_root, tmp_path / "other", seed=1, schedule=FEW_STEPS)
    first, same, other = (
        (folder / "model.safetensors").read_bytes()
        for folder in (judge, tmp_path / "same", tmp_path / "other")
    )
    assert first == same != other


def test_half_of_the_comparisons_are_of_equal_words() -> None:
    rng = Random(0)
    equal = []
    for _ in range(100):
        drill = pretrain.comparison_drill(rng).removeprefix("<think>Compare ")[:-1]
        for compared in drill.split("; "):
            first, second, outcome = re.split(r" and |, ", compared)
            assert outcome == ("same" if first == second else "different")
            equal.append(outcome == "same")
    assert 0.4 < sum(equal) / len(equal) < 0.6


def test_pretraining_lowers_the_loss(sample_root: Path) -> None:
    curriculum = load_curriculum(sample_root, seed=0)
    torch.manual_seed(0)
    tokenizer = build_tokenizer(curriculum.examples)
    model = build_model(tokenizer)
    patches = pretrain.image_patches(build_processor(tokenizer), curriculum.images)
    losses = pretrain.train_vision(model, patches, curriculum.truths, BRIEF.vision, 0)
    assert losses[-1] < 0.9 * losses[0]
    with torch.no_grad():
        features = pretrain.vision_features(model.model.visual, patches)
    losses = pretrain.train_text(model, tokenizer, features, curriculum.examples, BRIEF.text, 0)
    assert losses[-1] < 0.5 * losses[0]


def test_existing_files_are_kept(sample_root: Path, judge: Path, tmp_path: Path) -> None:
    before = (judge / "model.safetensors").read_bytes()
    with pytest.raises(JudgeError, match="--force"):
        pretrain_tiny_model(sample_root, judge, seed=1, schedule=FEW_STEPS)
    assert (judge / "model.safetensors").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(JudgeError, match="did not write"):
        pretrain_tiny_model(sample_root, tmp_path / "mine", schedule=FEW_STEPS, force=True)


def test_a_full_disk_leaves_the_earlier_model(sample_root: Path, judge: Path) -> None:
    before = {file.name: file.read_bytes() for file in judge.iterdir()}
    with limited_files(100_000), pytest.raises(JudgeError, match="tiny: cannot be written"):
        pretrain_tiny_model(sample_root, judge, seed=1, schedule=FEW_STEPS, force=True)
    assert {file.name: file.read_bytes() for file in judge.iterdir()} == before
    assert [path.name for path in judge.parent.iterdir()] == [judge.name]


def test_a_folder_that_is_gone_meanwhile_is_one_message(
    sample_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "there" / "tiny"

    def replace_folder(*_: object) -> None:
        shutil.rmtree(out.parent)
        out.parent.touch()

    monkeypatch.setattr(pretrain, "train_text", replace_folder)
    with pytest.raises(JudgeError, match="tiny: cannot be written"):
        pretrain_tiny_model(sample_root, out, schedule=FEW_STEPS)


def test_other_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError):
        pretrain_tiny_model(tmp_path / "data", tmp_path / "out", schedule=FEW_STEPS)
    assert not (tmp_path / "out").exists()
