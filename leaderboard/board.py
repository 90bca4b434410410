"""The leaderboard: rates with intervals, comparisons, ranks, means over tasks, and the
generalization gap between in-distribution and out-of-distribution tasks.

All judges of a task share their draws, so that their differences are paired, and so do tasks that
share clusters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import NamedTuple

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.spec import Role
from mtrl_judge.metrics.bootstrap import MIN_CLUSTERS, MIN_ROWS_OF_CLASS, RESAMPLES, Estimate
from mtrl_judge.metrics.drawn import DRAWN_RESAMPLES
from mtrl_judge.metrics.groups import GROUP_MEANS
from mtrl_judge.metrics.ranks import RankRange, rank_ranges
from mtrl_judge.metrics.rates import RATES_OF_ALL_CLASSES, higher_is_better
from mtrl_judge.metrics.significance import detectable_difference

from .compare import (
    ALPHA,
    FROM_ROWS,
    METRICS,
    Comparison,
    compare,
    score_results,
)
from .compatibility import ROLES, require_comparable, select_tasks, tasks_of
from .failures import MAX_FAILURES, require_few_failures
from .formats import metric_name
from .order_averaging import score_order_averaged
from .runs import Run, TaskResult
from .scores import UNKNOWN, GroupScores, Score, TaskScores, mean, minus

OVERALL = "overall_accuracy"


class Column(NamedTuple):
    """One task, or the mean over the tasks of a role."""

    name: str
    role: Role
    metric: str
    """What judges are compared and ranked by."""
    scores: Mapping[str, Mapping[str, Score]]
    """By judge and rate."""
    n: Mapping[str, int | None]
    """Labeled rows by judge."""
    comparisons: Sequence[Comparison] = ()
    ranks: Mapping[str, RankRange] = {}
    """For each judge the ranks that it may have, given which differences are significant; empty
    unless all judged the same rows and all pairs were tested."""
    clusters: int | None = None
    """Of the rows of all judges; None where unknown."""
    detectable: float | None = None
    """The smallest difference that any pair of judges would show with a probability of 80 %; for
    one judge, that to another one whose errors are independent of its own."""
    majority: float | None = None
    """The metric of the best constant verdict, for Macro-F1 the majority-class baseline; None for
    means and for metrics that are not compared with it."""
    groups: Mapping[str, Mapping[str, GroupScores]] = {}
    """By judge and group of rows, where rows have groups."""

    def score(self, judge: str, rate: str) -> Score:
        return self.scores.get(judge, {}).get(rate, UNKNOWN)

    def estimate(self, judge: str, rate: str) -> Estimate:
        return self.score(judge, rate).estimate

    def scores_of(self, rate: str) -> dict[str, Score]:
        """By judge, of those that have it."""
        known = {judge: rates.get(rate, UNKNOWN) for judge, rates in self.scores.items()}
        return {judge: score for judge, score in known.items() if score.value is not None}


class Leaderboard(NamedTuple):
    """All judges on all tasks."""

    metric: str
    """That of the means: of most tasks, if tasks have different ones."""
    runs: Sequence[Run]
    """In the order of the table."""
    tasks: Sequence[Column]
    """Training tasks first."""
    means: Sequence[Column]
    """By role: plain means of each rate over the role's tasks with the metric, for the judges that
    have all of them; `overall_accuracy` is that of all rows together, the mean weighted by rows."""
    gaps: Mapping[str, Estimate]
    """Generalization gap of each judge: its mean in distribution minus that out of distribution."""
    notes: Sequence[str]
    """What readers should know, one sentence each."""
    resamples: int
    seed: int

    @property
    def columns(self) -> Sequence[Column]:
        return (*self.tasks, *self.means)

    @property
    def metrics(self) -> Sequence[str]:
        """Of all tasks, that of the means first."""
        return list(dict.fromkeys([self.metric, *(task.metric for task in self.tasks)]))


def build_leaderboard(
    runs: Sequence[Run],
    *,
    metric: str | None = None,
    tasks: Sequence[str] = (),
    across: Sequence[str] = (),
    max_failures: float = MAX_FAILURES,
    sort: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Leaderboard:
    """Compare runs.

    Args:
        metric: the rate in :data:`~.compare.METRICS` that judges are compared and ranked by; by
            default the headline metric of each task's kind.
        tasks: names or patterns; all tasks if empty.
        across: fields of :data:`~.identity.IDENTITY` in which the runs may differ.
        max_failures: the share of a task's rows whose request may have failed.
        sort: a task, a role, `gap` or `name`, best first; by default the first role there is.

    Raises:
        JudgeError: a name is unknown, the runs differ in what they judged or how, or too many
            requests failed.
    """
    if metric is not None and metric not in METRICS:
        raise JudgeError(f"--metric: no metric {metric!r}; {did_you_mean(metric, METRICS)}")
    runs = select_tasks(runs, tasks)
    require_few_failures(runs, max_failures)
    notes = require_comparable(runs, across)
    by_task = {
        task: {run.name: run.tasks[task] for run in runs if task in run.tasks}
        for task in tasks_of(runs)
    }
    metrics = {
        task: metric or next(iter(results.values())).kind.headline
        for task, results in by_task.items()
    }
    scored = score_results(by_task, resamples=resamples, seed=seed)
    averaged = score_order_averaged(by_task, resamples=resamples, seed=seed)
    scored = {
        task: known._replace(
            scores={name: {**rates, **averaged[task][name]} for name, rates in known.scores.items()}
        )
        for task, known in scored.items()
    }
    columns = [
        _task_column(task, results, scored[task], metrics[task], resamples, seed)
        for task, results in by_task.items()
    ]
    notes += [note for column in columns if (note := _why_no_interval(column, by_task))]
    # Means of different metrics would say nothing.
    metric = Counter(metrics.values()).most_common(1)[0][0]
    averaged_columns = [column for column in columns if column.metric == metric]
    notes += _of_several_metrics(columns, metric)
    by_role = {
        role: [column for column in averaged_columns if column.role == role] for role in ROLES
    }
    means = [
        _mean_column(role, columns, scored, metric, resamples, seed)
        for role, columns in by_role.items()
        if columns
    ]
    for each in dict.fromkeys(metrics.values()):
        most = max(len(c.comparisons) for c in (*columns, *means) if c.metric == each)
        notes += _too_few_draws(each, most, resamples)
    gaps = _gaps(means, metric)
    board = Leaderboard(metric, runs, columns, means, gaps, notes, resamples, seed)
    return board._replace(runs=_sorted(board, sort))


def _of_several_metrics(columns: Sequence[Column], metric: str) -> list[str]:
    """What the means are of, if tasks have different metrics."""
    if all(column.metric == metric for column in columns):
        return []
    n = sum(column.metric == metric for column in columns)
    return [
        f"Each task is ranked by the headline metric of its kind. Means are over the {n} of "
        f"{len(columns)} tasks with {metric_name(metric)}; --tasks selects others."
    ]


def _too_few_draws(metric: str, pairs: int, resamples: int) -> list[str]:
    """Why no pair of judges can differ significantly, if so."""
    # The smallest p-value is one of the draws, and Holm multiplies it by the number of tests.
    draws, smallest = resamples, 1 / (resamples + 1)
    if metric in FROM_ROWS:
        draws = min(resamples, DRAWN_RESAMPLES)
        smallest = 2 / (draws + 1)
    if pairs * smallest < ALPHA:
        return []
    needed = round(pairs / ALPHA) * (2 if metric in FROM_ROWS else 1)
    fix = f"give --resamples {needed:,d} or more"
    if metric in FROM_ROWS and needed > DRAWN_RESAMPLES:
        fix = f"{DRAWN_RESAMPLES:,} are drawn at most for {metric}, so compare fewer judges"
    return [
        f"{draws:,} resamples are too few for any of {pairs} pairs of judges to differ "
        f"significantly; {fix}."
    ]


def _task_column(
    task: str,
    results: Mapping[str, TaskResult],
    scored: TaskScores,
    metric: str,
    resamples: int,
    seed: int,
) -> Column:
    first = next(iter(results.values()))
    labels = next((result.labels for result in results.values() if result.samples), [])
    clusters = {result.clusters for result in results.values()}
    column = Column(
        task,
        first.role,
        metric,
        scored.scores,
        n={name: result.n for name, result in results.items()},
        majority=first.kind.baseline(metric, labels, first.verdicts),
        clusters=clusters.pop() if len(clusters) == 1 else None,
        groups=scored.groups,
    )
    return _compared(column, [scored], results, resamples, seed)


def _compared(
    column: Column,
    tasks: Sequence[TaskScores],
    results: Mapping[str, TaskResult] | None,
    resamples: int,
    seed: int,
) -> Column:
    """A column with comparisons, ranks, and the difference that they would show."""
    metric = column.metric
    scores = column.scores_of(metric)
    comparisons = compare(
        column.name, metric, scores, tasks, results, resamples=resamples, seed=seed
    )
    known = [pair.detectable(tests=len(comparisons)) for pair in comparisons]
    detectable = [difference for difference in known if difference is not None]
    if len(scores) == 1:
        (score,) = scores.values()
        if score.standard_error is not None:
            error = sqrt(2) * score.standard_error
            clusters = score.clusters * len(tasks)
            detectable = [detectable_difference(error, clusters, alpha=ALPHA)]
    column = column._replace(comparisons=comparisons, detectable=max(detectable, default=None))
    untested = len(comparisons) < len(scores) * (len(scores) - 1) / 2
    if untested or not scores or len(scores) < len(column.scores):
        return column
    sign = -1 if higher_is_better(metric) is False else 1
    values = {judge: sign * (score.value or 0.0) for judge, score in scores.items()}
    different = [frozenset((pair.first, pair.second)) for pair in comparisons if pair.significant]
    return column._replace(ranks=rank_ranges(values, different))


def _why_no_interval(column: Column, results: Mapping[str, Mapping[str, TaskResult]]) -> str | None:
    """Why no judge of a task has an interval, although its rows are known."""
    metric = column.metric
    scores = column.scores_of(metric).values()
    if not scores or any(score.estimate.low is not None for score in scores):
        return None
    known = [result for result in results[column.name].values() if result.samples]
    if not known:
        return None
    if metric in GROUP_MEANS:
        return (
            f"{column.name} has no interval of {metric}: one of its groups has too few independent "
            "clusters or labeled rows of a verdict."
        )
    if metric in FROM_ROWS:
        return (
            f"{column.name} has no interval of {metric}: its rows with a rating or label form too "
            "few independent clusters, or too many to draw from, or have too few rows of a label."
        )
    rows_C = known[0].confusion.sum(axis=1).tolist()
    rare = dict(zip(known[0].verdicts, rows_C, strict=True))
    rare = {name: count for name, count in rare.items() if count < MIN_ROWS_OF_CLASS}
    if rare and metric in RATES_OF_ALL_CLASSES:
        listed = ", ".join(f"{count} of {name!r}" for name, count in rare.items())
        return (
            f"{column.name} has no interval: it has too few labeled rows of a verdict ({listed}; "
            f"at least {MIN_ROWS_OF_CLASS} are needed)."
        )
    clusters = known[0].clusters
    return (
        f"{column.name} has no interval{' and is not tested' if clusters == 1 else ''}: its "
        f"{len(known[0].samples)} rows form too few independent clusters ({clusters}; at least "
        f"{MIN_CLUSTERS} of equal size are needed)."
    )


def _mean_column(
    role: Role,
    columns: Sequence[Column],
    scored: Mapping[str, TaskScores],
    metric: str,
    resamples: int,
    seed: int,
) -> Column:
    """The mean over a role's tasks, of the judges that have all of them."""
    judges = [
        judge for judge in columns[0].scores if all(judge in column.scores for column in columns)
    ]
    scores = {judge: _mean_scores(judge, columns, metric) for judge in judges}
    counts = {judge: [column.n[judge] for column in columns] for judge in judges}
    n = {judge: None if None in ns else sum(filter(None, ns)) for judge, ns in counts.items()}
    column = Column(role, role, metric, scores, n)
    panels = [scored[column.name].panels for column in columns]
    if judges and all(judge in known for known in panels for judge in judges):
        shared = {name for known in panels for name in known[judges[0]][0].clusters}
        column = column._replace(clusters=len(shared))
    # Ranks need every pair to be compared on every task.
    if not all(column.ranks for column in columns):
        return column
    tasks = [scored[column.name] for column in columns]
    return _compared(column, tasks, None, resamples, seed)


