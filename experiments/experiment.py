"""``mtrl-judge experiment``: judges that differ in how they were trained or asked, in one command.

An arms file (:mod:`.arms_file`) says which: by default the paper's comparison (arXiv 2603.11665) of
the base model with judges trained from it with SFT and GRPO, each on one task and on all together.
Each judge is trained in a process of its own and evaluated by the stock lmms-eval.

All judges of an experiment stop by the same rule, and a training on one task has as many items of
the task as the training on all. If a recipe sets ``max_steps``, it therefore gets the task's share
of them, with as many validations; a recipe in epochs gives both the same epochs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.locks import locked_folder
from mtrl_judge.harness_plugin.perturbations import (
    PARAPHRASES,
    PERTURBATION_VARIABLE,
    applies,
    expand_paraphrases,
)
from mtrl_judge.harness_plugin.prompt_style import DEMONSTRATIONS_VARIABLE
from mtrl_judge.judge_tasks.demonstration_checks import SELF
from mtrl_judge.judge_tasks.demonstrations import parse_demonstrations
from mtrl_judge.judge_tasks.loading import SHIPPED
from mtrl_judge.judge_tasks.spec import Demonstrations, JudgeTask
from mtrl_judge.leaderboard.compatibility import (
    other_differences,
    require_comparable,
    unstated,
)
from mtrl_judge.leaderboard.reading import complete_run
from mtrl_judge.leaderboard.runs import Run
from mtrl_judge.rl.arguments import METHODS, Method
from mtrl_judge.rl.finished_run import JUDGE
from mtrl_judge.rl.free_fields import FREE_FIELDS
from mtrl_judge.rl.recipes import resolve_tasks
from mtrl_judge.rl.settings import Settings, as_flags, build_settings

from .arms_file import REPEATS, Arm, ArmsFile, Evaluation, arm_key, read_arms
from .effects import Unit
from .experiment_tables import Comparison, Judged, compare, write_report
from .pipeline import Step, keep_settings, run_steps
from .stages import (
    STEPS_FILE,
    TINY,
    base_step,
    composing_step,
    evaluation_step,
    sample_step,
    training_step,
    variables,
)

# Each judge is asked as its arm says, and the tables show what that changes.
ACROSS = ("style", "scoring", "calibration")
_BY_ARM = (
    "demonstrations",
    "samples",
    "vote",
    *(f"model_args {name}" for name in Evaluation.model_fields),
    *(f"generation {name}" for name in ("do_sample", "temperature", "top_k", "top_p")),
)
_MODEL = "model_name_or_path"
_RUNS, _EVALUATIONS, _LOGS, _ARMS = "runs", "evaluations", "logs", "arms"
_UNCHANGED = "unchanged"
# Two answers to each row, as the judge's own probabilities are.
_TWO_SAMPLES = ("--repeats", "2", "--gen_kwargs", "do_sample=True,temperature=1.0")


class Contestant(NamedTuple):
    """One judge of an arm."""

    arm: Arm
    task: JudgeTask | None = None
    """The one task that it is trained and evaluated on; None for all tasks."""
    corpus: int | None = None
    """The seed of the sample corpus and of the tiny base model; None for other data."""
    seed: int | None = None
    """Of the training; None for the base model."""

    @property
    def unit(self) -> Unit:
        return Unit(self.corpus, self.seed)

    @property
    def name(self) -> str:
        parts = [f"{self.arm.name}{f' {self.task.task}' if self.task else ''}"]
        parts += [] if self.corpus is None else [f"corpus {self.corpus}"]
        parts += [] if self.seed is None else [f"seed {self.seed}"]
        return ", ".join(parts)

    @property
    def path(self) -> Path:
        """Its folder, relative to those of all runs, evaluations and logs."""
        return Path(
            self.arm.key,
            *([] if self.corpus is None else [f"corpus-{self.corpus}"]),
            *([self.task.task] if self.task else []),
            *([] if self.seed is None else [f"seed-{self.seed}"]),
        )


@dataclass(frozen=True)
class Experiment:
    """An experiment's folder and settings, checked."""

    out: Path
    recipe: str
    arms_file: ArmsFile
    base: Settings
    """What the base model is evaluated with: GRPO's, without the fields of single arms."""
    settings: Mapping[str, Settings]
    """Of each arm that trains, by its name."""
    arms: Sequence[Arm]
    """Those to run; the tables have all of the file."""
    seeds: Sequence[int]
    corpora: Sequence[int | None]
    """Seeds of sample corpora, each with a tiny base model of its own; None for other data."""
    data_root: Path | None
    """None for the sample corpora in ``out``, and for the hub."""
    ood: Sequence[JudgeTask]
    eval_args: Sequence[str]
    train_values: Mapping[str, Any]
    """Fields of all trainings that are not the recipe's."""

    @property
    def tasks(self) -> Sequence[JudgeTask]:
        """The tasks in distribution."""
        return self.base.tasks

    @property
    def makes_base(self) -> bool:
        """Whether it makes its data and its base models."""
        return None not in self.corpora

    def corpus_folder(self, corpus: int) -> Path:
        return self.out / f"corpus-{corpus}"

    def model(self, corpus: int | None) -> str:
        """The base model."""
        if corpus is None:
            return str(self.base.model.model_name_or_path)
        return str(self.corpus_folder(corpus) / "base")

    def data_of(self, corpus: int | None) -> Path | None:
        return self.data_root if corpus is None else self.corpus_folder(corpus) / "data"

    def contestants(
        self, arms: Sequence[Arm], corpora: Sequence[int | None], seeds: Sequence[int]
    ) -> Iterator[Contestant]:
        """Corpus by corpus and seed by seed, so that complete tables come early.

        The judges of an arm that evaluates those of another are behind the latter's.
        """
        trained = {arm.name: self.arms_file.trained(arm) for arm in arms}
        for corpus in corpora:
            for arm in arms:
                if trained[arm.name].method is None:
                    yield Contestant(arm, None, corpus)
            for seed in seeds:
                for arm in sorted(arms, key=lambda arm: arm.judge is not None):
                    of_arm = self.settings.get(trained[arm.name].name)
                    if of_arm is not None:
                        single = trained[arm.name].one_per_task and not arm.composed
                        for task in of_arm.tasks if single else [None]:
                            yield Contestant(arm, task, corpus, seed)

    def judge(self, contestant: Contestant) -> Contestant:
        """Whose judge is evaluated."""
        if contestant.arm.composed:
            return contestant
        return contestant._replace(arm=self.arms_file.trained(contestant.arm))

    def evaluated_on(self, contestant: Contestant) -> Sequence[JudgeTask]:
        """As in the paper, a judge trained on one task is evaluated on that task only.

        What is fitted to validation rows is evaluated on tasks that have some, and what is shown
        items of the task's own training split on tasks that have one.
        """
        if contestant.task is not None:
            return [contestant.task]
        shown = self.demonstrations(contestant.arm)
        if contestant.arm.evaluation.calibration is not None:
            return self.tasks
        if shown is not None and shown.k and shown.source == SELF:
            return self.tasks
        return [*self.tasks, *self.ood]

    def demonstrations(self, arm: Arm) -> Demonstrations | None:
        """What the prompts of an arm's judges show, by default as in their training; None for what
        the YAMLs of the tasks say."""
        asked = arm.evaluation.demonstrations
        if asked is None:
            asked = self.settings_of(arm).judge.demonstrations
        return parse_demonstrations(asked, f"{arm.name}: demonstrations")

    def run_folder(self, contestant: Contestant) -> Path:
        return self.out / _RUNS / self.judge(contestant).path

    def evaluation_folder(self, contestant: Contestant, condition: str = _UNCHANGED) -> Path:
        return self.out / _EVALUATIONS / condition / contestant.path

    def settings_of(self, arm: Arm) -> Settings:
        return self.settings.get(self.arms_file.trained(arm).name, self.base)

    def conditions(self, contestant: Contestant) -> dict[str, list[JudgeTask]]:
        """What a judge is asked again under, and on which tasks: one that writes its verdicts, on
        all tasks. Votes of samples, which follow from the seed, would repeat themselves."""
        asked = contestant.arm.evaluation
        if contestant.task is not None or asked.scoring != "generation":
            return {}
        tasks = self.evaluated_on(contestant)
        most = max((len(task.judge.paraphrases) for task in tasks), default=0)
        shown = self.demonstrations(contestant.arm)
        return {
            name: [
                task
                for task in tasks
                if name == REPEATS
                or applies(
                    name,
                    kind=task.judge.kind,
                    paraphrases=len(task.judge.paraphrases),
                    demonstrations=0 if shown is None else shown.k,
                )
            ]
            for name in expand_paraphrases(self.arms_file.consistency, min(most, PARAPHRASES))
            if name != REPEATS or asked.samples == 1
        }


