"""``mtrl-judge experiment``: the paper's comparison (arXiv 2603.11665) in one command.

The arms are the base model (off the shelf) and the judges trained from it with SFT and GRPO, each
on one task (SFT-Single, RL-Single) and on all tasks together (SFT-Unified, MT-RL-Judge). Each judge
is trained in a process of its own and evaluated by the stock lmms-eval.

If a recipe sets ``max_steps``, a training on one task gets a third of the steps
(:data:`SINGLE_SHARE`) and as many validations as the training on all tasks; a recipe in epochs
gives both the same epochs. Batch size and learning rate are the same for both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.locks import locked_folder
from mtrl_judge.judge_tasks.loading import SHIPPED
from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.leaderboard.compatibility import require_comparable
from mtrl_judge.leaderboard.reading import complete_run
from mtrl_judge.leaderboard.runs import Run
from mtrl_judge.metrics.bootstrap import Estimate
from mtrl_judge.rl.arguments import METHODS, Method
from mtrl_judge.rl.model import JUDGE
from mtrl_judge.rl.recipes import resolve_tasks
from mtrl_judge.rl.run_record import FREE_FIELDS
from mtrl_judge.rl.settings import Settings, as_flags, build_settings

from .paper_tables import BASE, OURS, SFT, Comparison, Score, compare, write_report
from .pipeline import Step, keep_settings, run_steps
from .stages import (
    STEPS_FILE,
    TINY,
    base_step,
    evaluation_step,
    sample_step,
    training_step,
    variables,
)

BASE_SEED = (
    0  # of the sample corpus and the tiny base model; the seeds of an experiment vary training
)
SINGLE_SHARE = 3
# Each judge is asked as it was trained to answer, which differs between the arms.
ACROSS = ("style", "scoring", "calibration")
_MODEL = "model_name_or_path"
_RUNS, _EVALUATIONS, _LOGS = "runs", "evaluations", "logs"


@dataclass(frozen=True)
class Arm:
    """One way to obtain a judge."""

    name: str
    method: Method | None
    """None for the base model."""
    single: bool = False
    """Whether there is one judge for each task."""

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
    """The one task that it is trained and evaluated on; None for all tasks."""
    seed: int | None = None

    @property
    def name(self) -> str:
        task = f" {self.task.task}" if self.task else ""
        return f"{self.arm.name}{task}" + ("" if self.seed is None else f", seed {self.seed}")

    @property
    def path(self) -> Path:
        """Its folder, relative to those of all runs, evaluations and logs."""
        task = [self.task.task] if self.task else []
        return Path(self.arm.key, *task, *([] if self.seed is None else [f"seed-{self.seed}"]))


@dataclass(frozen=True)
class Experiment:
    """An experiment's folder and settings, checked."""

    out: Path
    recipe: str
    settings: Mapping[Method, Settings]
    data_root: Path | None
    arms: Sequence[Arm]
    seeds: Sequence[int]
    makes_base: bool
    """Whether the steps begin with a tiny base model (and sample corpus) in ``out``."""
    ood: Sequence[JudgeTask]
    eval_args: Sequence[str]
    train_values: Mapping[str, Any]
    """Fields of all trainings that are not the recipe's."""

    @property
    def model(self) -> str:
        """The base model."""
        return str(self.settings["grpo"].model.model_name_or_path)

    @property
    def tasks(self) -> Sequence[JudgeTask]:
        """The tasks in distribution; the same for both methods."""
        return self.settings["grpo"].tasks

    def contestants(self, arms: Sequence[Arm], seeds: Sequence[int]) -> Iterator[Contestant]:
        """Seed by seed, so that the tables of the first seed are complete early."""
        yield from (Contestant(arm) for arm in arms if arm.method is None)
        for seed in seeds:
            for arm in arms:
                if arm.method is not None:
                    for task in self.tasks if arm.single else [None]:
                        yield Contestant(arm, task, seed)

    def evaluated_on(self, contestant: Contestant) -> Sequence[JudgeTask]:
        """As in the paper, a judge trained on one task is evaluated on that task only."""
        return [contestant.task] if contestant.task else [*self.tasks, *self.ood]

    def run_folder(self, contestant: Contestant) -> Path:
        return self.out / _RUNS / contestant.path

    def evaluation_folder(self, contestant: Contestant) -> Path:
        return self.out / _EVALUATIONS / contestant.path

    def settings_of(self, arm: Arm) -> Settings:
        """The base model is evaluated with GRPO's, which decide the style of its prompts."""
        return self.settings[arm.method or "grpo"]


