"""``mtrl-judge experiment``: the paper's comparison in one command.

The arms: the base model as it is (off the shelf), and from it SFT and GRPO, on one task each
(SFT-Single, RL-Single) and on all tasks together (SFT-Unified, MT-RL-Judge). Each judge is trained
in a process of its own, then judged by the stock lmms-eval.

A recipe with ``max_steps`` gives a run on one of its tasks a third of the steps
(:data:`SINGLE_SHARE`), with as many validations as the run on all tasks has; a recipe in epochs
gives both its epochs. Both learn with the same batch size and learning rate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.files import read_json, write_json
from mtrl_judge.judge_tasks.loading import SHIPPED
from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.leaderboard.compatibility import tasks_of
from mtrl_judge.leaderboard.reading import complete_run
from mtrl_judge.rl.arguments import METHODS, Method
from mtrl_judge.rl.model import JUDGE
from mtrl_judge.rl.recipes import resolve_tasks
from mtrl_judge.rl.run_record import FREE_FIELDS
from mtrl_judge.rl.settings import Settings, build_settings

from .paper_tables import BASE, OURS, SFT, Figure, compare, printed, write_report
from .pipeline import Step, listed, run_steps
from .stages import (
    base_step,
    environment_of,
    evaluation_flags,
    evaluation_step,
    sample_step,
    training_step,
)

TINY = "tiny_cpu"
BASE_SEED = 0  # of the sample and the tiny base model; an experiment's seeds vary the training
SINGLE_SHARE = 3
EXPERIMENT_FILE, STEPS_FILE = "experiment.json", "steps.json"
_MODEL = "model_name_or_path"
_RUNS, _EVALUATIONS, _LOGS = "runs", "evaluations", "logs"


@dataclass(frozen=True)
class Arm:
    """A way to come to a judge."""

    name: str
    method: Method | None
    single: bool = False

    @property
    def key(self) -> str:
        """Its name in paths and flags."""
        return self.name.lower().replace(" ", "-")


ARMS = (
    Arm(BASE, None),
    Arm("SFT-Single", "sft", single=True),
    Arm(SFT, "sft"),
    Arm("RL-Single", "grpo", single=True),
    Arm(OURS, "grpo"),
)


class Contestant(NamedTuple):
    """One judge of an arm."""

    arm: Arm
    task: JudgeTask | None = None
    """The one task it is trained and judged on; None is all of them."""
    seed: int | None = None

    @property
    def name(self) -> str:
        task = f" {self.task.task}" if self.task else ""
        return f"{self.arm.name}{task}" + ("" if self.seed is None else f", seed {self.seed}")

    @property
    def place(self) -> Path:
        """Its folder under that of all runs, and under that of all evaluations."""
        parts = [self.task.task] if self.task else []
        return Path(self.arm.key, *parts, *([] if self.seed is None else [f"seed-{self.seed}"]))


@dataclass(frozen=True)
class Experiment:
    """All that the steps are made from."""

    out: Path
    recipe: str
    settings: Mapping[Method, Settings]
    model: str
    makes_base: bool
    """Whether sample and tiny base model are made under ``out`` first."""
    data_root: Path | None
    tasks: Sequence[JudgeTask]
    ood: Sequence[JudgeTask]
    arms: Sequence[Arm]
    seeds: Sequence[int]
    eval_args: Sequence[str] = ()
    accept_license: Sequence[str] = ()
    allow_leaks: bool = False

    def contestants(self, arms: Sequence[Arm], seeds: Sequence[int]) -> Iterator[Contestant]:
        """Seed by seed, so that the first seed's tables are whole early."""
        yield from (Contestant(arm) for arm in arms if arm.method is None)
        for seed in seeds:
            for arm in arms:
                if arm.method is not None:
                    for task in self.tasks if arm.single else [None]:
                        yield Contestant(arm, task, seed)

    def judged_on(self, contestant: Contestant) -> Sequence[JudgeTask]:
        """A judge of one task is judged on it alone, as in the paper."""
        return [contestant.task] if contestant.task else [*self.tasks, *self.ood]

    def run_folder(self, contestant: Contestant) -> Path:
        return self.out / _RUNS / contestant.place

    def evaluation_folder(self, contestant: Contestant) -> Path:
        return self.out / _EVALUATIONS / contestant.place

    def settings_of(self, arm: Arm) -> Settings:
        """Of the base model those of GRPO, whose style it is asked in."""
        return self.settings[arm.method or "grpo"]


