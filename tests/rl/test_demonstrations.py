"""Demonstrations in training: in its prompts and in those of validation."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from support.shared import random_judge
from support.training import run, values, write_world

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.rl.dataset import training_set
from mtrl_judge.rl.demonstrations import TrainingDemonstrations
from mtrl_judge.rl.model import load
from mtrl_judge.rl.settings import build_settings
from mtrl_judge.rl.validation_items import validation_rows

SHOWN = {"k": 2, "by": ["image", "text"], "encoder": "judge", "stratify": "label"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def settings_of(world: Path, judge: Path, **fields: Any) -> Any:
    return build_settings("grpo", values(world, world / "out", judge, "red", **fields))


def test_rows_of_training_and_validation_show_training_items(world: Path, base: Path) -> None:
    settings = settings_of(world, random_judge(base), demonstrations=SHOWN)
    (task,) = settings.tasks
    demonstrations = TrainingDemonstrations(settings, *load(settings))
    loaded = demonstrations.attach(load_rows(task, "train", settings.data_root))
    dataset = training_set(settings, [loaded])
    train = {row["item_id"] for row in dataset}
    row = dataset[0]
    roles = [message["role"] for message in row["prompt"]]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    assert len(row["images"]) == 3
    answers = {message["content"][0]["text"] for message in row["prompt"][1::2]}
    assert answers == {"Yes", "No"}  # one of each label
    for rows in (loaded.rows.dataset, validation_rows(task, settings, demonstrations)):
        for doc in rows:
            asked = JudgeRow.from_doc(doc)
            shown = [each.item_id for each in asked.demonstrations]
            assert len(shown) == 2
            assert asked.item_id not in shown
            assert {*shown} <= train


def test_a_recipe_says_which_and_the_style_follows_the_data(
    world: Path, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judge = random_judge(base)
    assert settings_of(world, judge, style=None).style == "reasoned"
    settings = settings_of(world, judge, style=None, demonstrations={"k": 1})
    assert (settings.style, settings.asked_style) == ("direct", "reasoned")
    assert settings.given["demonstrations"] == {"k": 1}
    with pytest.raises(JudgeError, match="demonstrations: encoder: is missing"):
        settings_of(world, judge, demonstrations={"k": 1, "by": ["text"]})
    del caplog


@pytest.mark.slow
@pytest.mark.parametrize("share_prompt", [True, False])
def test_a_run_trains_with_them_and_records_them(
    world: Path, base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, share_prompt: bool
) -> None:
    fields: dict[str, Any] = {
        "num_generations": 4,
        "max_completion_length": 4,
        "max_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "share_prompt": share_prompt,
        "demonstrations": SHOWN,
        "style": None,
    }
    with caplog.at_level(logging.INFO, "mtrl_judge"):
        judge = run("grpo", values(world, tmp_path / "run", random_judge(base), "red", **fields))
    assert json.loads((judge / "mtrl_judge.json").read_text())["style"] == "direct"
    said = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("style: direct and not reasoned") for line in said)
    kept = [line for line in said if "demonstrations of the" in line]
    assert [line.split(": demonstrations of the ")[1][:5] for line in kept] == ["train", "valid"]
