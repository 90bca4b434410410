"""Leaderboard files: runs kept for comparison with later ones.

The schema is published as `docs/leaderboard.schema.json`. An entry is one run of one model; it
keeps its rows, so that later judges can be compared with it sample by sample, unless told not to.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import json_text, read_json, write_text
from mtrl_judge.common.hashing import digest
from mtrl_judge.common.locks import locked_file
from mtrl_judge.judge_tasks.fields import Frozen
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.metrics.bootstrap import Estimate
from mtrl_judge.metrics.human import HumanRating
from mtrl_judge.metrics.records import FailureKind, Record

from .board import Leaderboard
from .runs import Run, Sample, TaskResult
from .scores import Score
from .tables import Table
from .view import View

SCHEMA_VERSION: Literal[2] = 2
_MAX_UNPACKED = 2**28  # bytes; a file from elsewhere may claim to hold anything


class Rows(Frozen):
    """What was judged and how, one list per column; all lists have the same length."""

    item_ids: tuple[str, ...]
    labels: tuple[str | None, ...]
    verdicts: tuple[str | None, ...]
    """None where there was no verdict."""
    well_formed: tuple[bool, ...]
    pair_ids: tuple[str | None, ...]
    swapped: tuple[bool, ...]
    clusters: tuple[str | None, ...]
    """None where it is the pair, or the item if there is no pair."""
    groups: tuple[str | None, ...] = ()
    """By which rates are also reported; empty if no row has one."""
    joint: tuple[str | None, ...] = ()
    """Names the rows that have to be right together; empty if there are none."""
    scores: tuple[float | None, ...] = ()
    """How far the judge leans towards the first verdict; empty if no row has people's rating."""
    human: tuple[HumanRating | None, ...] = ()
    """People's rating, its group and the rank in it; empty if no row has one."""
    failures: dict[int, FailureKind] = Field({})
    """By index, the rows that failed or were refused."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        columns = type(self).model_fields.keys() - {"failures"}
        lengths = {name: len(getattr(self, name)) for name in columns}
        lengths = {
            name: length
            for name, length in lengths.items()
            if length or name not in ("groups", "joint", "scores", "human")
        }
        if len(set(lengths.values())) > 1:
            raise ValueError(f"lists of different lengths: {lengths}")
        if outside := self.failures.keys() - range(len(self.item_ids)):
            raise ValueError(f"failures: no row {min(outside)}")
        return self

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Self:
        records = [sample.record for sample in samples]
        groups = tuple(record.group for record in records)
        joint = tuple(record.joint for record in records)
        human = tuple(sample.human for sample in samples)
        rated = any(rating is not None for rating in human)
        return cls(
            item_ids=tuple(sample.item_id for sample in samples),
            labels=tuple(record.label for record in records),
            verdicts=tuple(record.verdict for record in records),
            well_formed=tuple(record.well_formed for record in records),
            pair_ids=tuple(record.pair_id for record in records),
            swapped=tuple(record.swapped for record in records),
            clusters=tuple(
                None if sample.cluster == _own_cluster(sample) else sample.cluster
                for sample in samples
            ),
            groups=groups if any(group is not None for group in groups) else (),
            joint=joint if any(name is not None for name in joint) else (),
            # Six digits: as many as keep the order of scores near 0.
            scores=tuple(
                None if sample.score is None else float(f"{sample.score:.6g}") for sample in samples
            )
            if rated
            else (),
            human=human if rated else (),
            failures={
                row: record.failure
                for row, record in enumerate(records)
                if record.failure is not None
            },
        )

    @property
    def samples(self) -> list[Sample]:
        nothing = (None,) * len(self.item_ids)
        columns = zip(
            self.labels,
            self.verdicts,
            self.well_formed,
            self.pair_ids,
            self.swapped,
            self.groups or nothing,
            map(self.failures.get, range(len(self.item_ids))),
            strict=True,
        )
        samples = []
        for item_id, record, joint, cluster, score, human in zip(
            self.item_ids,
            (Record(*values) for values in columns),
            self.joint or nothing,
            self.clusters,
            self.scores or nothing,
            self.human or nothing,
            strict=True,
        ):
            record = record._replace(joint=joint)
            sample = Sample(item_id, record, "", score=score, human=human)
            samples.append(sample._replace(cluster=cluster or _own_cluster(sample)))
        return samples

    def packed(self) -> str:
        return base64.b64encode(
            zlib.compress(self.model_dump_json(exclude_defaults=True).encode(), 9)
        ).decode("ascii")

    @classmethod
    def unpack(cls, text: str) -> Self:
        """
        Raises:
            ValueError: the text is not what :meth:`packed` writes.
        """
        stream = zlib.decompressobj()
        try:
            content = stream.decompress(base64.b64decode(text, validate=True), _MAX_UNPACKED)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        if not stream.eof:
            raise ValueError(f"truncated, or more than {_MAX_UNPACKED:,} bytes")
        return cls.model_validate_json(content)


def _own_cluster(sample: Sample) -> str:
    return sample.record.pair_id or sample.item_id


class TaskEntry(Frozen):
    """One task of a run."""

    kind: str = Field(description="of judge task: pointwise, pairwise, …")
    role: Literal["train", "ood"]
    n: int | None = Field(None, description="labeled rows whose request did not fail")
    n_rows: int | None = Field(None, description="all rows")
    n_failed: int = Field(0, description="rows whose request failed, which no rate counts")
    n_refused: int = Field(
        0, description="rows that a content filter refused, which count as missing verdicts"
    )
    clusters: int | None = Field(None, description="of rows that are independent of each other")
    verdicts: tuple[str, ...] = Field(("Yes", "No"), min_length=1)
    swap: dict[str, str] = Field(
        {}, description="which verdict becomes which when the candidates change places"
    )
    paired: bool = False
    fixed_labels: bool = Field(False, description="whether the rows of each label were fixed")
    dimension: str | None = None
    version: str | None = Field(None, description="of the task: metadata.version of its YAML")
    question: str | None = Field(None, description="template of the question")
    instruction: str | None = Field(None, description="how the judge is told to answer")
    label_rule: dict[str, Any] | None = Field(None, description="judge.label of the YAML")
    threshold: float | None = Field(None, description="median that the labels were cut at")
    style: str | None = None
    scoring: str | None = None
    calibration: dict[str, Any] | Literal["unknown"] | None = Field(
        "unknown", description="what probabilities were calibrated on"
    )
    perturbation: str | None = None
    parser: int = Field(1, description="version of the parser that read the verdicts")
    source: str | None = Field(None, description="hub, folder, sample, …")
    revision: str | None = Field(None, description="of the data")
    fingerprint: str | None = Field(None, description="of all rows of the split")
    data_fingerprint: str | None = Field(
        None, description="the same without the question and the label rule"
    )
    engine: str | None = None
    model_args: dict[str, str] | None = Field(
        None, description="arguments of the backend, without the model and without secrets"
    )
    model_revision: str | None = Field(
        None, description="commit of the model on the hub, or hash of its files"
    )
    system_prompt: str | None = None
    min_pixels: int | Literal["unknown"] | None = Field("unknown", description="of each image")
    max_pixels: int | Literal["unknown"] | None = Field("unknown", description="of each image")
    generation: dict[str, Any] | None = Field(None, description="settings of the generation")
    demonstrations: int | None = Field(None, description="solved examples in each prompt")
    rates: dict[str, Estimate] = Field(description="by name: macro_f1, accuracy, null_rate, …")
    rows: str | None = Field(
        None,
        description="what was judged and how, row by row, for comparisons with later runs: base64 "
        "of zlib-compressed JSON with a list for each column "
        "(item_ids, labels, verdicts, well_formed, pair_ids, swapped, clusters; and, where rows "
        "have them, groups, joint, scores, human, and failures by index)",
    )

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(f"no kind {kind!r}; expected one of {', '.join(KINDS)}")
        return kind


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
        tasks = [
            f"{name} {task.fingerprint} {task.style} {task.scoring} {task.parser}"
            for name, task in self.tasks.items()
        ]
        return digest(part.encode() for part in (self.model, self.date, *sorted(tasks)))


class LeaderboardFile(Frozen):
    """The whole file; a file that entries are added to has no tables."""

    schema_version: Literal[2]  # without a default, which output would leave out
    entries: tuple[Entry, ...]
    metric: str | None = Field(
        None, description="by which judges are ranked; if tasks differ, that of the means"
    )
    resamples: int | None = Field(None, description="draws of each interval")
    seed: int | None = None
    notes: tuple[str, ...] = Field((), description="what readers of the tables should know")
    tables: tuple[Table, ...] = ()


_COUNTS = ("n", "n_rows", "n_failed", "n_refused")
_METADATA = TaskEntry.model_fields.keys() - {*_COUNTS, "clusters", "rates", "rows"}
"""The fields of an entry that are fields of the results' metadata."""


