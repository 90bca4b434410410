"""Limits on an image's pixels, whatever a family's processor calls them."""

from __future__ import annotations

import copy
import math
from typing import Any

from PIL import Image


def fit_pixels(image: Image.Image, least: int | None, most: int | None) -> Image.Image:
    """Resize, keeping the aspect, so that least <= width × height <= most (None: no bound).

    Where whole numbers of pixels cannot meet both bounds, `most` holds.
    """
    width, height = image.size
    if least is not None and width * height < least:
        scale = math.sqrt(least / (width * height))
        width, height = math.ceil(width * scale), math.ceil(height * scale)
    if most is not None and width * height > most:
        scale = math.sqrt(most / (width * height))
        # The outer bounds are for a strip, which cannot shrink in both directions.
        width = max(1, min(math.floor(width * scale), most))
        height = max(1, min(math.floor(height * scale), most // width))
    if (width, height) == image.size:
        return image
    return image.resize((width, height), Image.Resampling.BICUBIC)


def counts_pixels(image_processor: Any) -> bool:
    """Whether an image processor, as Qwen2-VL's, bounds width × height itself.

    There `size` holds pixel counts under the names of edges.
    """
    return "min_pixels" in getattr(image_processor.valid_kwargs, "__annotations__", {})


def with_pixel_limits(processor: Any, least: int | None, most: int | None) -> Any:
    """A copy of a processor that counts pixels, with these limits.

    Args:
        least: width × height of each picture as the model sees it; None is the processor's own.
        most: the same; it wins over ``least``.
    """
    processor = copy.copy(processor)
    processor.image_processor = copy.copy(processor.image_processor)
    size = processor.image_processor.size
    low, high = size["shortest_edge"], size["longest_edge"]
    high = most or max(high, least or high)
    low = min(least or low, high)
    processor.image_processor.size = {"shortest_edge": low, "longest_edge": high}
    return processor
