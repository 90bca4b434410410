"""``mtrl-judge probe``: the probes' table, and how it is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from tabulate import tabulate

from mtrl_judge.experiments.robustness import HarnessError, Probed, run_probes
from mtrl_judge.harness_plugin.perturbations import PERTURBATIONS
from mtrl_judge.leaderboard.compare import Compared
from mtrl_judge.leaderboard.runs import Estimate


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
    lines = [_line(each) for each in found.compared]
    if not lines:
        return "no probe applies to any of the tasks"
    return (
        tabulate(lines, headers="keys", disable_numparse=True)
        + "\n\nIn brackets: 95 % intervals, by resampling the rows that hang together. change: of "
        "Macro-F1, probe less unchanged.\np (Holm): that there is none, adjusted for all lines. "
        "changed: rows whose verdict is another one, or is there in one run alone."
    )


def _line(each: Compared) -> dict[str, str]:
    return {
        "task": each.task,
        "probe": each.probe,
        "n": str(each.n),
        "Macro-F1": _number(each.macro_f1),
        "with probe": _number(each.macro_f1_probe),
        "change": _estimate(each.difference, "+.3f"),
        "p (Holm)": _p_value(each.p_value_holm),
        "changed": _estimate(each.changed, ".1%"),
    }


def _p_value(value: float | None) -> str:
    return "<0.001" if value is not None and value < 0.001 else _number(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _estimate(estimate: Estimate, form: str) -> str:
    if estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"