def entries_of(board: Leaderboard, *, rows: bool = True) -> list[Entry]:
    """The runs of a leaderboard as entries.

    Args:
        rows: keep the rows, for later comparisons sample by sample.
    """
    return [
        Entry(
            model=run.model,
            date=run.date,
            backend=run.backend,
            versions={
                name: version
                for result in run.tasks.values()
                for name, version in result.metadata.get("versions", {}).items()
            },
            tasks={
                column.name: _task_entry(run.tasks[column.name], column.scores[run.name], rows=rows)
                for column in board.tasks
                if column.name in run.tasks
            },
        )
        for run in board.runs
    ]


def _task_entry(result: TaskResult, scores: Mapping[str, Score], *, rows: bool) -> TaskEntry:
    return TaskEntry(
        **{key: value for key, value in result.metadata.items() if key in _METADATA},
        **{count: getattr(result, count) for count in _COUNTS},
        clusters=result.clusters,
        rates={rate: score.estimate for rate, score in scores.items()},
        rows=Rows.of(result.samples).packed() if rows and result.samples else None,
    )


def check_metadata(results: Path, result: TaskResult) -> None:
    """Refuse metadata of other types than evaluations write, in results of others.

    Raises:
        JudgeError: with the fields.
    """
    known = {key: value for key, value in result.metadata.items() if key in _METADATA}
    try:
        task = TaskEntry(**known, rates={})
        versions = result.metadata.get("versions", {})
        Entry(model=result.task, date="", versions=versions, tasks={result.task: task})
    except ValidationError as error:
        raise _refused(f"{results}: configs.{result.task}.metadata.judge", error) from None


