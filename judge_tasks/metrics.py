"""Metrics of a judge against people's labels: evaluation, the command line and tests share them.

Axis suffixes: `C` the task's verdicts in their order, `C1` the same and then "no verdict".
A missing verdict is a miss for its class and a hit for none; an unlabelled record is scored by
nothing. Where a metric has no meaning (no records, one class throughout) it is None, never nan.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ClassScores",
    "Pair",
    "Record",
    "accuracy",
    "both_orders_correct",
    "class_scores",
    "cohen_kappa",
    "complete_pairs",
    "confusion",
    "constant_macro_f1",
    "first_slot_rate",
    "flip_rate",
    "macro_f1",
    "macro_f1s",
    "matthews",
    "null_rate",
    "rate_names",
    "summarise",
]

Counts = NDArray[np.int64]
Rates = NDArray[np.float64]


class Record(NamedTuple):
    """One judged row: `label` None is unlabelled, `verdict` None is no verdict.

    The rows of a pair share `pair_id`; `swapped` is True for the row with its images exchanged.
    """

    label: str | None
    verdict: str | None
    well_formed: bool = False
    pair_id: str | None = None
    swapped: bool = False


class ClassScores(NamedTuple):
    """Arrays of shape … × C in [0, 1], 0 where nothing was predicted or labelled so."""

    precision: Rates
    recall: Rates
    f1: Rates


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


def accuracy(counts_C_C1: Counts) -> float | None:
    """Share of records whose verdict is the label; no verdict is wrong."""
    return _ratio(np.trace(counts_C_C1), counts_C_C1.sum())


def null_rate(counts_C_C1: Counts) -> float | None:
    """Share of records without a verdict."""
    return _ratio(counts_C_C1[:, -1].sum(), counts_C_C1.sum())


def class_scores(counts_C_C1: Counts) -> ClassScores:
    """Precision, recall and F1 of each class, as scikit-learn's with `zero_division=0`.

    Args:
        counts_C_C1: or many of them, … × C × C1.
    """
    hits_C = np.diagonal(counts_C_C1, axis1=-2, axis2=-1)
    predicted_C = counts_C_C1[..., :-1].sum(axis=-2)
    labelled_C = counts_C_C1.sum(axis=-1)
    return ClassScores(
        _divide(hits_C, predicted_C),
        _divide(hits_C, labelled_C),
        _divide(2 * hits_C, predicted_C + labelled_C),
    )


def macro_f1(counts_C_C1: Counts) -> float | None:
    """Mean F1 over all classes of the task, those absent from the sample included (as 0)."""
    if not counts_C_C1.sum():
        return None
    return float(class_scores(counts_C_C1).f1.mean())


def macro_f1s(counts_X_C_C1: Counts) -> Rates:
    """:func:`macro_f1` of many, over all but the last two axes; nan where nothing was counted."""
    empty_X = counts_X_C_C1.sum(axis=(-2, -1)) == 0
    return np.where(empty_X, np.nan, class_scores(counts_X_C_C1).f1.mean(axis=-1))


def cohen_kappa(counts_C_C1: Counts) -> float | None:
    """Cohen's κ with "no verdict" as one more category; None where chance agreement is total."""
    counts_C1_C1, n = _square(counts_C_C1), int(counts_C_C1.sum())
    agreed = int(np.trace(counts_C1_C1))
    by_chance = int(counts_C1_C1.sum(axis=0) @ counts_C1_C1.sum(axis=1))  # times n²
    return _ratio(n * agreed - by_chance, n * n - by_chance)


def matthews(counts_C_C1: Counts) -> float | None:
    """Multi-class Matthews correlation with "no verdict" as one more category.

    0.0 where all labels or all verdicts are the same, as in scikit-learn; Gorodkin (2004),
    doi:10.1016/j.compbiolchem.2004.09.006, has the formula.
    """
    counts_C1_C1, n = _square(counts_C_C1), int(counts_C_C1.sum())
    if not n:
        return None
    predicted_C1, labelled_C1 = counts_C1_C1.sum(axis=0), counts_C1_C1.sum(axis=1)
    covariance = n * int(np.trace(counts_C1_C1)) - int(predicted_C1 @ labelled_C1)
    spread = (n * n - int(predicted_C1 @ predicted_C1)) * (n * n - int(labelled_C1 @ labelled_C1))
    return covariance / float(spread) ** 0.5 if spread else 0.0


