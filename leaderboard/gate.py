"""Is a judge worse than its baseline? An answer for each task, and an exit code for CI.

Three things fail a task: the metric is significantly worse, it is worse by more than a bound, or it
misses a minimum of its own. The bound applies to the measured value, so it also fails a drop that
may be noise; a wide bound (``max_drop=1``) leaves the decision to significance, and ``alpha=0``
leaves it to the bound. A task that cannot be compared never passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Literal, NamedTuple, TypeAlias

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.metrics.bootstrap import RESAMPLES, Estimate
from mtrl_judge.metrics.rates import RATES, higher_is_better
from mtrl_judge.metrics.significance import holm

from .compare import ALPHA, UNKNOWN, compare, minus, score_results
from .compatibility import check_allowed, differences, headline_metric, tasks_of
from .formats import format_p_value
from .runs import Run, TaskResult

MAX_DROP = 0.01
Outcome: TypeAlias = Literal["passed", "failed", "not comparable"]
OUTCOMES: Sequence[Outcome] = ("failed", "not comparable", "passed")
BASELINE, NOW = "baseline", "now"
# So that 0.80 to 0.79 is a drop of no more than 0.01.
_ROUNDING = 1e-9


class TaskGate(NamedTuple):
    """What the gate says about one task."""

    task: str
    baseline: Estimate
    current: Estimate
    n: int | None
    """Labeled rows judged now."""
    difference: Estimate
    """Now minus baseline; without an interval unless both judged the same rows, which are known."""
    p_value: float | None
    """Of the difference, Holm-adjusted over the tasks of the gate; None if untested."""
    failures: Sequence[str]
    """Why it fails."""
    obstacles: Sequence[str]
    """Why it cannot be compared."""
    notes: Sequence[str]
    """What was not tested, or allowed to differ."""

    @property
    def outcome(self) -> Outcome:
        """A task that is not comparable can still fail: its own minimum needs no baseline."""
        if self.failures:
            return "failed"
        return "not comparable" if self.obstacles else "passed"


class Gate(NamedTuple):
    """The whole gate; failed tasks first, then those that are not comparable."""

    metric: str
    max_drop: float
    alpha: float
    baseline: Run
    current: Run
    tasks: Sequence[TaskGate]
    resamples: int
    seed: int

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
    max_drop: float = MAX_DROP,
    alpha: float = ALPHA,
    minimum: Mapping[str, float] | None = None,
    allow: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Gate:
    """Compare a run with a baseline, task by task.

    Each task is one two-sided paired bootstrap comparison, as in the leaderboard. Holm's correction
    covers the tasks that were tested, so a judge that is worse on none of them fails by
    significance with a probability of at most `alpha`. A baseline without rows, or rows that are
    allowed to differ, can only be checked against the bound.

    A task that only the baseline has is not comparable; one that it lacks can only miss its
    minimum.

    Args:
        metric: a rate of which higher or lower is better; by default the headline metric of the
            tasks' kind.
        max_drop: how much worse the metric may be, in its own unit; equal to the bound passes.
        alpha: significantly worse is an adjusted p-value below it.
        minimum: for a task, the worst value that passes: the lowest, or the highest if lower is
            better.
        allow: names in :data:`~.compatibility.DIFFERENCES`.

    Raises:
        JudgeError: the metric, a task of `minimum` or a difference is unknown, or a number is out
            of range.
    """
    runs = {NOW: current._replace(name=NOW), BASELINE: baseline._replace(name=BASELINE)}
    metric = metric or headline_metric(runs.values())
    minimum = minimum or {}
    names = tasks_of(runs.values())
    _check_settings(metric, max_drop, alpha, minimum, names)
    check_allowed(allow)
    tasks = [_compare_task(task, runs, metric, allow, resamples, seed) for task in names]
    adjusted = holm([task.p_value for task in tasks])
    tasks = [task._replace(p_value=p_value) for task, p_value in zip(tasks, adjusted, strict=True)]
    tasks = [
        task._replace(failures=_failures(task, metric, max_drop, alpha, minimum.get(task.task)))
        for task in tasks
    ]
    tasks.sort(key=lambda task: OUTCOMES.index(task.outcome))
    return Gate(metric, max_drop, alpha, baseline, current, tasks, resamples, seed)


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
    metric: str, max_drop: float, alpha: float, minimum: Mapping[str, float], tasks: Sequence[str]
) -> None:
    ranked = [name for name in RATES if higher_is_better(name) is not None]
    if metric not in ranked:
        if metric in RATES:
            raise JudgeError(
                f"--metric: {metric} has no better direction; expected one of {', '.join(ranked)}"
            )
        raise JudgeError(f"--metric: no metric {metric!r}; {did_you_mean(metric, ranked)}")
    if not (isfinite(max_drop) and max_drop >= 0):
        raise JudgeError(f"--max-drop: is {max_drop}; expected 0 or more, such as 0.01")
    if not 0 <= alpha < 1:
        raise JudgeError(f"--alpha: is {alpha}; expected 0 or more and below 1, such as 0.05")
    for task, worst in minimum.items():
        if task not in tasks:
            raise JudgeError(f"--min: no task {task!r}; {did_you_mean(task, tasks)}")
        if not isfinite(worst):
            raise JudgeError(f"--min: {task} is {worst}; expected a number, such as 0.7")


def _compare_task(
    task: str, runs: Mapping[str, Run], metric: str, allow: Sequence[str], resamples: int, seed: int
) -> TaskGate:
    """A task without its failures; its p-value is not adjusted yet."""
    results = {name: run.tasks[task] for name, run in runs.items() if task in run.tasks}
    obstacles, notes = _obstacles([run.with_tasks([task]) for run in runs.values()], results, allow)
    scores = score_results(results, (metric,), resamples=resamples, seed=stable_hash(task, seed))
    of_metric = {name: rates.get(metric, UNKNOWN) for name, rates in scores.items()}
    obstacles += [
        f"no value of {metric} ({name}; {results[name].n} labeled rows)"
        for name, score in of_metric.items()
        if score.value is None
    ]
    difference, p_value = Estimate(None), None
    if not obstacles and len(results) == 2:
        comparisons = compare(task, of_metric, results)
        if comparisons:
            difference, p_value = comparisons[0].difference, comparisons[0].p_value
        else:
            difference = Estimate(minus(of_metric[NOW], of_metric[BASELINE]).value)
            notes.append(
                "significance is untested, because it needs the same rows of both runs; only the "
                "bound applies"
            )
    n = results[NOW].n if NOW in results else None
    before, now = (of_metric.get(name, UNKNOWN).estimate for name in (BASELINE, NOW))
    return TaskGate(task, before, now, n, difference, p_value, (), obstacles, notes)


def _obstacles(
    runs: Sequence[Run], results: Mapping[str, TaskResult], allow: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Why two runs' results on a task cannot be compared, and what was allowed to differ."""
    if NOW not in results:
        return ["in the baseline, but not judged now"], []
    if BASELINE not in results:
        return [], ["not in the baseline, so there is nothing to compare with"]
    before, now = results[BASELINE], results[NOW]
    if _verdicts(before) != _verdicts(now):
        return [f"different verdicts or pairs: {_verdicts(before)}, now {_verdicts(now)}"], []
    changes: dict[str, str] = {}
    # Without rows, --limit shows only in their number.
    if None not in (before.n, now.n) and before.n != now.n:
        changes["rows"] = f"different rows: {before.n} labeled, now {now.n}"
    for difference in differences(runs):
        value = {name: value for value, names in difference.groups for name in names}
        changes[difference.name] = (
            f"different {difference.field}: {value[BASELINE]}, now {value[NOW]}"
        )
    obstacles, notes = [], []
    scoring = [result.metadata.get("scoring") for result in (before, now)]
    if None not in scoring and scoring[0] != scoring[1]:
        notes.append(f"scored by {scoring[0]}, now by {scoring[1]}")
    for name, change in changes.items():
        if name in allow:
            notes.append(f"{change}, which is allowed")
        else:
            obstacles.append(f"{change} (compare anyway with --allow {name})")
    return obstacles, notes


def _verdicts(result: TaskResult) -> str:
    return " / ".join(result.verdicts) + (", pairs in both orders" if result.paired else "")


def _failures(
    task: TaskGate, metric: str, max_drop: float, alpha: float, worst: float | None
) -> list[str]:
    sign = 1 if higher_is_better(metric) else -1
    drop = -sign * (task.difference.value or 0.0)
    value = task.current.value
    failures = []
    if task.p_value is not None and task.p_value < alpha and drop > 0:
        failures.append(
            f"significantly worse (p = {format_p_value(task.p_value)}, below {alpha:g})"
        )
    if drop > max_drop + _ROUNDING:
        failures.append(f"worse by {drop:.4g}, more than {max_drop:g}")
    if worst is not None and value is not None and sign * (worst - value) > _ROUNDING:
        limit = "below the minimum" if sign > 0 else "above the maximum"
        failures.append(f"{value:.4g} is {limit}, {worst:g}")
    return failures
