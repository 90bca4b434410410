"""Several votes of a judge on the same row: their majority, and how consistent they are.

A vote is a verdict or None, no verdict. A request that failed is no vote, so rows can have
different numbers of votes. Axis suffixes: `N` rows, `V` votes of a row, `C` the task's verdicts in
their order, `C1` the same and then "no verdict".
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb, fsum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl_judge.common.hashing import stable_hash

from .rates import Counts, class_indices, macro_f1


class Consistency(NamedTuple):
    """Shares over the rows with two or more votes; None without such rows."""

    pairwise: float | None
    """Mean share of a row's pairs of votes that agree."""
    unanimous: float | None
    """Share of rows in which all votes agree."""


def vote_shares(votes: Sequence[str | None], classes: Sequence[str]) -> dict[str, float] | None:
    """The share of each verdict among the votes that are not missing; None if all are missing.

    Raises:
        ValueError: a vote is not one of `classes`.
    """
    counts_C = _onehot([votes], classes).sum(axis=(0, 1))
    if not counts_C.any():
        return None
    shares_C = counts_C / counts_C.sum()
    return dict(zip(classes, shares_C.tolist(), strict=True))


def weighted_majority(votes: Sequence[str | None], weights: Sequence[float]) -> str | None:
    """The verdict with the greatest weight of votes, of several the one that was voted first; None
    if all votes are missing.

    >>> weighted_majority(["No", "Yes", None, "No"], [0.4, 0.9, 1.0, 0.4])
    'Yes'
    """
    totals: defaultdict[str, list[float]] = defaultdict(list)
    for vote, weight in zip(votes, weights, strict=True):
        if vote is not None:
            totals[vote].append(weight)
    # `fsum` does not depend on the order of the votes.
    return max(totals, key=lambda vote: fsum(totals[vote]), default=None)


def consistency(votes_N: Sequence[Sequence[str | None]]) -> Consistency:
    """How far the votes of a row agree; a missing vote counts as one more verdict."""
    counts_N = [Counter(votes) for votes in votes_N if len(votes) > 1]
    if not counts_N:
        return Consistency(None, None)
    agreeing = [
        sum(comb(count, 2) for count in counts.values()) / comb(counts.total(), 2)
        for counts in counts_N
    ]
    unanimous = sum(len(counts) == 1 for counts in counts_N)
    return Consistency(sum(agreeing) / len(counts_N), unanimous / len(counts_N))


def vote_curve(
    votes_N: Sequence[Sequence[str | None]],
    labels: Sequence[str | None],
    classes: Sequence[str],
    *,
    draws: int = 200,
    seed: int = 0,
) -> tuple[float, ...] | None:
    """Macro-F1 of the majority of 1, 2, … V votes per row.

    The v-th votes of all rows are one run of the judge. Each value is the mean over the sets of
    that many runs: over all sets if there are at most `draws`, else over random ones. The majority
    is the most frequent verdict; missing votes do not count, and a tie is no verdict. A row without
    any vote in a set of runs is left out of it.

    Args:
        votes_N: at most V votes for each row.
        labels: one for each row; rows without one (None) are left out.

    Returns:
        None without labeled rows.

    Raises:
        ValueError: a label or vote is not one of `classes`.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}; expected at least 1")
    n_votes = max(map(len, votes_N), default=0)
    if len(labels) != len(votes_N):
        raise ValueError(f"{len(labels)} labels for the votes of {len(votes_N)} rows")
    labeled = [row for row, label in enumerate(labels) if label is not None]
    if not labeled:
        return None
    padded = [[*votes_N[row], *[None] * (n_votes - len(votes_N[row]))] for row in labeled]
    votes_N_V_C = _onehot(padded, classes)
    counts_N = np.array([len(votes_N[row]) for row in labeled])
    voted_N_V = np.arange(n_votes) < counts_N[:, None]
    labels_N = _onehot([[labels[row]] for row in labeled], classes)[:, 0].argmax(axis=-1)
    curve = []
    for sets in _sets_of_runs(n_votes, draws, seed):
        counts = [
            _confusion(votes_N_V_C[voted_N][:, runs].sum(axis=1), labels_N[voted_N])
            for runs in sets
            for voted_N in [voted_N_V[:, runs].any(axis=1)]
        ]
        curve.append(float(macro_f1(np.stack(counts)).mean()))
    return tuple(curve)


def _sets_of_runs(n_runs: int, draws: int, seed: int) -> Iterator[list[list[int]]]:
    """For sizes 1, 2, … n_runs, sets of that many runs."""
    rng = np.random.default_rng(stable_hash("votes", seed) % 2**63)
    # The same orders for all sizes, so that the curve does not jump from one to the next.
    orders = rng.permuted(np.tile(np.arange(n_runs), (draws, 1)), axis=1).tolist()
    for size in range(1, n_runs + 1):
        if comb(n_runs, size) <= draws:
            yield [list(runs) for runs in combinations(range(n_runs), size)]
        else:
            yield [order[:size] for order in orders]


def _confusion(votes_N_C: Counts, labels_N: NDArray[np.int64]) -> Counts:
    """Counts of (label, majority), C × C1."""
    classes = votes_N_C.shape[1]
    most_N = votes_N_C.max(axis=1)
    decided_N = ((votes_N_C == most_N[:, None]).sum(axis=1) == 1) & (most_N > 0)
    majority_N = np.where(decided_N, votes_N_C.argmax(axis=1), classes)
    counts_C_C1 = np.zeros((classes, classes + 1), dtype=np.int64)
    np.add.at(counts_C_C1, (labels_N, majority_N), 1)
    return counts_C_C1


def _onehot(votes_N: Sequence[Sequence[str | None]], classes: Sequence[str]) -> Counts:
    """1 for the verdict of each vote, N × V × C; a missing vote has none."""
    codes_N_V = np.array(class_indices(votes_N, classes), dtype=np.int64).reshape(len(votes_N), -1)
    onehot_N_V_C: Counts = (codes_N_V[:, :, None] == np.arange(len(classes))).astype(np.int64)
    return onehot_N_V_C
