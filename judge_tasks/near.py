"""Near copies of pictures: resized, recompressed, a little cropped or brightened.

A picture's descriptor is its lowest cosine frequencies, of light and of colour, as in MPEG-7's
Colour Layout Descriptor. A crop moves everything in it, so one of the two pictures has a
descriptor for each of a few crops of it as well; a k-d tree finds what lies near, and each find is
then compared in detail, aligned. Pictures of one colour have nothing to compare and are left to
their bytes.

Axis suffixes: `N` pictures, `W` crops of each (the first is the whole), `F` frequencies, `C` light
and the two of colour, `Y`, `X` rows and columns of a picture.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .images import decode

Floats: TypeAlias = NDArray[np.floating[Any]]
Cut: TypeAlias = tuple[float, float]
"""Shares of a side that are cut off before and after."""

# 99 of 100 copies lie nearer to one crop of the original (benchmarks/data.py); of distinct pictures
# of the sample, which are much alike, 2 in 100 have another one as near.
RADIUS = 0.28
# Of the light of aligned pictures: their correlation; its mean within parts, as a sky or dark edge
# makes any two pictures alike that have one; and how much lighter or darker a small part may be, in
# standard deviations, as two pictures may differ in one thing only. Of their colour, which JPEG
# keeps to few levels: how many of 255 its parts are off in the mean.
LEAST_CORRELATION, LEAST_WITHIN_PARTS, MOST_DIFFERENCE = 0.95, 0.8, 0.45
MOST_OF_COLOUR = 2.75
_PARTS, _PART_CONTRAST = 4, 0.1
_ALIKE_AT_ALL = 0.8
_SIDE, _GRID = 64, 16  # pixels of what is kept of a picture, and of what frequencies are taken of
_WAVES = 5  # lowest cosines of a side
_DETAIL, _ALIGNED, _BLOCKS = 96, 48, 8
_CUTS = (0.025, 0.075)  # off each side, so that a cut of up to a tenth is at most 0.025 from one
_NEIGHBOURS, _ASKED = 64, 4096  # the nearest of a query; pictures asked for at once
_FLAT = 2.0  # standard deviation of light, of 255


class NearCopy(NamedTuple):
    """Places of the two pictures, and how alike they are once aligned, up to 1."""

    first: int
    second: int
    correlation: float


class Descriptors(NamedTuple):
    """What is searched; a flat or undecodable picture has none."""

    values_N_W_F: Floats
    known_N: NDArray[np.bool_]


def near_copies(
    first: Sequence[bytes],
    second: Sequence[bytes],
    progress: Callable[[int], None] = lambda _: None,
) -> list[NearCopy]:
    """The pictures of `second` that are near copies of one of `first`, or the other way round.

    Args:
        first: encoded pictures, read one by one and more than once; need not fit in memory.
        progress: called with how many more have been read.
    """
    candidates = near_descriptors(descriptors(first, progress), descriptors(second, progress))

    @lru_cache(256)
    def detail(which: int, place: int) -> Floats:
        return _channels((first, second)[which][place], _DETAIL)

    found = (
        NearCopy(one, other, correlation_of(detail(0, one), detail(1, other)))
        for one, other in candidates
    )
    return [each for each in found if each.correlation >= LEAST_CORRELATION]


def descriptors(
    pictures: Sequence[bytes], progress: Callable[[int], None] = lambda _: None
) -> Descriptors:
    """The descriptors of encoded pictures, each of unit contrast."""
    values = np.zeros((len(pictures), 1 + len(_CUTS) ** 4, len(_frequencies())), dtype=np.float32)
    known_N = np.zeros(len(pictures), dtype=bool)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(pictures), 256):
            stop = min(start + 256, len(pictures))
            looks = list(pool.map(_look, (pictures[place] for place in range(start, stop))))
            usable = [place for place, look in enumerate(looks) if look is not None]
            if usable:
                stacked = np.stack([look for look in looks if look is not None])
                places_N = start + np.array(usable)
                values[places_N], known_N[places_N] = _described(stacked), True
            progress(stop - start)
    return Descriptors(values, known_N)


def near_descriptors(first: Descriptors, second: Descriptors) -> list[tuple[int, int]]:
    """Pairs of pictures of which one lies near a crop of the other."""
    crops, whole = first.values_N_W_F.shape[1], slice(0, 1)
    pairs = set(_within_radius(first, slice(0, crops), second, whole))
    pairs |= set(_within_radius(first, whole, second, slice(1, crops)))
    return sorted(pairs)


def _within_radius(
    first: Descriptors, indexed: slice, second: Descriptors, asked: slice
) -> Iterator[tuple[int, int]]:
    from scipy.spatial import cKDTree

    firsts, seconds = np.flatnonzero(first.known_N), np.flatnonzero(second.known_N)
    if not len(firsts) or not len(seconds):
        return
    there = first.values_N_W_F[firsts, indexed]
    here = second.values_N_W_F[seconds, asked]
    each, every = there.shape[1], here.shape[1]
    tree = cKDTree(there.reshape(-1, there.shape[2]))
    nearest = range(1, min(_NEIGHBOURS, tree.n) + 1)
    for start in range(0, len(here), _ASKED):
        queries = here[start : start + _ASKED].reshape(-1, here.shape[2])
        _, found = tree.query(queries, k=nearest, distance_upper_bound=RADIUS, workers=-1)
        found = np.asarray(found)
        query, place = np.nonzero(found < tree.n)
        pairs = np.stack([found[query, place] // each, start + query // every], axis=1)
        for one, other in np.unique(pairs, axis=0):
            yield int(firsts[one]), int(seconds[other])


def correlation_of(one_C_Y_X: Floats, other_C_Y_X: Floats) -> float:
    """How alike the light of two pictures is, one of them cropped so that they fit best.

    Returns:
        A correlation; 0 where a part of one is not that of the other however alike the rest is, or
        the colours are others.
    """
    fit, cropped, whole = max(
        (
            (_fitted(cropped[0], whole[0]), cropped, whole)
            for cropped, whole in ((one_C_Y_X, other_C_Y_X), (other_C_Y_X, one_C_Y_X))
        ),
        key=lambda each: each[0].correlation,
    )
    if fit.correlation < LEAST_CORRELATION:
        return fit.correlation
    difference = _parts(fit.cropped_Y_X - fit.whole_Y_X, _BLOCKS).mean(axis=1)
    alike = (
        np.abs(difference).max() <= MOST_DIFFERENCE
        and _within_parts(fit.cropped_Y_X, fit.whole_Y_X) >= LEAST_WITHIN_PARTS
        and _off_in_colour(cropped, whole, fit) <= MOST_OF_COLOUR
    )
    return fit.correlation if alike else 0.0


def _off_in_colour(cropped_C_Y_X: Floats, whole_C_Y_X: Floats, fit: _Fit) -> float:
    """The mean difference of the parts' colours, of 255, the one brightened as the other is."""
    cropped = _cut(cropped_C_Y_X, fit.rows, fit.columns, _BLOCKS)
    whole = _cut(whole_C_Y_X, (0, 0), (0, 0), _BLOCKS)
    brighter = whole[0].std() / max(cropped[0].std(), 1e-3)
    return float(np.abs((cropped[1:] - 128) * brighter - (whole[1:] - 128)).mean())


