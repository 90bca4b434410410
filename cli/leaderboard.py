"""``mtrl-judge leaderboard``: compare lmms-eval's results, and the file that keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import refuse_existing, write_text

from .command_line import App, JudgeGroup
from .options import METRICS, Force, choice, echo, use_data_root

Format: TypeAlias = Literal["md", "csv", "json", "html", "latex"]


class ShowByDefault(JudgeGroup):
    """``leaderboard RESULTS…`` is ``leaderboard show RESULTS…``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = App(
    cls=ShowByDefault,
    help="Compare judges: lmms-eval's results of any number of models in one table. "
    "`leaderboard RESULTS…` is short for `leaderboard show RESULTS…`.",
    no_args_is_help=True,
)

Results = Annotated[
    list[Path],
    typer.Argument(
        metavar="RESULTS…",
        help="lmms-eval's output folders, *_results.json files, or leaderboard files.",
    ),
]
Metric = Annotated[
    str | None,
    choice(METRICS, "What judges are compared by (default: each task's headline metric)."),
]
Tasks = Annotated[str, typer.Option(help="Task names or patterns, comma-separated (default: all).")]
Across = Annotated[
    str,
    typer.Option(
        metavar="FIELDS",
        help="Compare runs that differ in these, comma-separated: rows, source, label, question, "
        "instruction, style, scoring, calibration, parser, version, perturbation.",
    ),
]
MaxFailures = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="Refuse runs in which the requests of more of a task's rows failed.",
    ),
]
Resamples = Annotated[int, typer.Option(min=100, help="Number of draws.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the draws.")]
RESAMPLES = 10_000
MAX_FAILURES = 0.005


