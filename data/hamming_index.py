"""Finds binary codes within a Hamming distance of each other without comparing all pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Codes: TypeAlias = NDArray[np.uint8]
Indices: TypeAlias = NDArray[np.int64]

_PART_BITS = 16
_MASKS = (0, *(1 << bit for bit in range(_PART_BITS)))
BLOCK = 1 << 22
"""Pairs that are compared at once, roughly."""


class CodePairs(NamedTuple):
    """Indices of two codes and their distance; three arrays of one length."""

    first: Indices
    second: Indices
    distances: Indices


def pairs_within(first_M_B: Codes, second_N_B: Codes, radius: int) -> Iterator[CodePairs]:
    """Pairs at a Hamming distance of at most `radius`; a pair may be yielded more than once.

    Codes of `P` parts of 16 bits that differ in fewer than `2 · P` bits have a part in which they
    differ in at most one bit. Only codes with such a part are compared (multi-index hashing,
    Norouzi et al. 2012, arXiv 1307.2982), so every pair up to that distance is found, and nearly
    all at slightly larger distances.

    Args:
        first_M_B: codes of `B` bytes, a multiple of 8.
    """
    first_M, second_N = (
        np.ascontiguousarray(codes).view(np.uint64) for codes in (first_M_B, second_N_B)
    )
    first_P_M, second_P_N = (codes.view(np.uint16).T for codes in (first_M, second_N))
    for part_M, part_N in zip(first_P_M, second_P_N, strict=True):
        # starts[key] : starts[key + 1] are the positions in the order of the codes with that part.
        order_M = np.argsort(part_M, kind="stable")
        starts = np.searchsorted(part_M[order_M], np.arange((1 << _PART_BITS) + 1))
        for mask in _MASKS:
            keys_N = (part_N ^ np.uint16(mask)).astype(np.int64)
            counts_N = starts[keys_N + 1] - starts[keys_N]
            blocks_N = np.cumsum(counts_N) // BLOCK
            for block in np.split(np.arange(len(keys_N)), np.flatnonzero(np.diff(blocks_N)) + 1):
                second = np.repeat(block, counts_N[block])
                first = order_M[_ranges(starts[keys_N[block]], counts_N[block])]
                distances = np.bitwise_count(first_M[first] ^ second_N[second]).sum(axis=1)
                near = distances <= radius
                if near.any():
                    yield CodePairs(first[near], second[near], distances[near].astype(np.int64))


def _ranges(starts: Indices, counts: Indices) -> Indices:
    """`counts[i]` consecutive integers from `starts[i]`, one range after the other.

    >>> _ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())
