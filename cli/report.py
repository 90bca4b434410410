"""``mtrl-judge report``: all items of any number of judges, as a folder that a browser opens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .leaderboard import (
    MAX_FAILURES,
    RESAMPLES,
    Across,
    MaxFailures,
    Metric,
    Resamples,
    Results,
    Seed,
    Tasks,
    split_names,
)
from .options import DataRoot, Force, echo, use_data_root


def report(
    results: Results,
    out: Annotated[Path, typer.Option(help="Folder to write; index.html in it opens the report.")],
    metric: Metric = None,
    tasks: Tasks = "",
    across: Across = "",
    max_failures: MaxFailures = MAX_FAILURES,
    include_path: Annotated[
        list[Path] | None,
        typer.Option(help="A folder with YAMLs of your own tasks, for the images of their items."),
    ] = None,
    data_root: DataRoot = None,
    resamples: Resamples = RESAMPLES,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Write all items of all judges as a page to search, filter and compare them.

    The folder is static: open its index.html, or host it anywhere. Of a leaderboard file, which has
    no texts, the page has the tables and the verdicts of each item.
    """
    from mtrl_judge.common.progress import ProgressBars
    from mtrl_judge.leaderboard.board import build_leaderboard
    from mtrl_judge.leaderboard.bundle import refuse_other_content, write_bundle
    from mtrl_judge.leaderboard.reading import load_runs
    from mtrl_judge.leaderboard.view import build_view

    refuse_other_content(out, force)
    use_data_root(data_root)
    board = build_leaderboard(
        load_runs(results),
        metric=metric,
        tasks=split_names(tasks),
        across=split_names(across),
        max_failures=max_failures,
        resamples=resamples,
        seed=seed,
    )
    view = build_view(board, full=True)
    with ProgressBars(transient=True) as bars:
        written = write_bundle(
            board, view, out, include=include_path or (), force=force, progress=bars.report
        )
    echo(
        f"{out / 'index.html'}: {written.items:,} items, {written.images:,} images, "
        f"{written.size / 1e6:,.1f} MB"
    )
