"""Metrics against scikit-learn and against a brute-force reading of pairs."""

import json
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from mtrl_judge.metrics.rates import (
    PAIR_RATES,
    RATES,
    Tally,
    accuracy,
    class_scores,
    cohen_kappa,
    macro_f1,
    matthews,
    null_rate,
)
from mtrl_judge.metrics.records import Record, complete_pairs, confusion, tally
from mtrl_judge.metrics.summary import majority_macro_f1, summarize

# The same examples in every run, and no limit of time that a busy machine could break.
exactly = settings(derandomize=True, deadline=None)

NO_VERDICT = "no verdict"  # a missing verdict, for scikit-learn
SLOTS = ("Image 1", "Image 2", "tie")
CLASSES = st.sampled_from([("Yes", "No"), ("A", "B", "C"), ("1", "2", "3", "4", "5"), ("only",)])


@st.composite
def judged(draw: st.DrawFn) -> tuple[tuple[str, ...], list[str], list[str | None]]:
    """Classes, labels and verdicts, some classes absent from either."""
    classes = draw(CLASSES)
    seen_labels = draw(st.lists(st.sampled_from(classes), min_size=1, unique=True))
    seen_verdicts = draw(st.lists(st.sampled_from([*classes, None]), min_size=1, unique=True))
    pairs = st.tuples(st.sampled_from(seen_labels), st.sampled_from(seen_verdicts))
    rows = draw(st.lists(pairs, min_size=1, max_size=60))
    return classes, [label for label, _ in rows], [verdict for _, verdict in rows]


def _quietly(metric: Callable[..., float], *args: object, **options: object) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(metric(*args, **options))


@exactly
@given(st.lists(st.tuples(st.sampled_from(SLOTS), st.sampled_from([*SLOTS, None]))))
def test_accuracy_without_ties_is_that_of_the_published_scripts(
    rows: list[tuple[str, str | None]],
) -> None:
    table = summarize([Record(*row) for row in rows], SLOTS)
    # UnifiedReward's test_qwen_genAI_bench_image.py skips labels that are ties.
    preferred = [label == verdict for label, verdict in rows if label != "tie"]
    # MLLM-as-a-Judge's calculate_metrics.ipynb skips these and verdicts that are ties.
    decided = [label == verdict for label, verdict in rows if "tie" not in (label, verdict)]
    for name, right in (("accuracy_without_ties", preferred), ("accuracy_decided", decided)):
        assert table[name] == (pytest.approx(np.mean(right)) if right else None)
    # calc_score of PickScore's eval_preference_predictor.py; a model always has a verdict there.
    halves = [
        1.0 if label == verdict else 0.5 * ("tie" in (label, verdict) and verdict is not None)
        for label, verdict in rows
    ]
    assert table["accuracy_ties_half"] == (pytest.approx(np.mean(halves)) if rows else None)


@exactly
@given(judged())
def test_equal_to_scikit_learn(
    sample: tuple[tuple[str, ...], list[str], list[str | None]],
) -> None:
    classes, labels, verdicts = sample
    said = [NO_VERDICT if verdict is None else verdict for verdict in verdicts]
    counts_C_C1 = confusion(labels, verdicts, classes)
    expected = sk.confusion_matrix(labels, said, labels=[*classes, NO_VERDICT])
    assert counts_C_C1.tolist() == expected[:-1].tolist()
    assert accuracy(counts_C_C1) == pytest.approx(sk.accuracy_score(labels, said))
    assert null_rate(counts_C_C1) == pytest.approx(said.count(NO_VERDICT) / len(said))
    by_class = sk.precision_recall_fscore_support(labels, said, labels=classes, zero_division=0)
    for ours, theirs in zip(class_scores(counts_C_C1), by_class, strict=False):
        assert ours == pytest.approx(theirs)
    assert macro_f1(counts_C_C1) == pytest.approx(
        sk.f1_score(labels, said, labels=classes, average="macro", zero_division=0)
    )
    assert matthews(counts_C_C1) == pytest.approx(_quietly(sk.matthews_corrcoef, labels, said))
    table = summarize([Record(*row) for row in zip(labels, verdicts, strict=True)], classes)
    given = [row for row in zip(labels, verdicts, strict=True) if row[1] is not None]
    if not given:
        assert table["accuracy_answered"] is table["macro_f1_answered"] is None
    else:
        f1 = sk.f1_score(
            *zip(*given, strict=True), labels=classes, average="macro", zero_division=0
        )
        assert table["macro_f1_answered"] == pytest.approx(f1)
        right = sk.accuracy_score(*zip(*given, strict=True))
        assert table["accuracy_answered"] == pytest.approx(right)
    if len({*labels, *said}) == 1:
        assert np.isnan(cohen_kappa(counts_C_C1))
    else:
        assert cohen_kappa(counts_C_C1) == pytest.approx(sk.cohen_kappa_score(labels, said))


@exactly
@given(judged())
def test_constant_is_the_constant_judge(
    sample: tuple[tuple[str, ...], list[str], list[str | None]],
) -> None:
    classes, labels, _ = sample
    commonest = Counter(labels).most_common(1)[0][1]
    f1 = 2 * commonest / (commonest + len(labels))
    assert majority_macro_f1([*labels, None], classes) == pytest.approx(f1 / len(classes))


RECORDS = st.lists(
    st.builds(
        Record,
        label=st.sampled_from([*SLOTS, None]),
        verdict=st.sampled_from([*SLOTS, None]),
        well_formed=st.booleans(),
        pair_id=st.sampled_from([*"abcdef", None]),
        swapped=st.booleans(),
        failure=st.sampled_from([None, None, "failed", "refused"]),
        facts=st.none(),
        probabilities=st.none(),
    ),
    max_size=20,
    unique_by=lambda record: (record.pair_id, record.swapped),
)


