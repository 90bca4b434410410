"""Is a judge worse than its baseline? An answer for each task, and an exit code for CI.

A task fails if the metric is significantly worse or misses a minimum of its own. With a margin, it
fails unless the judge is shown not to be worse by more than the margin (a test of non-inferiority).
A task that cannot be compared never passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Literal, NamedTuple, TypeAlias

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.metrics.bootstrap import (
    MIN_CLUSTERS,
    MIN_ROWS_OF_CLASS,
    RESAMPLES,
    Estimate,
)
from mtrl_judge.metrics.rates import higher_is_better
from mtrl_judge.metrics.significance import holm

from .compare import ALPHA, METRICS, Comparison, compare, score_results
from .compatibility import check_across, differences, remarks, tasks_of
from .failures import MAX_FAILURES, check_most, failure_text
from .formats import format_p_value
from .runs import Run, TaskResult
from .scores import UNKNOWN, Score, TaskScores

Outcome: TypeAlias = Literal["passed", "failed", "not comparable"]
OUTCOMES: Sequence[Outcome] = ("failed", "not comparable", "passed")
BASELINE, NOW = "baseline", "now"
# So that 0.79 is no less than a minimum of 0.79, however it was computed.
_ROUNDING = 1e-9


class TaskGate(NamedTuple):
    """What the gate says about one task."""

    task: str
    metric: str
    baseline: Estimate
    current: Estimate
    n: int | None
    """Labeled rows judged now."""
    n_failed: int
    """Rows whose request failed, now."""
    n_refused: int
    clusters: int | None
    difference: Estimate
    """Now minus baseline; without a value unless both judged the same rows, which are known."""
    comparison: Comparison | None
    p_value: float | None
    """Of no drop, one-sided, Holm-adjusted over the tasks of the gate; None if untested."""
    detectable: float | None
    """The drop that the gate would have found with a probability of 80 %."""
    failures: Sequence[str]
    """Why it fails."""
    obstacles: Sequence[str]
    """Why it cannot be compared."""
    notes: Sequence[str]
    """What was not tested, or compared across a difference."""

    @property
    def outcome(self) -> Outcome:
        """A task that is not comparable can still fail: its own minimum needs no baseline."""
        if self.failures:
            return "failed"
        return "not comparable" if self.obstacles else "passed"


class Gate(NamedTuple):
    """The whole gate; failed tasks first, then those that are not comparable."""

    margin: float | None
    alpha: float
    baseline: Run
    current: Run
    tasks: Sequence[TaskGate]
    notes: Sequence[str]
    """What else the runs differ in, and what is unknown about them, one sentence each."""
    resamples: int
    seed: int

    @property
    def metrics(self) -> Sequence[str]:
        """Those of the tasks."""
        return sorted({task.metric for task in self.tasks})

    def count(self, outcome: Outcome) -> int:
        return sum(task.outcome == outcome for task in self.tasks)

    @property
    def outcome(self) -> Outcome:
        """Failed if any task failed, whatever else could not be compared.

        If no task is in both runs, nothing was compared, and that is no pass.
        """
        if self.count("failed"):
            return "failed"
        compared = any(task.difference.value is not None for task in self.tasks)
        return "not comparable" if self.count("not comparable") or not compared else "passed"

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 2 not comparable."""
        return {"passed": 0, "failed": 1, "not comparable": 2}[self.outcome]


