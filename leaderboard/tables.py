"""A leaderboard as tables: markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

import pandas as pd

from .board import OVERALL, Column, Leaderboard
from .formats import NONE, Section, p_value, shown
from .runs import Estimate

ROLE_NAMES = {"train": "in distribution", "ood": "out of distribution"}
CONSTANT = "always the commoner verdict"
# Above so many judges a table has a line a judge, as leaderboards have; below, a line a task.
_SIDE_BY_SIDE = 3


def task_labels(names: Sequence[str]) -> dict[str, str]:
    """Task names without the words that all of them begin with.

    >>> task_labels(["mtrl_judge_agin_nat", "mtrl_judge_agin_rat"])
    {'mtrl_judge_agin_nat': 'nat', 'mtrl_judge_agin_rat': 'rat'}
    """
    words = {name: name.split("_") for name in names}
    common = 0
    if len(words) > 1:
        alike = takewhile(lambda column: len(set(column)) == 1, zip(*words.values(), strict=False))
        common = min(len(list(alike)), min(map(len, words.values())) - 1)
    return {name: "_".join(own[common:]) for name, own in words.items()}


def main_table(
    board: Leaderboard, digits: int = 3, mark: Callable[[str], str] = lambda text: text
) -> Section:
    """The metric of every judge on every task, and the means.

    Args:
        mark: what is done to the values of the judges that none is better than.
    """
    labels = task_labels([column.name for column in board.tasks])
    columns: dict[str, Column] = {}
    for mean in board.means:
        columns |= {labels[c.name]: c for c in board.tasks if c.role == mean.role}
        columns[f"mean {ROLE_NAMES[mean.role]}"] = mean
    lines = {
        run.name: {
            name: _cell(column, run.name, board.metric, digits, mark)
            for name, column in columns.items()
        }
        for run in board.runs
    }
    if board.drops:
        for run in board.runs:
            lines[run.name]["drop"] = shown(board.drops.get(run.name), digits, signed=True)
    if board.metric == "macro_f1" and any(column.constant for column in board.tasks):
        lines[CONSTANT] = {
            name: shown(Estimate(column.constant), digits)
            for name, column in columns.items()
            if column.constant is not None
        }
    lines["n"] = {name: _counts(column) for name, column in columns.items()}
    table = pd.DataFrame.from_dict(lines, orient="index").fillna(NONE)
    if len(board.runs) <= _SIDE_BY_SIDE:
        table = table.T
    return Section(board.metric, _main_note(board), table)


def _counts(column: Column) -> str:
    """Labeled rows; several numbers where judges have not judged the same rows."""
    known = sorted({n for n in column.n.values() if n is not None})
    return " / ".join(f"{n:,}" for n in known) or NONE


def _cell(column: Column, judge: str, metric: str, digits: int, mark: Callable[[str], str]) -> str:
    estimate = column.estimates.get(judge, {}).get(metric)
    text = shown(estimate, digits)
    rank = column.ranks.get(judge)
    if rank is None or len(column.ranks) < 2:
        return text
    return f"{mark(text) if rank == 1 else text} #{rank}"


def _main_note(board: Leaderboard) -> str:
    rates = [rates for column in board.tasks for rates in column.estimates.values()]
    parts = []
    if any(own[board.metric].low is not None for own in rates if board.metric in own):
        parts.append(
            f"In brackets: 95 % intervals, {board.resamples:,} bootstrap resamples of what is "
            f"independent, seed {board.seed}."
        )
    if any(len(column.ranks) > 1 for column in board.tasks):
        parts.append(
            "#: 1 and how many judges are better beyond doubt (paired bootstrap, Holm over the "
            "pairs of a column, level 0.05), so judges of one rank cannot be told apart."
        )
    parts += board.notes
    return " ".join(parts)


def summary_table(board: Leaderboard, digits: int = 3) -> Section:
    """For each judge and role: means of tasks, all rows together, flips, missing verdicts."""
    lines = []
    for run in board.runs:
        for mean in board.means:
            own = mean.estimates.get(run.name)
            if own is None:
                continue
            lines.append(
                {
                    "judge": run.name,
                    "tasks": ROLE_NAMES[mean.role],
                    f"{board.metric}, mean of tasks": shown(own.get(board.metric), digits),
                    "accuracy, mean of tasks": shown(own.get("accuracy"), digits),
                    "accuracy, all rows": shown(own.get(OVERALL), digits),
                    "flip rate": shown(own.get("flip_rate"), digits),
                    "null rate": shown(own.get("null_rate"), digits),
                    "n": NONE if mean.n.get(run.name) is None else f"{mean.n[run.name]:,}",
                }
            )
    note = (
        "A mean of tasks counts every task alike, all rows together every row: it is the mean of "
        "the tasks' accuracies weighted by their n. Missing verdicts are counted as wrong."
    )
    return Section("Means", note, pd.DataFrame(lines).set_index("judge") if lines else _EMPTY)


_EMPTY = pd.DataFrame()


def comparison_table(board: Leaderboard, digits: int = 3) -> Section:
    """Each pair of judges on each task and on the means."""
    lines = [
        {
            "task": ROLE_NAMES.get(each.column, each.column),
            "judges": f"{each.first} − {each.second}",
            f"{board.metric} difference": shown(each.difference, digits, signed=True),
            "p": p_value(each.p_value),
            "p (Holm)": p_value(each.adjusted),
            "only the first right": NONE if each.mcnemar is None else each.mcnemar.only_first,
            "only the second right": NONE if each.mcnemar is None else each.mcnemar.only_second,
            "McNemar p (Holm)": NONE if each.mcnemar is None else p_value(each.mcnemar.p_value),
            "differ": "yes" if each.differs else "not shown",
        }
        for column in (*board.tasks, *board.means)
        for each in column.comparisons
    ]
    note = (
        "p of the difference by the paired bootstrap; McNemar's test is of being right, by pair "
        "where pairs were judged in both orders, and takes rows as independent."
    )
    table = pd.DataFrame(lines).set_index("task") if lines else _EMPTY
    return Section("Pairs of judges", note, table)


def tidy_table(board: Leaderboard) -> pd.DataFrame:
    """A line for each judge, task and rate, for programs: judge, task, role, rate, value, low,
    high, rank, n."""
    return pd.DataFrame(
        [
            {
                "judge": run.name,
                "task": column.name if column in board.tasks else "mean",
                "role": column.role,
                "rate": rate,
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "rank": column.ranks.get(run.name) if rate == board.metric else None,
                "n": column.n.get(run.name),
            }
            for run in board.runs
            for column in (*board.tasks, *board.means)
            for rate, estimate in column.estimates.get(run.name, {}).items()
        ]
    ).astype({"rank": "Int64", "n": "Int64"})


# Formats
