"""Whether two pictures show the same once one of them is cropped so that they fit.

Axis suffixes: `C` light and the two of colour, `Y`, `X` rows and columns of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtrl_judge.judge_tasks.images import decode

Floats: TypeAlias = NDArray[np.floating[Any]]
Cut: TypeAlias = tuple[float, float]
"""Shares of a side that are cut off before and after."""
_Pair: TypeAlias = tuple[Floats, Floats, int]
"""The light of two pictures, and the pixels of a side that they are compared in."""

# Of the light of aligned pictures: their correlation; its mean within parts, as a sky or dark edge
# makes any two pictures alike that have one; and how much lighter or darker a small part may be, in
# standard deviations, as two pictures may differ in one thing only. Of their colour, which JPEG
# keeps to few levels: how many of 255 its parts are off in the mean.
LEAST_CORRELATION, LEAST_WITHIN_PARTS, MOST_DIFFERENCE = 0.95, 0.8, 0.45
MOST_OF_COLOUR = 2.75
_PARTS, _PART_CONTRAST = 4, 0.1
_ALIKE_AT_ALL = 0.8
_DETAIL, _ALIGNED, _BLOCKS = 96, 48, 8  # pixels of a side: as kept, as compared, and parts of it


def channels(data: bytes) -> Floats:
    """What is compared of an encoded picture, 3 × Y × X."""
    picture = decode(data, (2 * _DETAIL, 2 * _DETAIL)).convert("YCbCr")
    way = Image.Resampling.BOX if min(picture.size) >= _DETAIL else Image.Resampling.BICUBIC
    shown = np.asarray(picture.resize((_DETAIL, _DETAIL), way), dtype=np.float32)
    return shown.transpose(2, 0, 1)


def same_picture(one_C_Y_X: Floats, other_C_Y_X: Floats) -> bool:
    """Whether one of them, cropped, is the other in light, in each of its parts and in colour."""
    return _crop_is(one_C_Y_X, other_C_Y_X) or _crop_is(other_C_Y_X, one_C_Y_X)


def _crop_is(cropped_C_Y_X: Floats, whole_C_Y_X: Floats) -> bool:
    fit = _fitted(cropped_C_Y_X[0], whole_C_Y_X[0])
    if fit.correlation < LEAST_CORRELATION:
        return False
    difference = _parts(fit.cropped_Y_X - fit.whole_Y_X, _BLOCKS).mean(axis=1)
    return bool(
        np.abs(difference).max() <= MOST_DIFFERENCE
        and _within_parts(fit.cropped_Y_X, fit.whole_Y_X) >= LEAST_WITHIN_PARTS
        and _off_in_colour(cropped_C_Y_X, whole_C_Y_X, fit) <= MOST_OF_COLOUR
    )


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
    coarse: _Pair = (half @ one_Y_X @ half.T, half @ other_Y_X @ half.T, _ALIGNED // 2)
    sides = (0.0, 0.04, 0.08, 0.12)
    cuts = list(product(sides, sides))
    fit = _best_crop(*coarse, cuts, cuts)
    if fit.correlation < _ALIKE_AT_ALL:
        return fit
    fine: _Pair = (one_Y_X, other_Y_X, _ALIGNED)
    for pictures, step in ((coarse, 0.02), (fine, 0.01), (fine, 0.005)):
        fit = _best_crop(*pictures, _around(fit.rows, step), _around(fit.columns, step))
    return fit


def _best_crop(
    one_Y_X: Floats,
    other_Y_X: Floats,
    pixels: int,
    rows: Sequence[Cut],
    columns: Sequence[Cut],
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


@lru_cache(1024)
def _window(before: float, after: float, side: int, pixels: int) -> Floats:
    """The matrix that scales a side, cut by shares before and after, to a number of pixels."""
    edges = np.linspace(before * side, (1 - after) * side, pixels + 1)
    places = np.arange(side)
    covered = np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places)
    weights = np.clip(covered, 0, None)
    scaled: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return scaled
