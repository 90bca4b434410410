"""How a judge's grades go with people's, and how several judges agree with each other.

Axis suffixes: `J` judges of the same N rows, `C` the task's verdicts in their order, `C1` the same
and then "no verdict". κ against the labels is in :mod:`rates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .rates import Rates, accuracy, class_indices, cohen_kappa
from .records import Record


class Correlations(NamedTuple):
    """Of a judge's grades with the labels' over `n` rows; each None where either is constant."""

    kendall_tau_b: float | None
    spearman: float | None
    pearson: float | None
    n: int
    """Labeled rows with a verdict."""
    n_without_verdict: int
    """Labeled rows left out, because what is not graded has no rank."""


class AgreementMatrix(NamedTuple):
    """Of each judge with each, J × J; "no verdict" is one more category, as in :mod:`rates`.

    Arrays, and nan where a cell has no meaning, as in :mod:`rates`: they are looked at as a whole.
    """

    agreement_J_J: Rates
    """Share of rows with the same verdict; nan without rows."""
    kappa_J_J: Rates
    """Cohen's κ; nan where both judges say one and the same throughout."""


def ratings(verdicts: Sequence[str]) -> tuple[float, ...] | None:
    """The numbers that a task's verdicts are, or None where they are no grades.

    Grades are three or more different finite numbers. Two classes are not graded, even where they
    are called "1" and "2" (the slots of a pair are): any two numbers are in some order, and all
    three correlations are then the one that is reported as Matthews'.

    >>> ratings(["1", "2", "3"])
    (1.0, 2.0, 3.0)
    >>> ratings(["1", "2"]), ratings(["A", "B", "C"]), ratings(["1", "2", "nan"])
    (None, None, None)
    """
    try:
        numbers = tuple(float(verdict) for verdict in verdicts)
    except ValueError:
        return None
    graded = len(numbers) >= 3 and len(set(numbers)) == len(numbers) and np.isfinite(numbers).all()
    return numbers if graded else None


def correlations(records: Sequence[Record], verdicts: Sequence[str]) -> Correlations | None:
    """Correlations of the judge's grades with the labels'; None where `verdicts` are no grades.

    Raises:
        ValueError: A label or verdict is none of `verdicts`.
    """
    numbers = ratings(verdicts)
    if numbers is None:
        return None
    labeled = [record for record in records if record.label is not None]
    columns = ([record.label for record in labeled], [record.verdict for record in labeled])
    labels_N, given_N = _codes(columns, verdicts)
    ranked_N = given_N < len(numbers)
    n, n_without_verdict = int(ranked_N.sum()), int((~ranked_N).sum())
    truth_N = np.take(numbers, labels_N[ranked_N])
    found_N = np.take(numbers, given_N[ranked_N])
    if len(np.unique(truth_N)) < 2 or len(np.unique(found_N)) < 2:
        return Correlations(None, None, None, n, n_without_verdict)
    from scipy import stats

    return Correlations(
        float(stats.kendalltau(truth_N, found_N, variant="b").statistic),
        float(stats.spearmanr(truth_N, found_N).statistic),
        float(stats.pearsonr(truth_N, found_N).statistic),
        n,
        n_without_verdict,
    )


def krippendorff_alpha(
    verdicts_J_N: Sequence[Sequence[str | None]],
    classes: Sequence[str],
    graded: Sequence[float] | None = None,
) -> float | None:
    """Krippendorff's α of J judges; 1 is agreement, 0 what chance gives, less is worse than chance.

    From the coincidences of Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability". A
    missing verdict is a missing value there: a row counts by the verdicts it has, and not with one.

    Args:
        verdicts_J_N: None is no verdict.
        classes: the task's verdicts.
        graded: their numbers (:func:`grades`) for interval data; None for nominal data.

    Returns:
        None where no row has two verdicts or all verdicts are the same.

    Raises:
        ValueError: The judges' numbers of rows differ, a verdict is none of `classes`, or `graded`
            has not one number for each.
    """
    if graded is not None and len(graded) != len(classes):
        raise ValueError(f"{len(graded)} ratings for {len(classes)} verdicts; give one for each")
    codes_J_N = _codes(verdicts_J_N, classes)
    counts_N_C = (codes_J_N[:, :, None] == np.arange(len(classes))).sum(axis=0)
    counts_N_C = counts_N_C[counts_N_C.sum(axis=1) > 1]
    weighted_N_C = counts_N_C / (counts_N_C.sum(axis=1, keepdims=True) - 1)
    coincidences_C_C = counts_N_C.T @ weighted_N_C - np.diag(weighted_N_C.sum(axis=0))
    values_C = counts_N_C.sum(axis=0)
    numbers_C = np.asarray(graded, dtype=float)
    distances_C_C = (
        1.0 - np.eye(len(classes))
        if graded is None
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
    """How often each two of J judges say the same of N rows.

    Raises:
        ValueError: The judges' numbers of rows differ, or a verdict is none of `classes`.
    """
    codes_J_N = _codes(verdicts_J_N, classes)
    judges, rows = codes_J_N.shape
    columns = len(classes) + 1
    # float64 for the fast product of matrices; it holds counts exactly.
    said_J_C1_N = (codes_J_N[:, None, :] == np.arange(columns)[:, None]).astype(float)
    said_X_N = said_J_C1_N.reshape(judges * columns, rows)
    counts_J_C1_J_C1 = (said_X_N @ said_X_N.T).reshape(judges, columns, judges, columns)
    counts_J_J_C1_C1 = counts_J_C1_J_C1.transpose(0, 2, 1, 3).astype(np.int64)
    # "No verdict" is here a class like the others, so no row lacks one.
    counts_J_J_C_C1 = np.pad(counts_J_J_C1_C1, ((0, 0), (0, 0), (0, 0), (0, 1)))
    return AgreementMatrix(accuracy(counts_J_J_C_C1), cohen_kappa(counts_J_J_C_C1))


def _codes(
    verdicts_J_N: Sequence[Sequence[str | None]], classes: Sequence[str]
) -> NDArray[np.int64]:
    """The place of each verdict in `classes`, J × N; C is no verdict."""
    sizes = [len(verdicts_N) for verdicts_N in verdicts_J_N]
    if len(set(sizes)) > 1:
        raise ValueError(f"the judges have {sizes} verdicts; give one of each judge for each row")
    return np.array(class_indices(verdicts_J_N, classes), dtype=np.int64).reshape(
        len(sizes), sizes[0] if sizes else 0
    )
