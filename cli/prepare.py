"""``mtrl-judge data prepare``: write a dataset's published files into the data root."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.verbosity import is_verbose, verbosity

from .options import AllowLocalFiles, Force, Quiet, echo

if TYPE_CHECKING:
    from mtrl_judge.data.prepare import PreparedTask

_MAX_NOTES = 10


def prepare(
    tasks: Annotated[list[str], typer.Argument(metavar="TASK…", help="Names, patterns or YAMLs.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Your own folder, .zip or .tar (default: the hub)."),
    ] = None,
    data_root: Annotated[
        Path,
        typer.Option(
            "--data-root", "--root", help="The folder to write.", envvar="MTRL_JUDGE_DATA"
        ),
    ] = Path("mtrl-data"),
    columns: Annotated[
        str,
        typer.Option(
            metavar="THEIRS=OURS,…", help="Columns that have other names in the tables than here."
        ),
    ] = "",
    any_count: Annotated[
        bool,
        typer.Option("--any-count", help="Accept other numbers of rows than the card expects."),
    ] = False,
    force: Force = False,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch images that are web addresses.")
    ] = False,
    download_limit: Annotated[
        float, typer.Option(min=0, metavar="GB", help="The size of all fetched images together.")
    ] = 20,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave rows out whose images cannot be fetched.")
    ] = False,
    private_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT", help="Fetch from this host although it is not public; repeatable."
        ),
    ] = None,
    allow_local_files: AllowLocalFiles = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also list every image that was changed.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write datasets into the data root, from the hub or from your own files.

    A run that was interrupted is resumed; data that is up to date is left alone.
    """
    from mtrl_judge.common.progress import ProgressBars
    from mtrl_judge.data.prepare import PrepareOptions
    from mtrl_judge.data.prepare import prepare as prepare_tasks
    from mtrl_judge.judge_tasks.loading import find_tasks

    found = find_tasks(tasks)
    options = PrepareOptions(
        source,
        _column_names(columns),
        any_count,
        force,
        download,
        download_limit * 1e9,
        allow_missing,
        tuple(private_host or ()),
    )
    with verbosity(quiet=quiet, verbose=verbose), ProgressBars() as bars:
        try:
            for prepared in prepare_tasks(found, data_root, options, bars.report):
                bars.console.print(_summary(prepared), markup=False, highlight=False)
        except KeyboardInterrupt:
            bars.stop()
            echo("interrupted; run the same command again to resume", err=True)
            sys.exit(130)
    echo(f"to use it: export MTRL_JUDGE_DATA={data_root.resolve()}")


def _column_names(text: str) -> Mapping[str, str]:
    names = {}
    for pair in filter(None, text.split(",")):
        theirs, _, ours = pair.rpartition("=")
        if not theirs or not ours:
            raise JudgeError(
                f"--columns: found {pair!r}; expected THEIRS=OURS, such as name=filename"
            )
        names[theirs.strip()] = ours.strip()
    return names


def _summary(prepared: PreparedTask) -> str:
    rows = ", ".join(f"{split} {n:,}" for split, n in prepared.card["splits"].items())
    lines = [f"{prepared.folder}: {'already up to date: ' if prepared.existed else ''}{rows}"]
    if about := prepared.card.get("downloads"):
        failed = len(about["failed"])
        lines.append(f"  images from the web: {about['addresses']:,}, of which {failed:,} failed")
    for split, rows_left_out in prepared.card.get("left_out", {}).items():
        lines.append(f"  {split}: {rows_left_out:,} rows without their images are left out")
    for kind, what in (("undecodable", "cannot be shown to a judge"), ("changed", "were changed")):
        notes = [
            f"{split}, row {row}: {text}"
            for split, texts in prepared.card[kind].items()
            for row, text in texts.items()
        ]
        if notes:
            lines.append(f"  images that {what}: {len(notes)}")
            listed = len(notes) if is_verbose() else _MAX_NOTES
            lines += [f"    {note}" for note in notes[:listed]]
            lines += [f"    and {len(notes) - listed} more (--verbose)"] * (len(notes) > listed)
    return "\n".join(lines)
