"""``mtrl-judge data prepare``: a dataset's own files to the data root."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtrl_judge.common.errors import JudgeError

from .options import Force

if TYPE_CHECKING:
    from mtrl_judge.data.prepare import Outcome

_SHOWN = 10


def prepare(
    tasks: Annotated[list[str], typer.Argument(metavar="TASK…", help="Names, patterns or YAMLs.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A folder, .zip or .tar that you have (default: the hub)."),
    ] = None,
    data_root: Annotated[
        Path, typer.Option("--data-root", "--root", help="Where to.", envvar="MTRL_JUDGE_DATA")
    ] = Path("mtrl-data"),
    columns: Annotated[
        str,
        typer.Option(
            metavar="THEIRS=OURS,…", help="Columns that the tables call otherwise than the YAML."
        ),
    ] = "",
    any_count: Annotated[
        bool, typer.Option("--any-count", help="Take other numbers of rows than the card expects.")
    ] = False,
    force: Force = False,
) -> None:
    """Bring datasets into the data root, from the hub or from files of yours.

    A run that was killed goes on where it was; what is there already is left as it is.
    """
    from mtrl_judge.common.progress import ProgressBars
    from mtrl_judge.data.prepare import Choices
    from mtrl_judge.data.prepare import prepare as run
    from mtrl_judge.judge_tasks.loading import find_tasks

    found = find_tasks(tasks)
    choices = Choices(source, _columns(columns), any_count, force)
    with ProgressBars() as bars:
        try:
            for outcome in run(found, data_root, choices, bars.report):
                bars.console.print(_told(outcome), markup=False, highlight=False)
        except KeyboardInterrupt:
            bars.stop()
            typer.echo("stopped; the same command goes on", err=True)
            sys.exit(130)
    typer.echo(f"use it: export MTRL_JUDGE_DATA={data_root.resolve()}")


def _columns(text: str) -> Mapping[str, str]:
    found = {}
    for word in filter(None, text.split(",")):
        theirs, _, ours = word.rpartition("=")
        if not theirs or not ours:
            raise JudgeError(
                f"--columns: is {word!r}; would be right: THEIRS=OURS, such as name=filename"
            )
        found[theirs.strip()] = ours.strip()
    return found


def _told(outcome: Outcome) -> str:
    rows = ", ".join(f"{split} {n:,}" for split, n in outcome.card["splits"].items())
    lines = [f"{outcome.folder}: {'is there: ' if outcome.was_there else ''}{rows}"]
    for kind, verb in (("undecodable", "do not decode"), ("changed", "were changed")):
        notes = [
            f"{split}, row {row}: {why}"
            for split, own in outcome.card[kind].items()
            for row, why in own.items()
        ]
        if notes:
            lines.append(f"  {len(notes)} pictures {verb}:")
            lines += [f"    {note}" for note in notes[:_SHOWN]]
            lines += [f"    and {len(notes) - _SHOWN} more"] * (len(notes) > _SHOWN)
    return "\n".join(lines)
