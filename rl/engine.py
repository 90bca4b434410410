"""The engine that distributes a run over processes: what the recipe names and what was started.

accelerate decides by the configuration that its launcher is given. Without one it trains with DDP,
and on a CPU it ignores FSDP and DeepSpeed (``AcceleratorState`` in accelerate/state.py of 1.15).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from mtrl_judge.common.errors import JudgeError

from .arguments import JudgeArguments
from .fields import read_recipe
from .recipes import as_shell, find_accelerate_config, launch_command

if TYPE_CHECKING:
    from .settings import Settings

EngineType: TypeAlias = Literal["one process", "DataParallel", "DDP", "FSDP", "DeepSpeed"]


class Engine(NamedTuple):
    """How a run is distributed."""

    type: EngineType
    version: int | None = None
    """FSDP's version, or DeepSpeed's ZeRO stage."""

    def __str__(self) -> str:
        stage = "ZeRO " if self.type == "DeepSpeed" else ""
        return self.type if self.version is None else f"{self.type} {stage}{self.version}"


def named_engine(judge: JudgeArguments) -> Engine:
    """The engine of the configuration that ``accelerate`` names.

    Raises:
        JudgeError: there is no such configuration, or it is no valid YAML.
    """
    values: dict[str, Any] = {}
    if judge.accelerate is not None:
        values, faults = read_recipe(find_accelerate_config(judge.accelerate))
        if faults:
            raise JudgeError("\n".join(f"accelerate: {fault}" for fault in faults))
    kind = str(values.get("distributed_type"))
    if kind == "FSDP":
        return Engine("FSDP", (values.get("fsdp_config") or {}).get("fsdp_version", 1))
    if kind == "DEEPSPEED":
        # The stage may be in a file of DeepSpeed's own.
        return Engine("DeepSpeed", (values.get("deepspeed_config") or {}).get("zero_stage"))
    return Engine("DDP" if judge.processes > 1 else "one process")


def started_engine(arguments: Any) -> Engine:
    """The engine that accelerate started this process for.

    Args:
        arguments: the run's ``TrainingArguments``.
    """
    from accelerate.utils import DistributedType, parse_flag_from_env

    kind = arguments.distributed_state.distributed_type
    if kind == DistributedType.DEEPSPEED:
        return Engine("DeepSpeed", arguments.deepspeed_plugin.zero_stage)
    if kind == DistributedType.NO:
        return Engine("one process" if arguments.n_gpu <= 1 else "DataParallel")
    # accelerate decides on FSDP only when the trainer is made, by this variable of its launcher.
    if kind != DistributedType.MULTI_CPU and parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return Engine("FSDP", int(os.environ.get("FSDP_VERSION", "1")))
    return Engine("DDP" if arguments.world_size > 1 else "one process")


def check_engine(settings: Settings) -> None:
    """Check that accelerate started the engine and the precision that the recipe names.

    Raises:
        JudgeError: it started another one, with the command that starts the right one.
    """
    judge, arguments = settings.judge, settings.trainer
    named, started = named_engine(judge), started_engine(arguments)
    precision = "fp16" if arguments.fp16 else "bf16" if arguments.bf16 else "no"
    if arguments.mixed_precision != precision:  # then transformers takes the launcher's
        raise JudgeError(
            f"bf16: is false, but accelerate started with mixed_precision: "
            f"{arguments.mixed_precision}; set the field of that name, or start with "
            "--mixed_precision no"
        )
    if named.type == started.type and str(named.version) in ("None", str(started.version)):
        return
    command = as_shell(launch_command(settings.method, judge, settings.flags))
    if started.type == "DataParallel":
        raise JudgeError(
            f"processes: is {judge.processes}, but this process sees {arguments.n_gpu} GPUs and "
            "would spread each batch over them. Start with one of them:\n"
            f"  CUDA_VISIBLE_DEVICES=0 {command}\n"
            f"or with a process for each: --processes {arguments.n_gpu}"
        )
    if judge.accelerate is None:
        raise JudgeError(
            f"accelerate: is not set, but {started} started. Set it to the configuration that you "
            f"start with (--accelerate FILE), or start with:\n  {command}"
        )
    what = f"accelerate: {judge.accelerate} is {named}, but {started} started"
    if arguments.device.type == "cpu":
        raise JudgeError(
            f"{what}: on a CPU, accelerate ignores FSDP and DeepSpeed. Leave `accelerate` out of "
            f"the recipe, or start on GPUs with:\n  {command}"
        )
    raise JudgeError(f"{what}. Start with:\n  {command}")


def confirm_engine(settings: Settings, accelerator: Any) -> None:
    """Check that what :func:`started_engine` foresaw is what the trainer's accelerator runs.

    Raises:
        RuntimeError: it is not, so this version of accelerate decides by something else.
    """
    started, state = started_engine(settings.trainer), accelerator.state
    running = None
    if fsdp := getattr(state, "fsdp_plugin", None):
        running = Engine("FSDP", fsdp.fsdp_version)
    elif state.deepspeed_plugin:
        running = Engine("DeepSpeed", state.deepspeed_plugin.zero_stage)
    if running != (started if started.type in ("FSDP", "DeepSpeed") else None):
        raise RuntimeError(f"{started} was started, but accelerate runs {running}")
