"""Whether two images show the same once one of them is cropped so that they fit.

Axis suffixes: `C` luminance and the two of color (YCbCr), `Y`, `X` rows and columns of an image.
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
"""Fractions of a side that are cut off before and after."""

# Luminance of aligned images: their correlation; its mean within parts, as a sky or a dark edge
# makes any two images alike that have one; and how much a small part may differ, in standard
# deviations, as two images may differ in one thing only.
MIN_CORRELATION, MIN_CORRELATION_IN_PARTS, MAX_PART_DIFFERENCE = 0.95, 0.8, 0.45
# Color of aligned images, of which JPEG keeps few levels: the mean difference of parts, of 255.
MAX_COLOR_DIFFERENCE = 2.75
_N_PARTS, _MIN_CONTRAST = 4, 0.1  # parts of a side; standard deviation of a part with detail
_MIN_COARSE_CORRELATION = 0.8
_SIDE, _ALIGNED_SIDE, _N_BLOCKS = 96, 48, 8  # pixels as kept and as compared; small parts of a side
_COARSE_CUTS = (0.0, 0.04, 0.08, 0.12)


def channels(data: bytes) -> Floats:
    """What is compared of an encoded image, 3 × Y × X."""
    image = decode(data, (2 * _SIDE, 2 * _SIDE)).convert("YCbCr")
    resampling = Image.Resampling.BOX if min(image.size) >= _SIDE else Image.Resampling.BICUBIC
    return np.asarray(image.resize((_SIDE, _SIDE), resampling), dtype=np.float32).transpose(2, 0, 1)


def show_the_same(first_C_Y_X: Floats, second_C_Y_X: Floats) -> bool:
    """Whether one image is a crop of the other, in luminance, in each of its parts and in color."""
    return _is_crop(first_C_Y_X, second_C_Y_X) or _is_crop(second_C_Y_X, first_C_Y_X)


def _is_crop(whole_C_Y_X: Floats, crop_C_Y_X: Floats) -> bool:
    """Whether the first image, when cropped, shows the same as the second."""
    fit = _best_fit(whole_C_Y_X[0], crop_C_Y_X[0])
    if fit.correlation < MIN_CORRELATION:
        return False
    difference = _parts(fit.cropped_Y_X - fit.target_Y_X, _N_BLOCKS).mean(axis=1)
    return bool(
        np.abs(difference).max() <= MAX_PART_DIFFERENCE
        and _correlation_in_parts(fit.cropped_Y_X, fit.target_Y_X) >= MIN_CORRELATION_IN_PARTS
        and _color_difference(whole_C_Y_X, crop_C_Y_X, fit) <= MAX_COLOR_DIFFERENCE
    )


def _color_difference(whole_C_Y_X: Floats, crop_C_Y_X: Floats, fit: _Fit) -> float:
    """The mean color difference of small parts, of 255, once contrasts are the same."""
    cropped = _cut_and_scaled(whole_C_Y_X, fit.rows, fit.columns, _N_BLOCKS)
    target = _cut_and_scaled(crop_C_Y_X, (0, 0), (0, 0), _N_BLOCKS)
    contrast = target[0].std() / max(cropped[0].std(), 1e-3)
    return float(np.abs((cropped[1:] - 128) * contrast - (target[1:] - 128)).mean())


def _correlation_in_parts(first_Y_X: Floats, second_Y_X: Floats) -> float:
    """The mean correlation within the parts that have detail in either image."""
    first, second = _parts(first_Y_X, _N_PARTS), _parts(second_Y_X, _N_PARTS)
    detailed = np.maximum(first.std(axis=1), second.std(axis=1)) >= _MIN_CONTRAST
    first, second = (part - part.mean(axis=1, keepdims=True) for part in (first, second))
    products = (first * second).mean(axis=1)
    scale = np.maximum(first.std(axis=1) * second.std(axis=1), 1e-6)
    return float((products / scale)[detailed].mean()) if detailed.any() else 0.0


def _parts(image_Y_X: Floats, parts: int) -> Floats:
    """The image cut into tiles, parts² × pixels."""
    side = len(image_Y_X) // parts
    tiles = image_Y_X.reshape(parts, side, parts, side).transpose(0, 2, 1, 3)
    return tiles.reshape(parts * parts, side * side)


class _Fit(NamedTuple):
    """The crop of an image that is most like another one; both standardized."""

    correlation: float
    cropped_Y_X: Floats
    target_Y_X: Floats
    rows: Cut
    columns: Cut


def _best_fit(image_Y_X: Floats, target_Y_X: Floats) -> _Fit:
    """Search crops from coarse to fine; images that differ are given up at half the detail."""
    half = _scaling(0, 0, _SIDE, _SIDE // 2)
    coarse = half @ image_Y_X @ half.T, half @ target_Y_X @ half.T
    fine = image_Y_X, target_Y_X
    cuts = list(product(_COARSE_CUTS, _COARSE_CUTS))
    fit = _best_crop(*coarse, _ALIGNED_SIDE // 2, cuts, cuts)
    if fit.correlation >= _MIN_COARSE_CORRELATION:
        for (image, target), pixels, step in (
            (coarse, _ALIGNED_SIDE // 2, 0.02),
            (fine, _ALIGNED_SIDE, 0.01),
            (fine, _ALIGNED_SIDE, 0.005),
        ):
            rows, columns = _neighbors(fit.rows, step), _neighbors(fit.columns, step)
            fit = _best_crop(image, target, pixels, rows, columns)
    return fit


def _best_crop(
    image_Y_X: Floats, target_Y_X: Floats, pixels: int, rows: Sequence[Cut], columns: Sequence[Cut]
) -> _Fit:
    """The best of all combinations of cuts of rows and of columns."""
    side = len(image_Y_X)
    target = _standardized(_cut_and_scaled(target_Y_X, (0, 0), (0, 0), pixels))
    # The cuts of rows are applied once and not once for each cut of columns.
    down = np.stack([_scaling(*cut, side, pixels) for cut in rows]) @ image_Y_X
    across = np.stack([_scaling(*cut, side, pixels) for cut in columns]).transpose(0, 2, 1)
    crops = _standardized(down[:, None] @ across[None])
    fits = crops.reshape(len(rows), len(columns), -1) @ target.reshape(-1) / target.size
    row, column = divmod(int(fits.argmax()), len(columns))
    best = float(fits[row, column])
    return _Fit(best, crops[row, column], target, rows[row], columns[column])


def _neighbors(cut: Cut, step: float) -> list[Cut]:
    return [
        (max(0.0, round(cut[0] + a * step, 4)), max(0.0, round(cut[1] + b * step, 4)))
        for a, b in product((-1, 0, 1), repeat=2)
    ]


def _standardized(images: Floats) -> Floats:
    """Mean 0 and standard deviation 1 over the last two axes."""
    centered = images - images.mean(axis=(-2, -1), keepdims=True)
    scale = np.sqrt(np.square(centered).mean(axis=(-2, -1), keepdims=True))
    standard: Floats = centered / np.maximum(scale, 1e-3)
    return standard


def _cut_and_scaled(images: Floats, rows: Cut, columns: Cut, pixels: int) -> Floats:
    """Images, whose axes Y and X are the last two, cut and scaled to a number of pixels a side."""
    side = images.shape[-1]
    cut: Floats = _scaling(*rows, side, pixels) @ images @ _scaling(*columns, side, pixels).T
    return cut


@lru_cache(1024)
def _scaling(before: float, after: float, side: int, pixels: int) -> Floats:
    """The matrix, pixels × side, that cuts fractions off a side and scales it by area."""
    edges = np.linspace(before * side, (1 - after) * side, pixels + 1)
    indices = np.arange(side)
    covered = np.minimum(edges[1:, None], indices + 1) - np.maximum(edges[:-1, None], indices)
    weights = np.clip(covered, 0, None)
    matrix: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return matrix
