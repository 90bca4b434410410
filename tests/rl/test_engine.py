"""The engine that a run is distributed by is the one that its recipe names."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from support.engines_on_cpu import SampledByRow
from support.training import (
    GRPO,
    environment,
    guessing_judge,
    log_of,
    random_judge,
    small_world,
    values,
)

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.rl import train
from mtrl_judge.rl.engine import check_engine, named_engine
from mtrl_judge.rl.recipes import launch_command
from mtrl_judge.rl.settings import Settings, as_flags, build_settings


def settings_of(base: Path, out: Path, **fields: Any) -> Settings:
    return build_settings(
        "grpo", values(small_world(base), out, random_judge(base), **GRPO, **fields)
    )


def test_a_configuration_names_its_engine(base: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "distributed_type: DEEPSPEED\ndeepspeed_config: {deepspeed_config_file: ds.json}"
    )
    for name, shown in (
        ("fsdp2", "FSDP 2"),
        ("zero3", "DeepSpeed ZeRO 3"),
        (str(own), "DeepSpeed"),
        (None, "one process"),
    ):
        settings = settings_of(base, tmp_path / "run", accelerate=name)
        assert str(named_engine(settings.judge)) == shown
    own.write_text("- a list")
    with pytest.raises(JudgeError, match=r"accelerate: .*own\.yaml: expected one `field: value`"):
        settings_of(base, tmp_path / "run", accelerate=str(own))


def test_a_cpu_does_not_silently_train_without_fsdp(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the variables that accelerate's launcher sets for it."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    out = tmp_path / "run"
    given = values(small_world(base), out, random_judge(base), **GRPO, accelerate="fsdp2")
    with pytest.raises(SystemExit):
        train.main(["grpo", *as_flags(given)])
    message = capsys.readouterr().err
    assert (
        "accelerate: fsdp2 is FSDP 2, but one process started: on a CPU, accelerate ignores"
        in message
    )
    assert re.search(r"accelerate launch --config_file \S+fsdp2.yaml --num_processes 1 -m", message)
    assert not out.exists()


def on_gpus(kind: DistributedType, processes: int = 2, **fields: Any) -> Any:
    """The part of ``TrainingArguments`` that says what accelerate started, on GPUs."""
    state = SimpleNamespace(distributed_type=kind)
    device = SimpleNamespace(type="cuda")
    fields = {"n_gpu": 1, "fp16": False, "bf16": True, "mixed_precision": "bf16", **fields}
    return SimpleNamespace(distributed_state=state, device=device, world_size=processes, **fields)


DDP = on_gpus(DistributedType.MULTI_GPU)
ZERO = on_gpus(DistributedType.DEEPSPEED, deepspeed_plugin=SimpleNamespace(zero_stage=2))
EIGHT = on_gpus(DistributedType.NO, 1, n_gpu=8)
HALF = on_gpus(DistributedType.MULTI_GPU, bf16=False)
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}  # as the launcher sets them
STARTED: list[tuple[str | None, Any, dict[str, str], str | None]] = [
    ("fsdp2", DDP, FSDP, None),
    (
        "zero3",
        DDP,
        {},
        r"zero3 is DeepSpeed ZeRO 3, but DDP started\. Start with:\n .*/zero3\.yaml",
    ),
    ("zero3", ZERO, {}, "zero3 is DeepSpeed ZeRO 3, but DeepSpeed ZeRO 2 started"),
    ("fsdp2", DDP, {**FSDP, "FSDP_VERSION": "1"}, "fsdp2 is FSDP 2, but FSDP 1 started"),
    (None, DDP, {}, None),
    (None, HALF, {}, "bf16: is false, but accelerate started with mixed_precision: bf16"),
    (None, DDP, FSDP, "accelerate: is not set, but FSDP 2 started"),
    (None, EIGHT, {}, "sees 8 GPUs .*\n  CUDA_VISIBLE_DEVICES=0 mtrl-judge train"),
]


@pytest.mark.parametrize(("accelerate", "arguments", "variables", "message"), STARTED)
def test_another_engine_than_the_recipes_is_refused(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    accelerate: str | None,
    arguments: Any,
    variables: dict[str, str],
    message: str | None,
) -> None:
    settings = settings_of(base, tmp_path / "run", accelerate=accelerate)
    judge = replace(settings.judge, processes=arguments.world_size)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = replace(settings, judge=judge, trainer=arguments)
    if message is None:
        check_engine(settings)
    else:
        with pytest.raises(JudgeError, match=f"(?s){message}"):
            check_engine(settings)


def figures_of(folder: Path) -> list[dict[str, float]]:
    named = re.compile(r"step$|loss$|grad_norm$|reward$|entropy$|length$|eval_")
    return [
        # There is no AUC under FSDP2.
        {name: v for name, v in line.items() if named.search(name) and "roc_auc" not in name}
        for line in log_of(folder)
        if "train_runtime" not in line
    ]


# SGD, as AdamW makes steps of full size of gradients that are nothing but rounding. Five rows are a
# micro-batch of a process and four a group, some of whose rows another process has: processes need
# unequally many passes, of unequally many rows.
BOTH = {
    **GRPO,
    "gradient_accumulation_steps": 2,
    "max_steps": 2,
    "save_steps": 1,
    "optim": "sgd",
    "learning_rate": 0.1,
    "generation_kwargs": {"min_new_tokens": GRPO["max_completion_length"]},
    "user_rewards": "{'support.training:drawn_by_tokens': 1.0}",
}


@pytest.fixture(scope="module")
def one_process(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of one process, each with a validation after a generation."""
    out, fields = tmp_path_factory.mktemp("engine") / "one", {"per_device_train_batch_size": 10}
    given = values(small_world(base), out, guessing_judge(base), "red", "guess", **BOTH, **fields)
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(torch, "multinomial", SampledByRow())
        train.main(["grpo", *as_flags(given)])
    return out


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(("engine", "tokens"), [("fsdp2", None), ("fsdp2", 1), (None, 1)], ids=str)
def test_two_processes_train_as_one_does(
    base: Path, tmp_path: Path, one_process: Path, engine: str | None, tokens: int | None
) -> None:
    """With `micro_batch_tokens` too, of which 1 gives each group a pass of its own."""
    one, two = one_process, tmp_path / "two"
    fields: dict[str, Any] = {"processes": 2, "use_cpu": engine is None}
    fields |= {"accelerate": engine} if engine else {}
    fields |= {"micro_batch_tokens": tokens} if tokens else {}
    fields |= {"per_device_train_batch_size": 5, **BOTH}
    given = values(small_world(base), two, guessing_judge(base), "red", "guess", **fields)
    judge = replace(settings_of(base, one).judge, processes=2, accelerate=engine)
    on_cpu = {"ACCELERATE_TORCH_DEVICE": "cpu"} if engine else {"ACCELERATE_USE_CPU": "true"}
    words = launch_command("grpo", judge, as_flags(given), python=sys.executable)
    words[words.index("mtrl_judge.rl.train")] = "support.engines_on_cpu"
    at = words.index("--num_processes")
    words[at:at] = ["--mixed_precision", "no", "--main_process_port", "0"]
    words[at:at] = [] if engine else ["--multi_gpu"]  # --cpu would start one process
    done = subprocess.run(
        words,
        env=environment(**on_cpu),
        capture_output=True,
        text=True,
        timeout=300,  # processes that wait for each other
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (start,) = json.loads((two / "run.json").read_text())["starts"]
    # The process has compared this with `fsdp_plugin.fsdp_version` of its trainer's accelerator.
    kind = {"type": "FSDP", "version": 2} if engine else {"type": "DDP", "version": None}
    assert start["engine"] == {**kind, "processes": 2, "mixed_precision": "no"}
    validated = [line["eval_guess/macro_f1"] for line in log_of(one) if "eval_macro_f1" in line]
    assert all(0 < score < 1 for score in validated)
    for ours, theirs in zip(figures_of(two), figures_of(one), strict=True):
        if tokens:  # the log has its mean over passes, and processes need unequally many
            for figures in (ours, theirs):
                figures.pop("entropy", None)
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    before = load_file(guessing_judge(base) / "model.safetensors")
    for folder in ("checkpoint-2", "judge"):
        weights, found = (load_file(out / folder / "model.safetensors") for out in (one, two))
        moved = max(float((weights[name] - before[name]).abs().max()) for name in weights)
        assert moved > 1e-3
        torch.testing.assert_close(found, weights, rtol=0, atol=1e-5)
