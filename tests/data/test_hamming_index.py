"""Near codes are those that comparing each with each finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtrl_judge.data import hamming_index as hamming
from mtrl_judge.data.hamming_index import Codes, pairs_within

CERTAIN = 15  # of 8 parts of 16 bits


def flipped(draw: np.random.Generator, codes_N_B: Codes, most: int) -> Codes:
    """The codes, each with up to so many bits the other way."""
    bits = np.unpackbits(codes_N_B, axis=1)
    for row in bits:
        row[draw.choice(bits.shape[1], draw.integers(0, most + 1), replace=False)] ^= 1
    return np.packbits(bits, axis=1)


def found(known: Codes, asked: Codes, radius: int) -> dict[tuple[int, int], int]:
    pairs: dict[tuple[int, int], int] = {}
    for near in pairs_within(known, asked, radius):
        for one, other, distance in zip(*near, strict=True):
            assert pairs.setdefault((int(one), int(other)), int(distance)) == distance
    return pairs


def by_each_with_each(known: Codes, asked: Codes, radius: int) -> dict[tuple[int, int], int]:
    differing = np.unpackbits(known[:, None] ^ asked[None], axis=2).sum(axis=2)
    return {(int(i), int(j)): int(differing[i, j]) for i, j in np.argwhere(differing <= radius)}


@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(0, 20), st.sampled_from([1, 7, 1000]))
def test_all_that_is_near_is_found(seed: int, n: int, more: int, block: int) -> None:
    draw = np.random.default_rng(seed)
    known = draw.integers(0, 256, (n, 16), dtype=np.uint8)
    asked = np.concatenate([flipped(draw, known, 24), known[:more]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming, "BLOCK", block)
        for radius in (0, 7, CERTAIN):
            assert found(known, asked, radius) == by_each_with_each(known, asked, radius)


def test_a_little_farther_nearly_all_is_found() -> None:
    draw = np.random.default_rng(0)
    known = draw.integers(0, 256, (3_000, 16), dtype=np.uint8)
    asked = flipped(draw, known, 18)
    wanted = by_each_with_each(known[:300], asked[:300], 18)
    there = found(known[:300], asked[:300], 18)
    assert there.items() <= wanted.items()
    assert len(there) >= 0.98 * len(wanted)


def test_without_codes_there_is_nothing() -> None:
    none, some = np.zeros((0, 16), dtype=np.uint8), np.zeros((2, 16), dtype=np.uint8)
    assert found(none, some, 3) == found(some, none, 3) == {}
