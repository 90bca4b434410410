"""Judges beside one another: rates with intervals, what differs, ranks, means, the drop out of
distribution.

Axis suffixes as in :mod:`mtrl_judge.metrics.bootstrap`. All judges of a task are resampled
together, so that their differences are paired; tasks are resampled apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.judge_tasks.spec import Role
from mtrl_judge.metrics.bootstrap import RESAMPLES
from mtrl_judge.metrics.rates import RATES, Rates, higher_is_better
from mtrl_judge.metrics.summary import majority_macro_f1

from .compare import (
    ALPHA,
    Comparison,
    Draws,
    classes,
    compare_judges,
    estimate,
    panel_draws,
    panels_of,
    rates_of,
)
from .compatibility import ROLES, chosen, differences, tasks_of
from .runs import Estimate, Judged, Run

OVERALL = "overall_accuracy"


class Column(NamedTuple):
    """One task, or the mean over the tasks of a role."""

    name: str
    role: Role
    estimates: Mapping[str, Mapping[str, Estimate]]
    """For each judge its rates by name."""
    n: Mapping[str, int | None]
    """For each judge its labeled rows."""
    comparisons: Sequence[Comparison]
    ranks: Mapping[str, int]
    """For each judge 1 and how many are better beyond doubt; empty where not all are on the same
    rows."""
    constant: float | None
    """Macro-F1 of always answering the commoner verdict; None for means."""


class Leaderboard(NamedTuple):
    """All judges on all tasks."""

    metric: str
    runs: Sequence[Run]
    """In the order of the table."""
    tasks: Sequence[Column]
    """Training tasks first."""
    means: Sequence[Column]
    """By role: plain means of each rate over the role's tasks, for the judges that have them all;
    and `overall_accuracy`, of all rows together, which is the mean weighted by rows."""
    drops: Mapping[str, Estimate]
    """For each judge how much lower its mean is out of distribution than in distribution."""
    notes: Sequence[str]
    """What to know before reading it, a sentence each."""
    resamples: int
    seed: int


def build_leaderboard(
    runs: Sequence[Run],
    *,
    metric: str = "macro_f1",
    tasks: Sequence[str] = (),
    allow: Sequence[str] = (),
    sort: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Leaderboard:
    """Compare runs.

    Args:
        metric: a rate of :data:`~mtrl_judge.metrics.rates.RATES`, which comparisons and ranks
            are of.
        tasks: names or patterns; all where empty.
        allow: of :data:`~.comparable.DIFFERENCES`.
        sort: a task, a role, `drop` or `name`; best first. By default the first role there is.

    Raises:
        JudgeError: a name is unknown, or runs differ in what they judged or how.
    """
    if metric not in RATES:
        raise JudgeError(f"--metric: no metric {metric!r}; {did_you_mean(metric, list(RATES))}")
    runs = chosen(runs, tasks)
    notes = [f"Not all judged the same: {line.strip()}." for line in differences(runs, allow)]
    columns, draws = [], {}
    for task in tasks_of(runs):
        judged = {run.name: run.tasks[task] for run in runs if task in run.tasks}
        column, draws[task] = _task_column(task, judged, metric, resamples, seed)
        columns.append(column)
    means: list[Column] = []
    mean_draws: dict[str, Draws] = {}
    for role in ROLES:
        own = [column for column in columns if column.role == role]
        if own:
            mean, mean_draws[role] = _mean_column(role, own, draws, metric)
            means.append(mean)
    drops = _drops(means, mean_draws, metric)
    notes += _too_few_resamples([*columns, *means], resamples)
    board = Leaderboard(metric, runs, columns, means, drops, notes, resamples, seed)
    return board._replace(runs=_sorted(board, sort))


def _too_few_resamples(columns: Sequence[Column], resamples: int) -> list[str]:
    """2 / (B + 1) is the least p-value, which Holm takes times the tests."""
    tests = max((len(column.comparisons) for column in columns), default=0)
    if 2 * tests / (resamples + 1) < ALPHA:
        return []
    return [
        f"{resamples:,} resamples cannot tell {tests} pairs of judges apart, however they differ; "
        f"give --resamples {round(2 * tests / ALPHA):,d} or more."
    ]


# One task


def _task_column(
    task: str, judged: Mapping[str, Judged], metric: str, resamples: int, seed: int
) -> tuple[Column, Draws]:
    about = next(iter(judged.values())).about
    panels = panels_of(judged)
    draws: dict[str, Mapping[str, Rates]] = {}
    comparisons: list[Comparison] = []
    estimates = {name: each.stated for name, each in judged.items()}
    for panel in panels:
        draws |= panel_draws(panel, resamples, stable_hash(task, seed))
        for name, each in panel.items():
            values = rates_of(each.records, about)
            estimates[name] = {rate: estimate(values[rate], draws[name][rate]) for rate in RATES}
        comparisons += compare_judges(task, metric, estimates, draws, panel)
    column = Column(
        task,
        about["role"],
        estimates,
        {name: each.n for name, each in judged.items()},
        comparisons,
        _ranks(judged, comparisons, metric) if panels and set(panels[0]) == set(judged) else {},
        _constant(judged, about),
    )
    kept = {name: {rate: own[rate] for rate in _summary(metric)} for name, own in draws.items()}
    return column, kept


def _constant(judged: Mapping[str, Judged], about: Mapping[str, object]) -> float | None:
    records = next((each.records for each in judged.values() if each.records), ())
    return majority_macro_f1([record.label for record in records], classes(about))


def _ranks(
    judges: Mapping[str, object], comparisons: Sequence[Comparison], metric: str
) -> dict[str, int]:
    better = -1 if _less_is_better(metric) else 1
    ranks = dict.fromkeys(judges, 1)
    for each in comparisons:
        if each.differs and each.difference.value:
            ahead = better * each.difference.value > 0
            ranks[each.second if ahead else each.first] += 1
    return ranks


# Means over tasks


def _mean_column(
    role: Role, columns: Sequence[Column], draws: Mapping[str, Draws], metric: str
) -> tuple[Column, Draws]:
    """Of the judges that have all tasks of the role; the others have no mean."""
    everyone = dict.fromkeys(name for column in columns for name in column.estimates)
    judges = [name for name in everyone if all(name in column.estimates for column in columns)]
    estimates: dict[str, dict[str, Estimate]] = {}
    means: dict[str, dict[str, Rates]] = {}
    for name in judges:
        estimates[name], means[name] = {}, {}
        for rate in _summary(metric):
            have = [c for c in columns if c.estimates[name].get(rate, _NONE).value is not None]
            if not have or (rate == metric and len(have) < len(columns)):
                continue
            _average(rate, name, have, [1.0] * len(have), rate, draws, estimates, means)
        weights = [column.n[name] for column in columns]
        if "accuracy" in estimates[name] and None not in weights:
            counted = [float(weight or 0) for weight in weights]
            _average("accuracy", name, columns, counted, OVERALL, draws, estimates, means)
    panel = {name: _UNSEEN for name in judges if metric in means[name]}
    comparisons = (
        compare_judges(role, metric, estimates, means, panel) if _one_panel(columns) else []
    )
    ranked = _one_panel(columns) and len(panel) == len(judges)
    n = {name: _total([column.n[name] for column in columns]) for name in judges}
    ranks = _ranks(panel, comparisons, metric) if ranked else {}
    return Column(role, role, estimates, n, comparisons, ranks, None), means


_NONE = Estimate(None)
_UNSEEN = Judged("", {}, (), (), ())


def _summary(metric: str) -> dict[str, None]:
    """The rates that means are made of."""
    return dict.fromkeys((metric, "macro_f1", "accuracy", "null_rate", "flip_rate"))


def _one_panel(columns: Sequence[Column]) -> bool:
    return all(column.ranks for column in columns)


def _total(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _average(
    rate: str,
    name: str,
    columns: Sequence[Column],
    weights: Sequence[float],
    key: str,
    draws: Mapping[str, Draws],
    estimates: dict[str, dict[str, Estimate]],
    means: dict[str, dict[str, Rates]],
) -> None:
    """The weighted mean of a judge's rate over tasks, into `estimates` and `means`."""
    if not sum(weights):
        return
    values = [column.estimates[name][rate].value or 0.0 for column in columns]
    value = float(np.average(values, weights=weights))
    own = [draws[column.name].get(name, {}).get(rate) for column in columns]
    known = [scores_B for scores_B in own if scores_B is not None]
    if len(known) < len(own):
        estimates[name][key] = Estimate(value)
        return
    means[name][key] = np.average(np.stack(known), axis=0, weights=weights)
    estimates[name][key] = estimate(value, means[name][key])


