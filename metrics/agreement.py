"""Correlation of a judge's ratings with people's, and agreement among several judges.

Axis suffixes: `J` judges of the same `N` rows, `C` the task's verdicts in their order, `C1` the
same and then "no verdict". Cohen's κ against the labels is in :mod:`rates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .rates import Rates, accuracy, class_indices, cohen_kappa
from .records import Record


class Correlations(NamedTuple):
    """Of a judge's ratings with the labels over `n` rows; None if either is constant."""

    kendall_tau_b: float | None
    spearman: float | None
    pearson: float | None
    n: int
    """Labeled rows with a verdict."""
    n_without_verdict: int
    """Labeled rows left out, because a missing verdict has no rank."""


class AgreementMatrix(NamedTuple):
    """Of each judge with each, J × J; "no verdict" is one more category, as in :mod:`rates`.

    Undefined cells are nan.
    """

    agreement_J_J: Rates
    """Share of rows with the same verdict; nan without rows."""
    kappa_J_J: Rates
    """Cohen's κ; nan where both judges always give one and the same verdict."""


def ratings(verdicts: Sequence[str]) -> tuple[float, ...] | None:
    """A task's verdicts as numbers, or None if they are not ratings.

    Ratings are three or more different finite numbers. Two classes are not ratings, even if they
    are called "1" and "2" (as the slots of a pair): any two numbers are ordered, and all three
    correlations would equal the Matthews correlation, which is reported anyway.

    >>> ratings(["1", "2", "3"])
    (1.0, 2.0, 3.0)
    >>> ratings(["1", "2"]), ratings(["A", "B", "C"]), ratings(["1", "2", "nan"])
    (None, None, None)
    """
    try:
        numbers = tuple(float(verdict) for verdict in verdicts)
    except ValueError:
        return None
    distinct = len(set(numbers)) == len(numbers) >= 3
    return numbers if distinct and np.isfinite(numbers).all() else None


def correlations(records: Sequence[Record], verdicts: Sequence[str]) -> Correlations | None:
    """Correlations of the judge's ratings with the labels; None if verdicts are not ratings.

    Raises:
        ValueError: a label or verdict is not one of `verdicts`.
    """
    numbers = ratings(verdicts)
    if numbers is None:
        return None
    labeled = [record for record in records if record.label is not None and not record.failed]
    columns = ([record.label for record in labeled], [record.verdict for record in labeled])
    labels_N, verdicts_N = _codes(columns, verdicts)
    ranked_N = verdicts_N < len(numbers)
    n, n_without_verdict = int(ranked_N.sum()), int((~ranked_N).sum())
    labels_N = np.take(numbers, labels_N[ranked_N])
    ratings_N = np.take(numbers, verdicts_N[ranked_N])
    if len(np.unique(labels_N)) < 2 or len(np.unique(ratings_N)) < 2:
        return Correlations(None, None, None, n, n_without_verdict)
    from scipy import stats

    return Correlations(
        float(stats.kendalltau(labels_N, ratings_N, variant="b").statistic),
        float(stats.spearmanr(labels_N, ratings_N).statistic),
        float(stats.pearsonr(labels_N, ratings_N).statistic),
        n,
        n_without_verdict,
    )


def krippendorff_alpha(
    verdicts_J_N: Sequence[Sequence[str | None]],
    classes: Sequence[str],
    numbers: Sequence[float] | None = None,
) -> float | None:
    """Krippendorff's α of J judges: 1 is full agreement, 0 that of chance, less is worse.

    From the coincidence matrix of Krippendorff (2011), "Computing Krippendorff's
    Alpha-Reliability", in which a missing verdict is a missing value: rows with fewer than two
    verdicts do not count.

    Args:
        verdicts_J_N: None is no verdict.
        classes: the task's verdicts.
        numbers: the verdicts as numbers (:func:`ratings`) for interval data; None for nominal data.

    Returns:
        None if no row has two verdicts or all verdicts are the same.

    Raises:
        ValueError: the judges' numbers of rows differ, a verdict is not one of `classes`, or
            `numbers` does not have one number for each.
    """
    if numbers is not None and len(numbers) != len(classes):
        raise ValueError(f"{len(numbers)} numbers for {len(classes)} verdicts; expected one each")
    codes_J_N = _codes(verdicts_J_N, classes)
    counts_N_C = (codes_J_N[:, :, None] == np.arange(len(classes))).sum(axis=0)
    counts_N_C = counts_N_C[counts_N_C.sum(axis=1) > 1]
    weighted_N_C = counts_N_C / (counts_N_C.sum(axis=1, keepdims=True) - 1)
    coincidences_C_C = counts_N_C.T @ weighted_N_C - np.diag(weighted_N_C.sum(axis=0))
    values_C = counts_N_C.sum(axis=0)
    numbers_C = np.asarray(numbers, dtype=float)
    distances_C_C = (
        1.0 - np.eye(len(classes))
        if numbers is None
        else (numbers_C[:, None] - numbers_C[None, :]) ** 2
    )
    by_chance = float(values_C @ distances_C_C @ values_C)
    if not by_chance:
        return None
    observed = float((coincidences_C_C * distances_C_C).sum())
    return 1 - (int(values_C.sum()) - 1) * observed / by_chance


def agreement_matrix(
    verdicts_J_N: Sequence[Sequence[str | None]], classes: Sequence[str]
) -> AgreementMatrix:
    """How often each two of J judges give the same verdict on N rows.

    Raises:
        ValueError: the judges' numbers of rows differ, or a verdict is not one of `classes`.
    """
    codes_J_N = _codes(verdicts_J_N, classes)
    judges, rows = codes_J_N.shape
    columns = len(classes) + 1
    # One-hot, in float64 for a fast matrix product; it holds counts exactly.
    onehot_J_C1_N = (codes_J_N[:, None, :] == np.arange(columns)[:, None]).astype(float)
    onehot_X_N = onehot_J_C1_N.reshape(judges * columns, rows)
    counts_J_C1_J_C1 = (onehot_X_N @ onehot_X_N.T).reshape(judges, columns, judges, columns)
    counts_J_J_C1_C1 = counts_J_C1_J_C1.transpose(0, 2, 1, 3).astype(np.int64)
    # "No verdict" is a class like the others here, so the column of missing verdicts is empty.
    counts_J_J_C_C1 = np.pad(counts_J_J_C1_C1, ((0, 0), (0, 0), (0, 0), (0, 1)))
    return AgreementMatrix(accuracy(counts_J_J_C_C1), cohen_kappa(counts_J_J_C_C1))


def _codes(
    verdicts_J_N: Sequence[Sequence[str | None]], classes: Sequence[str]
) -> NDArray[np.int64]:
    """The index of each verdict in `classes`, J × N; C is no verdict."""
    sizes = [len(verdicts_N) for verdicts_N in verdicts_J_N]
    if len(set(sizes)) > 1:
        raise ValueError(f"the judges have {sizes} verdicts; expected one for each row")
    return np.array(class_indices(verdicts_J_N, classes), dtype=np.int64).reshape(
        len(sizes), sizes[0] if sizes else 0
    )
