"""`leaderboard.json`: what was measured of judges, kept for comparison with later ones.

The schema is published as `docs/leaderboard.schema.json`. An entry is one run of one model; it may
keep its rows, so that later judges can be compared with it item by item.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import json_text, read_json, write_text
from mtrl_judge.common.hashing import digest
from mtrl_judge.judge_tasks.fields import Frozen
from mtrl_judge.metrics.records import Record

from .board import Leaderboard
from .runs import Estimate, Judged, Run

SCHEMA_VERSION: Literal[1] = 1


class Rate(Frozen):
    """A rate with its 95 % bootstrap interval, where one was computed."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Rows(Frozen):
    """What was judged and how, a list a column; all lists have one length."""

    item_ids: tuple[str, ...]
    labels: tuple[str | None, ...]
    verdicts: tuple[str | None, ...] = Field(description="null where there was no verdict")
    well_formed: tuple[bool, ...]
    pair_ids: tuple[str | None, ...]
    swapped: tuple[bool, ...]
    clusters: tuple[str, ...]

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        lengths = {name: len(getattr(self, name)) for name in type(self).model_fields}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"lists of different lengths: {lengths}")
        return self


class TaskEntry(Frozen):
    """One task of a run."""

    role: Literal["train", "ood"]
    n: int | None = Field(None, description="labeled rows")
    verdicts: tuple[str, ...] = Field(("Yes", "No"), min_length=1)
    paired: bool = False
    dimension: str | None = None
    style: str | None = None
    scoring: str | None = None
    perturbation: str | None = None
    source: str | None = Field(None, description="hub, folder, sample, …")
    revision: str | None = None
    fingerprint: str | None = Field(None, description="of the rows that were to be judged")
    rates: dict[str, Rate] = Field(description="by name: macro_f1, accuracy, null_rate, …")
    rows: Rows | None = None


class Entry(Frozen):
    """One run of one model."""

    model: str = Field(min_length=1)
    date: str = Field(description="when it was evaluated, as lmms-eval writes it")
    backend: str = ""
    versions: dict[str, str] = Field({})
    tasks: dict[str, TaskEntry] = Field(min_length=1)

    @property
    def key(self) -> str:
        """The same for the same run, whether its rows are kept or not."""
        judged = [f"{name} {task.fingerprint} {task.style}" for name, task in self.tasks.items()]
        return digest(part.encode() for part in (self.model, self.date, *sorted(judged)))


class Difference(Frozen):
    """Two judges on the same rows of a task, or on the mean over a role's tasks."""

    column: str = Field(description="the task, or train or ood for the mean")
    first: str
    second: str
    difference: Rate = Field(description="the first's less the second's")
    p_value: float = Field(description="by the paired bootstrap")
    adjusted: float = Field(description="the same after Holm over the column's pairs")
    mcnemar_p_value: float | None = Field(None, description="likewise after Holm")


class Means(Frozen):
    """Of one judge, by role."""

    rates: dict[Literal["train", "ood"], dict[str, Rate]] = Field(
        description="plain means over tasks; overall_accuracy is of all rows together"
    )
    drop: Rate | None = Field(None, description="in distribution less out of distribution")
    ranks: dict[str, int] = Field({}, description="by task and role; ties cannot be told apart")


class Derived(Frozen):
    """What follows from the entries; a file that entries are added to has none."""

    metric: str
    resamples: int
    seed: int
    judges: dict[str, Means]
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()


class LeaderboardFile(Frozen):
    """The whole file."""

    schema_version: Literal[1] = SCHEMA_VERSION
    entries: tuple[Entry, ...]
    derived: Derived | None = None


def entry_of(run: Run, rates: Mapping[str, Mapping[str, Estimate]], *, rows: bool) -> Entry:
    """A run as an entry.

    Args:
        rates: for each task its rates by name.
        rows: keep the rows, for comparisons item by item.
    """
    versions: dict[str, str] = {}
    tasks = {}
    for name, judged in run.tasks.items():
        about = judged.about
        versions |= about.get("versions", {})
        tasks[name] = TaskEntry(
            **{key: about[key] for key in _ABOUT if key in about},
            n=judged.n,
            rates={key: rate_of(rate) for key, rate in rates[name].items()},
            rows=_rows(judged) if rows and judged.records else None,
        )
    return Entry(
        model=run.model, date=run.date, backend=run.backend, versions=versions, tasks=tasks
    )


def rate_of(estimate: Estimate) -> Rate:
    return Rate(value=estimate.value, low=estimate.low, high=estimate.high)


_ABOUT = (
    "role",
    "verdicts",
    "paired",
    "dimension",
    "style",
    "scoring",
    "perturbation",
    "source",
    "revision",
    "fingerprint",
)


def _rows(judged: Judged) -> Rows:
    records = judged.records
    return Rows(
        item_ids=tuple(judged.item_ids),
        labels=tuple(record.label for record in records),
        verdicts=tuple(record.verdict for record in records),
        well_formed=tuple(record.well_formed for record in records),
        pair_ids=tuple(record.pair_id for record in records),
        swapped=tuple(record.swapped for record in records),
        clusters=tuple(judged.clusters),
    )


def read_file(file: Path) -> LeaderboardFile:
    """A leaderboard file.

    Raises:
        JudgeError: it cannot be read, is no leaderboard file, or is of a version unknown here.
    """
    raw = read_json(file, advice="is the file truncated?")
    version = raw.get("schema_version")
    if version != SCHEMA_VERSION:
        raise JudgeError(
            f"{file}: schema_version is {version!r}; a leaderboard file has {SCHEMA_VERSION} "
            "(results of lmms-eval end in _results.json)"
        )
    try:
        return LeaderboardFile.model_validate(raw)
    except ValidationError as error:
        raise JudgeError("\n".join(_faults(file, error))) from None


