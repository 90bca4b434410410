"""The engine that a run is distributed by is the one that its recipe names."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import DistributedType
from support.training import GRPO, random_judge, small_world, values

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.rl import train
from mtrl_judge.rl.engine import check_engine, named_engine
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
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the variables that accelerate's launcher sets for it."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    out = tmp_path / "run"
    given = values(small_world(base), out, random_judge(base), **GRPO, accelerate="fsdp2")
    with pytest.raises(SystemExit) as stopped:
        train.main(["grpo", *as_flags(given)])
    message = str(stopped.value.code)
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
    fields = {"n_gpu": 1, **fields}
    return SimpleNamespace(distributed_state=state, device=device, world_size=processes, **fields)


DDP = on_gpus(DistributedType.MULTI_GPU)
ZERO = on_gpus(DistributedType.DEEPSPEED, deepspeed_plugin=SimpleNamespace(zero_stage=2))
EIGHT = on_gpus(DistributedType.NO, 1, n_gpu=8)
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