def _cut(pictures_C_Y_X: Floats, rows: Cut, columns: Cut, pixels: int) -> Floats:
    side = pictures_C_Y_X.shape[-1]
    cut: Floats = _window(*rows, side, pixels) @ pictures_C_Y_X @ _window(*columns, side, pixels).T
    return cut


def _within_parts(one_Y_X: Floats, other_Y_X: Floats) -> float:
    """The mean correlation within the parts in which there is something to see."""
    one, other = _parts(one_Y_X, _PARTS), _parts(other_Y_X, _PARTS)
    contrast = np.maximum(one.std(axis=1), other.std(axis=1)) >= _PART_CONTRAST
    one, other = (part - part.mean(axis=1, keepdims=True) for part in (one, other))
    products = (one * other).mean(axis=1)
    scale = np.maximum(one.std(axis=1) * other.std(axis=1), 1e-6)
    return float((products / scale)[contrast].mean()) if contrast.any() else 0.0


def _parts(picture_Y_X: Floats, parts: int) -> Floats:
    """parts² × pixels."""
    side = len(picture_Y_X) // parts
    tiles = picture_Y_X.reshape(parts, side, parts, side).transpose(0, 2, 1, 3)
    return tiles.reshape(parts * parts, side * side)


class _Fit(NamedTuple):
    correlation: float
    cropped_Y_X: Floats
    whole_Y_X: Floats
    rows: Cut
    columns: Cut