@app.command()
def show(
    results: Results,
    form: Annotated[Format, typer.Option("--format", help="Output format.")] = "md",
    metric: Metric = None,
    tasks: Tasks = "",
    sort: Annotated[
        str | None,
        choice(
            ("train", "ood", "gap", "name"),
            "Best first (default: the first of these that there is).",
            others=("TASK",),
        ),
    ] = None,
    across: Across = "",
    max_failures: MaxFailures = MAX_FAILURES,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Add verdicts, pairs, power, agreement, votes, calibration (as html does).",
        ),
    ] = False,
    power: Annotated[
        bool, typer.Option("--power", help="Add which differences the tasks can show.")
    ] = False,
    instructions: Annotated[
        bool,
        typer.Option(
            "--instructions",
            help="Instead: how judges differ across wordings of the question, from the folders of "
            "`mtrl-judge robustness`.",
        ),
    ] = False,
    digits: Annotated[int, typer.Option(min=0, max=6, help="Decimal places.")] = 3,
    out: Annotated[
        Path | None, typer.Option(help="Output file (html: leaderboard.html by default).")
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(help="Also write the plots into this folder, as PNG, SVG and PDF."),
    ] = None,
    include_path: Annotated[
        list[Path] | None,
        typer.Option(help="A folder with YAMLs of your own tasks, for the items of the report."),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder with the images that the report shows.")
    ] = None,
    resamples: Resamples = RESAMPLES,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Show all judges in one table, with 95 % intervals, ranks and significance."""
    from mtrl_judge.leaderboard.board import build_leaderboard
    from mtrl_judge.leaderboard.file import leaderboard_file
    from mtrl_judge.leaderboard.reading import load_runs
    from mtrl_judge.leaderboard.tables import csv_text, latex, markdown
    from mtrl_judge.leaderboard.view import TIDY_FIELDS, build_view, tidy_records

    if instructions:
        ignored: dict[str, object] = {
            "--metric": metric,
            "--sort": sort,
            "--across": across,
            "--full": full,
        }
        ignored |= {"--power": power, "--plots": plots, "--format html": form == "html"}
        _refuse_beside_instructions([option for option, given in ignored.items() if given])
        _show_instructions(
            *(results, form, split_names(tasks), max_failures, digits, out, resamples, seed, force)
        )
        return
    if form == "html" and out is None:
        out = Path("leaderboard.html")
    for path in (out, plots):
        if path is not None:
            refuse_existing(path, force)
    board = build_leaderboard(
        load_runs(results),
        metric=metric,
        tasks=split_names(tasks),
        across=split_names(across),
        max_failures=max_failures,
        sort=sort,
        resamples=resamples,
        seed=seed,
    )
    if plots is not None:
        from mtrl_judge.leaderboard.plots import write_plots

        for file in write_plots(board, plots, force=force):
            echo(f"{file}: written", err=True)
    if form == "json":
        view = build_view(board, full=full, power=power)
        text = leaderboard_file(board, view).model_dump_json(indent=2, exclude_defaults=True)
    elif form == "csv":
        text = csv_text(TIDY_FIELDS, tidy_records(board)).rstrip("\n")
    elif form == "html":
        from mtrl_judge.leaderboard.report import render_report

        use_data_root(data_root)
        view = build_view(board, full=True)
        text = render_report(board, view, digits=digits, include=include_path or ()).rstrip("\n")
    else:
        write = markdown if form == "md" else latex
        view = build_view(board, full=full, power=power)
        text = write(view.tables, digits, view.labels)
    _put(text, out, force)


def _put(text: str, out: Path | None, force: bool) -> None:
    if out is None:
        echo(text)
        return
    write_text(out, text + "\n", force)
    echo(f"{out}: written", err=True)


def _refuse_beside_instructions(options: Sequence[str]) -> None:
    """
    Raises:
        JudgeError: there are some.
    """
    if options:
        raise JudgeError(
            f"--instructions: takes no {', '.join(options)}; each task has its headline metric"
        )


def _show_instructions(
    results: Sequence[Path],
    form: Format,
    tasks: Sequence[str],
    max_failures: float,
    digits: int,
    out: Path | None,
    resamples: int,
    seed: int,
    force: bool,
) -> None:
    from mtrl_judge.common.files import json_text
    from mtrl_judge.leaderboard.instruction_tables import (
        RECORD_FIELDS,
        SCHEMA_VERSION,
        instruction_records,
        instruction_tables,
    )
    from mtrl_judge.leaderboard.instructions import compare_instructions
    from mtrl_judge.leaderboard.reading import load_runs
    from mtrl_judge.leaderboard.tables import csv_text, latex, markdown

    if out is not None:
        refuse_existing(out, force)
    compared = compare_instructions(
        load_runs(results), tasks=tasks, max_failures=max_failures, resamples=resamples, seed=seed
    )
    if form == "json":
        about = {"schema_version": SCHEMA_VERSION, "resamples": resamples, "seed": seed}
        records = list(instruction_records(compared))
        text = json_text({**about, "notes": compared.notes, "records": records}).rstrip("\n")
    elif form == "csv":
        text = csv_text(RECORD_FIELDS, list(instruction_records(compared))).rstrip("\n")
    else:
        write = markdown if form == "md" else latex
        text = write(instruction_tables(compared), digits)
    _put(text, out, force)


def split_names(text: str) -> list[str]:
    """Names separated by commas or spaces."""
    return text.replace(",", " ").split()


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="The leaderboard file; created if missing.")],
    results: Results,
    rows: Annotated[
        bool,
        typer.Option(
            "--rows/--no-rows", help="Keep the rows, compressed, to compare with later runs."
        ),
    ] = True,
    max_failures: MaxFailures = MAX_FAILURES,
    resamples: Resamples = RESAMPLES,
    seed: Seed = 0,
) -> None:
    """Add runs to a leaderboard file; fails if it already has one of them."""
    from mtrl_judge.leaderboard.board import build_leaderboard
    from mtrl_judge.leaderboard.file import add_entries, entries_of
    from mtrl_judge.leaderboard.identity import IDENTITY
    from mtrl_judge.leaderboard.reading import load_runs

    # Entries keep all rates; the metric would only decide on ranks.
    board = build_leaderboard(
        load_runs(results),
        metric="accuracy",
        across=[*IDENTITY],
        max_failures=max_failures,
        resamples=resamples,
        seed=seed,
    )
    entries = entries_of(board, rows=rows)
    add_entries(file, entries)
    for entry in entries:
        echo(f"{file}: added {entry.model} of {entry.date}")


@app.command()
def merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Leaderboard files.")],
    out: Annotated[Path, typer.Option(help="Output file.")],
    base: Annotated[
        Path | None,
        typer.Option(help="Their common ancestor: entries that one file removed stay removed."),
    ] = None,
    force: Force = False,
) -> None:
    """Merge leaderboard files; also git's merge driver for them (see docs/leaderboard.md)."""
    from mtrl_judge.leaderboard.file import merge_files

    count = merge_files(files, out, base=base, force=force)
    echo(f"{out}: {count} entries")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a leaderboard file."""
    from mtrl_judge.leaderboard.file import json_schema

    echo(json_schema())
