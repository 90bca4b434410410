"""The pairs that are found are those that comparing all pairs finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtrl_judge.data import hamming_index as hamming
from mtrl_judge.data.hamming_index import Codes, pairs_within

CERTAIN = 15  # of 8 parts of 16 bits


def flipped(draw: np.random.Generator, codes_N_B: Codes, most: int) -> Codes:
    """The codes, each with up to `most` bits flipped."""
    bits = np.unpackbits(codes_N_B, axis=1)
    for row in bits:
        row[draw.choice(bits.shape[1], draw.integers(0, most + 1), replace=False)] ^= 1
    return np.packbits(bits, axis=1)


def pairs_of(known: Codes, asked: Codes, radius: int) -> dict[tuple[int, int], int]:
    pairs: dict[tuple[int, int], int] = {}
    for near in pairs_within(known, asked, radius):
        for i, j, distance in zip(*near, strict=True):
            assert pairs.setdefault((int(i), int(j)), int(distance)) == distance
    return pairs


def by_brute_force(known: Codes, asked: Codes, radius: int) -> dict[tuple[int, int], int]:
    differing = np.unpackbits(known[:, None] ^ asked[None], axis=2).sum(axis=2)
    return {(int(i), int(j)): int(differing[i, j]) for i, j in np.argwhere(differing <= radius)}


@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(0, 20), st.sampled_from([1, 7, 1000]))
def test_all_pairs_up_to_the_certain_radius_are_found(
    seed: int, n: int, more: int, block: int
) -> None:
    draw = np.random.default_rng(seed)
    known = draw.integers(0, 256, (n, 16), dtype=np.uint8)
    asked = np.concatenate([flipped(draw, known, 24), known[:more]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming, "BLOCK", block)
        for radius in (0, 7, CERTAIN):
            assert pairs_of(known, asked, radius) == by_brute_force(known, asked, radius)


def test_slightly_beyond_it_nearly_all_are_found() -> None:
    draw = np.random.default_rng(0)
    known = draw.integers(0, 256, (3_000, 16), dtype=np.uint8)
    asked = flipped(draw, known, 18)
    wanted = by_brute_force(known[:300], asked[:300], 18)
    pairs = pairs_of(known[:300], asked[:300], 18)
    assert pairs.items() <= wanted.items()
    assert len(pairs) >= 0.98 * len(wanted)


def test_without_codes_there_are_no_pairs() -> None:
    none, some = np.zeros((0, 16), dtype=np.uint8), np.zeros((2, 16), dtype=np.uint8)
    assert pairs_of(none, some, 3) == pairs_of(some, none, 3) == {}
