"""GRPO with vLLM in colocate mode: what is sampled is what is trained."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from support import vllm_on_cpu
from support.training import environment, log_of, swap_verdicts

from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.rl.callbacks import StopOnSignal
from mtrl_judge.rl.settings import as_flags, build_settings
from mtrl_judge.rl.train import build_trainer

STEPS = 20
COLOCATE: dict[str, Any] = {
    "use_vllm": True,
    "vllm_mode": "colocate",
    "vllm_max_model_length": 1024,
    "per_device_train_batch_size": 48,
    "disable_tqdm": True,
}
FULL: dict[str, Any] = {}
LORA = {"use_peft": True, "lora_target_modules": ["all-linear"], "learning_rate": 2e-3}
LORA |= {"lora_r": 16, "lora_dropout": 0.0}


@pytest.mark.parametrize("fields", [FULL, LORA], ids=["all weights", "LoRA"])
def test_importance_ratios_stay_near_one(
    sample: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: Any
) -> None:
    run, start = tmp_path / "run", time.monotonic()
    flags = {
        "recipe": "tiny_cpu",
        "model_name_or_path": tiny,
        "data_root": sample,
        "output_dir": run,
        "max_steps": STEPS,
        "eval_on_start": False,
        "eval_strategy": "no",
        "save_strategy": "no",
        "seed": 0,
        **COLOCATE,
        **fields,
    }
    done = subprocess.run(
        [sys.executable, "-m", vllm_on_cpu.__name__, "grpo", *as_flags(flags)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    log = [line for line in log_of(run) if "reward" in line]
    assert len(log) == STEPS
    of = {
        name: [line[f"sampling/{key}"] for line in log]
        for name, key in {
            "least": "importance_sampling_ratio/min",
            "most": "importance_sampling_ratio/max",
            "difference": "sampling_logp_difference/mean",
        }.items()
    }
    accuracy = [line["rewards/accuracy/mean"] for line in log]
    with capsys.disabled():
        print(
            f"\n{STEPS} steps of {COLOCATE['per_device_train_batch_size']} completions, seed 0: "
            f"importance ratios {min(of['least']):.6f} to {max(of['most']):.6f}; difference of "
            f"log-probabilities {fmean(of['difference']):.2g} in the mean; accuracy reward "
            f"{fmean(accuracy[:5]):.3f} in the first five steps, {fmean(accuracy[-5:]):.3f} in the "
            f"last five; {time.monotonic() - start:.0f} s"
        )
    assert min(of["least"]) > 0.99
    assert max(of["most"]) < 1.01


def test_validation_by_vllm_is_validation_by_transformers(
    sample: Path, tiny: Path, tmp_path: Path
) -> None:
    values = {
        "model_name_or_path": str(tiny),
        "output_dir": str(tmp_path / "run"),
        "data_root": str(sample),
        "validation_items": 6,
        **COLOCATE,
    }
    settings = build_settings("grpo", values, recipe="tiny_cpu")
    loaded = [load_rows(task, "train", settings.data_root) for task in settings.tasks]
    trainer = build_trainer(settings, loaded, StopOnSignal())
    swap_verdicts(trainer)  # vLLM has to judge by what is in training, not by the checkpoint
    by_vllm = trainer.validation.run(trainer)
    trainer.use_vllm = False
    assert trainer.validation.run(trainer) == by_vllm
    assert trainer.validation.figures(by_vllm)[settings.headline] > 0
