"""Rates of judges from counts: of one judge, of many at once, or of every resample of them.

Axis suffixes: `X` any leading axes or none (clusters, judges, resamples), `C` the task's verdicts
in their order, `C1` the same and then "no verdict", `P` as :class:`PairCount`. A rate is nan where
it has no meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .slots import FIRST_TWO, Slots

# Whole numbers, or the weighted counts of a draw.
Counts = NDArray[Any]
Rates = NDArray[np.float64]


def class_indices(
    verdicts_X_N: Sequence[Sequence[str | None]], classes: Sequence[str]
) -> list[list[int]]:
    """The index of each verdict in `classes`, X rows of N; C stands for no verdict.

    Raises:
        ValueError: A verdict is none of `classes`.
    """
    index: dict[str | None, int] = {name: number for number, name in enumerate(classes)}
    index[None] = len(classes)
    strange = {verdict for verdicts_N in verdicts_X_N for verdict in verdicts_N} - index.keys()
    if strange:
        raise ValueError(f"verdict {min(map(str, strange))!r} is none of {list(classes)}")
    return [[index[verdict] for verdict in verdicts_N] for verdicts_N in verdicts_X_N]


class ClassScores(NamedTuple):
    """Arrays of shape … × C in [0, 1]; 0 where a class was neither predicted nor labeled."""

    precision: Rates
    recall: Rates
    f1: Rates


class PairCount(IntEnum):
    """What is counted of pairs judged in both orders."""

    JUDGED = 0  # pairs with two verdicts
    FLIPPED = 1  # of these, pairs whose verdicts do not prefer the same candidate
    LABELED = 2  # pairs with two labels
    BOTH_RIGHT = 3  # of these, pairs with both verdicts right
    SLOTS = 4  # verdicts (not pairs) that are for a slot
    FIRST_SLOT = 5  # of these, for the first slot


class Tally(NamedTuple):
    """The counts that rates are computed from; tallies of parts add up to that of the whole."""

    confusion_X_C_C1: Counts
    """Labeled rows by label and verdict."""
    well_formed_X: Counts
    """Labeled rows in the required form."""
    pairs_X_P: Counts
    slots: Slots = FIRST_TWO
    """The verdicts for each candidate, where two are compared."""

    def each(self, part: Callable[[Counts], Counts]) -> Tally:
        """The same of a part of the counts, such as one of the leading axes."""
        return self._replace(
            confusion_X_C_C1=part(self.confusion_X_C_C1),
            well_formed_X=part(self.well_formed_X),
            pairs_X_P=part(self.pairs_X_P),
        )

    def flat(self) -> Counts:
        """X × F, for sums of many tallies; :meth:`of` is the way back."""
        *leading, classes, columns = self.confusion_X_C_C1.shape
        confusion_X_F = self.confusion_X_C_C1.reshape(*leading, classes * columns)
        parts = (confusion_X_F, self.well_formed_X[..., None], self.pairs_X_P)
        return np.concatenate(parts, axis=-1)

    @classmethod
    def of(cls, flat_X_F: Counts, classes: int, slots: Slots = FIRST_TWO) -> Tally:
        cells = classes * (classes + 1)
        shape = (*flat_X_F.shape[:-1], classes, classes + 1)
        return cls(
            flat_X_F[..., :cells].reshape(shape),
            flat_X_F[..., cells],
            flat_X_F[..., cells + 1 :],
            slots,
        )


def class_scores(counts_X_C_C1: Counts) -> ClassScores:
    """Precision, recall and F1 of each class, as scikit-learn's with `zero_division=0`."""
    hits_X_C = np.diagonal(counts_X_C_C1, axis1=-2, axis2=-1)
    predicted_X_C = counts_X_C_C1[..., :-1].sum(axis=-2)
    labeled_X_C = counts_X_C_C1.sum(axis=-1)
    return ClassScores(
        _ratio(hits_X_C, predicted_X_C, 0.0),
        _ratio(hits_X_C, labeled_X_C, 0.0),
        _ratio(2 * hits_X_C, predicted_X_C + labeled_X_C, 0.0),
    )