def run_experiment(
    recipe: str,
    out: Path,
    *,
    seeds: Sequence[int] = (0,),
    model: str | None = None,
    data_root: Path | None = None,
    eval_args: Sequence[str] = (),
    only: Sequence[str] = (),
    accept_license: Sequence[str] = (),
    allow_leaks: bool = False,
    dry_run: bool = False,
) -> None:
    """Do the steps that are not done, and print and write the tables of all that is done.

    Args:
        recipe: a name that grpo and sft recipes share, or the file ``…/grpo/NAME.yaml`` (or
            ``…/sft/NAME.yaml``) beside whose folder the other method's is.
        out: the experiment's folder; one that is there is gone on with.
        model: the base model; by default the recipe's, and for ``tiny_cpu`` a tiny one is made.
        eval_args: further flags of lmms-eval; ``--model_args`` are added to ours.
        only: names of arms; by default all.
        accept_license: as in training.
        allow_leaks: as in training.
        dry_run: list the steps and what is done, and do nothing.

    Raises:
        JudgeError: a mistake in what is given, or a step fails.
    """
    experiment = set_up(
        recipe, out, seeds=seeds, model=model, data_root=data_root, eval_args=eval_args, only=only
    )
    experiment = replace(experiment, accept_license=tuple(accept_license), allow_leaks=allow_leaks)
    steps = plan(experiment)
    if dry_run:
        print(listed(steps))
        return
    keep_settings(experiment)
    for _ in run_steps(steps, experiment.out / STEPS_FILE):
        report(experiment)
    shown = report(experiment)
    if shown is not None:
        print(f"\n{shown}\n\n{out / 'results.md'}, results.json, results.csv")


def set_up(
    recipe: str,
    out: Path,
    *,
    seeds: Sequence[int],
    model: str | None,
    data_root: Path | None,
    eval_args: Sequence[str] = (),
    only: Sequence[str] = (),
) -> Experiment:
    """Check everything that can be checked before anything runs.

    Raises:
        JudgeError: recipe, model, data or arms are not what they should be.
    """
    arms = _chosen_arms(only)
    if data_root is not None and not data_root.is_dir():
        raise JudgeError(f"--data-root: no folder {data_root}")
    out = out.resolve()  # a training that is resumed must find its model under the same name
    makes_base = recipe == TINY and model is None
    named = str(out / "base") if makes_base else model
    values: dict[str, Any] = {"dry_run": True, **({} if named is None else {_MODEL: named})}
    settings = {
        method: build_settings(method, values, recipe=recipe_file(recipe, method))
        for method in METHODS
        if method == "grpo" or any(arm.method == method for arm in arms)
    }
    base = settings["grpo"].model.model_name_or_path
    if base is None:
        raise JudgeError(f"--model: {recipe} names no model; name one: --model FOLDER|HUB_NAME")
    tasks = settings["grpo"].tasks
    for each in settings.values():
        if [task.task for task in each.tasks] != [t.task for t in tasks]:
            raise JudgeError(
                f"{each.recipe}: tasks: not those of {settings['grpo'].recipe}; the arms are "
                "compared on the same ones"
            )
    root = data_root or _recipe_root(settings["grpo"])
    if root is None and makes_base:
        root = out / "data"
    return Experiment(
        out=out,
        recipe=recipe,
        settings=settings,
        model=base,
        makes_base=makes_base,
        data_root=root,
        tasks=tasks,
        ood=resolve_tasks(["mtrl_ood"]),
        arms=arms,
        seeds=seeds,
        eval_args=eval_args,
    )