def _refused(where: str, error: ValidationError) -> JudgeError:
    return JudgeError(
        "\n".join(
            f"{where}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            for fault in error.errors()
        )
    )


def read_file(file: Path) -> LeaderboardFile:
    """A leaderboard file.

    Raises:
        JudgeError: it cannot be read, is not a leaderboard file, or has an unknown version.
    """
    raw = read_json(file, advice="is the file truncated?")
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise JudgeError(
            f"{file}: schema_version is {raw.get('schema_version')!r}; expected a leaderboard file "
            f"of version {SCHEMA_VERSION} (results of lmms-eval end in _results.json; write files "
            "of older versions again, from the results)"
        )
    try:
        return LeaderboardFile.model_validate(raw)
    except ValidationError as error:
        raise _refused(str(file), error) from None


def read_entries(file: Path) -> list[Run]:
    """The runs of a leaderboard file; those without rows have only their reported rates.

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
            {name: _result(file, name, task, entry) for name, task in entry.tasks.items()},
        )
        for entry in read_file(file).entries
    ]


def _result(file: Path, name: str, task: TaskEntry, entry: Entry) -> TaskResult:
    samples: list[Sample] = []
    if task.rows is not None:
        try:
            samples = Rows.unpack(task.rows).samples
        except ValueError as error:
            raise JudgeError(
                f"{file}: the rows of {name} of {entry.model} of {entry.date} cannot be read: "
                f"{error}"
            ) from None
    return TaskResult(
        name,
        {**task.model_dump(include=set(_METADATA)), "versions": entry.versions},
        samples,
        task.rates,
        **{count: getattr(task, count) for count in _COUNTS},
        reported_clusters=task.clusters,
    )


def write_entries(entries: Sequence[Entry], file: Path, *, force: bool) -> None:
    """Write a leaderboard file with one line per entry, sorted so that it does not depend on their
    order.

    Raises:
        JudgeError: the file exists and `force` is not set.
    """
    ordered = sorted(entries, key=lambda entry: (entry.model, entry.date, entry.key))
    lines = ",\n".join(entry.model_dump_json(exclude_defaults=True) for entry in ordered)
    text = f'{{"schema_version": {SCHEMA_VERSION}, "entries": [\n{lines}\n]}}\n'
    write_text(file, text, force)


def add_entries(file: Path, new: Sequence[Entry]) -> None:
    """Add entries to a leaderboard file, which is created if it does not exist.

    Raises:
        JudgeError: an entry is in the file already, or the file is not a leaderboard file.
    """
    with locked_file(file):
        old = read_file(file).entries if file.exists() else ()
        known = {entry.key for entry in old}
        for entry in new:
            if entry.key in known:
                raise JudgeError(
                    f"{file}: already has {entry.model} of {entry.date}; nothing was added"
                )
        write_entries([*old, *new], file, force=True)


def merge_files(files: Sequence[Path], out: Path, *, base: Path | None, force: bool) -> int:
    """Merge files into one and return its number of entries; order and repetition do not matter.

    If several files have a run, the entry that keeps its rows is kept.

    Args:
        base: the files' common ancestor. An entry of it that one of the files lacks was removed on
            purpose and stays removed.

    Raises:
        JudgeError: a file is not a leaderboard file, or `out` exists and `force` is not set.
    """
    sides = [{entry.key: entry for entry in read_file(file).entries} for file in files]
    ancestor = {entry.key for entry in read_file(base).entries} if base is not None else set()
    removed = {key for key in ancestor if any(key not in side for side in sides)}

    def preference(entry: Entry) -> tuple[int, str]:
        text = entry.model_dump_json()
        return len(text), text

    merged: dict[str, Entry] = {}
    for side in sides:
        for key, entry in side.items():
            if key not in removed:
                merged[key] = max(merged.get(key, entry), entry, key=preference)
    write_entries(list(merged.values()), out, force=force)
    return len(merged)


def json_schema() -> str:
    """The published schema of a leaderboard file."""
    return json_text(LeaderboardFile.model_json_schema())


def leaderboard_file(board: Leaderboard, view: View) -> LeaderboardFile:
    """The runs as entries, and the tables that follow from them."""
    return LeaderboardFile(
        schema_version=SCHEMA_VERSION,
        entries=tuple(entries_of(board)),
        metric=board.metric,
        resamples=board.resamples,
        seed=board.seed,
        notes=tuple(board.notes),
        tables=tuple(table for table in view.tables if table.rows),
    )