def set_up(
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
) -> Experiment:
    """Check everything that can be checked before anything runs.

    Args:
        recipe: a name that GRPO and SFT recipes share, or the file ``…/grpo/NAME.yaml`` (or
            ``…/sft/NAME.yaml``), where the other method has its recipe in ``…/sft/`` (``…/grpo/``).
        out: the folder of the experiment; an existing experiment is resumed.
        model: the base model. Default: the recipe's; for ``tiny_cpu`` a tiny one is pretrained.
        eval_args: further flags of lmms-eval; ``--model_args`` are added to ours.
        only: names of arms. Default: all.
        accept_license, allow_leaks: as in training.

    Raises:
        JudgeError: the recipe, model, data or arms are invalid.
    """
    arms = _select_arms(only)
    out = out.resolve()  # a resumed training checks that its model has the same path
    makes_base = recipe == TINY and model is None
    options = {
        _MODEL: str(out / "base") if makes_base else model,
        "data_root": None if data_root is None else str(data_root),
        "accept_license": list(accept_license),
        "allow_leaks": allow_leaks,
    }
    train_values = {name: value for name, value in options.items() if value}
    settings = {
        method: build_settings(
            method, {**train_values, "dry_run": True}, recipe=recipe_file(recipe, method)
        )
        for method in METHODS
        if method == "grpo" or any(arm.method == method for arm in arms)
    }
    grpo = settings["grpo"]
    if grpo.model.model_name_or_path is None:
        raise JudgeError(
            f"--model: missing, and {recipe} names no model; expected a folder or hub name"
        )
    for other in settings.values():
        if [task.task for task in other.tasks] != [task.task for task in grpo.tasks]:
            raise JudgeError(
                f"{other.recipe}: tasks: differ from those of {grpo.recipe}; the arms are compared "
                "on the same tasks"
            )
    data_root = grpo.data_root or (out / "data" if makes_base else None)
    if data_root is not None:
        train_values["data_root"] = str(data_root)
    return Experiment(
        out=out,
        recipe=recipe,
        settings=settings,
        data_root=data_root,
        arms=arms,
        seeds=seeds,
        makes_base=makes_base,
        ood=resolve_tasks(["mtrl_ood"]),
        eval_args=eval_args,
        train_values=train_values,
    )


def run_experiment(experiment: Experiment) -> Comparison | None:
    """Run the unfinished steps, and write the tables of all finished ones after each step.

    Raises:
        JudgeError: the folder has an experiment with other settings, another process runs it, or a
            step fails.
    """
    with locked_folder(experiment.out):
        record_settings(experiment)
        for _ in run_steps(plan(experiment), experiment.out / STEPS_FILE):
            report(experiment)
        return report(experiment)


def recipe_file(recipe: str, method: Method) -> str:
    """A method's recipe: by name if shipped, otherwise the file in the method's folder.

    Raises:
        JudgeError: a file in a folder with another name than ``grpo`` or ``sft``.
    """
    if not recipe.endswith((".yaml", ".yml")):
        return recipe
    path = Path(recipe).resolve()
    if path.parent.name not in METHODS:
        raise JudgeError(
            f"--recipe: {recipe} is not in a folder grpo/ or sft/; expected both mine/grpo/"
            f"{path.name} and mine/sft/{path.name}"
        )
    return str(path.parent.parent / method / path.name)


def plan(experiment: Experiment) -> list[Step]:
    """The steps of an experiment, in order."""
    out, data_root = experiment.out, experiment.data_root
    environment = variables(data_root, experiment.settings["grpo"])
    steps = []
    if experiment.makes_base and data_root is not None:
        if data_root == out / "data":
            steps.append(sample_step(data_root, BASE_SEED))
        steps.append(base_step(data_root, out / "base", BASE_SEED))
    for contestant in experiment.contestants(experiment.arms, experiment.seeds):
        arm, settings = contestant.arm, experiment.settings_of(contestant.arm)
        model, logs = experiment.model, out / _LOGS / contestant.path
        if arm.method is not None:
            run_folder = experiment.run_folder(contestant)
            model = str(run_folder / JUDGE)
            values: dict[str, Any] = {"recipe": recipe_file(experiment.recipe, arm.method)}
            values |= {**experiment.train_values, "seed": contestant.seed}
            if contestant.task is not None:
                values |= single_task_values(settings, contestant.task)
            steps.append(
                training_step(
                    f"{contestant.name}: training",
                    f"train {arm.method} {'single' if arm.single else 'unified'}",
                    settings,
                    as_flags(values),
                    run_folder,
                    evaluation=experiment.evaluation_folder(contestant),
                    environment=environment,
                    log=logs / "training.log",
                )
            )
        steps.append(
            evaluation_step(
                f"{contestant.name}: evaluation",
                f"evaluate {settings.style} {'one' if arm.single else 'all'}",
                settings,
                model,
                experiment.evaluated_on(contestant),
                experiment.evaluation_folder(contestant),
                eval_args=experiment.eval_args,
                environment=environment,
                log=logs / "evaluation.log",
            )
        )
    return steps


