"""Image cells of a dataset: encoded bytes in, RGB images out, and a check that they decode."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps

# What Pillow raises for damaged, truncated, unknown or enormous images.
DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def encoded(cell: Any) -> bytes:
    """The bytes of a cell, which is raw bytes or ``datasets``' ``{bytes, path}``.

    Raises:
        ValueError: the cell is empty or is not an image cell.
        OSError: its file cannot be read.
    """
    if isinstance(cell, dict) and cell.get("bytes") is None and cell.get("path"):
        return Path(cell["path"]).read_bytes()
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes) or not data:
        raise ValueError(
            "the image cell is empty" if not data else f"not an image cell: {type(data)}"
        )
    return data


def decode(data: bytes, enough: tuple[int, int] | None = None) -> Image.Image:
    """Decode to RGB: EXIF orientation applied, transparency on white, the first frame only.

    Args:
        enough: sufficient (width, height); a larger JPEG is decoded at a fraction of its size.
    """
    image: Image.Image = Image.open(io.BytesIO(data))
    if enough is not None:
        image.draft("RGB", enough)
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    return _eight_bits(image).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grayscale of more than 8 bits, scaled to 8; Pillow's own conversion clips it to white."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, dtype=np.float32)
    most = float(values.max(initial=0))
    top = next((top for top in _RANGES[image.mode[0]] if most <= top), most)
    return Image.fromarray(np.clip(values * (255 / top) + 0.5, 0, 255).astype(np.uint8))


_RANGES = {"I": (65535.0,), "F": (1.0, 255.0, 65535.0)}


def fault_of(data: bytes) -> str | None:
    """Why an image does not decode, or None; as strict as :func:`decode` and cheaper.

    A JPEG is decoded to its end at an eighth of its size; a PNG's chunk checksums are verified.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "PNG":
                image.verify()
                return None
            image.draft("L", (1, 1))
            image.load()
    except DECODE_ERRORS as error:
        return str(error) or type(error).__name__
    return None


@contextmanager
def truncation_refused() -> Iterator[None]:
    """Make Pillow reject truncated images.

    lmms_eval sets ``LOAD_TRUNCATED_IMAGES`` when it is imported (lmms_eval/api/task.py).
    """
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