def _drops(means: Sequence[Column], draws: Mapping[str, Draws], metric: str) -> dict[str, Estimate]:
    if [column.role for column in means] != list(ROLES):
        return {}
    inside, outside = means
    drops = {}
    for name in inside.estimates:
        values = [column.estimates.get(name, {}).get(metric, _NONE).value for column in means]
        if values[0] is None or values[1] is None:
            continue
        own = [draws[column.role][name].get(metric) for column in (inside, outside)]
        value = values[0] - values[1]
        if own[0] is None or own[1] is None:
            drops[name] = Estimate(value)
        else:
            drops[name] = estimate(value, own[0] - own[1])
    return drops


def _sorted(board: Leaderboard, sort: str | None) -> list[Run]:
    columns = {column.name: column for column in (*board.means, *board.tasks)}
    known = [*columns, "drop", "name"]
    wanted = sort or next(iter(columns))
    if wanted not in known:
        raise JudgeError(f"--sort: no column {sort!r}; {did_you_mean(wanted, known)}")
    if wanted == "name":
        return sorted(board.runs, key=lambda run: run.name)
    lower = wanted == "drop" or _less_is_better(board.metric)

    def place(run: Run) -> tuple[bool, float, str]:
        if wanted == "drop":
            value = board.drops.get(run.name, _NONE).value
        else:
            value = columns[wanted].estimates.get(run.name, {}).get(board.metric, _NONE).value
        return value is None, (value or 0.0) * (1 if lower else -1), run.name

    return sorted(board.runs, key=place)


def _less_is_better(metric: str) -> bool:
    return higher_is_better(metric) is False
