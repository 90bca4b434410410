"""What ``mtrl-judge eval`` ends with: the scores, where everything is, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mtrl_judge.leaderboard.board import build_leaderboard
from mtrl_judge.leaderboard.identity import IDENTITY
from mtrl_judge.leaderboard.reading import RESULTS_SUFFIX, load_runs
from mtrl_judge.leaderboard.runs import Run
from mtrl_judge.leaderboard.tables import plain_text
from mtrl_judge.leaderboard.view import score_table

_NOTE = (
    "In brackets: 95 % intervals over independent clusters of rows. detectable: the smallest "
    "difference between two judges that a test is likely to find."
)


def evaluation_end(runs: Sequence[Run], folder: Path, log: Path) -> str:
    """The table of the leaderboard for these runs, the paths of their files, and a command.

    Args:
        log: where lmms-eval's output is.
    """
    lines: list[str] = []
    judged = [run for run in runs if run.tasks]
    if judged:
        # Failed requests are reported afterwards, with the command that repeats them.
        board = build_leaderboard(
            load_runs([run.file for run in judged]), across=[*IDENTITY], max_failures=1.0
        )
        table = score_table(board)
        notes = " ".join([_NOTE, *board.notes])
        lines += [f"{table.title}:", "", plain_text(replace(table, note=notes)), ""]
    else:
        lines.append(f"no judge task; lmms-eval's own table is at the end of {log}")
    for run in runs:
        samples = f"{run.file.name.removesuffix(RESULTS_SUFFIX)}_samples_*.jsonl"
        lines += [f"results: {run.file}", f"samples: {run.file.parent / samples}"]
    lines.append(f"log:     {log}")
    if judged:
        lines.append(
            f"next:    mtrl-judge leaderboard {shlex.quote(str(folder))} --format html --out "
            "report.html"
        )
    return "\n".join(lines)