def macro_f1(counts_X_C_C1: Counts) -> Rates:
    """Mean F1 over all classes of the task, those absent from the sample included (as 0)."""
    f1_X = class_scores(counts_X_C_C1).f1.mean(axis=-1)
    return np.where(_total(counts_X_C_C1) > 0, f1_X, np.nan)


def accuracy(counts_X_C_C1: Counts) -> Rates:
    """Share of records whose verdict is the label; no verdict is wrong."""
    hits_X = np.trace(counts_X_C_C1, axis1=-2, axis2=-1)
    return _ratio(hits_X, _total(counts_X_C_C1))


def answered(counts_X_C_C1: Counts) -> Counts:
    """The counts of the records that have a verdict."""
    counts_X_C_C1 = counts_X_C_C1.copy()
    counts_X_C_C1[..., -1] = 0
    return counts_X_C_C1


def null_rate(counts_X_C_C1: Counts) -> Rates:
    """Share of records without a verdict."""
    return _ratio(counts_X_C_C1[..., -1].sum(axis=-1), _total(counts_X_C_C1))


def verdict_share(counts_X_C_C1: Counts, verdict: int) -> Rates:
    """Share of records with this verdict; those without one count, too."""
    return _ratio(counts_X_C_C1[..., verdict].sum(axis=-1), _total(counts_X_C_C1))


def accuracy_without_ties(counts_X_C_C1: Counts, slots: Slots = FIRST_TWO) -> Rates:
    """Accuracy on the pairs that are not labeled a tie; a tie or no verdict is wrong there.

    As GenAI-Bench's pairs are reported without ties, such as by UnifiedReward (arXiv 2503.05236).
    """
    of_slots = [index for side in slots for index in side if index < counts_X_C_C1.shape[-2]]
    preferred_X_S_C1 = counts_X_C_C1[..., of_slots, :]
    hits_X = np.diagonal(counts_X_C_C1, axis1=-2, axis2=-1)[..., of_slots].sum(axis=-1)
    return _ratio(hits_X, preferred_X_S_C1.sum(axis=(-2, -1)))


def accuracy_decided(counts_X_C_C1: Counts, slots: Slots = FIRST_TWO) -> Rates:
    """The same without the pairs whose verdict is a tie; no verdict is wrong.

    As MLLM-as-a-Judge (arXiv 2402.04788) reports pairs without ties: its `calculate_metrics.ipynb`
    leaves out a pair if its label or its verdict is a tie.
    """
    classes = counts_X_C_C1.shape[-2]
    ties = sorted({*range(classes)} - {*slots.first, *slots.second})
    decided_X_C_C1 = counts_X_C_C1.copy()
    decided_X_C_C1[..., ties] = 0
    return accuracy_without_ties(decided_X_C_C1, slots)


def accuracy_side(counts_X_C_C1: Counts, slots: Slots = FIRST_TWO) -> Rates:
    """Share of the pairs whose verdict prefers the same candidate as the label, however strongly,
    or is a tie as the label is; no verdict is wrong."""
    classes = range(counts_X_C_C1.shape[-2])
    side_C = np.array([(index in slots.first) - (index in slots.second) for index in classes])
    same_C_C = side_C[:, None] == side_C
    hits_X = (counts_X_C_C1[..., :-1] * same_C_C).sum(axis=(-2, -1))
    return _ratio(hits_X, _total(counts_X_C_C1))


