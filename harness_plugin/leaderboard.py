"""Judges beside one another: rates with intervals, what differs, ranks, means, the drop out of
distribution.

Axis suffixes as in :mod:`mtrl_judge.judge_tasks.stats`. All judges of a task are resampled
together, so that their differences are paired; tasks are resampled apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple, TypeAlias

import numpy as np

from mtrl_judge.judge_tasks.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.hashing import stable_hash
from mtrl_judge.judge_tasks.metrics import (
    Record,
    complete_pairs,
    constant_macro_f1,
    rate_names,
    tally,
)
from mtrl_judge.judge_tasks.rates import RATES, Rates
from mtrl_judge.judge_tasks.spec import Role
from mtrl_judge.judge_tasks.stats import (
    RESAMPLES,
    McNemar,
    cluster_tallies,
    difference_p_value,
    holm,
    interval,
    mcnemar,
    resampled,
)

from .comparable import ROLES, chosen, differences, tasks_of
from .judged import Estimate, Judged, Run

ALPHA = 0.05
OVERALL = "overall_accuracy"
Draws: TypeAlias = Mapping[str, Mapping[str, Rates]]
"""For each judge the resamples of its rates, each B."""


class Comparison(NamedTuple):
    """Two judges on the same rows."""

    column: str
    """The task, or the role for the mean over its tasks."""
    first: str
    second: str
    difference: Estimate
    """The first's less the second's, from the same resamples of both."""
    p_value: float
    """That there is no difference, by the bootstrap."""
    adjusted: float
    """The same after Holm over all pairs of judges of the column."""
    mcnemar: McNemar | None
    """Which is right where the other is not, by pair where both orders were judged; its p-value is
    adjusted after Holm likewise. None for means. It takes rows as independent; ranks do not."""

    @property
    def differs(self) -> bool:
        return self.adjusted < ALPHA


class Column(NamedTuple):
    """One task, or the mean over the tasks of a role."""

    name: str
    role: Role
    estimates: Mapping[str, Mapping[str, Estimate]]
    """For each judge its rates by name."""
    n: Mapping[str, int | None]
    """For each judge its labelled rows."""
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
        metric: a rate of :data:`~mtrl_judge.judge_tasks.rates.RATES`, which comparisons and ranks
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


def rates_of(records: Sequence[Record], about: Mapping[str, object]) -> dict[str, float | None]:
    """Every rate of one judge on one task by name."""
    counts = tally(records, _classes(about), paired=bool(about.get("paired")))
    found = {name: float(rate(counts)) for name, rate in RATES.items()}
    return {name: None if np.isnan(value) else value for name, value in found.items()}


def _classes(about: Mapping[str, object]) -> Sequence[str]:
    verdicts = about["verdicts"]
    assert isinstance(verdicts, Sequence)
    return verdicts


# One task


def _task_column(
    task: str, judged: Mapping[str, Judged], metric: str, resamples: int, seed: int
) -> tuple[Column, Draws]:
    about = next(iter(judged.values())).about
    panels = _panels(judged)
    draws: dict[str, Mapping[str, Rates]] = {}
    comparisons: list[Comparison] = []
    estimates = {name: each.stated for name, each in judged.items()}
    for panel in panels:
        draws |= _panel_draws(panel, resamples, stable_hash(task, seed))
        for name, each in panel.items():
            values = rates_of(each.records, about)
            estimates[name] = {rate: _estimate(values[rate], draws[name][rate]) for rate in RATES}
        comparisons += _compared(task, metric, estimates, draws, panel)
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


def _panels(judged: Mapping[str, Judged]) -> list[dict[str, Judged]]:
    """The judges of the same rows together; those whose rows are not known stand nowhere."""
    groups: defaultdict[object, dict[str, Judged]] = defaultdict(dict)
    for name, each in judged.items():
        if each.records:
            groups[each.rows][name] = each
    return list(groups.values())


def _panel_draws(panel: Mapping[str, Judged], resamples: int, seed: int) -> Draws:
    first = next(iter(panel.values()))
    tallies = cluster_tallies(
        [each.records for each in panel.values()],
        first.clusters,
        _classes(first.about),
        paired=bool(first.about.get("paired")),
    )
    drawn = resampled(tallies, list(RATES), resamples=resamples, seed=seed)
    return {
        name: {rate: scores_B_M[:, place] for rate, scores_B_M in drawn.items()}
        for place, name in enumerate(panel)
    }


def _constant(judged: Mapping[str, Judged], about: Mapping[str, object]) -> float | None:
    records = next((each.records for each in judged.values() if each.records), ())
    return constant_macro_f1([record.label for record in records], _classes(about))


def _estimate(value: float | None, scores_B: Rates) -> Estimate:
    if value is None:
        return Estimate(None)
    ends = interval(scores_B)
    return Estimate(value) if ends is None else Estimate(value, ends.low, ends.high)


def _compared(
    column: str,
    metric: str,
    estimates: Mapping[str, Mapping[str, Estimate]],
    draws: Draws,
    panel: Mapping[str, Judged],
) -> list[Comparison]:
    """Each pair of judges that have the metric; with no rows in the panel, of means."""
    known = [name for name in panel if estimates[name][metric].value is not None]
    right = {name: _right(panel[name]) for name in known}
    found = []
    for first, second in combinations(known, 2):
        drawn_B = draws[first][metric], draws[second][metric]
        values = [estimates[name][metric].value or 0.0 for name in (first, second)]
        difference = _estimate(values[0] - values[1], drawn_B[0] - drawn_B[1])
        p_value = difference_p_value(*drawn_B)
        tested = mcnemar(right[first], right[second]) if panel[first].records else None
        found.append(Comparison(column, first, second, difference, p_value, p_value, tested))
    return _corrected(found)


def _right(judged: Judged) -> list[bool]:
    if judged.about.get("paired"):
        pairs = complete_pairs(judged.records)
        return [
            all(row.verdict == row.label for row in pair)
            for pair in pairs
            if all(row.label is not None for row in pair)
        ]
    return [row.verdict == row.label for row in judged.records if row.label is not None]


def _corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    adjusted = holm([each.p_value for each in comparisons])
    tests = [each.mcnemar for each in comparisons if each.mcnemar is not None]
    exact = iter(holm([test.p_value for test in tests]))
    return [
        each._replace(
            adjusted=p_value,
            mcnemar=each.mcnemar and each.mcnemar._replace(p_value=next(exact)),
        )
        for each, p_value in zip(comparisons, adjusted, strict=True)
    ]


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
    comparisons = _compared(role, metric, estimates, means, panel) if _one_panel(columns) else []
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
    estimates[name][key] = _estimate(value, means[name][key])


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
            drops[name] = _estimate(value, own[0] - own[1])
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
    return rate_names(("a", "b"), paired=True)[metric] is False
