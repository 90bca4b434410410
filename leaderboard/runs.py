"""Runs as read from result files: one model, its tasks, and one sample for each judged row."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.kinds.base import Kind
from mtrl_judge.judge_tasks.request_failures import RequestFailure
from mtrl_judge.judge_tasks.spec import Role
from mtrl_judge.metrics.bootstrap import Estimate
from mtrl_judge.metrics.human import HumanRating
from mtrl_judge.metrics.rates import Counts
from mtrl_judge.metrics.records import Record, complete_pairs, tally
from mtrl_judge.metrics.slots import PairVerdicts

_ANY = "any verdict"


class SampledVote(NamedTuple):
    """One of several samples of a row."""

    verdict: str | None
    weight: float
    """How much it counted in the run's vote."""
    probabilities: Mapping[str, float] | None
    """Of each verdict after its reasoning, where the vote asked for them."""


class Sample(NamedTuple):
    """One judged row."""

    item_id: str
    record: Record
    cluster: str
    """Rows of one cluster (a pair, a prompt, …) are not independent and are resampled together."""
    text: str = ""
    """The judge's answer."""
    input: str = ""
    """The prompt as text."""
    probabilities: Mapping[str, float] | None = None
    """Of each verdict, if the run was scored by log-probabilities."""
    calibrated: bool = False
    """Whether these are calibrated: validation rows may not determine how."""
    votes: Sequence[str | None] = ()
    """The verdicts of all repeats that did not fail, if the row was judged more than once and this
    version of the parser read the recorded verdict; or those of all its samples."""
    candidates: tuple[str, str] | None = None
    """Of pairs, names by content in the dataset's order, where pairs may have some in common."""
    human: HumanRating | None = None
    """What people thought of the item."""
    score: float | None = None
    """How far the judge leans towards the first verdict, to compare with that; see
    :func:`~mtrl_judge.metrics.human.judge_score`."""
    sampled: Sequence[SampledVote] = ()
    """Its samples, where several voted."""
    failures: Sequence[RequestFailure] = ()
    """Of its requests; a row is lost only if all of them failed."""


