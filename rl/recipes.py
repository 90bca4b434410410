"""Recipes: where they are, what tasks they name, how they are launched."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.loading import SHIPPED, find_task, shipped_paths
from mtrl_judge.judge_tasks.spec import GROUPS, JudgeTask

from .arguments import JudgeArguments, Method

RECIPES = Path(__file__).parent / "recipes"


def shipped_recipes(method: Method) -> list[Path]:
    """The recipes that come with the package, by name."""
    return sorted((RECIPES / method).glob("*.yaml"))


def find_recipe(name: str, method: Method, *, field: str = "recipe") -> Path:
    """A shipped recipe by its name, or any recipe by its path.

    Args:
        field: what names it, for the message.

    Raises:
        JudgeError: there is no such recipe.
    """
    return _find(field, name, shipped_recipes(method))


def find_accelerate_config(name: str) -> Path:
    """A shipped accelerate configuration by its name, or any by its path.

    Raises:
        JudgeError: there is no such configuration.
    """
    return _find("accelerate", name, sorted((RECIPES / "accelerate").glob("*.yaml")))


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
        for task in map(find_task, _members(name)):
            other = tasks.setdefault(task.task, task)
            if other.path != task.path:
                raise JudgeError(
                    f"tasks: {task.path}: {task.task} is the name of {other.path} too; rename one"
                )
    return list(tasks.values())


def launch_command(method: Method, judge: JudgeArguments, argv: Sequence[str]) -> str:
    """The command that trains with these flags, under a launcher where there are many processes."""
    own = [word for word in argv if word.split("=")[0] not in ("--dry_run", "--dry-run")]
    arguments = [method, *own]
    if judge.processes == 1 and judge.accelerate is None:
        return shlex.join(["mtrl-judge", "train", *arguments])
    words = ["accelerate", "launch"]
    if judge.accelerate is not None:
        words += ["--config_file", str(find_accelerate_config(judge.accelerate))]
    words += ["--num_processes", str(judge.processes)]
    command = shlex.join(words)
    if judge.machines > 1:
        # Left to the shell of each machine.
        command += f" --num_machines {judge.machines} --machine_rank $MACHINE_RANK"
        command += " --main_process_ip $MAIN_PROCESS_IP --main_process_port 29500"
    return f"{command} {shlex.join(['-m', 'mtrl_judge.rl.train', *arguments])}"


def _find(field_name: str, name: str, shipped: Sequence[Path]) -> Path:
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise JudgeError(f"{field_name}: no file {path}")
        return path
    by_name = {path.stem: path for path in shipped}
    if name not in by_name:
        hint = did_you_mean(name, by_name)
        raise JudgeError(f"{field_name}: nothing shipped is called {name!r}, nor a .yaml; {hint}")
    return by_name[name]


def _members(name: str) -> list[str]:
    if name not in GROUPS:
        return [name]
    group = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text(encoding="utf-8"))
    return [str(member) for member in group["task"]]
