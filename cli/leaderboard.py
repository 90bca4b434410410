"""``mtrl-judge leaderboard``: lmms-eval's results to one table, and the file that keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer
from typer.core import TyperGroup

from .options import Force, use_data_root

if TYPE_CHECKING:
    from mtrl_judge.leaderboard.board import Leaderboard

Format: TypeAlias = Literal["md", "csv", "json", "html", "latex"]


class ShowByDefault(TyperGroup):
    """``leaderboard RESULTS…`` is ``leaderboard show RESULTS…``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=ShowByDefault,
    help="Compare judges: lmms-eval's results of any number of models to one table. "
    "`leaderboard RESULTS…` is `leaderboard show RESULTS…`.",
    no_args_is_help=True,
)

Results = Annotated[
    list[Path],
    typer.Argument(
        metavar="RESULTS…",
        help="Folders of lmms-eval's output, *_results.json files, leaderboard files.",
    ),
]
Metric = Annotated[str, typer.Option(help="macro_f1, accuracy, cohen_kappa, flip_rate, …")]
Tasks = Annotated[str, typer.Option(help="Names or patterns, with commas (default: all).")]
Allow = Annotated[
    str,
    typer.Option(
        help="What the runs may differ in: rows, source, style, perturbation (comma-separated)."
    ),
]
Resamples = Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same intervals.")]
RESAMPLES = 10_000


@app.command()
def show(
    results: Results,
    form: Annotated[Format, typer.Option("--format", help="What to write.")] = "md",
    metric: Metric = "macro_f1",
    tasks: Tasks = "",
    sort: Annotated[
        str | None, typer.Option(help="A task, train, ood, drop or name; best first.")
    ] = None,
    allow: Allow = "",
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Also pairs of judges, agreement, votes, calibration (html: always)."
        ),
    ] = False,
    digits: Annotated[int, typer.Option(min=0, max=6, help="Digits behind the point.")] = 3,
    out: Annotated[
        Path | None, typer.Option(help="The file to write (html: leaderboard.html).")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Also write the plots into this folder, PNG and SVG.")
    ] = None,
    include_path: Annotated[
        list[Path] | None,
        typer.Option(
            "--include-path",
            "--include_path",
            help="A folder with YAMLs of tasks of your own, for the report's items.",
        ),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Where the report finds the pictures it shows.")
    ] = None,
    resamples: Resamples = RESAMPLES,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """One table of all judges, with 95 % intervals, ranks and what cannot be told apart."""
    from mtrl_judge.common.files import refuse_existing, write_text

    if form == "html" and out is None:
        out = Path("leaderboard.html")
    for path in (out, plots):
        if path is not None:
            refuse_existing(path, force)
    board = _board(
        results, metric=metric, tasks=tasks, allow=allow, sort=sort, resamples=resamples, seed=seed
    )
    if plots is not None:
        from mtrl_judge.leaderboard.plots import write_plots

        for path in write_plots(board, plots, force=force):
            typer.echo(f"{path}: written", err=True)
    if form == "html":
        from mtrl_judge.leaderboard.analyses import analyses
        from mtrl_judge.leaderboard.report import write_report

        assert out is not None
        _use_data_root(data_root)
        write_report(board, analyses(board, digits), out, force=force, include=include_path or ())
        typer.echo(f"{out}: written", err=True)
        return
    text = _text(board, form, full=full, digits=digits)
    if out is None:
        typer.echo(text)
        return
    write_text(out, text + "\n", force)


def _board(
    results: list[Path], *, tasks: str = "", allow: str = "", **settings: Any
) -> Leaderboard:
    from mtrl_judge.leaderboard.board import build_leaderboard
    from mtrl_judge.leaderboard.reading import load_runs

    runs = load_runs(results)
    return build_leaderboard(runs, tasks=_words(tasks), allow=_words(allow), **settings)


def _words(text: str) -> list[str]:
    return [word for word in text.replace(",", " ").split() if word]


def _text(board: Leaderboard, form: Format, *, full: bool, digits: int) -> str:
    from mtrl_judge.leaderboard import formats, tables
    from mtrl_judge.leaderboard.analyses import analyses
    from mtrl_judge.leaderboard.file import leaderboard_file

    if form == "json":
        return leaderboard_file(board).model_dump_json(indent=2, exclude_defaults=True)
    if form == "csv":
        return tables.tidy_table(board).to_csv(index=False).rstrip("\n")
    bold = (lambda text: f"**{text}**") if form == "md" else (lambda text: text)
    sections = [tables.main_table(board, digits, bold), tables.summary_table(board, digits)]
    if full:
        sections += [tables.comparison_table(board, digits), *analyses(board, digits)]
    return formats.markdown(sections) if form == "md" else formats.latex(sections)


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="The leaderboard file; made where there is none.")],
    results: Results,
    rows: Annotated[
        bool, typer.Option("--rows", help="Keep the rows, to compare with item by item later.")
    ] = False,
    resamples: Resamples = RESAMPLES,
    seed: Seed = 0,
) -> None:
    """Add runs to a leaderboard file; one that is in it already is refused."""
    from mtrl_judge.leaderboard.file import add_entries, leaderboard_file

    board = _board(results, allow="rows,source,style,perturbation", resamples=resamples, seed=seed)
    added = add_entries(file, leaderboard_file(board, rows=rows).entries)
    for entry in added:
        typer.echo(f"{file}: added {entry.model} of {entry.date}")


@app.command()
def merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Leaderboard files.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    base: Annotated[
        Path | None,
        typer.Option(help="Their common ancestor: what a file left out of it stays left out."),
    ] = None,
    force: Force = False,
) -> None:
    """Unite leaderboard files; also git's merge driver for them (see docs/leaderboard.md)."""
    from mtrl_judge.leaderboard.file import merge_files

    count = merge_files(files, out, base=base, force=force)
    typer.echo(f"{out}: {count} entries")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a leaderboard file."""
    from mtrl_judge.leaderboard.file import json_schema

    typer.echo(json_schema())


def _use_data_root(root: Path | None) -> None:
    use_data_root(root)
