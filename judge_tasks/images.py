"""Image cells of a dataset: encoded bytes in, RGB pictures out, and a check that they decode."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps


def encoded(cell: Any) -> bytes:
    """The bytes of a cell: raw bytes, or ``datasets``' ``{bytes, path}``.

    Raises:
        ValueError: the cell is empty or no image cell.
        OSError: its file cannot be read.
    """
    if isinstance(cell, dict) and cell.get("bytes") is None and cell.get("path"):
        return Path(cell["path"]).read_bytes()
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes) or not data:
        raise ValueError("the image cell is empty" if not data else f"no image: {type(data)}")
    return data


def decode(data: bytes, enough: tuple[int, int] | None = None) -> Image.Image:
    """An RGB picture, turned as its EXIF says, transparency laid on white, an animation's first.

    Args:
        enough: width and height that will do; a larger JPEG is then read at a fraction of its size.
    """
    picture: Image.Image = Image.open(io.BytesIO(data))
    if enough is not None:
        picture.draft("RGB", enough)
    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.new("RGBA", layer.size, "white")
        picture.alpha_composite(layer)
    return _eight_bits(picture).convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of more bits scaled to 8; Pillow's own conversion clips it to white."""
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture, dtype=np.float32)
    most = float(values.max(initial=0))
    top = next((top for top in _RANGES[picture.mode[0]] if most <= top), most)
    return Image.fromarray(np.clip(values * (255 / top) + 0.5, 0, 255).astype(np.uint8))


_RANGES = {"I": (65535.0,), "F": (1.0, 255.0, 65535.0)}


def fault_of(data: bytes) -> str | None:
    """Why an image does not decode, or None. Cheaper than :func:`decode`, as strict.

    A JPEG is read to its end at an eighth of its size, a PNG by the checksums of its chunks.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.format == "PNG":
                picture.verify()
                return None
            picture.draft("L", (1, 1))
            picture.load()
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        return str(error) or type(error).__name__
    return None


@contextmanager
def truncation_refused() -> Iterator[None]:
    """lmms_eval makes Pillow fill up cut images in silence (lmms_eval/api/task.py); not here."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
