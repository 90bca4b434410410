"""``mtrl-judge demo``: the whole job on one machine, without hub or GPU."""

from __future__ import annotations

from pathlib import Path

import typer


def run_demo(out: Path, *, seed: int) -> None:
    """Sample, tiny base model, multi-task GRPO, the stock lmms-eval before and after, one table.

    What is done is not done again, and training goes on where it was broken off.

    Raises:
        JudgeError: a step fails.
    """
    from mtrl_judge.judge_tasks.loading import load_shipped_tasks
    from mtrl_judge.rl.model import JUDGE
    from mtrl_judge.rl.settings import build_settings

    from . import stages
    from .paper import STEPS_FILE, TINY
    from .pipeline import run_steps

    folder = (out / f"seed-{seed}").resolve()  # a resumed run wants its model under one name
    data, base, run = folder / "data", folder / "base", folder / "run"
    flags = ["--recipe", TINY, "--model_name_or_path", str(base)]
    settings = build_settings(
        "grpo", {"model_name_or_path": str(base), "dry_run": True}, recipe=TINY
    )
    environment = stages.environment_of(data, settings)
    tasks = load_shipped_tasks()
    judges = {"before": base, "after": run / JUDGE}
    before, after = (
        stages.evaluation_step(
            f"lmms-eval {when} training",
            "judge",
            str(judge),
            tasks,
            folder / when,
            style=settings.style,
            extra=stages.evaluation_flags(settings),
            environment=environment,
            log=folder / f"{when}.log",
        )
        for when, judge in judges.items()
    )
    training = stages.training_step(
        "multi-task GRPO",
        "train",
        settings,
        run,
        [*flags, "--data_root", str(data), "--seed", str(seed)],
        environment,
        log=None,
    )
    steps = [
        stages.sample_step(data, seed),
        stages.base_step(data, base, seed),
        before,
        training,
        after,
    ]
    for _ in run_steps(steps, folder / STEPS_FILE):
        pass
    typer.echo(f"\n{demo_table(folder / 'before', folder / 'after')}")
    typer.echo(f"\nlearning curve: {run / stages.CURVE}\nthe judge: {judges['after']}")


def demo_table(before: Path, after: Path) -> str:
    """The results under two folders side by side, with what the columns mean."""
    from mtrl_judge.leaderboard.compatibility import tasks_of
    from mtrl_judge.leaderboard.reading import load_run, results_files
    from mtrl_judge.leaderboard.tables import Cell, Row, Table, plain_text

    first, last = (load_run(results_files(folder)[-1], samples=False) for folder in (before, after))
    rows = []
    for task in tasks_of([last]):
        result = last.tasks[task]
        cells = {
            "role": Cell(result.role),
            "Macro-F1 before": Cell(first.tasks[task].reported("macro_f1"), "rate"),
            "Macro-F1 after": Cell(result.reported("macro_f1"), "rate"),
            "majority class": Cell(result.reported("majority_macro_f1"), "rate"),
            "null rate after": Cell(result.reported("null_rate"), "rate"),
            "flip rate after": Cell(result.reported("flip_rate"), "rate"),
            "n": Cell(result.n_rows, "count"),
        }
        rows.append(Row(task, cells))
    return (
        f"{plain_text(Table('Demo', 'task', rows))}\n\n"
        "majority class: Macro-F1 of always answering the most frequent label. null rate: answers "
        "without a verdict,\nwhich count as wrong. flip rate: pairs whose verdict prefers the "
        "other image when the two are swapped.\nThe data is a sample corpus: never compare these "
        "scores with those on real datasets."
    )
