"""Recipes: where they are, which tasks they name, and the command that starts them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.files import expanded
from mtrl_judge.common.plain_yaml import yaml_mapping
from mtrl_judge.judge_tasks.loading import SHIPPED, find_task, shipped_paths
from mtrl_judge.judge_tasks.spec import GROUPS, JudgeTask

from .arguments import JudgeArguments, Method

RECIPES = Path(__file__).parent / "recipes"

# Seconds that the launcher leaves its processes to finish their step and write a checkpoint when it
# is told to stop; 30 by default (torch/distributed/launcher/api.py), then it kills them.
SHUTDOWN_TIMEOUT = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=3600"

# What the shell of each of several machines fills in.
PLACEHOLDERS = ("$MACHINE_RANK", "$MAIN_PROCESS_IP")


def shipped_recipes(method: Method) -> list[Path]:
    """The recipes that come with the package, by name."""
    return sorted((RECIPES / method).glob("*.yaml"))


def find_recipe(name: str, method: Method, *, field: str = "recipe") -> Path:
    """A shipped recipe by its name, or any recipe by its path.

    Args:
        field: the field that names it, for the message.

    Raises:
        JudgeError: there is no such recipe.
    """
    return find_shipped(field, name, shipped_recipes(method))


def find_accelerate_config(name: str) -> Path:
    """A shipped accelerate configuration by its name, or any by its path.

    Raises:
        JudgeError: there is no such configuration.
    """
    return find_shipped("accelerate", name, sorted((RECIPES / "accelerate").glob("*.yaml")))


def resolve_tasks(names: Sequence[str]) -> list[JudgeTask]:
    """Tasks by names, names of groups and paths of YAMLs; each task once, in the order given.

    Raises:
        JudgeError: a name is unknown, a YAML has faults, or two YAMLs have one name.
    """
    shipped = [path.stem for path in shipped_paths()]
    tasks: dict[str, JudgeTask] = {}
    for name in names:
        if not name.endswith((".yaml", ".yml")) and name not in (*GROUPS, *shipped):
            hint = did_you_mean(name, (*GROUPS, *shipped))
            raise JudgeError(f"tasks: no task, group or .yaml file {name!r}; {hint}")
        members = [name]
        if name in GROUPS:
            members = yaml_mapping(SHIPPED / f"{name}.yaml")["task"]
        for task in map(find_task, members):
            same_name = tasks.setdefault(task.task, task)
            if same_name.path != task.path:
                raise JudgeError(
                    f"tasks: {task.path} and {same_name.path} both define {task.task}; rename one"
                )
    return list(tasks.values())


def launch_command(
    method: Method, judge: JudgeArguments, flags: Sequence[str], *, python: str | None = None
) -> list[str]:
    """The argument list that trains with these flags, under accelerate's launcher where needed.

    With several machines it has ``$MACHINE_RANK`` and ``$MAIN_PROCESS_IP``, for the shell of each
    machine to fill in.

    Args:
        flags: of the training, ``--recipe`` among them; ``--dry_run`` is left out.
        python: run by this interpreter. Default: the commands on the PATH, as a user would.
    """
    training = [method, *(f for f in flags if f.split("=")[0] not in ("--dry_run", "--dry-run"))]
    if judge.processes == 1 and judge.accelerate is None:
        command = [python, "-m", "mtrl_judge.rl.train"] if python else ["mtrl-judge", "train"]
        return [*command, *training]
    command = [python, "-m", "accelerate.commands.launch"] if python else ["accelerate", "launch"]
    command = ["env", SHUTDOWN_TIMEOUT, *command]
    if judge.accelerate is not None:
        command += ["--config_file", str(find_accelerate_config(judge.accelerate))]
    command += ["--num_processes", str(judge.processes)]
    if judge.machines > 1:
        command += ["--num_machines", str(judge.machines), "--machine_rank", "$MACHINE_RANK"]
        command += ["--main_process_ip", "$MAIN_PROCESS_IP", "--main_process_port", "29500"]
    return [*command, "-m", "mtrl_judge.rl.train", *training]


def vllm_server_command(
    model: str,
    *,
    dtype: str,
    max_model_length: int | None,
    processor_options: Mapping[str, Any] | None,
) -> list[str]:
    """The argument list of a vLLM server for ``vllm_mode: server``; options for devices are free.

    See trl/scripts/vllm_serve.py of TRL 1.16 for what TRL needs.

    Args:
        dtype: what the trainer computes in.
        processor_options: vLLM's ``mm_processor_kwargs``; None leaves them to the checkpoint.
    """
    command = ["VLLM_SERVER_DEV_MODE=1", "vllm", "serve", model, "--dtype", dtype]
    if max_model_length is not None:
        command += ["--max-model-len", str(max_model_length)]
    if processor_options is not None:
        command += ["--mm-processor-kwargs", json.dumps(processor_options)]
    transfer = json.dumps({"backend": "nccl"})
    command += ["--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1"]
    return [*command, "--weight-transfer-config", transfer, "--enable-scale-out"]


def as_shell(command: Sequence[str]) -> str:
    """A command for a user's shell; placeholders such as ``$MACHINE_RANK`` stay unquoted.

    >>> as_shell(["train", "a folder", "$MACHINE_RANK"])
    "train 'a folder' $MACHINE_RANK"
    """
    return " ".join(word if word.startswith("$") else shlex.quote(word) for word in command)


def find_shipped(field: str, name: str, shipped: Sequence[Path]) -> Path:
    """A shipped file by its name, or any YAML file by its path.

    Args:
        field: the field or option that names it, for the message.

    Raises:
        JudgeError: there is no such file.
    """
    if name.endswith((".yaml", ".yml")):
        path = expanded(name)
        if not path.is_file():
            raise JudgeError(f"{field}: no file {path}")
        return path
    by_name = {path.stem: path for path in shipped}
    if name not in by_name:
        hint = did_you_mean(name, by_name)
        raise JudgeError(f"{field}: {name!r} is neither shipped nor a .yaml file; {hint}")
    return by_name[name]
