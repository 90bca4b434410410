"""Options that several commands have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

Force = Annotated[bool, typer.Option("--force", help="Write over what is there.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TaskNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TASK…]", help="Names, patterns or YAMLs (default: all shipped)."),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder with <task>/test.parquet; otherwise MTRL_JUDGE_DATA, else the hub."),
]


def use_data_root(root: Path | None) -> None:
    """--data-root is MTRL_JUDGE_DATA for this run and for what it starts."""
    from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE

    if root is not None:
        os.environ[DATA_ROOT_VARIABLE] = str(root.resolve())
