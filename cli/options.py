"""Options that several commands have."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mtrl_judge.common.printable import printable
from mtrl_judge.common.secrets import redact

# The values that these fields may have; a test compares them with the classes that define them,
# which take long to import.
STYLES = ("reasoned", "direct", "confidence")
KINDS = ("pointwise", "pairwise", "ranking", "score")
SPLITS = ("train", "validation", "test")


def choice(values: Sequence[str], description: str) -> Any:
    """An option whose help lists its values, which a shell can complete.

    What takes the value checks it, and suggests the nearest one.
    """

    def completed(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return typer.Option(help=description, metavar=f"[{'|'.join(values)}]", autocompletion=completed)


Force = Annotated[bool, typer.Option("--force", help="Overwrite existing files.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OneTask = Annotated[str, typer.Argument(help="A task's name, or the path of a YAML.")]
TaskNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TASK…]", help="Names, patterns or YAMLs (default: all shipped)."),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder with <task>/test.parquet (default: MTRL_JUDGE_DATA, or the hub)."),
]


def _allow_local_files(allowed: bool) -> bool:
    """Allow them in this process and in those that it starts."""
    from mtrl_judge.judge_tasks.dataset_keys import LOCAL_FILES_VARIABLE

    if allowed:
        os.environ[LOCAL_FILES_VARIABLE] = "1"
    return allowed


AllowLocalFiles = Annotated[
    bool,
    typer.Option(
        "--allow-local-files",
        callback=_allow_local_files,
        help="Let YAMLs name parquet files outside the data root.",
    ),
]


Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print everything that lmms-eval prints.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results only, no progress.")]


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text, some of which comes from data, models or the environment."""
    typer.echo(printable(redact(text)), err=err, nl=nl)


def use_data_root(root: Path | None) -> None:
    """Make ``--data-root`` the MTRL_JUDGE_DATA of this process and of those that it starts.

    Raises:
        DataError: there is no such folder.
    """
    from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE, data_root

    if root is not None:
        os.environ[DATA_ROOT_VARIABLE] = str(root.resolve())
        data_root()


def comma_separated(values: Iterable[str] | None) -> list[str]:
    """The names in option values, each of which may list several.

    >>> comma_separated(["a, b", "c"]), comma_separated(None)
    (['a', 'b', 'c'], [])
    """
    words = [word.strip() for value in values or () for word in value.split(",")]
    return [word for word in words if word]
