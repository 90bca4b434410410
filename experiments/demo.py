"""``mtrl-judge demo``: the whole workflow on one machine, without hub or GPU."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.locks import locked_folder
from mtrl_judge.demo.corpus import sample_tasks
from mtrl_judge.judge_tasks.verdicts import PARSER_VERSION
from mtrl_judge.leaderboard.formats import metric_name
from mtrl_judge.leaderboard.reading import complete_run
from mtrl_judge.leaderboard.runs import Run
from mtrl_judge.leaderboard.tables import Cell, Row, Table
from mtrl_judge.rl.model import JUDGE
from mtrl_judge.rl.settings import as_flags, build_settings

from .pipeline import run_steps
from .stages import (
    CURVE,
    STEPS_FILE,
    TINY,
    base_step,
    evaluation_step,
    sample_step,
    training_step,
    variables,
)


class Demo(NamedTuple):
    """What the demo produced."""

    table: Table
    learning_curve: Path
    judge: Path


def run_demo(out: Path, *, seed: int) -> Demo:
    """Sample corpus, tiny base model, multi-task GRPO, and lmms-eval before and after training.

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
    tasks = sample_tasks()
    before, after = (
        evaluation_step(
            f"lmms-eval {when} training",
            "evaluate",
            settings,
            str(judge),
            tasks,
            folder / when,
            environment=environment,
            log=folder / f"{when}.log",
        )
        for when, judge in (("before", base), ("after", run / JUDGE))
    )
    training = training_step(
        "multi-task GRPO",
        "train",
        settings,
        as_flags({**recipe, "data_root": data, "seed": seed}),
        run,
        evaluation=folder / "after",
        environment=environment,
    )
    steps = [sample_step(data, seed), base_step(data, base, seed), before, training, after]
    with locked_folder(folder):
        for _ in run_steps(steps, folder / STEPS_FILE):
            pass
    first, second = (complete_run(folder / when) for when in ("before", "after"))
    assert first is not None
    assert second is not None  # the steps have checked both
    return Demo(demo_table(first, second), run / CURVE, run / JUDGE)


def _refuse_other_parser(folder: Path) -> None:
    for when in ("before", "after"):
        run = complete_run(folder / when)
        for result in run.tasks.values() if run else ():
            if result.parser != PARSER_VERSION:
                raise JudgeError(
                    f"{folder / when}: {result.task} was read by version {result.parser} of the "
                    f"parser; this is version {PARSER_VERSION}. Remove {folder}, or choose another "
                    "--out"
                )


def demo_table(before: Run, after: Run) -> Table:
    """Two evaluations of all tasks side by side, training tasks first."""
    rows = []
    for task, result in sorted(
        after.tasks.items(), key=lambda item: (item[1].role != "train", item[0])
    ):
        metric = result.kind.headline
        name = metric_name(metric)
        rates = {
            f"{name} before": before.tasks[task].rates.get(metric),
            f"{name} after": result.rates.get(metric),
            "majority class": result.rates.get(f"majority_{metric}"),
            "null rate after": result.rates.get("null_rate"),
            "flip rate after": result.rates.get("flip_rate"),
        }
        cells = {"role": Cell(result.role)}
        cells |= {title: Cell(rate, "rate") for title, rate in rates.items()}
        rows.append(Row(task, {**cells, "n": Cell(result.n_rows, "count")}))
    note = (
        "majority class: the score of always giving the most frequent label. null rate: answers "
        "without a verdict,\nwhich count as wrong. flip rate: pairs whose verdict changes when the "
        "two images are swapped.\nThe corpus is synthetic: do not compare these scores with those "
        "of the real datasets."
    )
    return Table("Before and after training", "task", rows, note)
