"""Cycles among comparisons, against counting them one by one."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtrl_judge.metrics.triples import Compared, intransitive_triples

exactly = settings(derandomize=True, deadline=None)
COMPARED = st.builds(
    Compared,
    st.sampled_from("pq"),
    st.sampled_from("abcde"),
    st.sampled_from("abcde"),
    st.sampled_from([-1, 0, 1]),
)


def preferred(rows: list[Compared], cluster: str, one: str, other: str) -> int:
    """1, -1 or 0: by the majority of the comparisons of two candidates."""
    total = sum(row.side for row in rows if row[:3] == (cluster, one, other))
    total -= sum(row.side for row in rows if row[:3] == (cluster, other, one))
    return (total > 0) - (total < 0)


@exactly
@given(st.lists(COMPARED, max_size=40))
def test_triples_by_brute_force(rows: list[Compared]) -> None:
    found = []
    for cluster in "pq":
        for a, b, c in combinations("abcde", 3):
            sides = [preferred(rows, cluster, *two) for two in ((a, b), (b, c), (c, a))]
            if 0 not in sides:
                found.append(abs(sum(sides)) == 3)
    triples = intransitive_triples(rows)
    assert triples == (sum(found), len(found))
    assert triples.share == (pytest.approx(sum(found) / len(found)) if found else None)


def test_an_order_has_no_cycles_and_a_balanced_pair_no_preference() -> None:
    order = [Compared("p", a, b, 1) for a, b in combinations("abcde", 2)]
    assert intransitive_triples(order) == (0, 10)
    # Both orders of a pair that disagree leave its three triples undecided.
    assert intransitive_triples([*order, Compared("p", "b", "a", 1)]) == (0, 7)
