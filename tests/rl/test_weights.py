"""Every model family: the judge has the best weights, and a resumed run the checkpoint's."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from support.judges import FAMILIES
from support.training import random_judge, run, small_world, values
from transformers import AutoModelForImageTextToText

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.metrics.records import Record
from mtrl_judge.rl.validation import Answer, Validation
from mtrl_judge.rl.weights import BaseWeights, keep_layout, load_weights

LORA = {"use_peft": True, "lora_r": 2, "lora_target_modules": ["all-linear"]}
SCORES = {1: 0.8, 2: 0.5, 3: 0.4}
BEST, STOP, LAST = 1, 2, 3

pytestmark = pytest.mark.usefixtures("one_thread")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*model.safetensors")
    return load_file(file)


def shapes_of(folder: Path) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights_of(folder).items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def scores(self: Validation, trainer: Any) -> list[list[Answer]]:
    """In place of a validation: answers whose score depends on the step alone."""
    score = SCORES[trainer.state.global_step]
    records = [[Record(label, label, True) for label in rows["label"]] for rows in self.rows]
    return [[Answer(record, score, None) for record in of_task] for of_task in records]


def figures(self: Validation, answers: list[list[Answer]]) -> dict[str, float]:
    names = (self.headline, "red/macro_f1", "red/null_rate")
    return dict.fromkeys(names, answers[0][0].correct or 0.0)


def scores_and_stop(self: Validation, trainer: Any) -> list[list[Answer]]:
    if trainer.state.global_step == STOP:
        os.kill(os.getpid(), signal.SIGTERM)
    return scores(self, trainer)


@pytest.mark.parametrize("adapters", [{}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_best_and_resumed_weights_of_every_family(
    family: str,
    adapters: dict[str, Any],
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = FAMILIES[family](tmp_path / "base")
    fields = {**adapters, "max_steps": LAST, "save_steps": 1}
    whole = tmp_path / "whole"
    monkeypatch.setattr(Validation, "run", scores)
    monkeypatch.setattr(Validation, "figures", figures)
    judge = run("sft", values(small_world(base), whole, start, "red", **fields))

    best = weights_of(whole / f"checkpoint-{BEST}")
    last = weights_of(whole / f"checkpoint-{LAST}")
    assert any(not torch.equal(best[name], last[name]) for name in best)
    if adapters:
        assert_equal(weights_of(whole / "adapter"), best)
        model = AutoModelForImageTextToText.from_pretrained(start)
        keep_layout(model, str(start), None)
        merged = PeftModel.from_pretrained(model, str(whole / f"checkpoint-{BEST}"))
        merged.merge_and_unload().save_pretrained(tmp_path / "merged")
        best = weights_of(tmp_path / "merged")
    assert_equal(weights_of(judge), best)
    assert shapes_of(judge) == shapes_of(start)

    stopped = tmp_path / "stopped"
    monkeypatch.setattr(Validation, "run", scores_and_stop)
    given = values(small_world(base), stopped, start, "red", **fields)
    with pytest.raises(SystemExit):
        run("sft", given)
    assert not (stopped / f"checkpoint-{LAST}").exists()
    monkeypatch.setattr(Validation, "run", scores)
    resumed = run("sft", {**given, "resume": True})
    assert_equal(weights_of(stopped / f"checkpoint-{LAST}"), last)
    assert_equal(weights_of(resumed), best)


def test_a_checkpoint_of_another_model_is_not_loaded(base: Path, tmp_path: Path) -> None:
    judge = random_judge(base)
    model = AutoModelForImageTextToText.from_pretrained(judge)
    weights = {name: value + 1 for name, value in weights_of(judge).items()}
    shutil.copytree(judge, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    save_file(weights, file)
    load_weights(model, tmp_path)
    name = "model.language_model.norm.weight"
    assert torch.equal(model.state_dict()[name], weights[name])

    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_file({f"other.{name}": value for name, value in weights.items()}, file)
    with pytest.raises(JudgeError, match=r"lacks \d+ weights \(.*\) and has \d+ weights \(other\."):
        load_weights(model, tmp_path)
    save_file({**weights, "other.weight": torch.ones(1)}, file)
    with pytest.raises(JudgeError, match=r"model: it has 1 weight \(other\.weight\)"):
        load_weights(model, tmp_path)
    assert_equal(dict(model.state_dict()), before)

    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    load_weights(adapted, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({f"other.{name}": value for name, value in load_file(file).items()}, file)
    with pytest.raises(JudgeError, match=r"lacks .* and has .*other\."):
        load_weights(adapted, tmp_path / "adapter")


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_cannot_replace_the_bases_are_refused(family: str, tmp_path: Path) -> None:
    start, judge = FAMILIES[family](tmp_path / "base"), tmp_path / "judge"
    model = AutoModelForImageTextToText.from_pretrained(start)
    expected = BaseWeights.read(str(start), None, model)
    if family == "qwen3_vl_moe":
        model.save_pretrained(tmp_path / "other")
        with pytest.raises(JudgeError, match=r"it has in another shape 4 weights \(.*\.experts\."):
            expected.check(tmp_path / "other")
    keep_layout(model, str(start), None)
    model.save_pretrained(judge, max_shard_size="200KB")
    assert len(list(judge.glob("*.safetensors"))) > 1
    expected.check(judge)
    names = model.state_dict().keys()
    if names != weights_of(start).keys():
        model.save_pretrained(judge, save_original_format=False)
        with pytest.raises(JudgeError, match=r"has \d+ weights \(.*lacks \d+ weights"):
            expected.check(judge)
    shutil.rmtree(judge)
    kept = weights_of(start)
    lost = max(kept)
    del kept[lost]
    judge.mkdir()
    save_file(kept, judge / "model.safetensors")
    with pytest.raises(JudgeError, match=rf"lacks 1 weight \({lost}\)"):
        expected.check(judge)
    (judge / "model.safetensors").unlink()
    with pytest.raises(JudgeError, match="zero3_save_16bit_model: true"):
        expected.check(judge)
