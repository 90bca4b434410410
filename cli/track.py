"""``mtrl-judge track``: results in W&B or trackio."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from .leaderboard import (
    MAX_FAILURES,
    RESAMPLES,
    MaxFailures,
    Resamples,
    Results,
    Tasks,
    split_names,
)
from .options import echo


def track(
    results: Results,
    to: Annotated[Literal["wandb", "trackio"], typer.Option(help="The tracker.")] = "wandb",
    project: Annotated[str, typer.Option(help="The tracker's project.")] = "mtrl-judge",
    tasks: Tasks = "",
    max_failures: MaxFailures = MAX_FAILURES,
    resamples: Resamples = RESAMPLES,
) -> None:
    """Send results to W&B or trackio, a run for each judge, with scores and samples as tables.

    Logins are the tracker's own (`wandb login`, `WANDB_MODE=offline`, `TRACKIO_DIR`, …).
    """
    from mtrl_judge.leaderboard.board import build_leaderboard
    from mtrl_judge.leaderboard.reading import load_runs
    from mtrl_judge.leaderboard.tracking import require_tracker
    from mtrl_judge.leaderboard.tracking import track as send

    require_tracker(to)
    board = build_leaderboard(
        load_runs(results),
        tasks=split_names(tasks),
        max_failures=max_failures,
        resamples=resamples,
    )
    for name in send(board, to, project):
        echo(f"{to}: {project}: {name}: sent", err=True)