def run_gate(
    current: Run,
    baseline: Run,
    *,
    metric: str | None = None,
    margin: float | None = None,
    alpha: float = ALPHA,
    minimum: Mapping[str, float] | None = None,
    across: Sequence[str] = (),
    max_failures: float = MAX_FAILURES,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Gate:
    """Compare a run with a baseline, task by task.

    Each task is one comparison as in the leaderboard, but one-sided: only a drop fails. Holm's
    correction covers the tasks that were tested, so a judge that is worse on none of them fails
    with a probability of at most `alpha`.

    A task that only the baseline has is not comparable; one that it lacks can only miss its
    minimum.

    Args:
        metric: a rate of which higher or lower is better; by default the headline metric of each
            task's kind.
        margin: how much worse the judge may be, in the metric's unit. A task then passes only if
            the 95 % interval of its difference excludes a larger drop, whether significant or not.
        alpha: significantly worse is an adjusted p-value below it.
        minimum: for a task, the worst value that passes: the lowest, or the highest if lower is
            better.
        across: fields of :data:`~.identity.IDENTITY` in which the runs may differ.
        max_failures: the share of a task's rows whose request may have failed; a task with more is
            not comparable.

    Raises:
        JudgeError: the metric, a task of `minimum` or a field is unknown, or a number is out
            of range.
    """
    runs = {NOW: current._replace(name=NOW), BASELINE: baseline._replace(name=BASELINE)}
    minimum = minimum or {}
    names = tasks_of(runs.values())
    _check_settings(metric, margin, alpha, minimum, names)
    check_across(across)
    check_most(max_failures)
    results = {
        task: {name: run.tasks[task] for name, run in runs.items() if task in run.tasks}
        for task in names
    }
    metrics = {
        task: metric or next(iter(of_task.values())).kind.headline
        for task, of_task in results.items()
    }
    scored = score_results(results, set(metrics.values()), resamples=resamples, seed=seed)
    tasks = []
    for task in names:
        metric = metrics[task]
        restricted = [run.with_tasks([task]) for run in runs.values()]
        obstacles, notes = _obstacles(restricted, results[task], across)
        obstacles += [
            f"{name}: {failure_text(result)}; more than --max-failures {max_failures:g}"
            for name, result in results[task].items()
            if result.failure_rate > max_failures
        ]
        values = {name: scored[task].scores[name].get(metric, UNKNOWN) for name in results[task]}
        obstacles += [
            f"no value of {metric} ({name}; {results[task][name].n} labeled rows)"
            for name, score in values.items()
            if score.value is None
        ]
        comparison = None
        if not obstacles and len(values) == 2:
            comparison = _comparison(task, metric, results[task], scored[task], resamples, seed)
            obstacles += _untested(comparison, results[task], margin)
        tasks.append(_task_gate(task, metric, results[task], values, comparison, obstacles, notes))
    adjusted = holm([task.p_value for task in tasks])
    tests = sum(p_value is not None for p_value in adjusted)
    tasks = [
        task._replace(
            p_value=p_value,
            detectable=task.comparison
            and task.comparison.detectable(tests, alpha=alpha, one_sided=True),
        )
        for task, p_value in zip(tasks, adjusted, strict=True)
    ]
    tasks = [
        task._replace(failures=_failures(task, margin, alpha, minimum.get(task.task)))
        for task in tasks
    ]
    tasks.sort(key=lambda task: OUTCOMES.index(task.outcome))
    notes = remarks(list(runs.values()))
    return Gate(margin, alpha, baseline, current, tasks, notes, resamples, seed)


def one_run(runs: Sequence[Run], source: str) -> Run:
    """The one run in `runs`: a single one, or one model's runs over different tasks, merged.

    Args:
        source: where the runs were found, for the message.

    Raises:
        JudgeError: the runs are of several models, or of one model on the same tasks.
    """
    tasks = [task for run in runs for task in run.tasks]
    if len({run.model for run in runs}) > 1 or len(set(tasks)) < len(tasks):
        listed = "\n".join(f"  {run.file}: {run.model}, {run.date}" for run in runs)
        raise JudgeError(
            f"{source}: found {len(runs)} runs; expected one run of one model (or its runs over "
            f"different tasks). Name one of:\n{listed}"
        )
    newest = max(runs, key=lambda run: run.date)
    return newest._replace(tasks={name: task for run in runs for name, task in run.tasks.items()})


def _check_settings(
    metric: str | None,
    margin: float | None,
    alpha: float,
    minimum: Mapping[str, float],
    tasks: Sequence[str],
) -> None:
    ranked = [name for name in METRICS if higher_is_better(name) is not None]
    if metric is not None and metric not in ranked:
        if metric in METRICS:
            raise JudgeError(
                f"--metric: {metric} has no better direction; expected one of {', '.join(ranked)}"
            )
        raise JudgeError(f"--metric: no metric {metric!r}; {did_you_mean(metric, ranked)}")
    if margin is not None and not (isfinite(margin) and margin >= 0):
        raise JudgeError(f"--margin: is {margin}; expected 0 or more, such as 0.05")
    if not 0 <= alpha < 1:
        raise JudgeError(f"--alpha: is {alpha}; expected 0 or more and below 1, such as 0.05")
    for task, worst in minimum.items():
        if task not in tasks:
            raise JudgeError(f"--min: no task {task!r}; {did_you_mean(task, tasks)}")
        if not isfinite(worst):
            raise JudgeError(f"--min: {task} is {worst}; expected a number, such as 0.7")


def _comparison(
    task: str,
    metric: str,
    results: Mapping[str, TaskResult],
    scored: TaskScores,
    resamples: int,
    seed: int,
) -> Comparison | None:
    """The one-sided comparison of the judge that a drop makes lower with the other one."""
    lower, higher = (NOW, BASELINE) if higher_is_better(metric) else (BASELINE, NOW)
    scores = {name: scored.scores[name][metric] for name in (lower, higher)}
    compared = compare(
        task, metric, scores, [scored], results, one_sided=True, resamples=resamples, seed=seed
    )
    return compared[0] if compared else None


def _untested(
    comparison: Comparison | None, results: Mapping[str, TaskResult], margin: float | None
) -> list[str]:
    """Why two runs that may be compared cannot be."""
    before, now = results[BASELINE], results[NOW]
    if not (before.samples and now.samples):
        return ["its rows are unknown in one run, and a test needs them (see `baseline save`)"]
    if before.rows != now.rows:
        return ["other rows were judged now, and a test needs the same ones"]
    if comparison is None:
        return ["its rows are one cluster of dependent rows, which shows no difference"]
    if margin is not None and comparison.difference.low is None:
        return [
            f"no interval for the margin ({now.n} labeled rows in {now.clusters} clusters; at "
            f"least {MIN_CLUSTERS} clusters of equal size and {MIN_ROWS_OF_CLASS} rows of each "
            "verdict are needed)"
        ]
    return []


def _task_gate(
    task: str,
    metric: str,
    results: Mapping[str, TaskResult],
    scores: Mapping[str, Score],
    comparison: Comparison | None,
    obstacles: Sequence[str],
    notes: Sequence[str],
) -> TaskGate:
    """A task without its failures; its p-value is not adjusted yet."""
    difference = comparison.difference if comparison and not obstacles else Estimate(None)
    if not higher_is_better(metric):
        difference = _negated(difference)
    return TaskGate(
        task,
        metric,
        baseline=scores.get(BASELINE, UNKNOWN).estimate,
        current=scores.get(NOW, UNKNOWN).estimate,
        n=results[NOW].n if NOW in results else None,
        n_failed=results[NOW].n_failed if NOW in results else 0,
        n_refused=results[NOW].n_refused if NOW in results else 0,
        clusters=results[NOW].clusters if NOW in results else None,
        difference=difference,
        comparison=None if obstacles else comparison,
        p_value=comparison.p_value if comparison and not obstacles else None,
        detectable=None,
        failures=(),
        obstacles=obstacles,
        notes=notes,
    )


def _negated(difference: Estimate) -> Estimate:
    value, low, high = (
        None if end is None else -end for end in (difference.value, difference.high, difference.low)
    )
    return Estimate(value, low, high)


def _obstacles(
    runs: Sequence[Run], results: Mapping[str, TaskResult], across: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Why two runs' results on a task cannot be compared, and across what they are."""
    if NOW not in results:
        return ["in the baseline, but not judged now"], []
    if BASELINE not in results:
        return [], ["not in the baseline, so there is nothing to compare with"]
    before, now = results[BASELINE], results[NOW]
    if _verdicts(before) != _verdicts(now):
        return [f"different verdicts or pairs: {_verdicts(before)}, now {_verdicts(now)}"], []
    changes: dict[str, str] = {}
    # Without rows, --limit shows only in their number.
    if None not in (before.n_labeled, now.n_labeled) and before.n_labeled != now.n_labeled:
        changes["rows"] = f"different rows: {before.n_labeled} labeled, now {now.n_labeled}"
    for difference in differences(runs):
        value = {name: value for value, names in difference.groups for name in names}
        changes[difference.name] = (
            f"different {difference.field}: {value[BASELINE]}, now {value[NOW]}"
        )
    obstacles, notes = [], []
    for name, change in changes.items():
        if name in across:
            notes.append(f"{change}, compared across it")
        else:
            obstacles.append(f"{change} (compare anyway with --across {name})")
    return obstacles, notes


def _verdicts(result: TaskResult) -> str:
    return " / ".join(result.verdicts) + (", pairs in both orders" if result.paired else "")


def _failures(task: TaskGate, margin: float | None, alpha: float, worst: float | None) -> list[str]:
    sign = 1 if higher_is_better(task.metric) else -1
    value, end = task.current.value, task.difference.low if sign > 0 else task.difference.high
    failures = []
    if margin is None and task.p_value is not None and task.p_value < alpha:
        failures.append(
            f"significantly worse (p = {format_p_value(task.p_value)}, below {alpha:g})"
        )
    if margin is not None and end is not None and -sign * end > margin + _ROUNDING:
        failures.append(f"may be worse by {-sign * end:.4g}, more than the margin, {margin:g}")
    if worst is not None and value is not None and sign * (worst - value) > _ROUNDING:
        limit = "below the minimum" if sign > 0 else "above the maximum"
        failures.append(f"{value:.4g} is {limit}, {worst:g}")
    return failures
