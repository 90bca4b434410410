"""``mtrl-judge data push``: publish a prepared dataset on the hub."""

from __future__ import annotations

from typing import Annotated

import typer

from mtrl_judge.common.errors import JudgeError

from .options import AllowLocalFiles, DataRoot, Force, echo, use_data_root


def push(
    task: Annotated[str, typer.Argument(help="A task's name, or the path of a YAML.")],
    repo: Annotated[str, typer.Option(help="The repository on the hub: owner/name.")],
    public: Annotated[
        bool, typer.Option("--public", help="Make the repository public (default: private).")
    ] = False,
    accept_license: Annotated[
        str,
        typer.Option(metavar="TASK", help="Confirm that its license allows you to publish it."),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the card and the files without uploading.")
    ] = False,
    data_root: DataRoot = None,
    allow_local_files: AllowLocalFiles = False,
    force: Force = False,
) -> None:
    """Publish a task's prepared data as a dataset with a card."""
    from mtrl_judge.data import publish
    from mtrl_judge.judge_tasks.loading import find_task

    use_data_root(data_root)
    judge_task = find_task(task)
    if public and accept_license not in (judge_task.short_name, judge_task.task):
        raise JudgeError(
            f"--public: the data's license is: {judge_task.judge.card.license}; if it allows you "
            f"to publish the data, pass --accept-license {judge_task.short_name}"
        )
    files = publish.repository_files(judge_task, repo)
    if not dry_run:
        echo(publish.push(judge_task, repo, files, private=not public, force=force))
        return
    for path, content in files.items():
        if isinstance(content, bytes):
            echo(content.decode())
        else:
            echo(f"{content.stat().st_size / 1e6:10,.1f} MB  {path}")
    echo("nothing was uploaded (--dry-run)")
