"""What a judge has judged: one run, one task of it, and what is said of a rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mtrl_judge.metrics.records import Record


class Estimate(NamedTuple):
    """A rate with its 95 % interval; None where it has no meaning, or no interval was computed."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Judged(NamedTuple):
    """One task of one run; rows are in the order of the samples.

    Without its rows (`records` is empty) it is known only by what was stated of it.
    """

    task: str
    about: Mapping[str, Any]
    """What the results say of it: role, verdicts, paired, style, source, fingerprint, …"""
    item_ids: Sequence[str]
    records: Sequence[Record]
    clusters: Sequence[str]
    """What each row shares with others that are not independent of it: a pair, a prompt, …"""
    texts: Sequence[str] = ()
    probabilities: Sequence[Mapping[str, float]] | None = None
    """Of each verdict, where the run was scored by them."""
    votes: Sequence[Sequence[str | None]] | None = None
    """The verdicts of each row's repeats, where it was judged more than once."""
    stated: Mapping[str, Estimate] = {}
    n: int | None = None
    """Labeled rows."""
    inputs: Sequence[str] = ()
    """What the judge was asked, as text."""

    @property
    def rows(self) -> tuple[tuple[str, bool, str | None], ...]:
        """What was judged, for telling whether two judges judged the same."""
        return tuple(
            (item, record.swapped, record.label)
            for item, record in zip(self.item_ids, self.records, strict=True)
        )


class Run(NamedTuple):
    """One evaluation of one model."""

    name: str
    """For tables: as short as it can be while it tells the runs apart."""
    model: str
    file: Path
    date: str
    backend: str
    tasks: Mapping[str, Judged]
