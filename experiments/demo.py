"""``mtrl-judge demo``: the whole workflow on one machine, without hub or GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.locks import locked_folder
from mtrl_judge.common.verbosity import is_quiet
from mtrl_judge.demo.corpus import base_tasks, further_tasks
from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.judge_tasks.verdicts import PARSER_VERSION
from mtrl_judge.leaderboard.formats import metric_name
from mtrl_judge.leaderboard.reading import complete_run
from mtrl_judge.leaderboard.runs import Run
from mtrl_judge.leaderboard.tables import Cell, Row, Table
from mtrl_judge.metrics.bootstrap import Estimate
from mtrl_judge.rl.finished_run import JUDGE
from mtrl_judge.rl.settings import as_flags, build_settings

from .pipeline import Step, run_steps
from .stages import (
    CURVE,
    STEPS_FILE,
    TINY,
    base_step,
    evaluation_step,
    further_step,
    sample_step,
    training_step,
    variables,
)

EVALUATIONS = ("before", "fitted", "after")
FURTHER = "further"


class Demo(NamedTuple):
    """What the demo produced."""

    table: Table
    further: Table
    learning_curve: Path
    judge: Path
    compared: Sequence[Path]
    """The results before and after training, for a leaderboard; the others are not comparable."""


def run_demo(out: Path, *, seed: int) -> Demo:
    """Sample corpus, tiny base model, multi-task GRPO, and lmms-eval before and after training.

    The base model is also evaluated with a bias for each verdict that is fitted to the validation
    split: what a judge gains by shifting its threshold, without learning anything. Tasks of further
    kinds are judged by a base model that was taught these.

    Finished steps are skipped, and an interrupted training is resumed.

    Raises:
        JudgeError: another version of the parser read the finished evaluations, another process
            runs the demo in this folder, or a step fails.
    """
    folder = (out / f"seed-{seed}").resolve()  # a resumed run checks that its model's path is equal
    _refuse_other_parser(folder)
    data, base, run = folder / "data", folder / "base", folder / "run"
    recipe = {"recipe": TINY, "model_name_or_path": base}
    settings = build_settings(
        "grpo", {"model_name_or_path": str(base), "dry_run": True}, recipe=TINY
    )
    environment = variables(data, settings)
    tasks = base_tasks()

    def evaluation(
        name: str, judge: Path, tasks: Sequence[JudgeTask], out: str, *flags: str
    ) -> Step:
        return evaluation_step(
            name,
            f"evaluate {out}",
            settings,
            str(judge),
            tasks,
            folder / out,
            eval_args=flags,
            environment=environment,
            log=folder / f"{out}.log",
        )

    trained = [task for task in tasks if task.judge.role == "train"]  # others have no validation
    bias = ("--model_args", "scoring=logprob,calibration=bias")
    before = evaluation("lmms-eval before training", base, tasks, "before")
    fitted = evaluation("lmms-eval with a fitted threshold", base, trained, "fitted", *bias)
    after = evaluation("lmms-eval after training", run / JUDGE, tasks, "after")
    training = training_step(
        "multi-task GRPO",
        "train",
        settings,
        as_flags({**recipe, "data_root": data, "seed": seed}),
        run,
        evaluation=folder / "after",
        environment=environment,
        log=folder / "train.log" if is_quiet() else None,
    )
    taught = further_step(data, base, folder / "base-further", seed)
    further = evaluation(
        "lmms-eval on further kinds", folder / "base-further", further_tasks(), FURTHER
    )
    steps = [
        sample_step(data, seed),
        base_step(data, base, seed),
        before,
        fitted,
        training,
        after,
        taught,
        further,
    ]
    with locked_folder(folder):
        for _ in run_steps(steps, folder / STEPS_FILE):
            pass
    runs = [complete_run(folder / name, samples=True) for name in (*EVALUATIONS, FURTHER)]
    complete = [run for run in runs if run is not None]  # all of them: the steps have checked it
    return Demo(
        demo_table(*complete[:-1]),
        further_table(complete[-1]),
        run / CURVE,
        run / JUDGE,
        [out / folder.name / "before", out / folder.name / "after"],
    )


def _refuse_other_parser(folder: Path) -> None:
    for when in (*EVALUATIONS, FURTHER):
        run = complete_run(folder / when)
        for result in run.tasks.values() if run else ():
            if result.parser != PARSER_VERSION:
                raise JudgeError(
                    f"{folder / when}: {result.task} was read by version {result.parser} of the "
                    f"parser; this is version {PARSER_VERSION}. Remove {folder}, or choose another "
                    "--out"
                )


def _fitted_rate(fitted: Run, task: str, metric: str) -> Estimate | None:
    """None where there are no validation rows, or these do not determine a threshold."""
    result = fitted.tasks.get(task)
    if result is None or not all(sample.calibrated for sample in result.samples):
        return None
    return result.rates.get(metric)


def demo_table(before: Run, fitted: Run, after: Run) -> Table:
    """The evaluations side by side, training tasks first."""
    rows = []
    for task, result in sorted(
        after.tasks.items(), key=lambda item: (item[1].role != "train", item[0])
    ):
        metric = result.kind.headline
        name = metric_name(metric)
        rates = {
            f"{name} before": before.tasks[task].rates.get(metric),
            "fitted": _fitted_rate(fitted, task, metric),
            f"{name} after": result.rates.get(metric),
            "majority class": result.rates.get(f"majority_{metric}"),
            "null rate after": result.rates.get("null_rate"),
            "flip rate after": result.rates.get("flip_rate"),
        }
        cells = {"role": Cell(result.role)}
        cells |= {title: Cell(rate, "rate") for title, rate in rates.items()}
        rows.append(Row(task, {**cells, "n": Cell(result.n_rows, "count")}))
    note = (
        "fitted: the base model with one threshold a task, fitted to its verdict probabilities on "
        "the validation split;\ntraining adds what it scores above that. A dash: that split has no "
        "rows, or they determine no threshold.\nmajority class: the score of always giving the "
        "most frequent label. null rate: answers without a verdict,\nwhich count as wrong. flip "
        "rate: pairs whose verdict changes when the two images are swapped. The corpus\nis "
        "synthetic: do not compare these scores with those of the real datasets."
    )
    return Table("Before and after training", "task", rows, note)


def further_table(judged: Run) -> Table:
    """The tasks of further kinds, each with its own headline metric."""
    rows = []
    for task, result in sorted(judged.tasks.items()):
        metric = result.kind.headline
        cells = {
            "kind": Cell(result.kind.name),
            "metric": Cell(metric_name(metric)),
            "score": Cell(result.rates.get(metric), "rate"),
            "null rate": Cell(result.rates.get("null_rate"), "rate"),
            "n": Cell(result.n_rows, "count"),
        }
        rows.append(Row(task, cells))
    note = (
        "The base model, taught these formats. It rates nearly all images alike, without a "
        "correlation if all;\n`mtrl-judge train grpo` from this model corrects that "
        "(docs/training.md)."
    )
    return Table("Further kinds of tasks, before training", "task", rows, note)
