"""Is a judge worse than the baseline? An answer for each task, and an exit code for CI.

Three things fail a task: the metric is significantly worse, it is worse by more than a bound, or it
is beyond a value of the task's own. The bound is on what was measured, so it also fails a drop that
may be noise; a wide bound (``max_drop=1``) leaves significance alone to decide, and ``alpha=0`` the
bound. A task that cannot be judged never passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Literal, NamedTuple, TypeAlias

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.metrics.bootstrap import RESAMPLES
from mtrl_judge.metrics.rates import RATES, higher_is_better
from mtrl_judge.metrics.significance import holm

from .board import build_leaderboard
from .compare import ALPHA
from .compatibility import DIFFERENCES, differences, tasks_of
from .runs import Estimate, Judged, Run

MAX_DROP = 0.01
Outcome: TypeAlias = Literal["passed", "failed", "cannot be judged"]
BASELINE, NOW = "baseline", "now"
_NONE = Estimate(None)
# 0.80 to 0.79 is no more than 0.01.
_ROUNDING = 1e-9


class TaskGate(NamedTuple):
    """What the gate says of one task."""

    task: str
    baseline: Estimate
    current: Estimate
    n: int | None
    """Labeled rows judged now."""
    difference: Estimate
    """Now less the baseline; without an interval where not the same rows are known of both."""
    p_value: float | None
    """That there is no difference, after Holm over the tasks of the gate; None where untested."""
    failures: Sequence[str]
    """Why it fails."""
    obstacles: Sequence[str]
    """Why it cannot be judged."""
    notes: Sequence[str]
    """What was not tested, or allowed to differ."""

    @property
    def outcome(self) -> Outcome:
        """Failed also where it cannot be compared: a value of its own needs no baseline."""
        if self.failures:
            return "failed"
        return "cannot be judged" if self.obstacles else "passed"


class Gate(NamedTuple):
    """The whole gate; failed tasks first, then those that cannot be judged."""

    metric: str
    less_is_better: bool
    max_drop: float
    alpha: float
    baseline: Run
    current: Run
    tasks: Sequence[TaskGate]
    resamples: int
    seed: int

    def count(self, outcome: Outcome) -> int:
        return sum(each.outcome == outcome for each in self.tasks)

    @property
    def outcome(self) -> Outcome:
        """Failed where a task failed, whatever others could not be judged: worse is known by then.

        Where no task stands in both runs nothing was compared, and that cannot pass.
        """
        if self.count("failed"):
            return "failed"
        compared = any(each.difference.value is not None for each in self.tasks)
        return "cannot be judged" if self.count("cannot be judged") or not compared else "passed"

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 2 cannot be judged."""
        return {"passed": 0, "failed": 1, "cannot be judged": 2}[self.outcome]


