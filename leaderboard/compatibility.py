"""Which runs may share a table: those that judged the same rows, asked and read in the same way.

Runs of one table, gate or experiment have the same :mod:`.identity`, but for the fields that
``--across`` names. What else they differ in is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.spec import Role

from .identity import IDENTITY, RENDERED, Value, other_fields, stated, weights
from .runs import Run, TaskResult

ROLES: tuple[Role, ...] = ("train", "ood")
ALL_TASKS = "all tasks"


class Difference(NamedTuple):
    """Something that runs do not agree on."""

    name: str
    """A field of :data:`.identity.IDENTITY`, or of what is only shown."""
    field: str
    """Where it shows: fingerprint, style, …"""
    tasks: Sequence[str]
    groups: Sequence[tuple[str, Sequence[str]]]
    """Each value with the names of the runs that have it."""

    def __str__(self) -> str:
        groups = " | ".join(f"{value}: {', '.join(names)}" for value, names in self.groups)
        return f"{', '.join(self.tasks)} by {self.field}: {groups}"


def tasks_of(runs: Iterable[Run]) -> list[str]:
    """The tasks of all runs, training tasks first."""
    roles = {name: result.role for run in runs for name, result in run.tasks.items()}
    return sorted(roles, key=lambda name: (ROLES.index(roles[name]), name))


def select_tasks(runs: Sequence[Run], patterns: Sequence[str]) -> list[Run]:
    """The runs restricted to the tasks that match a pattern; all tasks without patterns.

    Raises:
        JudgeError: a pattern matches no task.
    """
    known = tasks_of(runs)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise JudgeError(f"--tasks: no task {pattern!r}; {did_you_mean(pattern, known)}")
    matching = [
        name
        for name in known
        if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    return [run for run in (run.with_tasks(matching) for run in runs) if run.tasks]


def check_across(across: Iterable[str]) -> None:
    """
    Raises:
        JudgeError: a name is not a field of :data:`.identity.IDENTITY`.
    """
    for name in across:
        if name not in IDENTITY:
            raise JudgeError(f"--across: no field {name!r}; {did_you_mean(name, IDENTITY)}")


def require_comparable(
    runs: Sequence[Run],
    across: Collection[str],
    advice: str = "leave some out (--tasks, other paths), or give --across {fields}",
) -> list[str]:
    """What readers of a comparison should know about it, one sentence each.

    Args:
        across: fields of :data:`.identity.IDENTITY` in which the runs may differ.
        advice: what to do otherwise, for the message.

    Raises:
        JudgeError: runs differ in another field; the message lists which, and which runs.
    """
    check_across(across)
    known = differences(runs)
    refused = [difference for difference in known if difference.name not in across]
    if refused:
        fields = ",".join(dict.fromkeys(difference.name for difference in refused))
        lines = [f"  {difference}" for difference in refused]
        raise JudgeError(
            "\n".join(["the runs cannot be compared:", *lines, advice.format(fields=fields)])
        )
    return [
        *(f"Compared across a difference: {difference}." for difference in known),
        *remarks(runs),
    ]


def remarks(runs: Sequence[Run]) -> list[str]:
    """What readers should know of runs that may be compared, one sentence each."""
    others = "; ".join(map(str, other_differences(runs)))
    validated = [
        task
        for task in tasks_of(runs)
        if any(r.tasks[task].metadata.get("split") == "validation" for r in runs if task in r.tasks)
    ]
    return [
        *([f"Judged on the validation split: {', '.join(validated)}."] if validated else []),
        *([f"Also different: {others}."] if others else []),
        *unstated(runs),
    ]


def differences(runs: Sequence[Run]) -> list[Difference]:
    """The fields of the identity that the runs do not agree on.

    A run whose results do not state a value agrees with every other run, except that results
    without a version of the parser are of version 1; see :func:`unstated`.
    """
    found = _different_rows(runs)
    for name, value_of in IDENTITY.items():
        if name == "instruction":  # each style has its own
            found += _disagreements(runs, name, name, value_of, stated("style"))
        elif name != "rows":
            found += _disagreements(runs, name, name, value_of)
    return found


def _different_rows(runs: Sequence[Run]) -> list[Difference]:
    found = []
    for field in ("fingerprint", "data_fingerprint"):
        tasks = [task for task in tasks_of(runs) if _rows_field(runs, task) == field]
        restricted = [run.with_tasks(tasks) for run in runs]
        found += _disagreements(restricted, "rows", field, stated(field))
    # The fingerprint is that of the whole split; with --limit, runs can still judge other rows.
    found = found or _disagreements(runs, "rows", "rows judged", _number_of_rows)
    return found or _disagreements(runs, "rows", "rows judged", lambda result: result.rows or None)


def _number_of_rows(result: TaskResult) -> str | None:
    return None if result.n_rows is None else f"{result.n_rows} rows"


def _rows_field(runs: Iterable[Run], task: str) -> str:
    """The fingerprint by which the rows of a task are compared.

    It is that of the data alone if question or label rule differ, which is a difference of its own.
    """
    results = [run.tasks[task] for run in runs if task in run.tasks]
    rendered = {tuple(IDENTITY[name](result) for name in RENDERED) for result in results}
    known = all(result.metadata.get("data_fingerprint") for result in results)
    return "data_fingerprint" if known and len(rendered) > 1 else "fingerprint"


def unstated(runs: Sequence[Run]) -> list[str]:
    """What is unknown about runs that are compared, and therefore assumed to agree."""
    fields_by_runs: dict[tuple[str, ...], list[str]] = {}
    for name, value_of in IDENTITY.items():
        silent = {
            run.name: None
            for task in tasks_of(runs)
            for known in [[run for run in runs if task in run.tasks]]
            for run in known
            if len(known) > 1
            and value_of(run.tasks[task]) is None
            and (name != "calibration" or run.tasks[task].metadata.get("scoring") == "logprob")
        }
        if silent:
            fields_by_runs.setdefault(tuple(silent), []).append(name)
    return [
        f"Not recorded and assumed to agree: {', '.join(fields)} of "
        f"{'all runs' if len(names) == len(runs) > 1 else ', '.join(names)}."
        for names, fields in fields_by_runs.items()
    ]


def other_differences(runs: Sequence[Run]) -> list[Difference]:
    """What else the runs do not agree on: everything that is only shown."""
    found = []
    for name, value_of in other_fields(result for run in runs for result in run.tasks.values()):
        found += _disagreements(runs, name, name, value_of)
    # Judges differ in their weights; runs of one judge should not.
    for model in dict.fromkeys(run.model for run in runs):
        same = [run for run in runs if run.model == model]
        found += _disagreements(same, "weights", f"weights of {model}", weights)
    backends = {run.backend: None for run in runs if run.backend}
    if len(backends) > 1:
        groups = [
            (backend, [run.name for run in runs if run.backend == backend]) for backend in backends
        ]
        found.append(Difference("backend", "backend", [ALL_TASKS], groups))
    return found


def _disagreements(
    runs: Sequence[Run],
    name: str,
    field: str,
    value_of: Callable[[TaskResult], Hashable],
    among: Value | None = None,
) -> list[Difference]:
    """One difference for all tasks in which the runs fall into the same groups.

    Args:
        among: compare only results that agree on this.
    """
    everywhere = tasks_of(runs)
    runs_by_value: dict[tuple[str, str | None], dict[Hashable, dict[str, None]]] = {}
    for task in everywhere:
        for run in runs:
            if task in run.tasks and (value := value_of(run.tasks[task])) is not None:
                # Sample data says nothing about real data, not even about that of another task.
                label = ALL_TASKS if name == "source" else task
                where = label, among and among(run.tasks[task])
                runs_by_value.setdefault(where, {}).setdefault(value, {})[run.name] = None
    tasks_by_groups: dict[tuple[tuple[str, tuple[str, ...]], ...], list[str]] = {}
    for (task, _), groups in runs_by_value.items():
        if len(groups) > 1:
            shown = tuple(
                (f"{len(value)} rows" if isinstance(value, tuple) else str(value), tuple(names))
                for value, names in groups.items()
            )
            tasks_by_groups.setdefault(shown, []).append(task)
    return [
        Difference(name, field, [ALL_TASKS] if 1 < len(everywhere) == len(tasks) else tasks, groups)
        for groups, tasks in tasks_by_groups.items()
    ]
