"""Metrics of a judge against people's labels: evaluation, the command line and tests share them.

Axis suffixes: `C` the task's verdicts in their order, `C1` the same and then "no verdict".
A missing verdict is a miss for its class and a hit for none; an unlabelled record is scored by
nothing. Where a metric has no meaning (no records, one class throughout) it is None, never nan.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .rates import (
    PAIR_RATES,
    RATES,
    Counts,
    PairCount,
    Rates,
    Tally,
    class_scores,
    macro_f1,
)


class Record(NamedTuple):
    """One judged row: `label` None is unlabelled, `verdict` None is no verdict.

    The rows of a pair share `pair_id`; `swapped` is True for the row with its images exchanged.
    """

    label: str | None
    verdict: str | None
    well_formed: bool = False
    pair_id: str | None = None
    swapped: bool = False


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
    for label, verdict in zip(labels, verdicts, strict=True):
        if label is None or label not in column:
            raise ValueError(f"label {label!r} is none of the verdicts {list(classes)}")
        if verdict not in column:
            raise ValueError(f"verdict {verdict!r} is none of the verdicts {list(classes)}")
        counts_C_C1[column[label], column[verdict]] += 1
    return counts_C_C1


def constant_macro_f1(labels: Sequence[str | None], classes: Sequence[str]) -> float | None:
    """Macro-F1 of a judge that always answers the commonest label; None labels are left out."""
    known = [label for label in labels if label is not None]
    if not known:
        return None
    commonest = Counter(known).most_common(1)[0][0]
    return _known(macro_f1(confusion(known, [commonest] * len(known), classes)))


def complete_pairs(records: Iterable[Record]) -> list[Pair]:
    """Pairs judged in both orders; a pair of which `--limit` cut one row off is left out.

    Raises:
        ValueError: A pair has the same order twice.
    """
    orders: defaultdict[str, dict[bool, Record]] = defaultdict(dict)
    for record in records:
        if record.pair_id is None:
            continue
        if record.swapped in orders[record.pair_id]:
            order = "swapped" if record.swapped else "unswapped"
            raise ValueError(f"pair {record.pair_id!r} has two {order} rows; one of each is right")
        orders[record.pair_id][record.swapped] = record
    return [Pair(rows[False], rows[True]) for rows in orders.values() if len(rows) == 2]


def pair_counts(pair: Pair, classes: Sequence[str]) -> list[int]:
    """What one pair adds to each :class:`~.rates.PairCount`.

    `classes[0]` and `classes[1]` are the slots, which change places with the images; any other
    verdict (a tie) must stay as it is and names no slot.
    """
    first, second = classes[:2]
    mirrored: dict[str | None, str] = {first: second, second: first}
    verdicts = [row.verdict for row in pair]
    straight, swapped = verdicts
    judged = straight is not None and swapped is not None
    labelled = all(row.label is not None for row in pair)
    counts = {
        PairCount.JUDGED: judged,
        PairCount.FLIPPED: judged and mirrored.get(straight, straight) != swapped,
        PairCount.LABELLED: labelled,
        PairCount.BOTH_RIGHT: labelled and all(row.verdict == row.label for row in pair),
        PairCount.SLOTS: verdicts.count(first) + verdicts.count(second),
        PairCount.FIRST_SLOT: verdicts.count(first),
    }
    return [int(counts[each]) for each in PairCount]


def tally(records: Sequence[Record], classes: Sequence[str], paired: bool) -> Tally:
    """The counts of one judge, without leading axes; pairs are counted where `paired`."""
    labelled = [record for record in records if record.label is not None]
    labels = [record.label for record in labelled if record.label is not None]
    pairs = [pair_counts(pair, classes) for pair in complete_pairs(records)] if paired else []
    return Tally(
        confusion(labels, [record.verdict for record in labelled], classes),
        np.array(sum(record.well_formed for record in labelled), dtype=np.int64),
        np.array(pairs, dtype=np.int64).reshape(-1, len(PairCount)).sum(axis=0),
    )


def summarise(
    records: Sequence[Record], classes: Sequence[str], paired: bool
) -> dict[str, float | int | None]:
    """Every metric of one task as a flat table that JSON can hold.

    Args:
        records: Judged rows; the unlabelled among them only count in `n_unlabelled` and, in
            pairs, for the metrics that need no label.
        classes: The task's verdicts; for pairs the first two are the slots.
        paired: Whether pairs were judged in both orders; adds the metrics of pairs.

    Returns:
        `n` labelled records, `n_unlabelled`, then rates in [0, 1] (κ and Matthews in [-1, 1]);
        `precision_V`, `recall_V`, `f1_V` and `n_V` for each verdict V. None where undefined.
    """
    counts = tally(records, classes, paired)
    known = {name: _known(rate(counts)) for name, rate in RATES.items()}
    n = int(counts.confusion_X_C_C1.sum())
    table: dict[str, float | int | None] = {
        "n": n,
        "n_unlabelled": len(records) - n,
        "macro_f1": known["macro_f1"],
        "constant_macro_f1": constant_macro_f1([record.label for record in records], classes),
        **{name: value for name, value in known.items() if name not in PAIR_RATES},
        **_by_class(counts.confusion_X_C_C1, classes),
    }
    if paired:
        table["n_pairs"] = len(complete_pairs(records))
        table["n_pairs_judged"] = int(counts.pairs_X_P[PairCount.JUDGED])
        table |= {name: known[name] for name in PAIR_RATES}
    return table


def rate_names(classes: Sequence[str], paired: bool) -> dict[str, bool | None]:
    """The keys of `summarise`'s table that are no counts, and whether more of it is better.

    None where neither is: `first_slot_rate` is best at 0.5, the constant judge is no judge.
    """
    better: dict[str, bool | None] = {
        "null_rate": False,
        "flip_rate": False,
        "first_slot_rate": None,
        "constant_macro_f1": None,
    }
    names = (k for k in summarise([], classes, paired) if k != "n" and not k.startswith("n_"))
    return {name: better.get(name, True) for name in names}


def _by_class(counts_C_C1: Counts, classes: Sequence[str]) -> Mapping[str, float | int | None]:
    scores, labelled_C = class_scores(counts_C_C1), counts_C_C1.sum(axis=1)
    table: dict[str, float | int | None] = {}
    for index, name in enumerate(classes):
        table[f"n_{name}"] = int(labelled_C[index])
        for metric, values_C in zip(("precision", "recall", "f1"), scores, strict=True):
            table[f"{metric}_{name}"] = float(values_C[index]) if labelled_C.sum() else None
    return table


def _known(rate: Rates) -> float | None:
    return None if np.isnan(rate) else float(rate)