def accuracy_ties_half(counts_X_C_C1: Counts, slots: Slots = FIRST_TWO) -> Rates:
    """Accuracy in which a verdict counts half where either it or the label, but not both, is a tie.

    As Pick-a-Pic (arXiv 2305.01569) scores pairs: `calc_score` of
    `trainer/scripts/eval_preference_predictor.py`. No verdict is wrong.
    """
    classes = range(counts_X_C_C1.shape[-2])
    tie_C = np.array([index not in (*slots.first, *slots.second) for index in classes])
    half_C_C = (tie_C[:, None] != tie_C) * 0.5
    credit_C_C = np.where(np.eye(len(classes), dtype=bool), 1.0, half_C_C)
    hits_X = (counts_X_C_C1[..., :-1] * credit_C_C).sum(axis=(-2, -1))
    return _ratio(hits_X, _total(counts_X_C_C1))


def cohen_kappa(counts_X_C_C1: Counts) -> Rates:
    """Cohen's κ with "no verdict" as one more category; nan where chance agreement is total."""
    agreed_X, by_chance_X, _, _ = _agreement(counts_X_C_C1)
    n_X = _total(counts_X_C_C1)
    return _ratio(n_X * agreed_X - by_chance_X, n_X * n_X - by_chance_X)


def matthews(counts_X_C_C1: Counts) -> Rates:
    """Multi-class Matthews correlation with "no verdict" as one more category.

    0.0 where all labels or all verdicts are the same, as in scikit-learn; Gorodkin (2004),
    doi:10.1016/j.compbiolchem.2004.09.006, has the formula.
    """
    agreed_X, by_chance_X, predicted_X_C1, labeled_X_C = _agreement(counts_X_C_C1)
    n_X = _total(counts_X_C_C1)
    # Of integers up to the root of what int64 holds; their product is not.
    spread_X = np.sqrt((n_X * n_X - (predicted_X_C1**2).sum(axis=-1)).astype(float)) * np.sqrt(
        (n_X * n_X - (labeled_X_C**2).sum(axis=-1)).astype(float)
    )
    correlation_X = _ratio(n_X * agreed_X - by_chance_X, spread_X, 0.0)
    return np.where(n_X > 0, correlation_X, np.nan)


def _agreement(counts_X_C_C1: Counts) -> tuple[Counts, Counts, Counts, Counts]:
    """Rows agreed on; the same by chance, times n; rows by verdict and by label."""
    predicted_X_C1 = counts_X_C_C1.sum(axis=-2)
    labeled_X_C = counts_X_C_C1.sum(axis=-1)
    by_chance_X = (predicted_X_C1[..., :-1] * labeled_X_C).sum(axis=-1)
    agreed_X = np.trace(counts_X_C_C1, axis1=-2, axis2=-1)
    return agreed_X, by_chance_X, predicted_X_C1, labeled_X_C


def both_orders_correct(pairs_X_P: Counts) -> Rates:
    """Share of the pairs labeled in both orders whose two verdicts are both right."""
    return _ratio(pairs_X_P[..., PairCount.BOTH_RIGHT], pairs_X_P[..., PairCount.LABELED])


def flip_rate(pairs_X_P: Counts) -> Rates:
    """Share of the pairs with two verdicts whose verdicts do not prefer the same candidate."""
    return _ratio(pairs_X_P[..., PairCount.FLIPPED], pairs_X_P[..., PairCount.JUDGED])


def first_slot_rate(pairs_X_P: Counts) -> Rates:
    """Share of the verdicts for a slot that are for the first; 0.5 means no position bias."""
    return _ratio(pairs_X_P[..., PairCount.FIRST_SLOT], pairs_X_P[..., PairCount.SLOTS])


def well_formed_rate(tally: Tally) -> Rates:
    """Share of labeled rows in exactly the required form."""
    return _ratio(tally.well_formed_X, _total(tally.confusion_X_C_C1))