def single_task_values(settings: Settings, task: JudgeTask) -> dict[str, Any]:
    """The fields in which a training on one task differs from the recipe; see the module's head."""
    values: dict[str, Any] = {"tasks": task.task if task.path.parent == SHIPPED else task.path}
    if isinstance(settings.judge.balance, Mapping):
        values["balance"] = "proportional"
    if settings.trainer.max_steps > 0:
        for name in ("max_steps", "eval_steps", "save_steps"):
            value = getattr(settings.trainer, name)
            if value is not None and value >= 1:  # below 1 it is a share of all steps
                values[name] = math.ceil(value / SINGLE_SHARE)
    return values


def record_settings(experiment: Experiment) -> None:
    """Write the settings of each method, or check that they equal those written earlier.

    Raises:
        JudgeError: the folder has an experiment with other settings.
    """
    for method, settings in experiment.settings.items():
        values = {
            name: value
            for name, value in settings.given.items()
            if name not in FREE_FIELDS and not (experiment.makes_base and name == _MODEL)
        }
        keep_settings(experiment.out / f"{method}_settings.json", values, "--out")


def read_runs(experiment: Experiment) -> list[tuple[Contestant, Run]]:
    """All complete evaluations in the experiment's folder, also of other arms and seeds."""
    found = []
    for contestant in experiment.contestants(ARMS, _evaluated_seeds(experiment)):
        tasks = [task.task for task in experiment.evaluated_on(contestant)]
        run = complete_run(experiment.evaluation_folder(contestant), tasks)
        if run is not None:
            found.append((contestant, run._replace(name=contestant.name)))
    return found


def _scores(experiment: Experiment, runs: Sequence[tuple[Contestant, Run]]) -> list[Score]:
    scores = []
    for contestant, run in runs:
        for result in run.tasks.values():
            metric = result.kind.headline
            value, majority, null_rate, flip_rate = (
                result.rates.get(name, Estimate(None)).value
                for name in (metric, f"majority_{metric}", "null_rate", "flip_rate")
            )
            scores.append(
                Score(
                    arm=contestant.arm.name,
                    seed=contestant.seed,
                    task=result.task,
                    metric=metric,
                    value=value,
                    majority=majority,
                    null_rate=null_rate,
                    flip_rate=flip_rate,
                    n=result.n_rows,
                    source=result.metadata["source"],
                    fingerprint=result.metadata["fingerprint"],
                    parser=result.parser,
                    results=str(run.file.relative_to(experiment.out)),
                    run=str(Path(_RUNS) / contestant.path) if contestant.arm.method else None,
                )
            )
    return scores


def report(experiment: Experiment) -> Comparison | None:
    """Write the tables of all finished evaluations; None if there are none.

    Raises:
        JudgeError: the judges were not evaluated on the same rows, or not in the same way.
    """
    runs = read_runs(experiment)
    if not runs:
        return None
    remarks = require_comparable(
        [run for _, run in runs],
        ACROSS,
        f"remove the outdated ones in {experiment.out / _EVALUATIONS} and run the command again",
    )
    comparison = compare(
        _scores(experiment, runs),
        [arm.name for arm in ARMS],
        [task.task for task in experiment.tasks],
        [task.task for task in experiment.ood],
        notes=[*_notes(experiment), *remarks],
    )
    origin = {
        "recipe": experiment.recipe,
        "model": experiment.model,
        "seeds": _evaluated_seeds(experiment),
        "settings": {method: settings.given for method, settings in experiment.settings.items()},
    }
    write_report(comparison, experiment.out, origin)
    return comparison


def _evaluated_seeds(experiment: Experiment) -> list[int]:
    folders = (experiment.out / _EVALUATIONS).glob("**/seed-*")
    numbers = {folder.name.removeprefix("seed-") for folder in folders}
    return sorted(int(number) for number in numbers if number.isdecimal())


def _select_arms(only: Sequence[str]) -> list[Arm]:
    known = {arm.key: arm for arm in ARMS}
    keys = [name.lower().replace(" ", "-") for name in only]
    for key in keys:
        if key not in known:
            raise JudgeError(f"--only: no arm {key!r}; {did_you_mean(key, known)}")
    return [arm for key, arm in known.items() if not keys or key in keys]


def _notes(experiment: Experiment) -> Iterator[str]:
    for method, settings in experiment.settings.items():
        trainer = settings.trainer
        length = f"{trainer.num_train_epochs:g} epochs"
        if trainer.max_steps > 0:
            single = math.ceil(trainer.max_steps / SINGLE_SHARE)
            length = f"{trainer.max_steps} steps, on one task {single}"
        yield f"Training length of {method}: at most {length}."
    yield (
        f"The checkpoint with the best validation score is evaluated. Recipe: {experiment.recipe}."
    )
