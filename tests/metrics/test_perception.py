"""How well a judge sees: shares of facts, and the ranking by its probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mtrl_judge.metrics.perception import distinct_ngrams, drawn_perception, perception
from mtrl_judge.metrics.records import FactCounts, Record
from mtrl_judge.metrics.summary import summarize

CLASSES = ("Yes", "No")


def record(label: str | None, verdict: str | None, *facts: int, p: float | None = None) -> Record:
    return Record(
        label,
        verdict,
        facts=FactCounts(*facts) if facts else None,
        probabilities=None if p is None else (p, 1 - p),
    )


def test_facts_are_counted_over_all_items_and_untruths_over_right_verdicts() -> None:
    records = [
        record("Yes", "Yes", 2, 1, 3, 2),  # right, and something untrue
        record("Yes", "Yes", 1, 0, 1, 1),  # right and true
        record("Yes", "Yes", 0, 0, 1, 0),  # nothing could be said against its facts
        record("Yes", "No", 0, 1, 1, 1),  # wrong
        record("Yes", None, 0, 0, 2, 1),
        record("Yes", "Yes"),  # no facts
        record("No", "Yes", 9, 9, 9, 9)._replace(failure="failed"),
    ]
    table = perception(records, CLASSES)
    assert table == {"facts_rate": 3 / 8, "right_on_wrong_facts": 1 / 2, "roc_auc": None}
    assert perception(records[-2:], CLASSES) == dict.fromkeys(table)
    assert perception([], CLASSES) == dict.fromkeys(table)
    summary = summarize(records, CLASSES)
    assert {name: summary[name] for name in table} == table
    assert (summary["share_Yes"], summary["share_No"], summary["null_rate"]) == (
        4 / 6,
        1 / 6,
        1 / 6,
    )


PROBABILITIES = st.lists(
    st.tuples(st.sampled_from(["Yes", "No"]), st.sampled_from([0.0, 0.2, 0.5, 0.9])),
    min_size=2,
    max_size=30,
)


@given(PROBABILITIES)
def test_the_area_is_that_of_scikit_learn(rows: list[tuple[str, float]]) -> None:
    records = [record(label, "Yes", p=p) for label, p in rows]
    area = perception([*records, record(None, "Yes", p=0.4), record("Yes", "Yes")], CLASSES)
    labels = [label == "Yes" for label, _ in rows]
    if len(set(labels)) == 2:
        assert area["roc_auc"] == pytest.approx(roc_auc_score(labels, [p for _, p in rows]))
    else:
        assert area["roc_auc"] is None


def test_the_area_of_several_verdicts_is_the_mean_of_each_against_the_others() -> None:
    rng = np.random.default_rng(0)
    p_N_C = rng.dirichlet((1, 1, 1), 40)
    labels = rng.permutation([0, 1, 2, 1] * 10)
    records = [
        Record("abc"[label], "a", probabilities=tuple(p))
        for label, p in zip(labels, p_N_C.tolist(), strict=True)
    ]
    expected = roc_auc_score(labels, p_N_C, multi_class="ovr")
    assert perception(records, "abc")["roc_auc"] == pytest.approx(expected)


def test_intervals_rest_on_clusters_and_hold_the_value() -> None:
    rng = np.random.default_rng(1)
    records = [
        record("Yes" if n % 2 else "No", "Yes", int(seen), 1 - int(seen), 1, 1, p=float(p))
        for n, (seen, p) in enumerate(zip(rng.random(200) < 0.8, rng.random(200), strict=True))
    ]
    alone = drawn_perception(records, range(200), CLASSES, "task")
    together = drawn_perception(records, [n // 4 for n in range(200)], CLASSES, "task")
    for name, value in perception(records, CLASSES).items():
        assert alone[name].value == value
        low, high = np.quantile(alone[name].draws_B, [0.025, 0.975])
        assert low < value < high
        assert alone[name].clusters >= 2 * together[name].clusters
    # Of shares, the spread is that of independent rows.
    share = alone["facts_rate"].value
    assert np.std(alone["facts_rate"].draws_B) == pytest.approx(
        (share * (1 - share) / 200) ** 0.5, rel=0.1
    )
    # Nothing wrong in 20 rows does not mean that nothing ever is.
    perfect = drawn_perception([record("Yes", "Yes", 1, 0, 1, 1)] * 20, range(20), CLASSES, "t")
    assert np.quantile(perfect["right_on_wrong_facts"].draws_B, 0.975) > 0.05


def test_distinct_ngrams_fall_where_texts_repeat_one_another() -> None:
    assert distinct_ngrams(["one two three four", "One two  three four"]) == 0.5
    assert distinct_ngrams(["a b c d e", "v w x y z"]) == 1.0
    assert distinct_ngrams(["too short", ""]) is None