Rate = Callable[[Tally], Rates]
RATES: Mapping[str, Rate] = {
    "macro_f1": lambda tally: macro_f1(tally.confusion_X_C_C1),
    "accuracy": lambda tally: accuracy(tally.confusion_X_C_C1),
    "cohen_kappa": lambda tally: cohen_kappa(tally.confusion_X_C_C1),
    "matthews": lambda tally: matthews(tally.confusion_X_C_C1),
    "null_rate": lambda tally: null_rate(tally.confusion_X_C_C1),
    "macro_f1_answered": lambda tally: macro_f1(answered(tally.confusion_X_C_C1)),
    "accuracy_answered": lambda tally: accuracy(answered(tally.confusion_X_C_C1)),
    "well_formed_rate": well_formed_rate,
    "accuracy_without_ties": lambda tally: accuracy_without_ties(
        tally.confusion_X_C_C1, tally.slots
    ),
    "accuracy_decided": lambda tally: accuracy_decided(tally.confusion_X_C_C1, tally.slots),
    "accuracy_side": lambda tally: accuracy_side(tally.confusion_X_C_C1, tally.slots),
    "accuracy_ties_half": lambda tally: accuracy_ties_half(tally.confusion_X_C_C1, tally.slots),
    "both_orders_correct": lambda tally: both_orders_correct(tally.pairs_X_P),
    "flip_rate": lambda tally: flip_rate(tally.pairs_X_P),
    "first_slot_rate": lambda tally: first_slot_rate(tally.pairs_X_P),
}
"""Every rate that is one number for a judge and a task; those of pairs are nan without pairs."""
RATES_OF_ALL_CLASSES = ("macro_f1", "macro_f1_answered", "cohen_kappa", "matthews")
"""Rates to which every class contributes, however rare it is."""
ANSWERED_RATES = ("macro_f1_answered", "accuracy_answered")
"""Rates of the records that have a verdict; high for a judge that answers only what is easy."""
TIE_RATES = ("accuracy_without_ties", "accuracy_decided", "accuracy_ties_half")
"""Rates of comparisons in which a verdict means a tie."""
STRENGTH_RATES = ("accuracy_side",)
"""Rates of comparisons in which verdicts say how much better a candidate is."""
PAIR_RATES = ("both_orders_correct", "flip_rate", "first_slot_rate")
# A first-slot rate of 0.5 is best; the majority-class baseline is a property of the data.
_DIRECTIONS: Mapping[str, bool | None] = {
    "right_on_wrong_facts": False,
    "null_rate": False,
    "mae": False,
    "median_mae": None,
    "flip_rate": False,
    "first_slot_rate": None,
    "majority_macro_f1": None,
    "edit_distance": False,
    "position_bias": False,
}


def class_rates(classes: Sequence[str]) -> dict[str, Rate]:
    """`precision_V`, `recall_V`, `f1_V` and `share_V` of each verdict V."""

    def rate(metric: str, index: int) -> Rate:
        def of(tally: Tally) -> Rates:
            scores_X_C: Rates = getattr(class_scores(tally.confusion_X_C_C1), metric)
            known_X = _total(tally.confusion_X_C_C1) > 0
            return np.where(known_X, scores_X_C[..., index], np.nan)

        return of

    def share(index: int) -> Rate:
        return lambda tally: verdict_share(tally.confusion_X_C_C1, index)

    return {
        f"{metric}_{name}": share(index) if metric == "share" else rate(metric, index)
        for index, name in enumerate(classes)
        for metric in (*ClassScores._fields, "share")
    }


def higher_is_better(metric: str) -> bool | None:
    """Whether more of a metric is better; None where neither more nor less is."""
    return None if metric.startswith(("share_", "first_place_")) else _DIRECTIONS.get(metric, True)


def _total(counts_X_C_C1: Counts) -> Counts:
    total_X: Counts = counts_X_C_C1.sum(axis=(-2, -1))
    return total_X


def _ratio(part_X: Counts, whole_X: Counts | Rates, without: float = np.nan) -> Rates:
    ratio_X: Rates = np.full(part_X.shape, without)
    np.divide(part_X, whole_X, out=ratio_X, where=whole_X > 0)
    return ratio_X