def set_up(
    recipe: str,
    out: Path,
    *,
    arms: str = "paper",
    seeds: Sequence[int] = (0,),
    corpora: Sequence[int] | None = None,
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
        arms: a shipped arms file by name, or a file.
        corpora: for ``tiny_cpu`` without a model, the seeds of sample corpora, of which each gets
            a tiny base model. Default: 0.
        model: the base model. Default: the recipe's.
        eval_args: further flags of lmms-eval; ``--model_args`` are added to ours.
        only: names of arms to run. Default: all.
        accept_license, allow_leaks: as in training.

    Raises:
        JudgeError: the recipe, model, data or arms are invalid; with all faults of the arms.
    """
    arms_file = read_arms(arms)
    chosen = _select_arms(arms_file, only)
    out = out.resolve()  # a resumed training checks that its model has the same path
    makes_base = recipe == TINY and model is None and data_root is None
    if corpora is not None and not makes_base:
        raise JudgeError(
            f"--corpora: sample corpora and their base models are made for --recipe {TINY} without "
            "--model and --data-root"
        )
    options = {
        _MODEL: str(out / "base") if makes_base else model,
        "data_root": None if data_root is None else str(data_root),
        "accept_license": list(accept_license),
        "allow_leaks": allow_leaks,
    }
    train_values = {name: value for name, value in options.items() if value}
    shared: dict[str, Any] = {**arms_file.fields, **train_values, "dry_run": True}
    asked: dict[str, Any] = {
        n: shared[n] for n in ("tasks", "style", "demonstrations") if n in shared
    }
    base = build_settings(
        "grpo", {**train_values, **asked, "dry_run": True}, recipe=recipe_file(recipe, "grpo")
    )
    if base.model.model_name_or_path is None:
        raise JudgeError(
            f"--model: missing, and {recipe} names no model; expected a folder or hub name"
        )
    settings, faults = {}, []
    for arm in arms_file.arms:
        if arm.method is not None:
            try:
                settings[arm.name] = build_settings(
                    arm.method,
                    {**shared, **arm.fields},
                    recipe=recipe_file(recipe, arm.method),
                )
                _refuse_unknown_shares(arm, settings[arm.name])
            except JudgeError as error:
                faults += [
                    f"{arms_file.path}: arms.{arm.name}: {line}" for line in str(error).split("\n")
                ]
    if faults:
        raise JudgeError("\n".join(faults))
    return Experiment(
        out=out,
        recipe=recipe,
        arms_file=arms_file,
        base=base,
        settings=settings,
        arms=chosen,
        seeds=seeds,
        corpora=(corpora or [0]) if makes_base else [None],
        data_root=base.data_root,
        ood=resolve_tasks(["mtrl_ood"]),
        eval_args=eval_args,
        train_values=train_values,
    )


def run_experiment(experiment: Experiment) -> Comparison | None:
    """Run the unfinished steps; the tables are written after each corpus and seed.

    Raises:
        JudgeError: the folder has an experiment with other settings, another process runs it, or a
            step fails.
    """
    with locked_folder(experiment.out):
        record_settings(experiment)
        steps, last_of_unit = plan(experiment)
        for step in run_steps(steps, experiment.out / STEPS_FILE):
            if step.name in last_of_unit:
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


class Plan(NamedTuple):
    """The steps of an experiment, in order."""

    steps: Sequence[Step]
    last_of_unit: frozenset[str]
    """The names of the steps with which a corpus and a seed are finished."""


def plan(experiment: Experiment) -> Plan:
    """The steps of an experiment."""
    steps: dict[str, Step] = {}
    last: dict[Unit, str] = {}
    prepared: set[int | None] = {None}
    for contestant in experiment.contestants(experiment.arms, experiment.corpora, experiment.seeds):
        of_contestant = []
        corpus = contestant.corpus
        if corpus is not None and corpus not in prepared:
            of_contestant += _corpus_steps(experiment, corpus)
            prepared.add(corpus)
        if contestant.seed is not None:
            of_contestant += _judge_steps(experiment, contestant)
        of_contestant += _evaluations(experiment, contestant)
        # Arms that evaluate the judges of another need its training, even if it is left out.
        steps |= {step.name: step for step in of_contestant if step.name not in steps}
        last[contestant.unit] = of_contestant[-1].name
    return Plan(list(steps.values()), frozenset(last.values()))


def _corpus_steps(experiment: Experiment, corpus: int) -> list[Step]:
    """Sample corpus and tiny base model; the seed of one is that of the other."""
    data, base = experiment.data_of(corpus), experiment.model(corpus)
    steps = [sample_step(Path(str(data)), corpus), base_step(Path(str(data)), Path(base), corpus)]
    return [replace(step, name=f"{step.name}, corpus {corpus}") for step in steps]


def _judge_steps(experiment: Experiment, contestant: Contestant) -> Iterator[Step]:
    """The training of a judge; or those of single tasks, and the composition of their adapters."""
    if not contestant.arm.composed:
        yield _training(experiment, experiment.judge(contestant))
        return
    arm = experiment.arms_file.trained(contestant.arm)
    singles = [
        contestant._replace(arm=arm, task=task) for task in experiment.settings[arm.name].tasks
    ]
    yield from (_training(experiment, single) for single in singles)
    yield composing_step(
        f"{contestant.name}: composition",
        [experiment.run_folder(single) for single in singles],
        experiment.run_folder(contestant) / JUDGE,
        environment=variables(experiment.data_of(contestant.corpus), experiment.settings[arm.name]),
        log=experiment.out / _LOGS / contestant.path / "composition.log",
    )


def _training(experiment: Experiment, contestant: Contestant) -> Step:
    arm, settings = contestant.arm, experiment.settings[contestant.arm.name]
    data_root = experiment.data_of(contestant.corpus)
    values: dict[str, Any] = {
        "recipe": recipe_file(experiment.recipe, settings.method),
        **experiment.arms_file.fields,
        **experiment.train_values,
        _MODEL: experiment.model(contestant.corpus),
        **({} if data_root is None else {"data_root": str(data_root)}),
        **arm.fields,
        "seed": contestant.seed,
    }
    if contestant.task is not None:
        values |= single_task_values(settings, contestant.task)
    return training_step(
        f"{contestant.name}: training",
        f"train {arm.key}",
        settings,
        as_flags(values),
        experiment.run_folder(contestant),
        evaluation=experiment.evaluation_folder(contestant),
        environment=variables(data_root, settings),
        log=experiment.out / _LOGS / contestant.path / "training.log",
    )


def _evaluations(experiment: Experiment, contestant: Contestant) -> Iterator[Step]:
    """The evaluation of a judge as its arm says, and again under each condition."""
    settings, asked = experiment.settings_of(contestant.arm), contestant.arm.evaluation
    model = experiment.model(contestant.corpus)
    if contestant.seed is not None:
        model = str(experiment.run_folder(contestant) / JUDGE)
    shown = experiment.demonstrations(contestant.arm)
    conditions = {_UNCHANGED: experiment.evaluated_on(contestant)}
    for condition, tasks in {**conditions, **experiment.conditions(contestant)}.items():
        changed = condition not in (_UNCHANGED, REPEATS)
        yield evaluation_step(
            f"{contestant.name}: evaluation" + f", {condition}" * (condition != _UNCHANGED),
            f"evaluate {asked.style or settings.style} {'one' if contestant.task else 'all'}",
            settings,
            model,
            tasks,
            experiment.evaluation_folder(contestant, condition),
            style=asked.style,
            eval_args=[
                *(["--model_args", asked.model_args] if asked.model_args else []),
                *(_TWO_SAMPLES if condition == REPEATS else ()),
                *experiment.eval_args,
            ],
            environment={
                **variables(experiment.data_of(contestant.corpus), settings),
                **({PERTURBATION_VARIABLE: condition} if changed else {}),
                **(
                    {DEMONSTRATIONS_VARIABLE: shown.model_dump_json(by_alias=True)} if shown else {}
                ),
            },
            log=experiment.out / _LOGS / contestant.path / f"{condition}.log",
        )


def single_task_values(settings: Settings, task: JudgeTask) -> dict[str, Any]:
    """The fields in which a training on one task differs from the recipe; see the module's head."""
    values: dict[str, Any] = {"tasks": task.task if task.path.parent == SHIPPED else task.path}
    balance, trainer = settings.judge.balance, settings.trainer
    share = 1 / len(settings.tasks)
    if isinstance(balance, Mapping):
        values["balance"] = "proportional"
        share = balance[task.task] / sum(balance.values())
    if trainer.max_steps > 0:
        for name in ("max_steps", "eval_steps", "save_steps"):
            value = getattr(trainer, name)
            if value is not None and value >= 1:  # below 1 it is a share of all steps
                values[name] = math.ceil(value * share)
    return values


def _refuse_unknown_shares(arm: Arm, settings: Settings) -> None:
    """
    Raises:
        JudgeError: a task's share of the steps is only known when its data are loaded.
    """
    balance = settings.judge.balance
    known = balance == "uniform" or isinstance(balance, Mapping) or len(settings.tasks) == 1
    if arm.one_per_task and settings.trainer.max_steps > 0 and not known:
        raise JudgeError(
            f"balance: is {balance!r}, so that the share of one task in max_steps is unknown; set "
            "balance: uniform or weights, or num_train_epochs in place of max_steps"
        )


def record_settings(experiment: Experiment) -> None:
    """Write the settings of each arm, or check that they equal those written earlier.

    Where the experiment makes its data and base model, they do not name folders, so that results of
    several folders can be put together in one.

    Raises:
        JudgeError: the folder has an experiment with other settings.
    """
    left_out = {*FREE_FIELDS, *((_MODEL, "data_root") if experiment.makes_base else ())}
    for arm in experiment.arms:
        settings = experiment.settings_of(arm)
        given = {name: value for name, value in settings.given.items() if name not in left_out}
        asked = arm.evaluation.model_dump(exclude_defaults=True)
        own = {"method": arm.method, "judge": arm.judge, "one_per_task": arm.one_per_task}
        own |= {"composed": True} if arm.composed else {}
        values = {**own, "evaluation": asked, "settings": given}
        keep_settings(experiment.out / _ARMS / f"{arm.key}.json", values, "--out")


def read_judged(experiment: Experiment) -> list[Judged]:
    """All complete evaluations in the experiment's folder, also of other corpora and seeds."""
    found = []
    corpora: list[int | None] = (
        [*_evaluated(experiment, "corpus")] if experiment.makes_base else [None]
    )
    seeds = _evaluated(experiment, "seed")
    for contestant in experiment.contestants(experiment.arms_file.arms, corpora, seeds):
        tasks = [task.task for task in experiment.evaluated_on(contestant)]
        run = _read(experiment, contestant, _UNCHANGED, tasks)
        if run is not None:
            again = {
                condition: _read(experiment, contestant, condition, [task.task for task in changed])
                for condition, changed in experiment.conditions(contestant).items()
            }
            found.append(
                Judged(
                    contestant.arm.name,
                    contestant.unit,
                    run,
                    {name: other for name, other in again.items() if other is not None},
                    str(Path(_RUNS) / experiment.judge(contestant).path)
                    if contestant.seed is not None
                    else None,
                )
            )
    return found


def _read(
    experiment: Experiment, contestant: Contestant, condition: str, tasks: Sequence[str]
) -> Run | None:
    folder = experiment.evaluation_folder(contestant, condition)
    run = complete_run(folder, tasks, samples=True)
    return None if run is None else run._replace(name=contestant.name)


def report(experiment: Experiment) -> Comparison | None:
    """Write the tables of all finished evaluations; None if there are none.

    Raises:
        JudgeError: the judges were not evaluated on the same rows, or not in the same way.
    """
    judged = read_judged(experiment)
    if not judged:
        return None
    remarks: dict[str, None] = {}
    for corpus in dict.fromkeys(each.unit.corpus for each in judged):
        runs = [each.run for each in judged if each.unit.corpus == corpus]
        advice = f"remove the outdated ones in {experiment.out / _EVALUATIONS} and run it again"
        require_comparable(runs, ACROSS, advice)
        # The tables say how each arm is asked; the rest is not meant to differ.
        others = [each for each in other_differences(runs) if each.name not in _BY_ARM]
        remarks |= dict.fromkeys(
            [*(f"Also different: {each}." for each in others), *unstated(runs)]
        )
    comparison = compare(
        judged,
        experiment.arms_file,
        {
            "train": [task.task for task in experiment.tasks],
            "ood": [task.task for task in experiment.ood],
        },
        notes=[*_notes(experiment), *remarks],
        folder=experiment.out,
    )
    origin = {
        "recipe": experiment.recipe,
        "arms": experiment.arms_file.path.name,
        "model": experiment.model(experiment.corpora[0]),
        "settings": {arm: settings.given for arm, settings in experiment.settings.items()},
    }
    write_report(comparison, experiment.out, origin)
    return comparison


def _evaluated(experiment: Experiment, what: str) -> list[int]:
    folders = (experiment.out / _EVALUATIONS / _UNCHANGED).glob(f"**/{what}-*")
    numbers = {folder.name.removeprefix(f"{what}-") for folder in folders}
    return sorted(int(number) for number in numbers if number.isdecimal())


def _select_arms(file: ArmsFile, only: Sequence[str]) -> list[Arm]:
    known = {arm.key: arm for arm in file.arms}
    # A value may list several, separated by commas, and a name may have a comma, too.
    values = [[value] if arm_key(value) in known else value.split(",") for value in only]
    keys = [key for names in values for name in names if (key := arm_key(name))]
    for key in keys:
        if key not in known:
            raise JudgeError(f"--only: no arm {key!r}; {did_you_mean(key, known)}")
    return [arm for key, arm in known.items() if not keys or key in keys]


def _notes(experiment: Experiment) -> Iterator[str]:
    lengths: dict[str, list[str]] = {}
    for arm, settings in experiment.settings.items():
        trainer = settings.trainer
        length = f"{trainer.num_train_epochs:g} epochs"
        if trainer.max_steps > 0:
            length = f"{trainer.max_steps} steps"
            if experiment.arms_file.arm(arm).one_per_task:
                length = f"each task's share of {length}"
        lengths.setdefault(length, []).append(arm)
    yield from _by_value("Trained for at most", lengths)
    asked: dict[str, list[str]] = {}
    for each in experiment.arms_file.arms:
        style = each.evaluation.style or experiment.settings_of(each).style
        asked.setdefault(style, []).append(each.name)
    yield from _by_value("Asked in the style", asked)
    yield (
        f"The checkpoint with the best validation score is evaluated. Recipe: {experiment.recipe}; "
        f"arms: {experiment.arms_file.path.name}."
    )


def _by_value(what: str, arms: Mapping[str, Sequence[str]]) -> Iterator[str]:
    parts = [f"{value} ({'; '.join(names)})" for value, names in arms.items()]
    if parts:
        yield f"{what}: {', '.join(parts)}."
