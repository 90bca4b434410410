"""The leaderboard: rates with intervals, comparisons, ranks, means over tasks, and the
generalization gap between in-distribution and out-of-distribution tasks.

All judges of a task are resampled together, so that their differences are paired; tasks are
resampled independently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.judge_tasks.spec import Role
from mtrl_judge.metrics.bootstrap import RESAMPLES, Estimate
from mtrl_judge.metrics.rates import RATES, higher_is_better
from mtrl_judge.metrics.summary import majority_macro_f1

from .compare import ALPHA, UNKNOWN, Comparison, Score, compare, mean, minus, score_results
from .compatibility import ROLES, headline_metric, require_comparable, select_tasks, tasks_of
from .runs import Run, TaskResult

OVERALL = "overall_accuracy"


class Column(NamedTuple):
    """One task, or the mean over the tasks of a role."""

    name: str
    role: Role
    scores: Mapping[str, Mapping[str, Score]]
    """By judge and rate."""
    n: Mapping[str, int | None]
    """Labeled rows by judge."""
    comparisons: Sequence[Comparison] = ()
    ranks: Mapping[str, int] = {}
    """For each judge, 1 plus the number of judges that are significantly better; empty unless all
    judged the same rows."""
    majority: float | None = None
    """Macro-F1 of the majority-class baseline; None for means and other metrics."""

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
    runs: Sequence[Run]
    """In the order of the table."""
    tasks: Sequence[Column]
    """Training tasks first."""
    means: Sequence[Column]
    """By role: plain means of each rate over the role's tasks, for the judges that have all of
    them; `overall_accuracy` is that of all rows together, the mean weighted by rows."""
    gaps: Mapping[str, Estimate]
    """Generalization gap of each judge: its mean in distribution minus that out of distribution."""
    notes: Sequence[str]
    """What readers should know, one sentence each."""
    resamples: int
    seed: int

    @property
    def columns(self) -> Sequence[Column]:
        return (*self.tasks, *self.means)


def build_leaderboard(
    runs: Sequence[Run],
    *,
    metric: str | None = None,
    tasks: Sequence[str] = (),
    allow: Sequence[str] = (),
    sort: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Leaderboard:
    """Compare runs.

    Args:
        metric: the rate in :data:`~mtrl_judge.metrics.rates.RATES` that judges are compared and
            ranked by; by default the headline metric of the tasks' kind.
        tasks: names or patterns; all tasks if empty.
        allow: names in :data:`~.compatibility.DIFFERENCES`.
        sort: a task, a role, `gap` or `name`, best first; by default the first role there is.

    Raises:
        JudgeError: a name is unknown, or the runs differ in what they judged or how.
    """
    if metric is not None and metric not in RATES:
        raise JudgeError(f"--metric: no metric {metric!r}; {did_you_mean(metric, list(RATES))}")
    runs = select_tasks(runs, tasks)
    notes = [f"Not all runs agree: {difference}." for difference in require_comparable(runs, allow)]
    metric = metric or headline_metric(runs)
    columns = [
        _task_column(
            task,
            {run.name: run.tasks[task] for run in runs if task in run.tasks},
            metric,
            resamples,
            seed,
        )
        for task in tasks_of(runs)
    ]
    by_role = {role: [column for column in columns if column.role == role] for role in ROLES}
    means = [_mean_column(role, tasks, metric) for role, tasks in by_role.items() if tasks]
    most_pairs = max(len(column.comparisons) for column in (*columns, *means))
    # The smallest p-value is 2 / (B + 1), and Holm multiplies it by the number of tests.
    if 2 * most_pairs / (resamples + 1) >= ALPHA:
        notes.append(
            f"{resamples:,} resamples are too few for any of {most_pairs} pairs of judges to "
            f"differ significantly; give --resamples {round(2 * most_pairs / ALPHA):,d} or more."
        )
    gaps = _gaps(means, metric)
    board = Leaderboard(metric, runs, columns, means, gaps, notes, resamples, seed)
    return board._replace(runs=_sorted(board, sort))


def _task_column(
    task: str, results: Mapping[str, TaskResult], metric: str, resamples: int, seed: int
) -> Column:
    first = next(iter(results.values()))
    scores = score_results(
        results, first.kind.rates(first.paired), resamples=resamples, seed=stable_hash(task, seed)
    )
    labels = next((result.labels for result in results.values() if result.samples), [])
    column = Column(
        task,
        first.role,
        scores,
        n={name: result.n for name, result in results.items()},
        majority=majority_macro_f1(labels, first.verdicts) if metric == "macro_f1" else None,
    )
    column = column._replace(comparisons=compare(task, column.scores_of(metric), results))
    if all(result.samples and result.rows == first.rows for result in results.values()):
        column = column._replace(ranks=_ranks(results, column.comparisons, metric))
    return column


def _ranks(
    judges: Mapping[str, object], comparisons: Sequence[Comparison], metric: str
) -> dict[str, int]:
    sign = -1 if higher_is_better(metric) is False else 1
    ranks = dict.fromkeys(judges, 1)
    for comparison in comparisons:
        if comparison.significant and comparison.difference.value:
            first_is_better = sign * comparison.difference.value > 0
            ranks[comparison.second if first_is_better else comparison.first] += 1
    return ranks


def _mean_column(role: Role, columns: Sequence[Column], metric: str) -> Column:
    """The mean over a role's tasks, of the judges that have all of them."""
    judges = [
        judge for judge in columns[0].scores if all(judge in column.scores for column in columns)
    ]
    scores = {judge: _mean_scores(judge, columns, metric) for judge in judges}
    counts = {judge: [column.n[judge] for column in columns] for judge in judges}
    n = {judge: None if None in ns else sum(filter(None, ns)) for judge, ns in counts.items()}
    column = Column(role, role, scores, n)
    # Ranks need every pair to be compared on every task.
    if all(column.ranks for column in columns):
        of_metric = column.scores_of(metric)
        column = column._replace(comparisons=compare(role, of_metric))
        if len(of_metric) == len(scores):
            column = column._replace(ranks=_ranks(scores, column.comparisons, metric))
    return column


def _mean_scores(judge: str, columns: Sequence[Column], metric: str) -> dict[str, Score]:
    """Each rate of a judge, averaged over tasks, and its accuracy over all rows."""
    scores = {}
    for rate in dict.fromkeys(rate for column in columns for rate in column.scores[judge]):
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
    sign = 1 if key == "gap" or higher_is_better(board.metric) is False else -1

    def order(run: Run) -> tuple[bool, float, str]:
        if key == "gap":
            value = board.gaps.get(run.name, UNKNOWN.estimate).value
        else:
            value = columns[key].estimate(run.name, board.metric).value
        return value is None, sign * (value or 0.0), run.name

    return sorted(board.runs, key=order)
