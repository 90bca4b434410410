"""Codes of bits that are near one another, found without comparing each with each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Codes: TypeAlias = NDArray[np.uint8]
Places: TypeAlias = NDArray[np.int64]

_PART_BITS = 16
_MASKS = (0, *(1 << bit for bit in range(_PART_BITS)))
BLOCK = 1 << 22  # pairs compared at once


class Near(NamedTuple):
    """Pairs of codes, three arrays of one length."""

    known: Places
    asked: Places
    distances: Places


def within(known_M_B: Codes, asked_Q_B: Codes, radius: int) -> Iterator[Near]:
    """Pairs at a Hamming distance of at most `radius`; a pair may come more than once.

    Codes of `P` parts of 16 bits that differ in less than `2 · P` bits have a part in which they
    differ in one bit at most: only codes with such a part are compared (multi-index hashing,
    Norouzi et al. 2012, arXiv 1307.2982). So all pairs come up to that distance, and nearly all a
    little beyond it.

    Args:
        known_M_B: codes of `B` bytes each, a multiple of 8.
    """
    known_M, asked_Q = _words(known_M_B), _words(asked_Q_B)
    known_M_P, asked_Q_P = (codes.view(np.uint16) for codes in (known_M, asked_Q))
    for known_part_M, asked_part_Q in zip(known_M_P.T, asked_Q_P.T, strict=True):
        order_M = np.argsort(known_part_M, kind="stable")
        starts = np.searchsorted(known_part_M[order_M], np.arange((1 << _PART_BITS) + 1))
        for mask in _MASKS:
            keys_Q = (asked_part_Q ^ np.uint16(mask)).astype(np.int64)
            counts_Q = starts[keys_Q + 1] - starts[keys_Q]
            for block in _blocks(counts_Q):
                asked = np.repeat(np.arange(block.start, block.stop), counts_Q[block])
                known = order_M[_ranges(starts[keys_Q[block]], counts_Q[block])]
                distances = np.bitwise_count(known_M[known] ^ asked_Q[asked]).sum(axis=1)
                near = distances <= radius
                if near.any():
                    yield Near(known[near], asked[near], distances[near].astype(np.int64))


def _words(codes_N_B: Codes) -> NDArray[np.uint64]:
    return np.ascontiguousarray(codes_N_B).view(np.uint64)


def _blocks(counts_Q: Places) -> Iterator[slice]:
    """Slices whose counts add up to a block at most, or of one count that is larger."""
    ends_Q = np.cumsum(counts_Q)
    start = done = 0
    while start < len(counts_Q):
        stop = max(start + 1, int(np.searchsorted(ends_Q, done + BLOCK, side="right")))
        yield slice(start, stop)
        start, done = stop, int(ends_Q[stop - 1])


def _ranges(starts: Places, counts: Places) -> Places:
    """For each start as many whole numbers from there on as its count.

    >>> _ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())