def _mean_scores(judge: str, columns: Sequence[Column], metric: str) -> dict[str, Score]:
    """Each rate of a judge, averaged over tasks, and its accuracy over all rows."""
    scores = {}
    for rate in (
        rate for rate in METRICS if any(rate in column.scores[judge] for column in columns)
    ):
        known = [score for score in _scores(judge, rate, columns) if score.value is not None]
        # Tasks without the metric would make judges' means incomparable.
        if known and (rate != metric or len(known) == len(columns)):
            scores[rate] = mean(known, [1.0] * len(known))
    if None not in [column.n[judge] for column in columns]:
        judged = [column for column in columns if column.n[judge]]
        accuracies = _scores(judge, "accuracy", judged)
        if accuracies and all(accuracy.value is not None for accuracy in accuracies):
            scores[OVERALL] = mean(accuracies, [column.n[judge] or 0 for column in judged])
    return scores


def _scores(judge: str, rate: str, columns: Sequence[Column]) -> list[Score]:
    return [column.score(judge, rate) for column in columns]


def _gaps(means: Sequence[Column], metric: str) -> dict[str, Estimate]:
    if len(means) < len(ROLES):
        return {}
    inside, outside = (mean.scores_of(metric) for mean in means)
    return {
        judge: minus(score, outside[judge]).estimate
        for judge, score in inside.items()
        if judge in outside
    }


def _sorted(board: Leaderboard, sort: str | None) -> list[Run]:
    columns = {column.name: column for column in (*board.means, *board.tasks)}
    known = [*columns, "gap", "name"]
    key = sort or known[0]
    if key not in known:
        raise JudgeError(f"--sort: no column {key!r}; {did_you_mean(key, known)}")
    if key == "name":
        return sorted(board.runs, key=lambda run: run.name)
    metric = board.metric if key == "gap" else columns[key].metric
    sign = 1 if key == "gap" or higher_is_better(metric) is False else -1

    def order(run: Run) -> tuple[bool, float, str]:
        if key == "gap":
            value = board.gaps.get(run.name, UNKNOWN.estimate).value
        else:
            value = columns[key].estimate(run.name, metric).value
        return value is None, sign * (value or 0.0), run.name

    return sorted(board.runs, key=order)
