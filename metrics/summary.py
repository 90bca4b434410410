"""Metrics of a judge against human labels, shared by evaluation, training and the command line.

Axis suffixes: `C` the task's verdicts in their order, `C1` the same and then "no verdict".
A missing verdict is a miss for its class and a hit for none; an unlabeled record is scored by
nothing. Where a metric has no meaning (no records, one class throughout) it is None, never nan.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from .perception import perception
from .rates import (
    PAIR_RATES,
    RATES,
    Counts,
    PairCount,
    Rates,
    class_scores,
    macro_f1,
    verdict_share,
)
from .records import Record, complete_pairs, confusion, tally


def majority_macro_f1(labels: Sequence[str | None], classes: Sequence[str]) -> float | None:
    """Macro-F1 of always answering the most frequent label, the majority-class baseline.

    None labels are left out.
    """
    known = [label for label in labels if label is not None]
    if not known:
        return None
    majority = Counter(known).most_common(1)[0][0]
    return _known(macro_f1(confusion(known, [majority] * len(known), classes)))


def summarize(
    records: Sequence[Record], classes: Sequence[str], rates: Collection[str] = tuple(RATES)
) -> dict[str, float | int | None]:
    """Every metric of one task as a flat table that JSON can hold.

    Args:
        records: the unlabeled among them count only in `n_unlabeled` and, in pairs, for the metrics
            that need no label; those whose request failed count only in `n_failed`.
        classes: the task's verdicts; for pairs the first two are the slots.
        rates: names in :data:`~.rates.RATES`; those of pairs need pairs judged in both orders.

    Returns:
        `n` labeled records, `n_unlabeled`, `n_failed`, `n_refused` (labeled or not, and counted as
        missing verdicts), then rates in [0, 1] (κ and Matthews in [-1, 1]);
        `precision_V`, `recall_V`, `f1_V`, `share_V` and `n_V` for each verdict V; and the rates of
        :data:`~.perception.PERCEPTION_RATES`. None where undefined.
    """
    pairs = [name for name in rates if name in PAIR_RATES]
    failures = Counter(record.failure for record in records)
    records = [record for record in records if not record.failed]
    counts = tally(records, classes, paired=bool(pairs))
    known = {name: _known(RATES[name](counts)) for name in rates}
    n = int(counts.confusion_X_C_C1.sum())
    table: dict[str, float | int | None] = {
        "n": n,
        "n_unlabeled": len(records) - n,
        "n_failed": failures["failed"],
        "n_refused": failures["refused"],
    }
    for name in rates:
        if name not in pairs:
            table[name] = known[name]
        if name == "macro_f1":
            labels = [record.label for record in records]
            table["majority_macro_f1"] = majority_macro_f1(labels, classes)
    table |= perception(records, classes)
    table |= _by_class(counts.confusion_X_C_C1, classes)
    if pairs:
        table["n_pairs"] = len(complete_pairs(records))
        table["n_pairs_judged"] = int(counts.pairs_X_P[PairCount.JUDGED])
        table |= {name: known[name] for name in pairs}
    return table


def _by_class(counts_C_C1: Counts, classes: Sequence[str]) -> Mapping[str, float | int | None]:
    scores, labeled_C = class_scores(counts_C_C1), counts_C_C1.sum(axis=1)
    table: dict[str, float | int | None] = {}
    for index, name in enumerate(classes):
        table[f"n_{name}"] = int(labeled_C[index])
        for metric, values_C in zip(("precision", "recall", "f1"), scores, strict=True):
            table[f"{metric}_{name}"] = float(values_C[index]) if labeled_C.sum() else None
        table[f"share_{name}"] = _known(verdict_share(counts_C_C1, index))
    return table


def _known(rate: Rates) -> float | None:
    return None if np.isnan(rate) else float(rate)