def _faults(file: Path, error: ValidationError) -> Iterable[str]:
    for fault in error.errors():
        where = ".".join(map(str, fault["loc"]))
        yield f"{file}: {where}: {fault['msg']}"


def read_entries(file: Path) -> list[Run]:
    """The runs that a leaderboard file keeps; those without rows have what was stated of them.

    Raises:
        JudgeError: as :func:`read_file`.
    """
    return [
        Run(
            entry.model,
            entry.model,
            file,
            entry.date,
            entry.backend,
            {name: _judged(name, task, entry.versions) for name, task in entry.tasks.items()},
        )
        for entry in read_file(file).entries
    ]


def _judged(name: str, task: TaskEntry, versions: Mapping[str, str]) -> Judged:
    about = {**task.model_dump(include=set(_ABOUT)), "versions": versions}
    about["verdicts"] = list(task.verdicts)
    stated = {key: Estimate(rate.value, rate.low, rate.high) for key, rate in task.rates.items()}
    rows = task.rows
    if rows is None:
        return Judged(name, about, (), (), (), stated=stated, n=task.n)
    records = [
        Record(*row)
        for row in zip(
            rows.labels, rows.verdicts, rows.well_formed, rows.pair_ids, rows.swapped, strict=True
        )
    ]
    return Judged(name, about, rows.item_ids, records, rows.clusters, stated=stated, n=task.n)


def write_entries(entries: Sequence[Entry], file: Path, *, force: bool) -> None:
    """Write a leaderboard file, an entry a line, in one order whatever order they came in.

    Raises:
        JudgeError: a file is there and `force` is not set.
    """
    ordered = sorted(entries, key=lambda entry: (entry.model, entry.date, entry.key))
    lines = ",\n".join(entry.model_dump_json(exclude_defaults=True) for entry in ordered)
    text = f'{{"schema_version": {SCHEMA_VERSION}, "entries": [\n{lines}\n]}}\n'
    write_text(file, text, force)


def add_entries(file: Path, new: Sequence[Entry]) -> Sequence[Entry]:
    """Add entries to a leaderboard file, which is made where there is none; gives the new ones.

    Raises:
        JudgeError: an entry is in the file already, or the file is not readable as one.
    """
    old = read_file(file).entries if file.exists() else ()
    known = {entry.key: entry for entry in old}
    for entry in new:
        if entry.key in known:
            raise JudgeError(
                f"{file}: {entry.model} of {entry.date} is in it already; nothing was added"
            )
    write_entries([*old, *new], file, force=True)
    return new


def merge_files(files: Sequence[Path], out: Path, *, base: Path | None, force: bool) -> int:
    """Unite files into one and say how many entries it has; order and repetition do not matter.

    Of one run that several files have, the entry that keeps its rows stays.

    Args:
        base: the files' common ancestor. What it has and one of the files has no more was taken
            out on purpose and stays out.

    Raises:
        JudgeError: a file is not readable as one, or `out` is there and `force` is not set.
    """
    sides = [{entry.key: entry for entry in read_file(file).entries} for file in files]
    ancestor = {entry.key for entry in read_file(base).entries} if base is not None else set()
    gone = {key for key in ancestor if any(key not in side for side in sides)}
    united: dict[str, Entry] = {}
    for side in sides:
        for key, entry in side.items():
            if key not in gone:
                united[key] = max(united.get(key, entry), entry, key=_kept)
    write_entries(list(united.values()), out, force=force)
    return len(united)


def _kept(entry: Entry) -> tuple[int, str]:
    text = entry.model_dump_json()
    return len(text), text


def json_schema() -> str:
    """The published schema of a leaderboard file."""
    return json_text(LeaderboardFile.model_json_schema())


def leaderboard_file(board: Leaderboard, *, rows: bool = False) -> LeaderboardFile:
    """The runs as entries, and what was derived from them.

    Args:
        rows: keep the rows, for later comparisons item by item.
    """
    columns = (*board.tasks, *board.means)
    entries = []
    for run in board.runs:
        rates = {c.name: c.estimates[run.name] for c in board.tasks if run.name in c.estimates}
        entries.append(entry_of(run, rates, rows=rows))
    differences = [
        Difference(
            column=each.column,
            first=each.first,
            second=each.second,
            difference=rate_of(each.difference),
            p_value=each.p_value,
            adjusted=each.adjusted,
            mcnemar_p_value=None if each.mcnemar is None else each.mcnemar.p_value,
        )
        for column in columns
        for each in column.comparisons
    ]
    derived = Derived(
        metric=board.metric,
        resamples=board.resamples,
        seed=board.seed,
        judges={run.name: _means(board, run.name) for run in board.runs},
        differences=tuple(differences),
        notes=tuple(board.notes),
    )
    return LeaderboardFile(entries=tuple(entries), derived=derived)


def _means(board: Leaderboard, judge: str) -> Means:
    columns = (*board.tasks, *board.means)
    drop = board.drops.get(judge)
    return Means(
        rates={
            mean.role: {name: rate_of(rate) for name, rate in mean.estimates[judge].items()}
            for mean in board.means
            if judge in mean.estimates
        },
        drop=None if drop is None else rate_of(drop),
        ranks={column.name: column.ranks[judge] for column in columns if judge in column.ranks},
    )
