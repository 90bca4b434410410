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
    """The newest results under two folders beside one another, with what the columns mean."""
    from tabulate import tabulate

    from mtrl_judge.leaderboard.reading import newest_results, results_table

    first = results_table(newest_results(before)).set_index("task")
    table = results_table(newest_results(after))
    shown = {
        "task": table["task"],
        "role": table["role"],
        "Macro-F1 before": table["task"].map(first["macro_f1"]),
        "Macro-F1 after": table["macro_f1"],
        "constant judge": table["majority_macro_f1"],
        "null rate after": table["null_rate"],
        "flip rate after": table["flip_rate"],
        "n": table["n"],
    }
    cells = {name: [_shown(value) for value in column] for name, column in shown.items()}
    return (
        tabulate(cells, headers="keys", disable_numparse=True)
        + "\n\nconstant judge: the Macro-F1 of always answering the commoner verdict. null rate: "
        "answers without a verdict,\nwhich count as wrong. flip rate: pairs whose verdict names "
        "another picture when the two change places.\nThe data is a teaching corpus: never compare "
        "these scores with those of the real datasets."
    )


def _shown(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return "–" if text in ("nan", "None") else text
