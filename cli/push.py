"""``mtrl-judge data push``: a prepared set as a dataset on the hub."""

from __future__ import annotations

from typing import Annotated

import typer

from mtrl_judge.common.errors import JudgeError

from .options import DataRoot, Force, use_data_root


def push(
    task: Annotated[str, typer.Argument(help="A task's name, or the path of a YAML.")],
    repo: Annotated[str, typer.Option(help="Where to: owner/name on the hub.")],
    public: Annotated[
        bool, typer.Option("--public", help="For everybody to read; otherwise it is private.")
    ] = False,
    accept_license: Annotated[
        str, typer.Option(metavar="TASK", help="Say that its license allows you to publish it.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show card and files, and send nothing.")
    ] = False,
    data_root: DataRoot = None,
    force: Force = False,
) -> None:
    """Publish a task's prepared data as a dataset with a card."""
    from mtrl_judge.data import publish as hub
    from mtrl_judge.judge_tasks.loading import find_task

    use_data_root(data_root)
    found = find_task(task)
    if public and accept_license not in (found.short_name, found.task):
        raise JudgeError(
            f"--public: its license is: {found.judge.card.license}; where that allows you to "
            f"publish it, say so: --accept-license {found.short_name}"
        )
    what = hub.publication(found, repo)
    if dry_run:
        lines = [
            f"{file.stat().st_size / 1e6:10,.1f} MB  {path}" for path, file in what.files.items()
        ]
        typer.echo("\n".join([what.card, *lines, "nothing was sent (--dry-run)"]))
        return
    typer.echo(hub.push(found, what, private=not public, force=force))
