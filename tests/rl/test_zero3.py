"""DeepSpeed ZeRO-3 in two processes trains what one process trains. ``make test-zero3`` runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.engines_on_cpu import SampledByRow
from support.tiny_models import tiny_llava
from support.training import (
    GRPO,
    VALUES,
    environment,
    log_of,
    random_judge,
    run,
    small_world,
    values,
)

from mtrl_judge.rl.recipes import find_accelerate_config
from mtrl_judge.rl.settings import as_flags

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("deepspeed") is None,
        reason="deepspeed is not installed; make test-zero3 installs it",
    ),
    pytest.mark.usefixtures("one_thread"),
]

# SGD, as AdamW makes steps of full size of gradients that are nothing but rounding.
FIELDS = {
    **GRPO,
    "optim": "sgd",
    "learning_rate": 1.0,
    "max_steps": 2,
    "save_steps": 1,
    "save_total_limit": None,
    "generation_kwargs": {"min_new_tokens": GRPO["max_completion_length"]},
    "user_rewards": "{'support.training:drawn_by_tokens': 1.0}",
}
LORA = {
    "use_peft": True,
    "lora_r": 4,
    "lora_dropout": 0.0,
    "lora_target_modules": ["all-linear"],
}


# Five rows are a micro-batch of a process and four a group, some of whose rows the other process
# has: processes need unequally many passes, of unequally many rows.
UNEQUAL = {"per_device_train_batch_size": 10, "gradient_accumulation_steps": 2}


def train_with_zero3(given: dict[str, Any], **variables: str) -> int:
    """Train in two processes, which share the batch of one; the launcher's exit code."""
    split = given["per_device_train_batch_size"] // 2
    own = {"use_cpu": False, "accelerate": "zero3", "processes": 2}
    words = as_flags({**given, **own, "per_device_train_batch_size": split})
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    launch += [f"--config_file={find_accelerate_config('zero3')}", "--num_processes=2"]
    launch += ["--mixed_precision=no", "--main_process_port=0", "-m", "support.engines_on_cpu"]
    done = subprocess.run(
        [*launch, "grpo", *words],
        # The first run builds DeepSpeed's communication between CPUs, which takes minutes, with
        # ninja from the environment; LOCAL_SIZE is for it.
        env=environment(
            ACCELERATE_TORCH_DEVICE="cpu",
            DS_ACCELERATOR="cpu",
            LOCAL_SIZE="2",
            PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            **variables,
        ),
        timeout=900,
        check=False,
    )
    (*_, start) = json.loads(Path(given["output_dir"], "run.json").read_text())["starts"]
    # The process has compared this with the configuration of its trainer's accelerator.
    started = {"type": "DeepSpeed", "version": 3, "processes": 2, "mixed_precision": "no"}
    assert start["engine"] == started
    return done.returncode


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*model.safetensors")
    return load_file(file)


def validations(run_folder: Path) -> list[dict[str, Any]]:
    kept = ("step", "eval_")
    logged = [line for line in log_of(run_folder) if "eval_macro_f1" in line]
    # There is no AUC where weights are sharded.
    return [
        {k: v for k, v in line.items() if k.startswith(kept) and "roc_auc" not in k}
        for line in logged
    ]


def assert_equal_weights(found: Path, expected: Path) -> None:
    """Up to the roundings of float32, as two processes add up in another order."""
    torch.testing.assert_close(weights_of(found), weights_of(expected), rtol=0, atol=2e-6)


def moved(run_folder: Path) -> float:
    """The largest change of a weight in the second step."""
    first, last = (weights_of(run_folder / f"checkpoint-{step}") for step in (1, 2))
    return max(float((last[name] - first[name]).abs().max()) for name in first)


@pytest.mark.parametrize(
    ("fields", "tokens"), [({}, None), (LORA, None), (UNEQUAL, 1)], ids=["full", "lora", "passes"]
)
def test_two_processes_train_what_one_does(
    fields: dict[str, Any],
    tokens: int | None,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With `micro_batch_tokens` too, of which 1 gives each group a pass of its own."""
    start, one, two = tiny_llava(tmp_path / "base"), tmp_path / "one", tmp_path / "two"
    given = values(small_world(base), one, start, **{**FIELDS, **fields})
    monkeypatch.setattr(torch, "multinomial", SampledByRow())
    run("grpo", given)
    passes = {"micro_batch_tokens": tokens} if tokens else {}
    assert train_with_zero3({**given, "output_dir": str(two), **passes}) == 0

    assert moved(one) > 1e-2
    assert [line["step"] for line in validations(one)] == [1, 2]
    assert validations(two) == validations(one)
    for folder in ("checkpoint-1", "checkpoint-2", "judge"):
        assert_equal_weights(two / folder, one / folder)
    assert weights_of(two / "judge").keys() == weights_of(start).keys()


def test_a_stopped_run_resumes(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    rewards = "{'support.training:drawn_by_tokens': 1.0, 'support.training:interrupted': 0.5}"
    fields = {**FIELDS, "user_rewards": rewards}
    given = values(small_world(base), one, random_judge(base), **fields)
    signal_in_first = f"{signal.SIGTERM:d}@0"
    monkeypatch.setenv("SIGNAL", signal_in_first)
    monkeypatch.setattr(torch, "multinomial", SampledByRow())
    with pytest.raises(SystemExit):
        run("grpo", given)
    monkeypatch.delenv("SIGNAL")
    monkeypatch.setattr(torch, "multinomial", SampledByRow())
    run("grpo", {**given, "resume": True})
    assert moved(one) > 1e-2

    given["output_dir"] = str(two)
    assert train_with_zero3(given, SIGNAL=signal_in_first) != 0
    assert sorted(path.name for path in two.glob("checkpoint-*")) == ["checkpoint-1"]
    assert train_with_zero3({**given, "resume": True}) == 0
    for folder in ("checkpoint-2", "judge"):
        assert_equal_weights(two / folder, one / folder)


def test_grpo_starts_from_its_warm_up(base: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "warm.yaml"
    # Another batch size than that of GRPO, which DeepSpeed's configuration contains.
    steps = {"max_steps": 1, "save_steps": 1, "per_device_train_batch_size": 2}
    recipe.write_text(yaml.safe_dump({**VALUES, **steps, "use_cpu": False}))
    out = tmp_path / "run"
    # A learning rate of 0: what comes out is what the warm-up made.
    fields = {**FIELDS, "warm_up": str(recipe), "learning_rate": 0.0, "max_steps": 1}
    given = values(small_world(base), out, random_judge(base), **fields)
    assert train_with_zero3(given) == 0
    before = weights_of(random_judge(base))
    warmed, judge = (weights_of(folder / "judge") for folder in (out / "warm_up", out))
    assert warmed.keys() == before.keys()
    assert any(not torch.equal(warmed[name], before[name]) for name in before)
    torch.testing.assert_close(judge, warmed, rtol=0, atol=0)
    for folder in (out / "warm_up", out):
        assert json.loads((folder / "run.json").read_text())["finished"]["step"] == 1
