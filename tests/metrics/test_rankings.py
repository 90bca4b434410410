"""Scores of orders against scipy, scikit-learn and the definitions worked out by hand."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import ndcg_score

from mtrl_judge.metrics.drawn import JudgedRows
from mtrl_judge.metrics.ranking_summary import (
    RANKING_METRICS,
    drawn_rankings,
    summarize_rankings,
)
from mtrl_judge.metrics.rankings import (
    Order,
    order_by,
    read_order,
    score_order,
    write_order,
)
from mtrl_judge.metrics.records import Record

NAMES = "ABCDEF"


@st.composite
def two_orders(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Ranks of the same candidates by a judge and by people, with ties."""
    n = draw(st.integers(2, 6))
    ranks = st.lists(st.integers(1, n), min_size=n, max_size=n)
    return draw(ranks), draw(ranks)


def order(ranks: list[int]) -> Order:
    return order_by(dict(zip(NAMES, ranks, strict=False)), lowest_first=True)


def test_orders_are_texts() -> None:
    assert read_order("B>A=C") == (("B",), ("A", "C"))
    assert write_order([["B"], ["C", "A"]]) == "B>A=C"
    assert order_by({"A": 3.0, "B": 5.0, "C": 3.0}) == read_order("B>A=C")
    for wrong in ("", "A>", "A>B=A", "A>>B"):
        with pytest.raises(ValueError, match="no order such as"):
            read_order(wrong)
    with pytest.raises(ValueError, match="not of the same candidates"):
        score_order(read_order("A>B"), read_order("A>B>C"))


@given(two_orders())
def test_kendall_and_ndcg_are_those_of_scipy_and_scikit_learn(
    ranks: tuple[list[int], list[int]],
) -> None:
    judged, truth = ranks
    scores = score_order(order(judged), order(truth))
    if len(set(truth)) == 1:
        assert scores[:4] == (None, None, None, None)
        return
    if len(set(judged)) == 1:
        assert scores.kendall == 0
    else:
        assert scores.kendall == pytest.approx(stats.kendalltau(judged, truth).statistic)
    behind = [sum(other > rank for other in truth) for rank in truth]
    expected = ndcg_score([behind], [[-rank for rank in judged]])
    assert scores.ndcg == pytest.approx(expected)


@given(two_orders())
def test_a_tie_is_worth_a_random_choice(ranks: tuple[list[int], list[int]]) -> None:
    """Of pairs, of the best and of gains: the mean over all ways to break the judge's ties."""
    judged, truth = order(ranks[0]), order(ranks[1])
    if len(truth) == 1:
        return
    broken = [
        tuple((name,) for names in places for name in names)
        for places in product(*(permutations(names) for names in judged))
    ]
    scores = np.array([score_order(each, truth)[1:4] for each in broken], dtype=float)
    assert score_order(judged, truth)[1:4] == pytest.approx(tuple(scores.mean(axis=0)))


def test_pairs_of_the_truth_are_counted() -> None:
    scores = score_order(read_order("B>A>C>D"), read_order("A>B>C=D"))
    assert scores.pairwise_accuracy == 4 / 5  # all but A and B; C and D are not compared
    assert scores.top1_accuracy == 0
    assert score_order(read_order("A=B>C"), read_order("B>A>C")).top1_accuracy == 1 / 2
    assert score_order(read_order("A>B>C"), read_order("A=C>B")).top1_accuracy == 1


@pytest.mark.parametrize(
    ("judged", "truth", "edits"),
    [
        ("CDAB", "CDAB", 0),
        ("CDBA", "CDAB", 2),  # two substitutions
        ("ABCD", "BCDA", 2),  # one deletion and one insertion: a shift costs less than its places
        ("DCBA", "ABCD", 4),
        ("BADC", "ABCD", 3),
    ],
)
def test_edit_distance_is_levenshtein_over_the_length(judged: str, truth: str, edits: int) -> None:
    scores = score_order(read_order(">".join(judged)), read_order(">".join(truth)))
    assert scores.edit_distance == edits / 4


def test_edit_distance_with_ties() -> None:
    for judged in ("A>B>C", "A>C>B"):  # either is right
        assert score_order(read_order(judged), read_order("A>B=C")).edit_distance == 0
    # Not better than the worse of the two orders that the judge leaves open.
    undecided = score_order(read_order("A>B=C"), read_order("A>B>C")).edit_distance
    assert undecided == score_order(read_order("A>C>B"), read_order("A>B>C")).edit_distance


ORDERS = ("A>B>C", "A=B>C", "C>A=B", "A>B=C")


