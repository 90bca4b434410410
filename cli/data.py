"""``mtrl-judge data …``: get data to judge, see what there is, give it on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .leaks import leaks
from .options import AsJson, DataRoot, Force, Seed, TaskNames, use_data_root
from .prepare import prepare
from .push import push

app = typer.Typer(help="Get data to judge, and see what there is.", no_args_is_help=True)
app.command()(prepare)
app.command()(leaks)
app.command()(push)


@app.command()
def sample(
    data_root: Annotated[
        Path, typer.Option(help="The folder to write.", envvar="MTRL_JUDGE_DATA")
    ] = Path("mtrl-data"),
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Write a small corpus for every shipped task, from real pictures that a package brings."""
    from mtrl_judge.demo.corpus import write_sample

    write_sample(data_root, seed=seed, force=force)
    typer.echo(f"use it: export MTRL_JUDGE_DATA={data_root.resolve()}")


@app.command()
def status(tasks: TaskNames = None, as_json: AsJson = False, data_root: DataRoot = None) -> None:
    """Show each task's data: source, rows by split and class, license, fingerprints, size."""
    from mtrl_judge.common.files import json_text
    from mtrl_judge.data.status import status_of, status_table
    from mtrl_judge.judge_tasks.loading import find_tasks

    use_data_root(data_root)
    found = status_of(find_tasks(tasks or []))
    typer.echo(json_text(found) if as_json else status_table(found))