def recipe_file(recipe: str, method: Method) -> str:
    """The recipe of a method: shipped ones go by their name, files lie as the shipped ones do.

    Raises:
        JudgeError: a file that is in no folder ``grpo`` or ``sft``.
    """
    if not recipe.endswith((".yaml", ".yml")):
        return recipe
    path = Path(recipe)
    if path.resolve().parent.name not in METHODS:
        raise JudgeError(
            f"--recipe: {recipe}: lies in no folder grpo/ or sft/; an experiment takes both, "
            f"such as mine/grpo/{path.name} and mine/sft/{path.name}"
        )
    return str(path.resolve().parent.parent / method / path.name)


def plan(experiment: Experiment) -> list[Step]:
    """The steps of an experiment, in order."""
    steps = []
    environment = environment_of(experiment.data_root, experiment.settings["grpo"])
    if experiment.makes_base and experiment.data_root is not None:
        if experiment.data_root == experiment.out / "data":
            steps.append(sample_step(experiment.data_root, BASE_SEED))
        steps.append(base_step(experiment.data_root, experiment.out / "base", BASE_SEED))
    for contestant in experiment.contestants(experiment.arms, experiment.seeds):
        if contestant.arm.method is not None:
            steps.append(_training(experiment, contestant, environment))
        steps.append(_evaluation(experiment, contestant, environment))
    return steps


def single_run_flags(settings: Settings, task: JudgeTask) -> list[str]:
    """What a run on one task has otherwise than the recipe; the head of this file has the rule."""
    trainer = settings.trainer
    flags = ["--tasks", _task_word(task)]
    if isinstance(settings.judge.balance, Mapping):
        flags += ["--balance", "proportional"]
    if trainer.max_steps > 0:
        for name in ("max_steps", "eval_steps", "save_steps"):
            value = getattr(trainer, name)
            if value is not None and value >= 1:  # less is a share of all steps
                flags += [f"--{name}", str(math.ceil(value / SINGLE_SHARE))]
    return flags


def keep_settings(experiment: Experiment) -> None:
    """Note what the arms are made from, or check that it is what was noted.

    Raises:
        JudgeError: the folder holds an experiment with other settings.
    """
    path = experiment.out / EXPERIMENT_FILE
    now: dict[str, Any] = {
        f"{method} {name}": value
        for method, settings in experiment.settings.items()
        for name, value in settings.given.items()
        if name not in FREE_FIELDS and not (experiment.makes_base and name == _MODEL)
    }
    then = read_json(path, missing_ok=True, advice="choose another --out")
    # Methods that are new to the experiment have nothing to differ from.
    methods = {name.split()[0] for name in then} & {name.split()[0] for name in now}
    differences = [
        f"  {name}: {json.dumps(then.get(name))} then, {json.dumps(now.get(name))} now"
        for name in sorted(then.keys() | now.keys())
        if name.split()[0] in methods and then.get(name) != now.get(name)
    ]
    if differences:
        listed_differences = "\n".join(differences)
        raise JudgeError(
            f"--out: {experiment.out} holds an experiment with other settings:\n"
            f"{listed_differences}\nmake them what they were, or name another --out"
        )
    write_json(path, {**then, **now})


def figures_of(experiment: Experiment) -> list[Figure]:
    """Every figure that is in the experiment's folder, of whatever arms and seeds."""
    figures = []
    for contestant in experiment.contestants(ARMS, _seeds_there(experiment)):
        tasks = [task.task for task in experiment.judged_on(contestant)]
        evaluation = complete_run(experiment.evaluation_folder(contestant), tasks)
        if evaluation is None:
            continue
        trained = contestant.arm.method is not None
        run = str(Path(_RUNS) / contestant.place) if trained else None
        for task in tasks_of([evaluation]):
            result = evaluation.tasks[task]
            figures.append(
                Figure(
                    arm=contestant.arm.name,
                    seed=contestant.seed,
                    task=task,
                    macro_f1=result.reported("macro_f1"),
                    majority_macro_f1=result.reported("majority_macro_f1"),
                    null_rate=result.reported("null_rate"),
                    flip_rate=result.reported("flip_rate"),
                    n=result.n_rows or 0,
                    source=result.metadata["source"],
                    fingerprint=result.metadata["fingerprint"],
                    results=str(evaluation.file.relative_to(experiment.out)),
                    run=run,
                )
            )
    return figures


