"""``mtrl-judge gate`` and ``mtrl-judge baseline save``: has a judge become worse? For CI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import refuse_existing, write_text

from .command_line import App
from .leaderboard import (
    MAX_FAILURES,
    Across,
    MaxFailures,
    Metric,
    Results,
    Seed,
    Tasks,
    split_names,
)
from .options import Force, echo

SAVE = "mtrl-judge baseline save"

app = App(help="The baseline that `gate` compares with.", no_args_is_help=True)


def gate(
    results: Results,
    baseline: Annotated[
        Path, typer.Option(help=f"A file written by `{SAVE}`, or other results of one run.")
    ],
    metric: Metric = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Pass only a task that is shown not to be worse by more, instead of one that is "
            "not shown to be worse."
        ),
    ] = None,
    alpha: Annotated[
        float, typer.Option(help="Fail a task that is worse with a p-value (Holm) below this.")
    ] = 0.05,
    minimum: Annotated[
        list[str] | None,
        typer.Option(
            "--min",
            metavar="TASK=VALUE",
            help="The worst value that passes: a minimum; a maximum for null_rate and flip_rate.",
        ),
    ] = None,
    tasks: Tasks = "",
    across: Across = "",
    max_failures: MaxFailures = MAX_FAILURES,
    summary: Annotated[Path | None, typer.Option(help="Write the summary as Markdown.")] = None,
    junit: Annotated[
        Path | None, typer.Option(help="Write JUnit XML, one test case per task.")
    ] = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Compare a judge with a baseline. Exit code: 0 passed, 1 worse, 2 not comparable.

    A task is worse if it is significantly worse (one-sided randomization test, Holm over the
    tasks) or misses its --min. With --margin it is worse unless its interval excludes a larger
    drop. If one task is worse and another is not comparable, the exit code is 1.
    """
    from mtrl_judge.leaderboard import gate_report
    from mtrl_judge.leaderboard.compatibility import select_tasks, tasks_of
    from mtrl_judge.leaderboard.gate import one_run, run_gate
    from mtrl_judge.leaderboard.reading import load_runs

    for path in (summary, junit):
        if path is not None:
            refuse_existing(path, force)
    try:
        if not baseline.exists():
            raise JudgeError(
                f"--baseline: no {baseline}; save one: {SAVE} RESULTS --out {baseline}"
            )
        before = one_run(load_runs([baseline]), "--baseline")
        now = one_run(load_runs(results), "RESULTS")
        names = tasks_of(select_tasks([now, before], split_names(tasks)))
        result = run_gate(
            now.with_tasks(names),
            before.with_tasks(names),
            metric=metric,
            margin=margin,
            alpha=alpha,
            minimum=_minimum(minimum or []),
            across=split_names(across),
            max_failures=max_failures,
            seed=seed,
        )
    except JudgeError as error:
        # A pull request should show the error, and not the result of an earlier run.
        _write(summary, gate_report.markdown_of_error(str(error)))
        _write(junit, gate_report.junit_of_error(str(error)))
        raise
    text = gate_report.markdown(result)
    _write(summary, text)
    _write(junit, gate_report.junit(result))
    echo(text, nl=False)
    raise typer.Exit(result.exit_code)


@app.command()
def save(
    results: Results,
    out: Annotated[Path, typer.Option(help="Output file.")] = Path("baseline.json"),
    max_failures: MaxFailures = MAX_FAILURES,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Save one run of one model, with its rows, for `mtrl-judge gate --baseline`."""
    from mtrl_judge.leaderboard.board import build_leaderboard
    from mtrl_judge.leaderboard.file import entries_of, write_entries
    from mtrl_judge.leaderboard.gate import one_run
    from mtrl_judge.leaderboard.identity import IDENTITY
    from mtrl_judge.leaderboard.reading import load_runs

    run = one_run(load_runs(results), "RESULTS")
    without = [task for task, result in run.tasks.items() if not result.samples]
    if without:
        raise JudgeError(
            f"{run.file}: no rows of {', '.join(without)}; a baseline needs them for tests of "
            "significance. Save it from lmms-eval's results with samples (--log_samples)"
        )
    # A baseline keeps all rates; the metric would only decide on ranks.
    board = build_leaderboard(
        [run], metric="accuracy", across=[*IDENTITY], max_failures=max_failures, seed=seed
    )
    write_entries(entries_of(board), out, force=force)
    rows = sum(len(result.samples) for result in run.tasks.values())
    echo(
        f"{out}: {run.model} of {run.date}, {len(run.tasks)} tasks, {rows:,} rows; use it with "
        f"mtrl-judge gate RESULTS --baseline {out}"
    )


def _minimum(options: Sequence[str]) -> Mapping[str, float]:
    minimum = {}
    for option in options:
        task, _, value = option.rpartition("=")
        try:
            minimum[task] = float(value)
        except ValueError:
            task = ""
        if not task:
            raise JudgeError(f"--min: is {option!r}; expected TASK=VALUE, such as mine=0.7")
    return minimum


def _write(path: Path | None, text: str) -> None:
    if path is not None:
        write_text(path, text)
