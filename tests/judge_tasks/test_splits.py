"""Splits made from one: exact, stable, grouped, stratified."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mtrl_judge.judge_tasks.splits import cut_folds

items = st.lists(st.text(max_size=8), unique=True, min_size=1, max_size=80)


@given(items, st.integers(), st.floats(0.05, 0.45), st.randoms())
def test_exact_and_free_of_row_order(
    ids: list[str], seed: int, fraction: float, shuffler: random.Random
) -> None:
    fractions = {"validation": fraction, "test": fraction}
    folds = dict(zip(ids, cut_folds(ids, fractions, seed), strict=True))
    counts = Counter(folds.values())
    assert counts["test"] == counts["validation"] == round(len(ids) * fraction)
    shuffled = shuffler.sample(ids, len(ids))
    assert dict(zip(shuffled, cut_folds(shuffled, fractions, seed), strict=True)) == folds


@given(items, st.data())
def test_no_group_stands_in_two_splits(ids: list[str], data: st.DataObject) -> None:
    groups = [data.draw(st.integers(0, 9)) for _ in ids]
    folds = cut_folds(ids, {"validation": 0.2, "test": 0.2}, 0, groups_N=groups)
    assert all(
        len({fold for fold, g in zip(folds, groups, strict=True) if g == group}) == 1
        for group in set(groups)
    )


@given(items, st.data())
def test_strata_keep_their_shares(ids: list[str], data: st.DataObject) -> None:
    strata = [data.draw(st.sampled_from("ab")) for _ in ids]
    folds = cut_folds(ids, {"test": 0.25}, 0, strata_N=strata)
    assert folds.count("test") == round(len(ids) * 0.25)
    for stratum in set(strata):
        got = sum(f == "test" for f, s in zip(folds, strata, strict=True) if s == stratum)
        assert abs(got - 0.25 * strata.count(stratum)) <= 1


def test_the_papers_sizes() -> None:
    """UnsafeBench 7,298/811 and AGIN 4,839/605/605 (arXiv 2603.11665)."""
    ids = [str(i) for i in range(8109)]
    strata = ["Unsafe" if i % 5 < 2 else "Safe" for i in range(8109)]
    folds = cut_folds(ids, {"validation": 0.1}, 0, strata_N=strata)
    assert Counter(folds) == {None: 7298, "validation": 811}
    agin = cut_folds([str(i) for i in range(6049)], {"validation": 0.1, "test": 0.1}, 0)
    assert Counter(agin) == {None: 4839, "validation": 605, "test": 605}


def test_another_seed_cuts_otherwise() -> None:
    ids = [str(i) for i in range(50)]
    assert cut_folds(ids, {"test": 0.5}, 0) != cut_folds(ids, {"test": 0.5}, 1)