@dataclass(frozen=True)
class TaskResult:
    """One task of one run.

    Without samples, as from a leaderboard file that keeps none, only `rates` are known.
    """

    task: str
    metadata: Mapping[str, Any]
    """`metadata.judge` of lmms-eval's results: kind, role, verdicts, style, fingerprint, …"""
    samples: Sequence[Sample] = ()
    rates: Mapping[str, Estimate] = field(default_factory=dict)
    """As the file reports them."""
    n_rows: int | None = None
    """All rows, also those whose request failed."""
    n: int | None = None
    """Labeled rows whose request did not fail."""
    n_failed: int = 0
    """Rows whose request failed; no rate counts them."""
    n_refused: int = 0
    """Rows that a content filter refused; they count as missing verdicts."""
    reported_clusters: int | None = None
    """As the file reports them, where it has no samples."""

    @property
    def kind(self) -> Kind:
        return KINDS[self.metadata["kind"]]

    @property
    def role(self) -> Role:
        role: Role = self.metadata["role"]
        return role

    @property
    def verdicts(self) -> Sequence[str]:
        verdicts: Sequence[str] = self.metadata["verdicts"]
        swap = self.metadata.get("swap")
        return PairVerdicts(verdicts, swap) if swap else verdicts

    @property
    def paired(self) -> bool:
        """Whether every pair was judged in both orders."""
        return bool(self.metadata.get("paired"))

    @property
    def fixed_labels(self) -> bool:
        """Whether the number of rows of each label is fixed: by the data's design, or because each
        pair was judged in both orders and one of the two candidates is always preferred."""
        both_orders = self.paired and len(self.verdicts) == 2
        return both_orders or bool(self.metadata.get("fixed_labels"))

    @cached_property
    def clusters(self) -> int | None:
        """The number of clusters of rows that are independent of each other."""
        if not self.samples:
            return self.reported_clusters
        return len({sample.cluster for sample in self.samples})

    @property
    def n_labeled(self) -> int | None:
        """Labeled rows, also those whose request failed."""
        if self.samples:
            return sum(label is not None for label in self.labels)
        return None if self.n is None else self.n + self.n_failed

    @property
    def failure_rate(self) -> float:
        """The share of rows whose request failed; 0 without rows."""
        return self.n_failed / self.n_rows if self.n_rows else 0.0

    @property
    def parser(self) -> int:
        """The version of the parser that read the verdicts; version 1 was not recorded."""
        version: int = self.metadata.get("parser", 1)
        return version

    def reported(self, rate: str) -> float | None:
        """A rate as the file reports it; None where it has none."""
        return self.rates[rate].value if rate in self.rates else None

    def is_correct(self, record: Record) -> bool:
        """Whether a verdict is as correct as can be; a missing one is not, and none is without a
        label."""
        if record.label is None:
            return False
        correctness = self.kind.correctness(record.verdict, record.label, self.verdicts)
        return correctness >= self.kind.attainable(record.label, self.verdicts)

    @cached_property
    def records(self) -> list[Record]:
        return [sample.record for sample in self.samples]

    @property
    def labels(self) -> list[str | None]:
        return [record.label for record in self.records]

    @property
    def confusion(self) -> Counts:
        """Labeled rows by label and verdict, C × C1; of kinds without such counts, rows and columns
        are the classes of labels and verdicts (:meth:`.Kind.label_class`)."""
        records = [
            record._replace(label=self._class(record.label), verdict=self._class(record.verdict))
            for record in self.records
        ]
        return tally(records, self.verdicts, paired=False).confusion_X_C_C1

    def _class(self, text: str | None) -> str | None:
        return None if text is None else self.kind.label_class(text, self.verdicts)

    @cached_property
    def classes(self) -> list[str | None]:
        """The verdict of each row, as one of the task's :attr:`verdicts`."""
        return [self._class(record.verdict) for record in self.records]

    def counted(self) -> TaskResult:
        """The same result with records that rates of counts can be computed from.

        Of kinds whose metrics are not such rates, all that is counted is whether there is a
        verdict.
        """
        if self.kind.counted:
            return self
        samples = [
            sample._replace(
                record=sample.record._replace(
                    label=None if sample.record.label is None else _ANY,
                    verdict=None if sample.record.verdict is None else _ANY,
                )
            )
            for sample in self.samples
        ]
        return replace(
            self, metadata={**self.metadata, "verdicts": [_ANY], "swap": {}}, samples=samples
        )

    @cached_property
    def rows(self) -> tuple[tuple[str, bool, str | None], ...]:
        """What was judged; two results can be compared sample by sample if it is equal."""
        return tuple(
            (item_id, record.swapped, record.label) for item_id, record, *_ in self.samples
        )

    @cached_property
    def correct(self) -> dict[Hashable, bool]:
        """For each labeled row, or labeled pair where both orders were judged, whether the judge
        is right (of a pair, in both orders); without those whose request failed."""
        groups: dict[Hashable, Sequence[Record]]
        if self.paired:
            groups = {pair.straight.pair_id: pair for pair in complete_pairs(self.records)}
        else:
            groups = {row: [record] for row, record in enumerate(self.records) if not record.failed}
        return {
            key: all(self.is_correct(record) for record in group)
            for key, group in groups.items()
            if all(record.label is not None for record in group)
        }


class Run(NamedTuple):
    """One evaluation of one model."""

    name: str
    """For tables: as short as possible while unique among the runs that are compared."""
    model: str
    file: Path
    date: str
    backend: str
    tasks: Mapping[str, TaskResult]

    def with_tasks(self, names: Collection[str]) -> Run:
        """The same run restricted to some tasks; those that it lacks are ignored."""
        return self._replace(tasks={name: self.tasks[name] for name in names if name in self.tasks})