def judge_gate(
    current: Run,
    baseline: Run,
    *,
    metric: str = "macro_f1",
    max_drop: float = MAX_DROP,
    alpha: float = ALPHA,
    minimum: Mapping[str, float] | None = None,
    allow: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Gate:
    """Hold a run against a baseline, task by task.

    Each task is one comparison, the paired bootstrap of the leaderboard, two-sided as there; the
    gate asks of all its tasks at once, so Holm's correction is over the tasks that were tested: a
    judge that is no worse on any of them fails by significance in at most `alpha` of all cases. A
    baseline without its rows, and rows that were allowed to differ, leave only the bound.

    A task of the baseline that was not judged now cannot be judged; one that the baseline lacks
    has only its own value to fail on.

    Args:
        metric: a rate of which more, or less, is better.
        max_drop: how much worse it may be, as a difference of the rate; the bound itself passes.
        alpha: significantly worse is an adjusted p-value below it.
        minimum: for a task the worst value that passes: the least, or the most where less is
            better.
        allow: of :data:`~.comparable.DIFFERENCES`.

    Raises:
        JudgeError: the metric, a task of `minimum` or a difference is unknown, or a number is out
            of range.
    """
    less = _less_is_better(metric)
    minimum = minimum or {}
    both = [current._replace(name=NOW), baseline._replace(name=BASELINE)]
    tasks = tasks_of(both)
    _refuse(max_drop, alpha, minimum, tasks)
    differences((), allow)  # an unknown one is an error before anything is computed
    found = [_compared(task, both, metric, allow, resamples, seed) for task in tasks]
    tested = [each for each in found if each.p_value is not None]
    adjusted = holm([each.p_value for each in tested if each.p_value is not None])
    corrected = {each.task: value for each, value in zip(tested, adjusted, strict=True)}
    judged = [
        _with_failures(
            each._replace(p_value=corrected.get(each.task)),
            less=less,
            max_drop=max_drop,
            alpha=alpha,
            worst=minimum.get(each.task),
        )
        for each in found
    ]
    order: Sequence[Outcome] = ("failed", "cannot be judged", "passed")
    judged.sort(key=lambda each: order.index(each.outcome))
    return Gate(metric, less, max_drop, alpha, baseline, current, judged, resamples, seed)


def one_run(runs: Sequence[Run], what: str) -> Run:
    """The run that runs are: one, or one model's over tasks of which none is there twice.

    Args:
        what: where they were found, for the message.

    Raises:
        JudgeError: they are runs of several models, or of one on the same tasks.
    """
    tasks = [task for run in runs for task in run.tasks]
    if len({run.model for run in runs}) > 1 or len(set(tasks)) < len(tasks):
        raise JudgeError(
            "\n".join(
                [
                    f"{what}: {len(runs)} runs, and the gate wants one of one model (or its runs "
                    "over different tasks); name one:",
                    *(f"  {run.file}: {run.model}, {run.date}" for run in runs),
                ]
            )
        )
    newest = max(runs, key=lambda run: run.date)
    return newest._replace(tasks={name: each for run in runs for name, each in run.tasks.items()})


def _less_is_better(metric: str) -> bool:
    known = [name for name in RATES if higher_is_better(name) is not None]
    if metric in known:
        return higher_is_better(metric) is False
    if metric in RATES:
        raise JudgeError(
            f"--metric: neither more nor less of {metric} is better; known: {', '.join(known)}"
        )
    raise JudgeError(f"--metric: no metric {metric!r}; {did_you_mean(metric, known)}")


def _refuse(
    max_drop: float, alpha: float, minimum: Mapping[str, float], tasks: Sequence[str]
) -> None:
    if not (isfinite(max_drop) and max_drop >= 0):
        raise JudgeError(f"--max-drop: is {max_drop}; would be right: 0 or more, such as 0.01")
    if not 0 <= alpha < 1:
        raise JudgeError(f"--alpha: is {alpha}; would be right: from 0 to below 1, such as 0.05")
    for task, worst in minimum.items():
        if task not in tasks:
            raise JudgeError(f"--min: no task {task!r}; {did_you_mean(task, tasks)}")
        if not isfinite(worst):
            raise JudgeError(f"--min: {task} is {worst}; would be right: a number, such as 0.7")


def _compared(
    task: str, runs: Sequence[Run], metric: str, allow: Sequence[str], resamples: int, seed: int
) -> TaskGate:
    """A task without its failures; its p-value is not adjusted yet."""
    both = [run._replace(tasks={task: run.tasks[task]}) for run in runs if task in run.tasks]
    judged = {run.name: run.tasks[task] for run in both}
    obstacles, notes = _obstacles(both, judged, allow)
    apart = bool(obstacles) or len(both) < 2
    columns = [
        build_leaderboard(
            panel, metric=metric, allow=DIFFERENCES, resamples=resamples, seed=seed
        ).tasks[0]
        for panel in ([[run] for run in both] if apart else [both])
    ]
    estimates = {name: each for column in columns for name, each in column.estimates.items()}
    before, now = (estimates.get(name, {}).get(metric, _NONE) for name in (BASELINE, NOW))
    obstacles += [
        _undefined(judged[name], metric, name)
        for name, estimate in ((BASELINE, before), (NOW, now))
        if name in judged and estimate.value is None
    ]
    difference, p_value = _NONE, None
    if not obstacles and len(both) == 2:
        comparison = next((each for column in columns for each in column.comparisons), None)
        if comparison is not None:
            difference, p_value = comparison.difference, comparison.p_value
        else:
            difference = Estimate((now.value or 0.0) - (before.value or 0.0))
            notes.append(_untested(judged))
    n = judged[NOW].n if NOW in judged else None
    return TaskGate(task, before, now, n, difference, p_value, (), obstacles, notes)


def _obstacles(
    runs: Sequence[Run], judged: Mapping[str, Judged], allow: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Why two runs' results on a task cannot be compared, and what was allowed to differ."""
    if NOW not in judged:
        return ["in the baseline, but not judged now"], []
    if BASELINE not in judged:
        return [], ["not in the baseline, so there is nothing to compare with"]
    before, now = judged[BASELINE], judged[NOW]
    if _classes(before) != _classes(now):
        return [f"other verdicts or pairs: {_classes(before)}, now {_classes(now)}"], []
    obstacles, notes = [], []
    if None not in (scoring := [each.about.get("scoring") for each in (before, now)]):
        notes += [f"scored by {scoring[0]}, now by {scoring[1]}"] * (scoring[0] != scoring[1])
    for kind in _kinds(runs, before, now):
        if kind in allow:
            notes.append(f"{_told(kind, before, now)}, which was allowed")
        else:
            obstacles.append(f"{_told(kind, before, now)} (--allow {kind} compares all the same)")
    return obstacles, notes


def _classes(judged: Judged) -> str:
    pairs = ", pairs in both orders" if judged.about.get("paired") else ""
    return f"{' / '.join(judged.about['verdicts'])}{pairs}"


def _kinds(runs: Sequence[Run], before: Judged, now: Judged) -> list[str]:
    """Which of DIFFERENCES there are between two runs of one task."""
    found = []
    for kind in DIFFERENCES:
        try:
            differences(runs, [other for other in DIFFERENCES if other != kind])
        except JudgeError:
            found.append(kind)
    # Of a baseline without rows a --limit shows in their number alone.
    known = None not in (before.n, now.n)
    if "rows" not in found and known and before.n != now.n:
        found.insert(0, "rows")
    return found


def _told(kind: str, before: Judged, now: Judged) -> str:
    if kind != "rows":
        return f"another {kind}: {before.about.get(kind)}, now {now.about.get(kind)}"
    prints = [each.about.get("fingerprint") for each in (before, now)]
    if None not in prints and prints[0] != prints[1]:
        return f"other rows: fingerprint {prints[0]}, now {prints[1]}"
    return f"other rows of the same data: {before.n} labeled, now {now.n}"


def _undefined(judged: Judged, metric: str, name: str) -> str:
    if judged.n == 0:
        return f"no labeled rows ({name})"
    if not judged.records:
        return f"{metric} is not stated and there are no rows to compute it from ({name})"
    return f"{metric} has no meaning here ({name})"


def _untested(judged: Mapping[str, Judged]) -> str:
    without = [name for name, each in judged.items() if not each.records]
    why = f"no rows are kept ({', '.join(without)})" if without else "the rows are others"
    return f"significance is untested, as {why}; the bound decides"


def _with_failures(
    gate: TaskGate, *, less: bool, max_drop: float, alpha: float, worst: float | None
) -> TaskGate:
    sign = -1 if less else 1
    failures = []
    drop = -sign * (gate.difference.value or 0.0)
    if gate.p_value is not None and gate.p_value < alpha and drop > 0:
        failures.append(f"significantly worse (p = {gate.p_value:.2g}, below {alpha:g})")
    if drop > max_drop + _ROUNDING:
        failures.append(f"worse by {drop:.4g}, more than {max_drop:g}")
    value = gate.current.value
    if worst is not None and value is not None and sign * (worst - value) > _ROUNDING:
        failures.append(
            f"{value:.4g} is {'above the most' if less else 'below the least'}, {worst:g}"
        )
    return gate._replace(failures=failures)
