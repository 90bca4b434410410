"""Agreement against scikit-learn, scipy, Krippendorff's own example and his definition."""

from __future__ import annotations

import warnings
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, cohen_kappa_score, matthews_corrcoef

from mtrl_judge.metrics.agreement import (
    Correlations,
    agreement_matrix,
    correlations,
    krippendorff_alpha,
    ratings,
)
from mtrl_judge.metrics.records import Record

FIVE = ("1", "2", "3", "4", "5")
NONE = "no verdict"
# Krippendorff (2011), section C: four observers, twelve units, "." where a value is missing.
OBSERVERS = ("12332141 2...", "123322412 5.3", ".33323422 51.", "123324412 51.")


def observed() -> list[list[str | None]]:
    rows = [text.replace(" ", "") for text in OBSERVERS]
    return [[None if value == "." else value for value in row] for row in rows]


@st.composite
def judged(draw: st.DrawFn) -> tuple[tuple[str, ...], list[list[str | None]]]:
    """Classes, and the verdicts of a few judges on the same rows."""
    classes = draw(st.sampled_from([("Yes", "No"), ("A", "B", "C"), FIVE, ("only",)]))
    rows = draw(st.integers(0, 12))
    verdicts = st.lists(st.sampled_from([*classes, None]), min_size=rows, max_size=rows)
    return classes, draw(st.lists(verdicts, min_size=1, max_size=4))


def test_alpha_of_the_published_example() -> None:
    verdicts = observed()
    assert krippendorff_alpha(verdicts, FIVE) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(verdicts, FIVE, ratings(FIVE)) == pytest.approx(0.849, abs=5e-4)


@given(judged(), st.booleans())
def test_alpha_is_disagreement_over_that_of_all_pairs(
    sample: tuple[tuple[str, ...], list[list[str | None]]], graded: bool
) -> None:
    """Of values in the same row, each row's pairs weighing 1 / (its values - 1)."""
    classes, judges = sample
    # Uneven steps, so that no two differences are the same by chance.
    numbers = [place**1.5 for place in range(len(classes))] if graded else None

    def distance(one: str, other: str) -> float:
        if numbers is None:
            return float(one != other)
        return float((numbers[classes.index(one)] - numbers[classes.index(other)]) ** 2)

    rows = [[said for said in row if said is not None] for row in zip(*judges, strict=True)]
    rows = [row for row in rows if len(row) > 1]
    values = [value for row in rows for value in row]
    within = sum(distance(*pair) / (len(row) - 1) for row in rows for pair in permutations(row, 2))
    across = sum(distance(*pair) for pair in permutations(values, 2))
    found = krippendorff_alpha(judges, classes, numbers)
    if across:
        assert found == pytest.approx(1 - (len(values) - 1) * within / across)
    else:
        assert found is None


@given(judged())
def test_matrix_is_scikit_learn(sample: tuple[tuple[str, ...], list[list[str | None]]]) -> None:
    classes, judges = sample
    found = agreement_matrix(judges, classes)
    said = [[NONE if verdict is None else verdict for verdict in judge] for judge in judges]
    for j, one in enumerate(said):
        for k, other in enumerate(said):
            agreement, kappa = found.agreement_J_J[j, k], found.kappa_J_J[j, k]
            if not one:
                assert np.isnan([agreement, kappa]).all()
                continue
            assert agreement == pytest.approx(accuracy_score(one, other))
            if len({*one, *other}) == 1:
                assert np.isnan(kappa)
            else:
                assert kappa == pytest.approx(cohen_kappa_score(one, other))


@given(
    st.lists(
        st.builds(Record, st.sampled_from([*FIVE, None]), st.sampled_from([*FIVE, None])),
        max_size=40,
    )
)
def test_correlations_are_scipy(records: list[Record]) -> None:
    found = correlations(records, FIVE)
    assert found is not None
    judged = [record for record in records if record.failure != "failed"]
    labeled = [record for record in judged if record.label is not None]
    pairs = [
        (float(label), float(said)) for label, said, *_ in labeled if label and said is not None
    ]
    assert (found.n, found.n + found.n_without_verdict) == (len(pairs), len(labeled))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        columns = np.array(pairs).reshape(-1, 2).T
        measures = (stats.kendalltau, stats.spearmanr, stats.pearsonr)
        expected = [m(*columns).statistic if len(pairs) > 1 else np.nan for m in measures]
    for ours, theirs in zip(found[:3], expected, strict=True):
        assert ours is None if np.isnan(theirs) else ours == pytest.approx(theirs)


def test_missing_verdicts_are_counted_and_undefined_correlations_are_none() -> None:
    rows = [Record("1", "2"), Record("3", "2"), Record("2", None), Record(None, "5")]
    assert correlations(rows, FIVE) == Correlations(None, None, None, 2, 1)
    assert correlations([], FIVE) == Correlations(None, None, None, 0, 0)
    assert correlations(rows, ("1", "2")) is None


@pytest.mark.parametrize(
    ("verdicts", "numbers"),
    [
        (FIVE, (1, 2, 3, 4, 5)),
        (("-1", "0", "0.5"), (-1, 0, 0.5)),
        (("1", "2"), None),
        (("Yes", "No", "3"), None),
        (("1", "2", "inf"), None),
        (("1", "2", "2.0"), None),
    ],
)
def test_grades_are_three_or_more_numbers(
    verdicts: tuple[str, ...], numbers: tuple[float, ...] | None
) -> None:
    assert ratings(verdicts) == numbers


def test_of_two_classes_the_correlations_are_matthews() -> None:
    """The reason why two classes are not ratings."""
    rng = np.random.default_rng(0)
    one, other = rng.integers(1, 3, 50), rng.integers(1, 3, 50)
    phi = matthews_corrcoef(one, other)
    for measure in (stats.kendalltau, stats.spearmanr, stats.pearsonr):
        assert measure(one, other).statistic == pytest.approx(phi)


def test_unknown_verdicts_and_uneven_judges_are_reported() -> None:
    with pytest.raises(ValueError, match="verdict 'Maybe' is none of"):
        agreement_matrix([["Yes"], ["Maybe"]], ("Yes", "No"))
    with pytest.raises(ValueError, match="verdict '6' is none of"):
        correlations([Record("6", "1")], FIVE)
    with pytest.raises(ValueError, match=r"\[1, 2\] verdicts"):
        krippendorff_alpha([["Yes"], ["Yes", "No"]], ("Yes", "No"))
    with pytest.raises(ValueError, match="2 numbers for 5 verdicts"):
        krippendorff_alpha(observed(), FIVE, [1, 2])


def test_no_judges_and_only_missing_verdicts() -> None:
    missing: list[list[str | None]] = [[None, None], [None, None]]
    assert krippendorff_alpha(missing, FIVE) is None
    assert krippendorff_alpha([], FIVE) is None
    assert agreement_matrix([], FIVE).kappa_J_J.shape == (0, 0)
    assert agreement_matrix(missing, FIVE).agreement_J_J.tolist() == [[1, 1], [1, 1]]
