"""Near-duplicates among images: resized, recompressed, slightly cropped or brightened.

Each image has a difference hash of rows and columns (ImageHash) of the whole and of sixteen crops,
because cropping moves everything in an image. Whole images are looked up among the crops of the
others, and what is near is compared in detail (:mod:`.image_alignment`), because images that are
merely similar have near hashes too. Images of one color have nothing to hash: only identical bytes
are found.

Axis suffixes: `N` images, `W` crops of each (the first is the whole), `B` bytes of a hash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtrl_judge.common.progress import ProgressCallback
from mtrl_judge.judge_tasks.images import DECODE_ERRORS, decode

from .hamming_index import Codes, pairs_within
from .image_alignment import Floats, channels, show_the_same

_HASH_BYTES = 16  # 8 × 8 bits of rows and as many of columns
# Of 128 bits. 99 of 100 copies are nearer to a crop of the original (tests/support/images.py); of
# pairs of distinct drawings of the sample corpus, which look much alike, 2 in 10,000 are.
RADIUS = 18
_CUTS = (0.025, 0.075)  # off each side, so that a cut of up to 0.1 is at most 0.025 from one
_SIDE, _CROP_SIDE = 64, 32  # pixels of an image and of a crop of it before hashing
_BOXES = [
    (left * _SIDE, top * _SIDE, (1 - right) * _SIDE, (1 - bottom) * _SIDE)
    for left, top, right, bottom in [(0.0,) * 4, *product(_CUTS, repeat=4)]
]
_MAX_CANDIDATES = 32  # compared in detail with one image
MANY = 1_000
"""Images from which on they are hashed by several processes."""
_FLAT = 2.0  # standard deviation of the luminance of an image of one color, of 255


class NearDuplicate(NamedTuple):
    """Indices of two images that show the same."""

    first: int
    second: int


class Hashes(NamedTuple):
    """The hashes of N images."""

    codes_N_W_B: Codes
    known_N: NDArray[np.bool_]
    """False for images of one color and for those that do not decode, which have no hash."""


def find_near_duplicates(
    first: Sequence[bytes],
    second: Sequence[bytes],
    progress: ProgressCallback = lambda *_: None,
) -> list[NearDuplicate]:
    """Pairs of an image of `first` and one of `second` that are near-duplicates.

    Args:
        first: encoded images, read one by one and more than once; they need not fit in memory.
    """
    total = len(first) + len(second)
    hashes = (
        hash_images(first, lambda done: progress("hashing images", done, total)),
        hash_images(second, lambda done: progress("hashing images", len(first) + done, total)),
    )

    @lru_cache(256)
    def cached_channels(side: int, index: int) -> Floats:
        return channels((first, second)[side][index])

    candidates = near_hashes(*hashes)
    duplicates = []
    for done, (i, j) in enumerate(candidates, 1):
        if show_the_same(cached_channels(0, i), cached_channels(1, j)):
            duplicates.append(NearDuplicate(i, j))
        progress("comparing images", done, len(candidates))
    return duplicates


class DuplicateCheck:
    """Whether two images are near-duplicates, for few pairs of many images.

    What it has read of an image is kept for the next pairs with it.
    """

    def __init__(self) -> None:
        self._codes = lru_cache(4096)(_hash)
        self._channels = lru_cache(256)(channels)

    def same(self, first: bytes, second: bytes) -> bool:
        """As :func:`find_near_duplicates`, for encoded images; equal bytes are the same."""
        if first == second:
            return True
        ours, theirs = self._codes(first), self._codes(second)
        if ours is None or theirs is None:
            return False
        if min(_least_distance(ours, theirs[0]), _least_distance(theirs, ours[0])) > RADIUS:
            return False
        return show_the_same(self._channels(first), self._channels(second))


def _least_distance(codes_W_B: Codes, code_B: Codes) -> int:
    """The least number of bits in which one of W hashes differs from another one."""
    return int(np.unpackbits(codes_W_B ^ code_B, axis=1).sum(axis=1, dtype=np.int64).min())


def hash_images(
    images: Sequence[bytes], progress: Callable[[int], None] = lambda _: None
) -> Hashes:
    """The hashes of encoded images; `progress` is called with how many are done."""
    from joblib import Parallel, delayed

    codes_N_W_B = np.zeros((len(images), len(_BOXES), _HASH_BYTES), dtype=np.uint8)
    known_N = np.zeros(len(images), dtype=bool)
    # Processes and not threads, as most of the work holds Python's lock. A few images are hashed
    # before processes have started.
    parallel = Parallel(n_jobs=-1 if len(images) >= MANY else 1, return_as="generator")
    for index, codes_W_B in enumerate(parallel(delayed(_hash)(data) for data in images)):
        if codes_W_B is not None:
            codes_N_W_B[index], known_N[index] = codes_W_B, True
        progress(index + 1)
    return Hashes(codes_N_W_B, known_N)


def near_hashes(first: Hashes, second: Hashes) -> list[tuple[int, int]]:
    """Pairs of images of which one is near a crop of the other.

    A second image has no more than the nearest _MAX_CANDIDATES.
    """
    import pandas as pd

    pairs = pd.DataFrame({"first": [], "second": [], "distance": []}, dtype=np.int64)
    for cropped, whole, names in (
        (first, second, ("first", "second")),
        (second, first, ("second", "first")),
    ):
        cropped_M, whole_Q = np.flatnonzero(cropped.known_N), np.flatnonzero(whole.known_N)
        crops_M_B = cropped.codes_N_W_B[cropped_M].reshape(-1, _HASH_BYTES)
        for near in pairs_within(crops_M_B, whole.codes_N_W_B[whole_Q, 0], RADIUS):
            images = (cropped_M[near.first // len(_BOXES)], whole_Q[near.second], near.distances)
            more = pd.DataFrame(dict(zip((*names, "distance"), images, strict=True)))
            ordered = pd.concat([pairs, more]).sort_values(["second", "distance", "first"])
            unique = ordered.drop_duplicates(["first", "second"])
            pairs = unique.groupby("second").head(_MAX_CANDIDATES)
    return list(zip(pairs["first"].tolist(), pairs["second"].tolist(), strict=True))


def _hash(data: bytes) -> Codes | None:
    """W × B; None for an image that does not decode or has one color."""
    from imagehash import dhash, dhash_vertical

    try:
        image = decode(data, (2 * _SIDE, 2 * _SIDE)).convert("L")
        light = image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    except DECODE_ERRORS:
        return None
    if np.asarray(light).std() < _FLAT:
        return None
    size = (_CROP_SIDE, _CROP_SIDE)
    crops = [light.resize(size, Image.Resampling.BILINEAR, box=box) for box in _BOXES]
    bits = [np.stack([dhash(crop).hash, dhash_vertical(crop).hash]).reshape(-1) for crop in crops]
    return np.packbits(np.stack(bits), axis=1)
