"""Judged rows and their counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from .rates import Counts, PairCount, Tally
from .slots import slots_of

FailureKind: TypeAlias = Literal["failed", "refused"]
State: TypeAlias = Literal["judged", "null", "failed", "refused"]


class FactCounts(NamedTuple):
    """What a judge's reasoning says about the facts of a row."""

    stated: int
    contradicted: int
    total: int
    """The facts that count."""
    contradictable: int
    """The facts that something could be said against."""


class Record(NamedTuple):
    """One row; `label` None is unlabeled, `verdict` None is no verdict.

    The rows of a pair share `pair_id`; `swapped` is True for the row with its images exchanged.
    `group` is what rates are also reported by, such as a category.
    """

    label: str | None
    verdict: str | None
    well_formed: bool = False
    pair_id: str | None = None
    swapped: bool = False
    group: str | None = None
    failure: FailureKind | None = None
    """Why there is no answer: the request failed, so that nothing was judged and no rate counts the
    row, or a content filter refused it, which is no verdict."""
    facts: FactCounts | None = None
    """None for an item without facts, and where no reasoning was asked for."""
    probabilities: tuple[float, ...] | None = None
    """Of each of the task's verdicts in their order, where they are known."""
    joint: str | None = None
    """Names the rows that have to be right together, for :mod:`.joint`."""

    @property
    def failed(self) -> bool:
        return self.failure == "failed"

    @property
    def state(self) -> State:
        return self.failure or ("null" if self.verdict is None else "judged")


class Pair(NamedTuple):
    """The same two images judged in both orders."""

    straight: Record
    swapped: Record


def confusion(
    labels: Sequence[str], verdicts: Sequence[str | None], classes: Sequence[str]
) -> Counts:
    """Counts of (label, verdict), shape C×C1; the last column is "no verdict".

    Raises:
        ValueError: Lengths differ, or a label or verdict is none of `classes`.
    """
    if len(labels) != len(verdicts):
        raise ValueError(f"{len(labels)} labels but {len(verdicts)} verdicts; give one of each")
    column: dict[str | None, int] = {name: index for index, name in enumerate(classes)}
    column[None] = len(classes)
    counts_C_C1 = np.zeros((len(classes), len(classes) + 1), dtype=np.int64)
    for (label, verdict), n in Counter(zip(labels, verdicts, strict=True)).items():
        if label is None or label not in column:
            raise ValueError(f"label {label!r} is none of the verdicts {list(classes)}")
        if verdict not in column:
            raise ValueError(f"verdict {verdict!r} is none of the verdicts {list(classes)}")
        counts_C_C1[column[label], column[verdict]] = n
    return counts_C_C1


def complete_pairs(records: Iterable[Record]) -> list[Pair]:
    """Pairs judged in both orders.

    A pair is left out if `--limit` cut one of its rows off or the request of one failed.

    Raises:
        ValueError: A pair has the same order twice.
    """
    orders: defaultdict[str, dict[bool, Record]] = defaultdict(dict)
    for record in records:
        if record.pair_id is None or record.failed:
            continue
        if record.swapped in orders[record.pair_id]:
            order = "swapped" if record.swapped else "unswapped"
            raise ValueError(f"pair {record.pair_id!r} has two {order} rows; expected one of each")
        orders[record.pair_id][record.swapped] = record
    return [Pair(rows[False], rows[True]) for rows in orders.values() if len(rows) == 2]


def pair_counts(pair: Pair, classes: Sequence[str]) -> list[int]:
    """What one pair adds to each :class:`~.rates.PairCount`.

    Args:
        classes: the task's verdicts; :func:`~.slots.slots_of` says which are for which slot.
    """
    first, second = ({classes[index] for index in side} for side in slots_of(classes))
    verdicts = [row.verdict for row in pair]
    judged = None not in verdicts
    # By row 1 for the first slot, -1 for the second and 0 for neither.
    straight, swapped = ((verdict in first) - (verdict in second) for verdict in verdicts)
    labeled = all(row.label is not None for row in pair)
    counts = {
        PairCount.JUDGED: judged,
        PairCount.FLIPPED: judged and straight != -swapped,
        PairCount.LABELED: labeled,
        PairCount.BOTH_RIGHT: labeled and all(row.verdict == row.label for row in pair),
        PairCount.SLOTS: abs(straight) + abs(swapped),
        PairCount.FIRST_SLOT: (straight > 0) + (swapped > 0),
    }
    return [int(counts[count]) for count in PairCount]


def tally(records: Sequence[Record], classes: Sequence[str], paired: bool) -> Tally:
    """The counts of one judge, without leading axes; pairs are counted where `paired`.

    Rows whose request failed count nowhere.
    """
    records = [record for record in records if not record.failed]
    labels = [record.label for record in records if record.label is not None]
    verdicts = [record.verdict for record in records if record.label is not None]
    well_formed = sum(record.well_formed for record in records if record.label is not None)
    pairs_P = np.zeros(len(PairCount), dtype=np.int64)
    if paired:
        # There are few different pairs of labels and verdicts, so each is counted once.
        alike = Counter(
            Pair(*(Record(row.label, row.verdict) for row in pair))
            for pair in complete_pairs(records)
        )
        for pair, n in alike.items():
            pairs_P += n * np.array(pair_counts(pair, classes))
    return Tally(
        confusion(labels, verdicts, classes),
        np.array(well_formed, dtype=np.int64),
        pairs_P,
        slots_of(classes),
    )
