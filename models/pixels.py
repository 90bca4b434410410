"""Limits on the pixels of an image, whatever a family's processor calls them."""

from __future__ import annotations

import copy
import math
from typing import Any

from PIL import Image

from mtrl_judge.judge_tasks.images import MAX_ASPECT_RATIO

# The largest image that Qwen2-VL and Qwen2.5-VL see by default: 16,384 tokens of 28 × 28 pixels
# (`max_pixels` in their preprocessor_config.json). A photo of 12 megapixels keeps its size.
DEFAULT_MAX_PIXELS = 16_384 * 28 * 28


def fit_pixels(image: Image.Image, min_pixels: int | None, max_pixels: int | None) -> Image.Image:
    """Resize an image, keeping its aspect ratio, to between `min_pixels` and `max_pixels`.

    Args:
        min_pixels: lower bound of width × height; None for no bound.
        max_pixels: upper bound; it wins where whole numbers of pixels cannot meet both.
    """
    width, height = image.size
    longest = max(MAX_ASPECT_RATIO, width / height, height / width)
    if min_pixels is not None and width * height < min_pixels:
        scale = math.sqrt(min_pixels / (width * height))
        width, height = math.ceil(width * scale), math.ceil(height * scale)
    if max_pixels is not None and width * height > max_pixels:
        scale = math.sqrt(max_pixels / (width * height))
        # max and min are for strips one pixel wide, which can shrink in one direction only.
        width = max(1, min(math.floor(width * scale), max_pixels))
        height = max(1, min(math.floor(height * scale), max_pixels // width))
    # Rounding must not make a strip of which a processor refuses the aspect ratio.
    width, height = min(width, int(longest * height)), min(height, int(longest * width))
    if (width, height) == image.size:
        return image
    return image.resize((width, height), Image.Resampling.BICUBIC)


def supports_pixel_limits(image_processor: Any) -> bool:
    """Whether an image processor limits width × height itself, as Qwen2-VL's does."""
    return "min_pixels" in getattr(image_processor.valid_kwargs, "__annotations__", {})


def with_pixel_limits(processor: Any, min_pixels: int | None, max_pixels: int | None) -> Any:
    """A copy of a processor that supports pixel limits, with these limits.

    Args:
        min_pixels: lower bound of width × height of an image as the model sees it; None keeps the
            processor's.
        max_pixels: upper bound, likewise; it wins over ``min_pixels``.
    """
    processor = copy.copy(processor)
    processor.image_processor = copy.copy(processor.image_processor)
    # Qwen2VLImageProcessor stores its pixel limits in `size`, under names of edges.
    size = processor.image_processor.size
    low, high = size["shortest_edge"], size["longest_edge"]
    high = max_pixels or max(high, min_pixels or high)
    low = min(min_pixels or low, high)
    processor.image_processor.size = {"shortest_edge": low, "longest_edge": high}
    return processor


def pixel_limits(processor: Any) -> dict[str, Any] | None:
    """vLLM's ``mm_processor_kwargs`` for the limits of a processor; None for one without limits."""
    if not supports_pixel_limits(processor.image_processor):
        return None
    size = processor.image_processor.size
    return {"size": {name: size[name] for name in ("shortest_edge", "longest_edge")}}


def has_grid(image_processor: Any) -> bool:
    """Whether an image processor resizes images to multiples of its patches, as Qwen2-VL's does."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    return isinstance(image_processor, Qwen2VLImageProcessor)


def grid_size(
    width: int, height: int, image_processor: Any, *, once: bool = False
) -> tuple[int, int]:
    """Width and height to which a processor with a grid resizes, and which it leaves as they are.

    One pass is not always enough: a strip much longer than wide may still exceed the limits. Where
    the limits leave no room for a multiple of the patches, sizes alternate, and one of them is
    returned.

    Args:
        once: return the size after one pass, which is all that a processor does.
    """
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    limits, size, seen = image_processor.size, (height, width), set[tuple[int, int]]()
    while True:
        resized = smart_resize(
            *size,
            factor=image_processor.patch_size * image_processor.merge_size,
            min_pixels=limits["shortest_edge"],
            max_pixels=limits["longest_edge"],
        )
        if once or resized == size or resized in seen:
            return resized[1], resized[0]
        seen.add(resized)
        size = resized


def fit_grid(image: Image.Image, image_processor: Any, *, once: bool = False) -> Image.Image:
    """Resize an image as a processor with a grid does, so that no processor changes its size again.

    The pixels are those that the processor would compute. An image for a processor without a grid
    stays as it is.

    Args:
        once: as for :func:`grid_size`.
    """
    from transformers.image_processing_backends import TorchvisionBackend
    from transformers.image_utils import SizeDict

    if not has_grid(image_processor):
        return image
    width, height = grid_size(*image.size, image_processor, once=once)
    if (width, height) == image.size:
        return image
    pixels = image_processor.process_image(image, do_convert_rgb=True)
    resized = TorchvisionBackend.resize(
        image_processor,
        pixels,
        SizeDict(height=height, width=width),
        resample=image_processor.resample,
    )
    return Image.fromarray(resized.permute(1, 2, 0).numpy())