def _fitted(one_Y_X: Floats, other_Y_X: Floats) -> _Fit:
    """The crop of the first that is most like the second, both standardised.

    First at half the detail, where what is not alike at all is left.
    """
    half = _window(0, 0, _DETAIL, _DETAIL // 2)
    coarse = [half @ picture @ half.T for picture in (one_Y_X, other_Y_X)]
    sides = (0.0, 0.04, 0.08, 0.12)
    rows: list[Cut] = list(product(sides, sides))
    columns = rows
    one: Floats = coarse[0]
    other: Floats = coarse[1]
    pixels = _ALIGNED // 2
    for step in (0.02, 0.01, 0.005, 0.0):
        fit = _best_crop(one, other, rows, columns, pixels)
        if step == 0.0 or fit.correlation < _ALIKE_AT_ALL:
            return fit
        rows, columns = _around(fit.rows, step), _around(fit.columns, step)
        if step < 0.02:
            one, other, pixels = one_Y_X, other_Y_X, _ALIGNED
    raise AssertionError("the last step returns")


def _best_crop(
    one_Y_X: Floats,
    other_Y_X: Floats,
    rows: Sequence[Cut],
    columns: Sequence[Cut],
    pixels: int,
) -> _Fit:
    side = len(one_Y_X)
    whole = _window(0, 0, side, pixels)
    target = _standardised(whole @ other_Y_X @ whole.T)
    down = np.stack([_window(*cut, side, pixels) for cut in rows]) @ one_Y_X
    across = np.stack([_window(*cut, side, pixels) for cut in columns]).transpose(0, 2, 1)
    crops = _standardised(down[:, None] @ across[None])
    fits = crops.reshape(len(rows), len(columns), -1) @ target.reshape(-1) / target.size
    row, column = divmod(int(fits.argmax()), len(columns))
    best = float(fits[row, column])
    return _Fit(best, crops[row, column], target, rows[row], columns[column])


def _around(cut: Cut, step: float) -> list[Cut]:
    return [
        (max(0.0, round(cut[0] + a * step, 4)), max(0.0, round(cut[1] + b * step, 4)))
        for a, b in product((-1, 0, 1), repeat=2)
    ]


def _standardised(pictures: Floats) -> Floats:
    """Mean 0 and standard deviation 1 over the last two axes."""
    centred = pictures - pictures.mean(axis=(-2, -1), keepdims=True)
    scale = np.sqrt(np.square(centred).mean(axis=(-2, -1), keepdims=True))
    standard: Floats = centred / np.maximum(scale, 1e-3)
    return standard


def _look(data: bytes) -> Floats | None:
    """Light and colour, 3 × Y × X; None where there is nothing to see."""
    try:
        look = _channels(data, _SIDE)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return None
    return look if look[0].std() >= _FLAT else None


def _channels(data: bytes, side: int) -> Floats:
    """Light and colour, 3 × side × side."""
    picture = decode(data, (2 * side, 2 * side)).convert("YCbCr")
    way = Image.Resampling.BOX if min(picture.size) >= side else Image.Resampling.BICUBIC
    return np.asarray(picture.resize((side, side), way), dtype=np.float32).transpose(2, 0, 1)


def _described(looks_N_C_Y_X: Floats) -> Floats:
    """N × W × F."""
    waves, means = _waves()
    crops = len(means)
    # The mean is no frequency here: of light it is brightness, of colour it counts from grey.
    centred = looks_N_C_Y_X - np.array([0.0, 128.0, 128.0], dtype=np.float32)[:, None, None]
    spectrum = (waves @ centred @ waves.T).reshape(len(centred), 3, crops, -1, crops, _WAVES)
    light = centred[:, 0]
    variance = means @ np.square(light) @ means.T - np.square(means @ light @ means.T)
    contrast = np.sqrt(np.maximum(variance, 1e-6)) * _GRID
    windows = [(0, 0), *product(range(1, crops), repeat=2)]
    channels, down, across = np.array(_frequencies()).T
    parts = [
        spectrum[:, channels, row, down, column, across] / contrast[:, row, column, None]
        for row, column in windows
    ]
    described: Floats = np.stack(parts, axis=1).astype(np.float32)
    return described


@cache
def _waves() -> tuple[Floats, Floats]:
    """For a side uncut and with each two cuts: its lowest cosines, one a row; and its mean."""
    places, numbers = np.arange(_GRID), np.arange(_WAVES)[:, None]
    cosines = np.cos(np.pi * (2 * places + 1) * numbers / (2 * _GRID))
    cosines *= np.sqrt((1 + (numbers > 0)) / _GRID)  # orthonormal
    windows = [_window(*cut, _SIDE, _GRID) for cut in ((0.0, 0.0), *product(_CUTS, repeat=2))]
    waves = np.concatenate([cosines @ window for window in windows])
    means = np.stack([window.mean(axis=0) for window in windows])
    return waves.astype(np.float32), means.astype(np.float32)


@cache
def _frequencies() -> list[tuple[int, int, int]]:
    """(channel, down, across): 14 of light without its mean, 3 of each colour."""
    light = [(0, i, j) for i, j in product(range(_WAVES), repeat=2) if 0 < i + j < _WAVES]
    colour = [(c, i, j) for c in (1, 2) for i, j in ((0, 0), (0, 1), (1, 0))]
    return light + colour


@lru_cache(1024)
def _window(before: float, after: float, side: int, pixels: int) -> Floats:
    """The matrix that scales a side, cut by shares before and after, to a number of pixels."""
    edges = np.linspace(before * side, (1 - after) * side, pixels + 1)
    places = np.arange(side)
    covered = np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places)
    weights = np.clip(covered, 0, None)
    scaled: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return scaled
