"""``mtrl-judge gate`` and ``mtrl-judge baseline save``: is a judge worse than it was? For CI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mtrl_judge.common.errors import JudgeError

from .leaderboard import Allow, Metric, Results, Seed, Tasks
from .options import Force

if TYPE_CHECKING:
    from mtrl_judge.leaderboard.gate import Gate
    from mtrl_judge.leaderboard.runs import Run

SAVE = "mtrl-judge baseline save"

app = typer.Typer(help="What a judge is held against by `gate`.", no_args_is_help=True)


def gate(
    results: Results,
    baseline: Annotated[
        Path, typer.Option(help=f"What `{SAVE}` wrote, or other results of one run.")
    ],
    metric: Metric = "macro_f1",
    max_drop: Annotated[
        float, typer.Option(help="Fail a task that is worse by more, even if it may be noise.")
    ] = 0.01,
    alpha: Annotated[
        float, typer.Option(help="Fail a task that is worse with a p-value (Holm) below this.")
    ] = 0.05,
    minimum: Annotated[
        list[str] | None,
        typer.Option(
            "--min",
            metavar="TASK=VALUE",
            help="The worst value that passes: the least; of null_rate and flip_rate the most.",
        ),
    ] = None,
    tasks: Tasks = "",
    allow: Allow = "",
    summary: Annotated[Path | None, typer.Option(help="Write the summary as markdown.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML, a test case a task.")] = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Hold a judge against a baseline. Exit code: 0 passed, 1 worse, 2 cannot be judged.

    Worse is: significantly (paired bootstrap, Holm over the tasks), beyond --max-drop, or beyond a
    task's --min. Where a task is worse and another cannot be judged the exit code is 1.
    """
    from mtrl_judge.common.files import refuse_existing
    from mtrl_judge.leaderboard import gate_report

    if not force:
        for place in (summary, junit):
            if place is not None:
                refuse_existing(place)
    try:
        judged = _judged(
            results,
            baseline,
            _words(tasks),
            metric=metric,
            max_drop=max_drop,
            alpha=alpha,
            minimum=_minimum(minimum or []),
            allow=_words(allow),
            seed=seed,
        )
    except JudgeError as error:
        # A pull request should say so too, and not show what an earlier run left.
        _write(summary, gate_report.markdown_of_error(str(error)), force)
        _write(junit, gate_report.junit_of_error(str(error)), force)
        raise
    text = gate_report.markdown(judged)
    _write(summary, text, force)
    _write(junit, gate_report.junit(judged), force)
    typer.echo(text, nl=False)
    raise typer.Exit(judged.exit_code)


@app.command()
def save(
    results: Results,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("baseline.json"),
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Keep one run of one model, with its rows, for `mtrl-judge gate --baseline`."""
    from mtrl_judge.leaderboard.board import build_leaderboard
    from mtrl_judge.leaderboard.compatibility import DIFFERENCES
    from mtrl_judge.leaderboard.file import entry_of, write_entries
    from mtrl_judge.leaderboard.gate import one_run
    from mtrl_judge.leaderboard.reading import load_runs

    run = one_run(load_runs(results), "RESULTS")
    without = [task for task, judged in run.tasks.items() if not judged.records]
    if without:
        raise JudgeError(
            f"{run.file}: no rows of {', '.join(without)}, and without them nothing can be tested; "
            "save from lmms-eval's results, made with --log_samples"
        )
    board = build_leaderboard([run], allow=DIFFERENCES, seed=seed)
    rates = {column.name: column.estimates[run.name] for column in board.tasks}
    with _writing(out):
        write_entries([entry_of(run, rates, rows=True)], out, force=force)
    rows = sum(len(judged.records) for judged in run.tasks.values())
    typer.echo(
        f"{out}: {run.model} of {run.date}, {len(run.tasks)} tasks, {rows:,} rows; use it: "
        f"mtrl-judge gate RESULTS --baseline {out}"
    )


def _judged(results: Sequence[Path], baseline: Path, tasks: Sequence[str], **settings: Any) -> Gate:
    from mtrl_judge.leaderboard.gate import judge_gate, one_run
    from mtrl_judge.leaderboard.reading import load_runs

    if not baseline.exists():
        raise JudgeError(f"--baseline: no {baseline}; save one: {SAVE} RESULTS --out {baseline}")
    before = one_run(load_runs([baseline]), "--baseline")
    now = one_run(load_runs(results), "RESULTS")
    return judge_gate(*_only(tasks, now, before), **settings)


def _only(patterns: Sequence[str], *runs: Run) -> list[Run]:
    """The runs with the tasks that a pattern matches in either of them."""
    from mtrl_judge.leaderboard.compatibility import chosen, tasks_of

    names = tasks_of(chosen(runs, patterns))
    return [
        run._replace(tasks={name: run.tasks[name] for name in names if name in run.tasks})
        for run in runs
    ]


def _minimum(words: Sequence[str]) -> Mapping[str, float]:
    found = {}
    for word in words:
        task, _, value = word.rpartition("=")
        try:
            found[task] = float(value)
        except ValueError:
            task = ""
        if not task:
            raise JudgeError(f"--min: is {word!r}; would be right: TASK=VALUE, such as mine=0.7")
    return found


def _words(text: str) -> list[str]:
    return [word for word in text.replace(",", " ").split() if word]


def _write(place: Path | None, text: str, force: bool) -> None:
    from mtrl_judge.common.files import write_text

    if place is not None:
        with _writing(place):
            write_text(place, text, force)


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """A folder that cannot be written into is the user's to mend."""
    try:
        yield
    except OSError as error:
        raise JudgeError(f"{place}: cannot be written: {error.strerror or error}") from None
