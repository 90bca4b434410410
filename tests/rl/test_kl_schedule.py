"""The KL term's weight over a run: what it is at each step, and what training does with it."""

from __future__ import annotations

import hashlib
import math
import shutil
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from support.shared import random_judge
from support.training import GRPO, guessing_judge, log_of, run, small_world, values

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.rl import memory
from mtrl_judge.rl.callbacks import StopOnSignal
from mtrl_judge.rl.checkpoints import latest_checkpoint
from mtrl_judge.rl.kl_schedule import Ramp, TargetKL, kl_schedule
from mtrl_judge.rl.settings import build_settings, parse_settings
from mtrl_judge.rl.train import build_trainer

pytestmark = pytest.mark.usefixtures("one_thread")

REWARD = {"support.training:alternating": 1.0}  # so that every group trains


def grpo(base: Path, out: Path, beta: Any, **fields: Any) -> dict[str, Any]:
    given = {
        "beta": beta,
        "user_rewards": REWARD,
        "temperature": 1.5,
        "max_steps": 4,
        "save_steps": 4,
        "learning_rate": 1e-2,
        **fields,
    }
    return values(small_world(base), out, guessing_judge(base), "red", **{**GRPO, **given})


def logged(base: Path, out: Path, beta: Any, **fields: Any) -> list[dict[str, Any]]:
    folder = run("grpo", grpo(base, out, beta, **fields)).parent
    lines = [line for line in log_of(folder) if "loss" in line]
    clocks = ("time", "step_time")
    return [{k: v for k, v in line.items() if k not in clocks} for line in lines]


def weights(out: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(out / "judge" / "model.safetensors"))


# The schedules


def test_a_ramp_goes_from_start_to_end_in_its_shape() -> None:
    linear, cosine = Ramp(0.2, 0.0, "linear"), Ramp(0.0, 1.0, "cosine")
    assert [linear.beta(step, 5) for step in range(5)] == pytest.approx([0.2, 0.15, 0.1, 0.05, 0])
    assert [cosine.beta(step, 5) for step in range(5)] == pytest.approx(
        [(1 - math.cos(math.pi * part)) / 2 for part in (0, 0.25, 0.5, 0.75, 1)]
    )
    assert linear.beta(0, 1) == 0.2


def test_the_controller_brings_the_kl_to_its_target() -> None:
    """In a world in which the KL is 0.02 / β, a target of 0.4 needs a β of 0.05."""
    schedule = TargetKL(target_kl=0.4, start=1.0)
    trace = []
    for step in range(400):
        trace.append(schedule.beta(step, 400))
        schedule.end_step(0.02 / trace[-1])
    assert all(0.98 - 1e-9 <= b / a <= 1.02 + 1e-9 for a, b in pairwise(trace))
    assert trace[-1] == pytest.approx(0.05, rel=0.02)


@pytest.mark.parametrize(
    ("beta", "fault"),
    [
        ({"start": 0, "end": 0.1}, "beta: shape: missing"),
        ({"start": 0, "end": 0.1, "shape": "cubic"}, "beta: shape: is 'cubic'; expected 'linear'"),
        ({"start": -1, "end": 1, "shape": "linear"}, "beta: start: is -1; expected greater than"),
        ({"start": 0, "end": 0, "shape": "linear"}, "beta: start and end are 0"),
        ({"target_kl": 0}, "beta: target_kl: is 0; expected greater than 0"),
        ({"target_kl": 0.1, "end": 1}, "beta: end: unknown field"),
        ({}, "beta: start: missing"),
    ],
)
def test_faults_of_a_schedule_are_named(
    base: Path, tmp_path: Path, beta: dict[str, Any], fault: str
) -> None:
    with pytest.raises(JudgeError) as caught:
        build_settings("grpo", grpo(base, tmp_path, beta))
    assert f"settings: {fault}" in str(caught.value)


def test_a_number_is_no_schedule_and_a_schedule_is_read_from_a_flag(
    base: Path, tmp_path: Path
) -> None:
    assert kl_schedule(0.1) is None
    text = "{start: 0, end: 0.1, shape: cosine}"
    settings = build_settings("grpo", grpo(base, tmp_path, text))
    assert kl_schedule(settings.judge.beta) == Ramp(0, 0.1, "cosine")
    assert settings.given["beta"] == {"start": 0, "end": 0.1, "shape": "cosine"}


def test_the_memory_counts_the_reference_model_of_a_schedule() -> None:
    def parts(beta: str) -> dict[str, float]:
        flags = ["--recipe", "qwen3_vl_8b_8gpu", "--dry_run", "--beta", beta]
        settings = parse_settings("grpo", flags)
        found = memory.architecture(str(settings.model.model_name_or_path))
        assert found is not None
        config, _ = found
        return {part.name: part.gib for part in memory.estimate(settings, config, 999).parts}

    assert "reference model" not in parts("0")
    for beta in ("{start: 0, end: 0.1, shape: linear}", "{target_kl: 0.1}"):
        held = parts(beta)
        assert held["reference model"] == held["weights"] > 1