def constant_macro_f1(labels: Sequence[str | None], classes: Sequence[str]) -> float | None:
    """Macro-F1 of a judge that always answers the commonest label; None labels are left out."""
    known = [label for label in labels if label is not None]
    if not known:
        return None
    commonest = Counter(known).most_common(1)[0][0]
    return macro_f1(confusion(known, [commonest] * len(known), classes))


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


def both_orders_correct(pairs: Sequence[Pair]) -> float | None:
    """Share of the pairs labelled in both orders whose two verdicts are both right."""
    labelled = [pair for pair in pairs if all(row.label is not None for row in pair)]
    right = sum(all(row.verdict == row.label for row in pair) for pair in labelled)
    return _ratio(right, len(labelled))


def flip_rate(pairs: Sequence[Pair], classes: Sequence[str]) -> float | None:
    """Share of the pairs with two verdicts whose verdicts do not name the same image.

    `classes[0]` and `classes[1]` are the slots, which change places with the images; any other
    verdict (a tie) must stay as it is.
    """
    first, second = classes[:2]
    mirrored = {first: second, second: first}
    judged = [
        (pair.straight.verdict, pair.swapped.verdict)
        for pair in pairs
        if pair.straight.verdict is not None and pair.swapped.verdict is not None
    ]
    flips = sum(mirrored.get(straight, straight) != swapped for straight, swapped in judged)
    return _ratio(flips, len(judged))


def first_slot_rate(pairs: Sequence[Pair], classes: Sequence[str]) -> float | None:
    """Share of the verdicts naming a slot that name the first; 0.5 is no preference by place.

    Ties and missing verdicts name no slot. Only with both orders judged is 0.5 the neutral value.
    """
    first, second = classes[:2]
    verdicts = [row.verdict for pair in pairs for row in pair]
    return _ratio(verdicts.count(first), verdicts.count(first) + verdicts.count(second))


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
    labelled = [record for record in records if record.label is not None]
    labels = [record.label for record in labelled if record.label is not None]
    counts_C_C1 = confusion(labels, [record.verdict for record in labelled], classes)
    table: dict[str, float | int | None] = {
        "n": len(labelled),
        "n_unlabelled": len(records) - len(labelled),
        "macro_f1": macro_f1(counts_C_C1),
        "constant_macro_f1": constant_macro_f1(labels, classes),
        "accuracy": accuracy(counts_C_C1),
        "cohen_kappa": cohen_kappa(counts_C_C1),
        "matthews": matthews(counts_C_C1),
        "null_rate": null_rate(counts_C_C1),
        "well_formed_rate": _ratio(sum(record.well_formed for record in labelled), len(labelled)),
    }
    table |= _by_class(counts_C_C1, classes)
    if paired:
        table |= _by_pair(complete_pairs(records), classes)
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
    rates = (k for k in summarise([], classes, paired) if k != "n" and not k.startswith("n_"))
    return {name: better.get(name, True) for name in rates}


def _by_class(counts_C_C1: Counts, classes: Sequence[str]) -> Mapping[str, float | int | None]:
    scores, labelled_C = class_scores(counts_C_C1), counts_C_C1.sum(axis=1)
    table: dict[str, float | int | None] = {}
    for index, name in enumerate(classes):
        table[f"n_{name}"] = int(labelled_C[index])
        for metric, values_C in zip(("precision", "recall", "f1"), scores, strict=True):
            table[f"{metric}_{name}"] = float(values_C[index]) if labelled_C.sum() else None
    return table


def _by_pair(pairs: Sequence[Pair], classes: Sequence[str]) -> Mapping[str, float | int | None]:
    return {
        "n_pairs": len(pairs),
        "n_pairs_judged": sum(all(row.verdict is not None for row in pair) for pair in pairs),
        "both_orders_correct": both_orders_correct(pairs),
        "flip_rate": flip_rate(pairs, classes),
        "first_slot_rate": first_slot_rate(pairs, classes),
    }


def _square(counts_C_C1: Counts) -> Counts:
    """With a row for the label "no verdict", which no record has."""
    return np.pad(counts_C_C1, ((0, 1), (0, 0)))


def _divide(part_C: Counts, whole_C: Counts) -> Rates:
    return np.divide(part_C, whole_C, out=np.zeros(part_C.shape), where=whole_C > 0)


def _ratio(part: int, whole: int) -> float | None:
    return int(part) / int(whole) if whole else None
