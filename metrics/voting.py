"""Several votes of a judge on the same row: what they say together, and how they vary.

A vote is a verdict or None, no verdict. Axis suffixes: `N` rows, `V` votes of a row, `C` the task's
verdicts in their order, `C1` the same and then "no verdict".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl_judge.common.hashing import stable_hash

from .rates import Counts, class_indices, macro_f1


class Consistency(NamedTuple):
    """Shares over the rows with two votes or more; None where there are none."""

    pairwise: float | None
    """Mean share of the pairs of votes of a row that agree."""
    unanimous: float | None
    """Share of rows with all votes the same."""


def majority(votes: Sequence[str | None]) -> str | None:
    """The most frequent verdict; missing votes have no say, and a tie is no verdict.

    >>> majority(["Yes", None, "No", "Yes"]), majority(["Yes", "No", None])
    ('Yes', None)
    """
    ranked = Counter(vote for vote in votes if vote is not None).most_common(2)
    if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def vote_shares(votes: Sequence[str | None], classes: Sequence[str]) -> dict[str, float] | None:
    """A probability of each verdict, its share of the votes that name one; None where none does.

    Raises:
        ValueError: A vote is none of `classes`.
    """
    counts_C = _named([votes], classes).sum(axis=(0, 1))
    if not counts_C.any():
        return None
    shares_C = counts_C / counts_C.sum()
    return dict(zip(classes, shares_C.tolist(), strict=True))


def consistency(votes_N: Sequence[Sequence[str | None]]) -> Consistency:
    """How far the votes of a row agree; a missing vote is a vote of its own kind."""
    kinds_N = [Counter(votes) for votes in votes_N if len(votes) > 1]
    if not kinds_N:
        return Consistency(None, None)
    agreeing = [
        sum(comb(count, 2) for count in kinds.values()) / comb(kinds.total(), 2)
        for kinds in kinds_N
    ]
    unanimous = sum(len(kinds) == 1 for kinds in kinds_N)
    return Consistency(sum(agreeing) / len(kinds_N), unanimous / len(kinds_N))


def vote_curve(
    votes_N: Sequence[Sequence[str | None]],
    labels: Sequence[str | None],
    classes: Sequence[str],
    *,
    draws: int = 200,
    seed: int = 0,
) -> tuple[float, ...] | None:
    """Macro-F1 of the majority of 1, 2, … V votes a row; the last is that of all of them.

    The v-th votes of all rows are one run of the judge. Each value is the mean over the sets of so
    many runs: all of them where there are no more than `draws`, else `draws` random ones.

    Args:
        votes_N: V votes for each row.
        labels: one for each row; rows without one (None) are left out.

    Returns:
        None without labeled rows.

    Raises:
        ValueError: A row has fewer votes than another, or a label or vote is none of `classes`.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}; at least one set of votes must be drawn")
    most = max(map(len, votes_N), default=0)
    for row, votes in enumerate(votes_N):
        if len(votes) < most:
            raise ValueError(f"row {row} has {len(votes)} votes, another {most}; give all as many")
    labeled = [row for row, label in enumerate(labels) if label is not None]
    if len(labels) != len(votes_N):
        raise ValueError(f"{len(labels)} labels for the votes of {len(votes_N)} rows")
    if not labeled:
        return None
    named_N_V_C = _named([votes_N[row] for row in labeled], classes)
    labels_N = _named([[labels[row]] for row in labeled], classes)[:, 0].argmax(axis=-1)
    curve = []
    for runs in _sets_of_runs(most, draws, seed):
        drawn = [_confusion(named_N_V_C[:, own].sum(axis=1), labels_N) for own in runs]
        curve.append(float(macro_f1(np.stack(drawn)).mean()))
    return tuple(curve)


def _sets_of_runs(most: int, draws: int, seed: int) -> Iterator[list[list[int]]]:
    """For 1, 2, … `most` runs, the sets of so many of them."""
    rng = np.random.default_rng(stable_hash("votes", seed) % 2**63)
    # The same orders for all sizes, so that the curve does not jump from one to the next.
    orders = rng.permuted(np.tile(np.arange(most), (draws, 1)), axis=1).tolist()
    for size in range(1, most + 1):
        if comb(most, size) <= draws:
            yield [list(runs) for runs in combinations(range(most), size)]
        else:
            yield [order[:size] for order in orders]


def _confusion(votes_N_C: Counts, labels_N: NDArray[np.int64]) -> Counts:
    """Counts of (label, majority), C × C1."""
    classes = votes_N_C.shape[1]
    best_N = votes_N_C.max(axis=1)
    decided_N = ((votes_N_C == best_N[:, None]).sum(axis=1) == 1) & (best_N > 0)
    said_N = np.where(decided_N, votes_N_C.argmax(axis=1), classes)
    counts_C_C1 = np.zeros((classes, classes + 1), dtype=np.int64)
    np.add.at(counts_C_C1, (labels_N, said_N), 1)
    return counts_C_C1


def _named(votes_N: Sequence[Sequence[str | None]], classes: Sequence[str]) -> Counts:
    """1 where a vote names a verdict, N × V × C; all rows have as many votes."""
    places_N_V = np.array(class_indices(votes_N, classes), dtype=np.int64).reshape(len(votes_N), -1)
    named_N_V_C: Counts = (places_N_V[:, :, None] == np.arange(len(classes))).astype(np.int64)
    return named_N_V_C
