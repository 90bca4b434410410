"""``mtrl-judge push …``: publish judges, results, leaderboards and data on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.hub import Upload, check_repo

from .command_line import App
from .leaderboard import MAX_FAILURES, Across, MaxFailures, Results, Tasks, split_names
from .options import AllowLocalFiles, DataRoot, echo, use_data_root

if TYPE_CHECKING:
    from mtrl_judge.leaderboard.board import Leaderboard as Board

app = App(
    help="Publish judges, results, leaderboards and data on the Hugging Face Hub. The token is "
    "that of `hf auth login` or HF_TOKEN.",
    no_args_is_help=True,
)
To = Annotated[
    str,
    typer.Option("--to", metavar="OWNER/NAME", callback=check_repo, help="The repository."),
]
Public = Annotated[
    bool, typer.Option("--public/--private", help="Who may see a repository that is created.")
]
Branch = Annotated[
    str | None, typer.Option("--revision", metavar="BRANCH", help="The branch (default: main).")
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print the card, the files and their sizes, and contact nothing."
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Also write into a repository that another tool wrote.")
]


@app.command()
def judge(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run of `train`.")],
    to: To,
    results: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RESULTS", help="Evaluations of the judge, for its card; repeat for several."
        ),
    ] = None,
    license_id: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="ID",
            help="The hub's identifier (default: what the base model's card states, or other).",
        ),
    ] = None,
    max_failures: MaxFailures = MAX_FAILURES,
    public: Public = False,
    revision: Branch = None,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Publish the judge of a training run.

    Its card has its scores with intervals, the data with its licenses, and a summary of the
    training.
    """
    from mtrl_judge.rl.publish import judge_upload

    upload = judge_upload(
        run, to, results=results or (), max_failures=max_failures, license_id=license_id
    )
    send(upload, public, dry_run, force, revision)


@app.command()
def results(
    results: Results,
    to: To,
    tasks: Tasks = "",
    max_failures: MaxFailures = MAX_FAILURES,
    public: Public = False,
    revision: Branch = None,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Publish results of lmms-eval with their samples.

    They become a dataset, without secrets and without paths of the machines that evaluated.
    """
    from mtrl_judge.leaderboard.publish import results_upload

    board = _board(results, tasks, "", max_failures, across_all=True)
    send(results_upload(board, to), public, dry_run, force, revision)


@app.command()
def leaderboard(
    results: Results,
    to: To,
    repo_type: Annotated[
        Literal["space", "dataset"], typer.Option(help="A static Space shows the page.")
    ] = "space",
    tasks: Tasks = "",
    across: Across = "",
    max_failures: MaxFailures = MAX_FAILURES,
    public: Public = False,
    revision: Branch = None,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Publish a leaderboard as a page with its file.

    It shows no items: their texts and images may not be published.
    """
    from mtrl_judge.leaderboard.publish import leaderboard_upload

    board = _board(results, tasks, across, max_failures)
    send(leaderboard_upload(board, to, repo_type), public, dry_run, force, revision)


def _board(
    results: Sequence[Path],
    tasks: str,
    across: str,
    max_failures: float,
    *,
    across_all: bool = False,
) -> Board:
    """
    Args:
        across_all: results of any kind may be published together.
    """
    from mtrl_judge.leaderboard.board import build_leaderboard
    from mtrl_judge.leaderboard.identity import IDENTITY
    from mtrl_judge.leaderboard.reading import load_runs

    return build_leaderboard(
        load_runs(results),
        tasks=split_names(tasks),
        across=[*IDENTITY] if across_all else split_names(across),
        max_failures=max_failures,
    )


@app.command()
def data(
    task: Annotated[str, typer.Argument(help="A task's name, or the path of a YAML.")],
    to: To,
    accept_license: Annotated[
        str,
        typer.Option(
            metavar="TASK", help="With --public: confirm that its license allows publication."
        ),
    ] = "",
    public: Public = False,
    revision: Branch = None,
    dry_run: DryRun = False,
    data_root: DataRoot = None,
    allow_local_files: AllowLocalFiles = False,
    force: Force = False,
) -> None:
    """Publish a task's prepared data."""
    from mtrl_judge.data.publish import dataset_upload
    from mtrl_judge.judge_tasks.loading import find_task

    use_data_root(data_root)
    judge_task = find_task(task)
    if public and accept_license not in (judge_task.short_name, judge_task.task):
        raise JudgeError(
            f"--public: the data's license is: {judge_task.judge.card.license}; if it allows you "
            f"to publish the data, pass --accept-license {judge_task.short_name}"
        )
    send(dataset_upload(judge_task, to), public, dry_run, force, revision)


def send(upload: Upload, public: bool, dry_run: bool, force: bool, revision: str | None) -> None:
    """Upload it, or print what would be uploaded."""
    from mtrl_judge.common import hub

    if dry_run:
        echo(hub.preview(upload, public=public))
    else:
        echo(hub.push(upload, public=public, force=force, revision=revision))
