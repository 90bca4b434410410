"""``mtrl-judge recipes``: the recipes that come with the package, to look at and to copy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.files import refuse_existing, write_text

from .options import Force, echo


def recipes(
    copy: Annotated[
        str | None,
        typer.Option(metavar="METHOD/NAME", help="Copy this one, to change it: grpo/tiny_cpu."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The copy (default: ./NAME.yaml).")] = None,
    force: Force = False,
) -> None:
    """List the shipped recipes for `mtrl-judge train`, or copy one."""
    from mtrl_judge.rl.arguments import METHODS
    from mtrl_judge.rl.recipes import shipped_recipes

    shipped = {
        f"{method}/{path.stem}": path for method in METHODS for path in shipped_recipes(method)
    }
    if copy is None:
        if out is not None:
            raise JudgeError("--out: is where --copy writes; add --copy METHOD/NAME")
        width = max(map(len, shipped))
        for name, path in shipped.items():
            echo(f"{name:{width}}  {_first_comment(path)}")
        echo("to change one: mtrl-judge recipes --copy grpo/tiny_cpu")
        return
    if copy not in shipped:
        raise JudgeError(f"--copy: no recipe {copy!r}; {did_you_mean(copy, shipped)}")
    target = out or Path(f"{shipped[copy].stem}.yaml")
    refuse_existing(target, force)
    write_text(target, shipped[copy].read_text(encoding="utf-8"), force)
    method = copy.partition("/")[0]
    echo(f"{target}: written; edit it, then run: mtrl-judge train {method} --recipe {target}")


def _first_comment(recipe: Path) -> str:
    """What the first line of a recipe says about it."""
    line = recipe.read_text(encoding="utf-8").partition("\n")[0]
    width = shutil.get_terminal_size((100, 24)).columns
    return line.lstrip("# ")[: max(20, width - 30)] if line.startswith("#") else ""
