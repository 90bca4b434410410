"""Which runs may stand in one table: those that judged the same, asked the same way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.spec import Role

from .runs import Judged, Run

ROLES: tuple[Role, ...] = ("train", "ood")
DIFFERENCES = ("rows", "source", "style", "perturbation")
"""What runs of one table must have in common unless it is allowed that they do not."""


def tasks_of(runs: Iterable[Run]) -> list[str]:
    """The tasks that any of the runs has, training tasks first."""
    roles = {name: judged.about["role"] for run in runs for name, judged in run.tasks.items()}
    return sorted(roles, key=lambda name: (ROLES.index(roles[name]), name))


def chosen(runs: Sequence[Run], patterns: Sequence[str]) -> list[Run]:
    """The runs with the tasks that match a pattern, all where there is none.

    Raises:
        JudgeError: a pattern matches no task.
    """
    there = tasks_of(runs)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in there):
            raise JudgeError(f"--tasks: no task {pattern!r}; {did_you_mean(pattern, there)}")
    names = [n for n in there if not patterns or any(fnmatchcase(n, each) for each in patterns)]
    kept = [
        run._replace(tasks={name: run.tasks[name] for name in names if name in run.tasks})
        for run in runs
    ]
    return [run for run in kept if run.tasks]


def differences(runs: Sequence[Run], allow: Sequence[str]) -> list[str]:
    """What the runs differ in, allowed for.

    Raises:
        JudgeError: naming each difference that is not allowed, and who has what.
    """
    for name in allow:
        if name not in DIFFERENCES:
            raise JudgeError(f"--allow: no {name!r}; {did_you_mean(name, DIFFERENCES)}")
    found = {name: list(_LINES[name](runs)) for name in DIFFERENCES}
    refused = [line for name in DIFFERENCES if name not in allow for line in found[name]]
    if refused:
        names = ",".join(name for name in DIFFERENCES if found[name] and name not in allow)
        raise JudgeError(
            "\n".join(
                [
                    "the runs cannot be compared:",
                    *refused,
                    f"leave some out (--tasks, other paths), or give --allow {names}",
                ]
            )
        )
    return [line for lines in found.values() for line in lines]


def _asked(field: str) -> Callable[[Sequence[Run]], Iterator[str]]:
    """Who has which value of what results say of a task; whose results do not say it fits all."""

    def lines(runs: Sequence[Run]) -> Iterator[str]:
        yield from _told(runs, field, lambda judged: judged.about.get(field), shown=True)

    return lines


def _rows(runs: Sequence[Run]) -> Iterator[str]:
    """Fingerprints are of all rows of a split; with ``--limit`` runs can still differ."""
    lines = list(_told(runs, "fingerprint", lambda judged: judged.about.get("fingerprint")))
    yield from lines or _told(runs, "the rows judged", lambda judged: judged.rows or None)


def _perturbation(runs: Sequence[Run]) -> Iterator[str]:
    yield from _told(
        runs, "perturbation", lambda judged: judged.about.get("perturbation") or "none", shown=True
    )


def _source(runs: Sequence[Run]) -> Iterator[str]:
    """Sample data says nothing of real data, not even of another task's."""
    kinds: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for run in runs:
        for judged in run.tasks.values():
            source = judged.about.get("source")
            if source is not None:
                kinds["sample data" if source == "sample" else "real data"][run.name] = None
    if len(kinds) > 1:
        yield "  by source: " + "; ".join(f"{kind}: {', '.join(n)}" for kind, n in kinds.items())


_LINES: Mapping[str, Callable[[Sequence[Run]], Iterator[str]]] = {
    "rows": _rows,
    "source": _source,
    "style": _asked("style"),
    "perturbation": _perturbation,
}


def _told(
    runs: Sequence[Run], what: str, of: Callable[[Judged], Hashable], *, shown: bool = False
) -> Iterator[str]:
    """A line for all tasks in which the runs fall into the same groups."""
    tasks_by_groups: defaultdict[str, list[str]] = defaultdict(list)
    for task in tasks_of(runs):
        groups: defaultdict[Hashable, list[str]] = defaultdict(list)
        for run in runs:
            if task in run.tasks:
                groups[of(run.tasks[task])].append(run.name)
        groups.pop(None, None)
        if len(groups) > 1:
            parts = [
                f"{value}: {', '.join(names)}" if shown else ", ".join(names)
                for value, names in groups.items()
            ]
            tasks_by_groups[" | ".join(parts)].append(task)
    for groups_told, tasks in tasks_by_groups.items():
        yield f"  {', '.join(tasks)} by {what}: {groups_told}"