def _image_named(record: Record) -> str:
    """The image itself that a verdict names, whatever its place."""
    shown = ("left", "right") if not record.swapped else ("right", "left")
    assert record.verdict is not None
    return dict(zip(SLOTS, [*shown, "neither"], strict=True))[record.verdict]


@exactly
@given(RECORDS)
def test_pairs_by_brute_force(records: list[Record]) -> None:
    rows = [
        (one, other)
        for one in records
        for other in records
        if one.pair_id is not None and one.pair_id == other.pair_id
        if not one.swapped and other.swapped
        if "failed" not in (one.failure, other.failure)
    ]
    pairs = complete_pairs(records)
    assert sorted(map(repr, rows)) == sorted(repr(tuple(pair)) for pair in pairs)
    labeled = [row for row in rows if row[0].label and row[1].label]
    right = [a.label == a.verdict and b.label == b.verdict for a, b in labeled]
    table = summarize(records, SLOTS)
    assert table["both_orders_correct"] == (sum(right) / len(right) if right else None)
    judged_rows = [row for row in rows if row[0].verdict and row[1].verdict]
    flips = [_image_named(a) != _image_named(b) for a, b in judged_rows]
    assert table["flip_rate"] == (sum(flips) / len(flips) if flips else None)
    slots = [row.verdict for pair in rows for row in pair if row.verdict in SLOTS[:2]]
    expected = slots.count(SLOTS[0]) / len(slots) if slots else None
    assert table["first_slot_rate"] == expected


@exactly
@given(RECORDS, st.booleans())
def test_summary_is_json_without_nan_and_skips_the_unlabeled(
    records: list[Record], paired: bool
) -> None:
    single = [name for name in RATES if name not in PAIR_RATES]
    table = summarize(records, SLOTS, RATES if paired else single)
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    failures = Counter(record.failure for record in records)
    assert (table["n_failed"], table["n_refused"]) == (failures["failed"], failures["refused"])
    judged = [record for record in records if record.failure != "failed"]
    # A failed request changes no rate: it is as if the row were not there.
    rates = RATES if paired else single
    assert summarize(judged, SLOTS, rates) == {**table, "n_failed": 0}
    labeled = [record for record in judged if record.label is not None]
    assert (table["n"], table["n_unlabeled"]) == (len(labeled), len(judged) - len(labeled))
    alone = summarize(labeled, SLOTS, single)
    counts = {"n_unlabeled", "n_failed", "n_refused"}
    assert {key: alone[key] for key in alone if key not in counts}.items() <= table.items()
    names = [name for name in table if name != "n" and not name.startswith("n_")]
    assert {*single, "majority_macro_f1"} <= {*names}
    assert ("flip_rate" in table) == paired
    if not labeled:
        assert {alone[name] for name in alone if not name.startswith("n")} == {None}
        assert alone["null_rate"] is None


def test_a_judge_that_always_says_the_first_slot() -> None:
    rows = [
        Record("Image 1", "Image 1", True, pair_id="p", swapped=False),
        Record("Image 2", "Image 1", True, pair_id="p", swapped=True),
    ]
    table = summarize(rows, SLOTS[:2])
    assert (table["flip_rate"], table["first_slot_rate"]) == (1.0, 1.0)
    assert (table["accuracy"], table["both_orders_correct"]) == (0.5, 0.0)
    assert (table["n_pairs"], table["well_formed_rate"]) == (1, 1.0)


def test_a_refusal_is_no_verdict_and_a_failed_request_is_no_row() -> None:
    rows = [
        Record("Yes", "Yes"),
        Record("Yes", None, failure="refused"),
        Record("No", "No"),
        Record("No", None, failure="failed"),
    ]
    table = summarize(rows, ("Yes", "No"))
    assert (table["n"], table["n_failed"], table["n_refused"]) == (3, 1, 1)
    assert (table["accuracy"], table["recall_Yes"]) == (pytest.approx(2 / 3), 0.5)
    assert (table["null_rate"], table["accuracy_answered"]) == (pytest.approx(1 / 3), 1.0)
    nothing = summarize([Record("No", None, failure="failed")] * 3, ("Yes", "No"))
    assert (nothing["n"], nothing["n_failed"], nothing["macro_f1"]) == (0, 3, None)


@pytest.mark.parametrize(
    ("labels", "verdicts", "message"),
    [
        (["Yes"], [], "1 labels but 0 verdicts"),
        (["yes"], ["Yes"], "label 'yes' is none of the verdicts"),
        (["Yes"], ["Maybe"], "verdict 'Maybe' is none of the verdicts"),
    ],
)
def test_foreign_values_are_named(
    labels: Sequence[str], verdicts: Sequence[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        confusion(labels, verdicts, ("Yes", "No"))


def test_a_pair_with_one_order_twice_is_named() -> None:
    with pytest.raises(ValueError, match="pair 'p' has two swapped rows"):
        complete_pairs([Record("A", "A", True, "p", True)] * 2)


@exactly
@given(RECORDS, RECORDS)
def test_tallies_add_up_and_many_at_once_are_each_alone(
    one: list[Record], other: list[Record]
) -> None:
    alone = [tally(records, SLOTS, paired=True) for records in (one, other)]
    flat = np.stack([each.flat() for each in alone])
    together = Tally.of(flat, len(SLOTS))
    for rate in RATES.values():
        np.testing.assert_array_equal(rate(together), [float(rate(each)) for each in alone])
    later = [record._replace(pair_id=record.pair_id and f"{record.pair_id}'") for record in other]
    whole = tally([*one, *later], SLOTS, paired=True)
    assert whole.flat().tolist() == flat.sum(axis=0).tolist()
