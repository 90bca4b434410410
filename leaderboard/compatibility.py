"""Which runs may share a table: those that judged the same rows, asked and read in the same way."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.spec import Role

from .runs import Run, TaskResult

ROLES: tuple[Role, ...] = ("train", "ood")
DIFFERENCES = ("rows", "source", "style", "perturbation", "parser")
"""What runs in one table must agree on unless ``--allow`` names it."""


class Difference(NamedTuple):
    """Something that runs do not agree on."""

    name: str
    """One of :data:`DIFFERENCES`."""
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


def headline_metric(runs: Iterable[Run]) -> str:
    """The metric by which the tasks' kinds rank judges.

    Raises:
        JudgeError: the kinds of the tasks rank by different metrics.
    """
    headlines = {result.kind.headline for run in runs for result in run.tasks.values()}
    if len(headlines) > 1:
        listed = ", ".join(sorted(headlines))
        raise JudgeError(
            f"the tasks rank judges by different metrics ({listed}); give --metric, or choose "
            "tasks of one kind with --tasks"
        )
    return headlines.pop()


def check_allowed(allow: Iterable[str]) -> None:
    """
    Raises:
        JudgeError: a name is not one of :data:`DIFFERENCES`.
    """
    for name in allow:
        if name not in DIFFERENCES:
            raise JudgeError(f"--allow: no {name!r}; {did_you_mean(name, DIFFERENCES)}")


def require_comparable(runs: Sequence[Run], allow: Sequence[str]) -> list[Difference]:
    """The differences that `allow` permits.

    Raises:
        JudgeError: runs differ in something else; the message lists what, and which runs.
    """
    check_allowed(allow)
    known = differences(runs)
    refused = [difference for difference in known if difference.name not in allow]
    if refused:
        names = ",".join(dict.fromkeys(difference.name for difference in refused))
        lines = [f"  {difference}" for difference in refused]
        raise JudgeError(
            "\n".join(
                [
                    "the runs cannot be compared:",
                    *lines,
                    f"leave some out (--tasks, other paths), or give --allow {names}",
                ]
            )
        )
    return known


def differences(runs: Sequence[Run]) -> list[Difference]:
    """What the runs do not agree on.

    A run whose results do not state a value agrees with every other run, except that results
    without a version of the parser are of version 1.
    """
    found = _disagreements(
        runs, "rows", "fingerprint", lambda result: result.metadata.get("fingerprint")
    )
    # The fingerprint is that of the whole split; with --limit, runs can still judge other rows.
    found = found or _disagreements(runs, "rows", "rows judged", lambda result: result.rows or None)
    for name, value_of in _VALUES.items():
        found += _disagreements(runs, name, name, value_of)
    return found


def _source(result: TaskResult) -> str | None:
    source = result.metadata.get("source")
    return source and ("sample data" if source == "sample" else "real data")


_VALUES: Mapping[str, Callable[[TaskResult], Hashable]] = {
    "source": _source,
    "style": lambda result: result.metadata.get("style"),
    "perturbation": lambda result: result.metadata.get("perturbation") or "none",
    "parser": lambda result: f"version {result.parser}",
}


def _disagreements(
    runs: Sequence[Run], name: str, field: str, value_of: Callable[[TaskResult], Hashable]
) -> list[Difference]:
    """One difference for all tasks in which the runs fall into the same groups."""
    runs_by_value: dict[str, dict[Hashable, dict[str, None]]] = {}
    for task in tasks_of(runs):
        # Sample data says nothing about real data, not even about that of another task.
        key = "all tasks" if name == "source" else task
        for run in runs:
            if task in run.tasks and (value := value_of(run.tasks[task])) is not None:
                runs_by_value.setdefault(key, {}).setdefault(value, {})[run.name] = None
    tasks_by_groups: dict[tuple[tuple[str, tuple[str, ...]], ...], list[str]] = {}
    for task, groups in runs_by_value.items():
        if len(groups) > 1:
            shown = tuple(
                (f"{len(value)} rows" if isinstance(value, tuple) else str(value), tuple(names))
                for value, names in groups.items()
            )
            tasks_by_groups.setdefault(shown, []).append(task)
    return [Difference(name, field, tasks, groups) for groups, tasks in tasks_by_groups.items()]
