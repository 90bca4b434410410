"""Metrics of a judge against people's labels: evaluation, the command line and tests share them.

Axis suffixes: `C` the task's verdicts in their order, `C1` the same and then "no verdict".
A missing verdict is a miss for its class and a hit for none; an unlabelled record is scored by
nothing. Where a metric has no meaning (no records, one class throughout) it is None, never nan.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from .rates import PAIR_RATES, RATES, Counts, PairCount, Rates, class_scores, macro_f1
from .records import Record, complete_pairs, confusion, tally


def constant_macro_f1(labels: Sequence[str | None], classes: Sequence[str]) -> float | None:
    """Macro-F1 of a judge that always answers the commonest label; None labels are left out."""
    known = [label for label in labels if label is not None]
    if not known:
        return None
    commonest = Counter(known).most_common(1)[0][0]
    return _known(macro_f1(confusion(known, [commonest] * len(known), classes)))


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
