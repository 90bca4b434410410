"""Votes, compared with brute force over all sets of them."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from mtrl_judge.metrics.voting import Consistency, consistency, vote_curve, vote_shares

CLASSES = ("A", "B", "C")
VOTES = st.lists(st.sampled_from([*CLASSES, None]), max_size=7)


def votes_of(rows: int, votes: int, draw: Random) -> tuple[list[list[str | None]], list[str]]:
    """Votes that are correct about half of the time, and the labels."""
    labels = [draw.choice(CLASSES) for _ in range(rows)]
    said = [[draw.choice([label, label, *CLASSES, None]) for _ in range(votes)] for label in labels]
    return said, labels


def majority(votes: list[str | None]) -> str | None:
    """The verdict that is more frequent than each of the others."""
    counts = Counter(vote for vote in votes if vote is not None)
    winners = [name for name, n in counts.items() if n == max(counts.values())]
    return winners[0] if len(winners) == 1 else None


@given(VOTES)
def test_shares_are_of_the_votes_that_are_not_missing(votes: list[str | None]) -> None:
    shares = vote_shares(votes, CLASSES)
    named = Counter(vote for vote in votes if vote is not None)
    if not named:
        assert shares is None
        return
    assert shares is not None
    assert shares == {name: pytest.approx(named[name] / named.total()) for name in CLASSES}
    best = majority(votes)
    assert best is None or max(shares, key=shares.__getitem__) == best


@given(st.lists(VOTES, max_size=8))
def test_consistency_by_every_pair(votes_N: list[list[str | None]]) -> None:
    several = [votes for votes in votes_N if len(votes) > 1]
    found = consistency(votes_N)
    if not several:
        assert found == Consistency(None, None)
        return
    shares = [
        sum(a == b for a, b in combinations(votes, 2)) / len(list(combinations(votes, 2)))
        for votes in several
    ]
    assert found.pairwise == pytest.approx(sum(shares) / len(several))
    assert found.unanimous == sum(len({*votes}) == 1 for votes in several) / len(several)


def test_consistency_is_the_observed_agreement_of_fleiss() -> None:
    """κ = (P - P_e) / (1 - P_e), and with as many categories as equal chance P_e is known."""
    votes_N, _ = votes_of(60, 5, Random(0))
    names = [*CLASSES, None]
    codes = [[names.index(vote) for vote in votes] for votes in votes_N]
    table, _ = aggregate_raters(codes)
    kappa = fleiss_kappa(table, method="randolph")
    by_chance = 1 / table.shape[1]
    expected = kappa * (1 - by_chance) + by_chance
    assert consistency(votes_N).pairwise == pytest.approx(expected)


@pytest.mark.parametrize("votes", [1, 2, 5])
def test_the_curve_is_the_mean_over_all_sets_of_runs(votes: int) -> None:
    votes_N, labels = votes_of(40, votes, Random(votes))

    def score(runs: tuple[int, ...]) -> float:
        said = [majority([row[run] for run in runs]) or "none" for row in votes_N]
        f1 = f1_score(labels, said, labels=CLASSES, average="macro", zero_division=0)
        return float(f1)

    sets = [list(combinations(range(votes), size)) for size in range(1, votes + 1)]
    expected = [sum(map(score, runs)) / len(runs) for runs in sets]
    # An unlabeled row changes nothing.
    found = vote_curve([*votes_N, ["A"] * votes], [*labels, None], CLASSES)
    assert found == pytest.approx(expected)
    drawn = vote_curve(votes_N, labels, CLASSES, draws=4, seed=1)
    assert drawn == vote_curve(votes_N, labels, CLASSES, draws=4, seed=1)
    assert drawn is not None
    assert drawn[-1] == pytest.approx(expected[-1])


def test_a_row_counts_in_the_sets_in_which_it_has_a_vote() -> None:
    votes_N = [["A", "B", "B"], ["B", "B"], ["C"], []]  # three, two, one and no request answered
    labels = ["B", "B", "C", "A"]

    def score(runs: tuple[int, ...]) -> float:
        chosen = [[row[run] for run in runs if run < len(row)] for row in votes_N]
        rows = [(label, votes) for label, votes in zip(labels, chosen, strict=True) if votes]
        said = [majority(votes) or "none" for _, votes in rows]
        truth = [label for label, _ in rows]
        f1 = f1_score(truth, said, labels=CLASSES, average="macro", zero_division=0)
        return float(f1)

    sets = [list(combinations(range(3), size)) for size in (1, 2, 3)]
    expected = [sum(map(score, runs)) / len(runs) for runs in sets]
    assert vote_curve(votes_N, labels, CLASSES) == pytest.approx(expected)
    assert vote_shares([], CLASSES) is None


def test_random_sets_approximate_all_sets() -> None:
    votes_N, labels = votes_of(200, 12, Random(0))
    exact = vote_curve(votes_N, labels, CLASSES, draws=1000)
    drawn = vote_curve(votes_N, labels, CLASSES, draws=100)
    assert exact == pytest.approx(drawn, abs=0.01)
    assert exact is not None
    assert len(exact) == 12
    assert exact[-1] > exact[0] + 0.2


def test_no_rows_no_labels_and_only_missing_votes() -> None:
    assert vote_curve([], [], CLASSES) is None
    assert vote_curve([["A"]], [None], CLASSES) is None
    assert vote_curve([[None, None]], ["A"], CLASSES) == (0.0, 0.0)
    assert vote_curve([["only"]], ["only"], ("only",)) == (1.0,)
    assert vote_curve([[], []], ["A", "B"], CLASSES) == ()
    assert vote_shares([None], CLASSES) is None


def test_faults_are_reported() -> None:
    with pytest.raises(ValueError, match="1 labels for the votes of 2 rows"):
        vote_curve([["A"], ["A"]], ["A"], CLASSES)
    with pytest.raises(ValueError, match="'D' is none of"):
        vote_curve([["A"]], ["D"], CLASSES)
    with pytest.raises(ValueError, match="'D' is none of"):
        vote_shares(["D"], CLASSES)
    with pytest.raises(ValueError, match="draws is 0"):
        vote_curve([["A"]], ["A"], CLASSES, draws=0)
