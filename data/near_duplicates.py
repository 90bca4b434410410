"""Near copies of pictures: resized, recompressed, a little cropped or brightened.

Each picture has the difference hashes of its rows and columns (ImageHash) as a whole and of sixteen
crops, as a crop moves everything in it. Wholes are looked up among the others' crops, and what lies
near is compared in detail (:mod:`.aligned`): pictures that are only alike have near hashes too.
Pictures of one colour have nothing to hash and are left to their bytes.

Axis suffixes: `N` pictures, `W` crops of each (the first is the whole), `B` bytes of a hash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtrl_judge.common.progress import ProgressCallback
from mtrl_judge.judge_tasks.images import decode

from .hamming_index import Codes, within
from .image_alignment import Floats, channels, same_picture

if TYPE_CHECKING:
    import pandas as pd

_BYTES = 16  # of a hash: 8 × 8 bits of rows and as many of columns
# Of 128 bits. 99 of 100 copies lie nearer to one crop of the original (tests/support/images.py);
# of pairs of distinct drawings of the sample, which are much alike, 2 in 10,000 do.
RADIUS = 18
_CUTS = (0.025, 0.075)  # off each side, so that a cut of up to a tenth is at most 0.025 from one
_SIDE, _CROP = 64, 32  # pixels of what is kept of a picture, and of a crop of it
_NEAREST = 32  # that are compared in detail with one picture
MANY = 1_000  # pictures that more processes than one are begun for
_FLAT = 2.0  # standard deviation of light, of 255


class NearCopy(NamedTuple):
    """Places of two pictures that show the same."""

    first: int
    second: int


class Hashes(NamedTuple):
    """What is looked up; a flat or undecodable picture has none."""

    codes_N_W_B: Codes
    known_N: NDArray[np.bool_]


def near_copies(
    first: Sequence[bytes], second: Sequence[bytes], progress: ProgressCallback = lambda *_: None
) -> list[NearCopy]:
    """The pictures of `second` that are near copies of one of `first`, or the other way round.

    Args:
        first: encoded pictures, read one by one and more than once; need not fit in memory.
    """
    total = len(first) + len(second)
    hashes = (
        picture_hashes(first, lambda done: progress("hashing pictures", done, total)),
        picture_hashes(second, lambda done: progress("hashing pictures", len(first) + done, total)),
    )

    @lru_cache(256)
    def detail(which: int, place: int) -> Floats:
        return channels((first, second)[which][place])

    candidates = near_hashes(*hashes)
    found = []
    for done, (one, other) in enumerate(candidates, 1):
        if same_picture(detail(0, one), detail(1, other)):
            found.append(NearCopy(one, other))
        progress("comparing pictures", done, len(candidates))
    return found


def picture_hashes(
    pictures: Sequence[bytes], progress: Callable[[int], None] = lambda _: None
) -> Hashes:
    """The hashes of encoded pictures; `progress` is called with how many are done."""
    from joblib import Parallel, delayed

    codes_N_W_B = np.zeros((len(pictures), len(_BOXES), _BYTES), dtype=np.uint8)
    known_N = np.zeros(len(pictures), dtype=bool)
    # Processes, as most of it holds Python's lock; few pictures are done before those have begun.
    hashed = Parallel(n_jobs=-1 if len(pictures) >= MANY else 1, return_as="generator")
    for place, codes_W_B in enumerate(hashed(delayed(_hashed)(data) for data in pictures)):
        if codes_W_B is not None:
            codes_N_W_B[place], known_N[place] = codes_W_B, True
        progress(place + 1)
    return Hashes(codes_N_W_B, known_N)


def near_hashes(first: Hashes, second: Hashes) -> list[tuple[int, int]]:
    """Pairs of pictures of which one lies near a crop of the other: of each second the nearest."""
    import pandas as pd

    pairs = pd.DataFrame({"first": [], "second": [], "distance": []}, dtype=np.int64)
    for among, whole, names in (
        (first, second, ("first", "second")),
        (second, first, ("second", "first")),
    ):
        owners, wholes = np.flatnonzero(among.known_N), np.flatnonzero(whole.known_N)
        codes_M_B = among.codes_N_W_B[owners].reshape(-1, _BYTES)
        for near in within(codes_M_B, whole.codes_N_W_B[wholes, 0], RADIUS):
            places = (owners[near.known // len(_BOXES)], wholes[near.asked], near.distances)
            more = pd.DataFrame(dict(zip((*names, "distance"), places, strict=True)))
            pairs = _nearest(pd.concat([pairs, more]))
    return list(zip(pairs["first"].tolist(), pairs["second"].tolist(), strict=True))


def _nearest(pairs: pd.DataFrame) -> pd.DataFrame:
    """Each pair once; of each second picture no more than are compared with it."""
    ordered = pairs.sort_values(["second", "distance", "first"])
    return ordered.drop_duplicates(["first", "second"]).groupby("second").head(_NEAREST)


def _boxes() -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of the whole and of its crops."""
    cuts = [(0.0, 0.0, 0.0, 0.0), *product(_CUTS, repeat=4)]
    return [(a * _SIDE, b * _SIDE, (1 - c) * _SIDE, (1 - d) * _SIDE) for a, b, c, d in cuts]


_BOXES = _boxes()


def _hashed(data: bytes) -> Codes | None:
    """W × B; None where there is nothing to see."""
    from imagehash import dhash, dhash_vertical

    try:
        picture = decode(data, (2 * _SIDE, 2 * _SIDE)).convert("L")
        light = picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return None
    if np.asarray(light).std() < _FLAT:
        return None
    crops = [light.resize((_CROP, _CROP), Image.Resampling.BILINEAR, box=box) for box in _BOXES]
    bits = [np.stack([dhash(crop).hash, dhash_vertical(crop).hash]).reshape(-1) for crop in crops]
    return np.packbits(np.stack(bits), axis=1)