def test_position_bias_is_what_would_have_to_go_to_other_slots() -> None:
    table = summarize_rankings([Record(None, text) for text in ORDERS], "ABC")
    shares = {slot: table[f"first_place_{slot}"] for slot in "ABC"}
    assert shares == {"A": 2.5 / 4, "B": 0.5 / 4, "C": 1 / 4}
    assert table["position_bias"] == pytest.approx(2.5 / 4 - 1 / 3)
    assert table["kendall"] is None
    alike = [Record(None, text) for text in ("A>B>C", "B>C>A", "C>A>B")]
    assert summarize_rankings(alike, "ABC")["position_bias"] == 0
    # Of two candidates each has half, so that slot C has nothing to expect of the first row.
    unequal = [Record(None, text) for text in ("A>B", "B>A", "A>B>C", "B>C>A", "C>A>B")]
    table = summarize_rankings(unequal, "ABC")
    assert table["position_bias"] == pytest.approx(0)
    assert (table["first_place_A"], table["first_place_C"]) == (2 / 5, 1 / 3)


def test_a_missing_order_is_right_about_nothing_and_a_failed_request_counts_nowhere() -> None:
    rows = [Record("A>B>C", "A>B>C"), Record("A>B>C", None), Record("A=B=C", None)]
    table = summarize_rankings([*rows, Record("A>B>C", None, failure="failed")], "ABC")
    assert (table["kendall"], table["pairwise_accuracy"], table["ndcg"]) == (0.5, 0.5, 0.5)
    assert table["edit_distance"] == pytest.approx(2 / 3)
    assert table["first_place_A"] == 1
    empty = summarize_rankings([], "ABC")
    assert empty.keys() == table.keys()
    assert set(empty.values()) == {None}


def test_draws_are_of_clusters_and_shared_by_judges() -> None:
    rng = np.random.default_rng(0)
    orders = [">".join(names) for names in permutations("ABC")]
    truth, said = rng.choice(orders, 60), rng.choice(orders, 60)
    right = [Record(t, t if n % 2 else v) for n, (t, v) in enumerate(zip(truth, said, strict=True))]
    judges = [
        JudgedRows("t", rows, clusters, "ABC")
        for rows in (right, [Record(row.label, row.label) for row in right])
        for clusters in (range(60), [n // 4 for n in range(60)])
    ]
    found = drawn_rankings(judges, resamples=2_000)
    alone, together, perfect, _ = found
    assert tuple(alone) == RANKING_METRICS
    assert [known.clusters for known in alone.values()] == [60] * len(RANKING_METRICS)
    assert [known.clusters for known in together.values()] == [15] * len(RANKING_METRICS)
    for name, value in summarize_rankings(right, "ABC").items():
        if name in RANKING_METRICS:
            draws_B = alone[name].draws_B
            assert alone[name].value == value
            assert draws_B is not None
            if name != "position_bias":
                assert draws_B.mean() == pytest.approx(value, abs=0.02)
    scores = [
        score_order(read_order(row.verdict or ""), read_order(row.label or "")) for row in right
    ]
    error = np.std([score.kendall for score in scores], ddof=1) / np.sqrt(60)
    assert np.std(alone["kendall"].draws_B) == pytest.approx(error, rel=0.1)
    # A judge that is always right has an interval, too; one cluster alone shows no variation.
    assert perfect["kendall"].value == 1
    assert 0.9 < np.quantile(perfect["kendall"].draws_B, 0.05) < 1
    (single,) = drawn_rankings([JudgedRows("t", right[:2], [0, 0], "ABC")], resamples=9)
    assert {known.draws_B for known in single.values()} == {None}


def test_every_pair_counts_alike_however_many_candidates_its_row_has() -> None:
    rows = [Record("A>B", "A>B"), Record("A>B>C>D", "D>C>B>A")] * 50
    (found,) = drawn_rankings([JudgedRows("t", rows, range(100), "ABCD")], resamples=500)
    accuracy = found["pairwise_accuracy"]
    assert accuracy.value == summarize_rankings(rows, "ABCD")["pairwise_accuracy"]
    assert accuracy.value == pytest.approx(1 / 7)
    assert accuracy.draws_B is not None
    assert accuracy.draws_B.mean() == pytest.approx(1 / 7, abs=0.02)


def test_judges_of_the_same_rows_are_drawn_together() -> None:
    rows = [Record("A>B>C", "C>B>A" if n % 3 else "A>B>C") for n in range(300)]
    better = [Record(row.label, row.verdict if n > 9 else "A>B>C") for n, row in enumerate(rows)]
    judges = [JudgedRows("t", each, range(300), "ABC") for each in (rows, better)]
    first, other = (judge["kendall"].draws_B for judge in drawn_rankings(judges, resamples=500))
    assert np.std(other - first) < np.std(first) / 3
