"""``mtrl-judge probe``: the probes' table, and how it is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import typer

from mtrl_judge.experiments.robustness import HarnessError, Probed, run_probes
from mtrl_judge.harness_plugin.perturbations import PERTURBATIONS
from mtrl_judge.leaderboard.tables import plain_text
from mtrl_judge.leaderboard.view import robustness_table


def probe(
    model: str,
    tasks: str,
    probes: str | None,
    out: Path,
    *,
    style: str | None,
    extra: Sequence[str],
) -> None:
    """Run the probes and print what they changed.

    Args:
        probes: names with commas; by default all.

    Raises:
        SystemExit: lmms-eval fails; with its exit code.
        JudgeError: as :func:`~mtrl_judge.experiments.robustness.run_probes`.
    """
    chosen = (
        list(PERTURBATIONS)
        if probes is None
        else [n.strip() for n in probes.split(",") if n.strip()]
    )
    try:
        found = run_probes(model, tasks, chosen, out, style=style, extra=extra)
    except HarnessError as failed:
        typer.echo(str(failed), err=True)
        raise SystemExit(failed.code) from None
    typer.echo(f"\n{shown(found)}\n\n{found.file}")


def shown(found: Probed) -> str:
    """The table, and what its columns mean."""
    table = robustness_table(found.effects)
    if not table.rows:
        return "no perturbation applies to any of the tasks"
    return f"{plain_text(table)}\n\n{fill(table.note, 100)}"