# Training


def test_a_constant_schedule_is_trls_own_bit_for_bit(base: Path, tmp_path: Path) -> None:
    """Also where a generation serves two steps of two micro-batches each."""
    fields = {"gradient_accumulation_steps": 2, "steps_per_generation": 4}
    stock = logged(base, tmp_path / "stock", 0.1, **fields)
    constant = {"start": 0.1, "end": 0.1, "shape": "linear"}
    ours = logged(base, tmp_path / "ours", constant, **fields)
    assert [line.pop("beta") for line in ours] == [0.1] * 4
    assert ours == stock
    assert max(line["kl"] for line in stock) > 1e-4
    mine, trls = weights(tmp_path / "ours"), weights(tmp_path / "stock")
    assert all(torch.equal(mine[name], trls[name]) for name in trls)


@pytest.mark.parametrize("adapters", [False, True])
def test_a_schedule_may_start_at_zero(base: Path, tmp_path: Path, adapters: bool) -> None:
    """With a reference model; the first step is that of a run without a KL term."""
    lora = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["all-linear"]}
    fields = {**(lora if adapters else {}), "steps_per_generation": 2}
    ramp = {"start": 0.0, "end": 0.3, "shape": "linear"}
    lines = logged(base, tmp_path / "ramp", ramp, **fields)
    assert [line["beta"] for line in lines] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert min(line["kl"] for line in lines[1:]) > 0
    without = logged(base, tmp_path / "without", 0.0, **fields)
    assert lines[0]["loss"] == without[0]["loss"]
    assert lines[0]["grad_norm"] == without[0]["grad_norm"]
    assert lines[3]["loss"] != without[3]["loss"]


def test_a_target_is_approached_and_logged(base: Path, tmp_path: Path) -> None:
    """A step's β follows from the KL of the step before."""
    lines = logged(base, tmp_path, {"target_kl": 1e-4, "start": 0.2}, steps_per_generation=2)
    expected = 0.2
    for line in lines:
        assert line["beta"] == pytest.approx(expected, rel=1e-9)
        error = (line["kl"] - 1e-4) / 1e-4
        expected *= 1 + 0.1 * max(-0.2, min(0.2, error))
    assert lines[1]["beta"] == pytest.approx(0.2 * 0.98)
    assert lines[3]["beta"] > lines[1]["beta"]


def test_a_resumed_run_continues_with_its_beta(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the two steps of a generation."""
    interrupted = {"support.training:alternating": 1.0, "support.training:interrupted": 0.0}
    given = {
        "user_rewards": interrupted,
        "steps_per_generation": 2,
        "max_steps": 5,
        "save_steps": 5,
    }
    unbroken = logged(base, tmp_path / "unbroken", {"target_kl": 1e-4, "start": 0.2}, **given)
    monkeypatch.setenv("SIGNAL", f"{int(signal.SIGTERM)}@2")
    with pytest.raises(SystemExit):
        logged(base, tmp_path / "run", {"target_kl": 1e-4, "start": 0.2}, **given)
    stopped = latest_checkpoint(tmp_path / "run")
    assert stopped is not None
    assert stopped.name == "checkpoint-3"
    monkeypatch.delenv("SIGNAL")
    again = {"target_kl": 1e-4, "start": 0.2}
    assert logged(base, tmp_path / "run", again, **given, resume=True) == unbroken
    mine, whole = weights(tmp_path / "run"), weights(tmp_path / "unbroken")
    assert all(torch.equal(mine[name], whole[name]) for name in whole)


def test_the_reference_model_is_the_revision_that_training_starts_from(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache as the hub leaves it, whose newest revision has other weights."""
    model = tmp_path / "hub" / "models--owner--judge"
    for revision, judge in (("main", random_judge(base)), ("release", guessing_judge(base))):
        commit = hashlib.sha1(revision.encode()).hexdigest()
        shutil.copytree(judge, model / "snapshots" / commit)
        (model / "refs").mkdir(exist_ok=True)
        (model / "refs" / revision).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    given = grpo(base, tmp_path / "run", 0.1, model_revision="release")
    settings = build_settings("grpo", {**given, "model_name_or_path": "owner/judge"})
    loaded = [load_rows(task, "train", settings.data_root) for task in settings.tasks]
    trainer = build_trainer(settings, loaded, StopOnSignal())
    started, reference = trainer.model.state_dict(), trainer.ref_model.state_dict()
    assert started.keys() == reference.keys()
    assert all(torch.equal(started[name], reference[name]) for name in started)