def report(experiment: Experiment) -> str | None:
    """Write the tables of what is there, and give them for printing; None if nothing is there."""
    figures = figures_of(experiment)
    if not figures:
        return None
    comparison = compare(
        figures,
        [arm.name for arm in ARMS],
        [task.task for task in experiment.tasks],
        [task.task for task in experiment.ood],
        notes=[_lengths(experiment, {figure.arm for figure in figures})],
    )
    made_from = {
        "recipe": experiment.recipe,
        "model": experiment.model,
        "seeds": _seeds_there(experiment),
        "settings": {method: each.given for method, each in experiment.settings.items()},
    }
    write_report(comparison, experiment.out, made_from)
    return printed(comparison)


def _training(
    experiment: Experiment, contestant: Contestant, environment: Mapping[str, str]
) -> Step:
    settings = experiment.settings_of(contestant.arm)
    recipe = recipe_file(experiment.recipe, settings.method)
    flags = ["--recipe", recipe, f"--{_MODEL}", experiment.model]
    flags += ["--seed", str(contestant.seed)]
    if experiment.data_root is not None:
        flags += ["--data_root", str(experiment.data_root)]
    if experiment.accept_license:
        flags += ["--accept_license", *experiment.accept_license]
    if experiment.allow_leaks:
        flags += ["--allow_leaks", "true"]
    if contestant.task is not None:
        flags += single_run_flags(settings, contestant.task)
    extent = "single" if contestant.arm.single else "unified"
    return training_step(
        f"{contestant.name}: training",
        f"train {settings.method} {extent}",
        settings,
        experiment.run_folder(contestant),
        flags,
        environment,
        experiment.out / _LOGS / contestant.place / "training.log",
    )


def _evaluation(
    experiment: Experiment, contestant: Contestant, environment: Mapping[str, str]
) -> Step:
    settings = experiment.settings_of(contestant.arm)
    trained = contestant.arm.method is not None
    judge = str(experiment.run_folder(contestant) / JUDGE) if trained else experiment.model
    extent = "one" if contestant.task else "all"
    return evaluation_step(
        f"{contestant.name}: evaluation",
        f"judge {settings.style} {extent}",
        judge,
        experiment.judged_on(contestant),
        experiment.evaluation_folder(contestant),
        style=settings.style,
        extra=[*evaluation_flags(settings), *experiment.eval_args],
        environment=environment,
        log=experiment.out / _LOGS / contestant.place / "evaluation.log",
    )


def _seeds_there(experiment: Experiment) -> list[int]:
    folders = (experiment.out / _EVALUATIONS).glob("**/seed-*")
    numbers = {folder.name.removeprefix("seed-") for folder in folders}
    return sorted(int(number) for number in numbers if number.isdecimal())


def _chosen_arms(only: Sequence[str]) -> list[Arm]:
    known = {arm.key: arm for arm in ARMS}
    chosen = [name.lower().replace(" ", "-") for name in only]
    for name in chosen:
        if name not in known:
            raise JudgeError(f"--only: no arm {name!r}; {did_you_mean(name, known)}")
    return [arm for key, arm in known.items() if not chosen or key in chosen]


def _recipe_root(settings: Settings) -> Path | None:
    root = settings.judge.data_root
    return None if root is None else Path(root).expanduser()


def _task_word(task: JudgeTask) -> str:
    """What names a task to training: a shipped one goes by its name."""
    return task.task if task.path.parent == SHIPPED else str(task.path)


def _lengths(experiment: Experiment, arms: Collection[str]) -> str:
    """How long each of these arms was trained, for the report."""
    parts = []
    for arm in ARMS:
        if arm.name not in arms or arm.method not in experiment.settings:
            continue
        trainer = experiment.settings_of(arm).trainer
        if trainer.max_steps > 0:
            steps = math.ceil(trainer.max_steps / SINGLE_SHARE) if arm.single else trainer.max_steps
            parts.append(f"{arm.name} {steps} steps" + (" a task" if arm.single else ""))
        else:
            parts.append(f"{arm.name} {trainer.num_train_epochs:g} epochs")
    lengths = f"Trained at most: {', '.join(parts)}; " if parts else ""
    return f"{lengths}the best checkpoint in validation is judged. Recipe {experiment.recipe}."
