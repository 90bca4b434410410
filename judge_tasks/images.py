"""Image cells of a dataset: encoded bytes in, RGB images out, and a check that judges can see them.

Cells are untrusted: a path is read only below the dataset's own folder, and images are decoded only
in known formats and within limits.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

# Pillow opens many more, some with other programs: EPS with Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# A 128-megapixel image is 384 MB as RGB before compression; the images of judge datasets are a
# hundredth of that.
MAX_IMAGE_BYTES = 256 * 2**20
# Cameras have up to 100 megapixels. A PNG of this size can be 16 kB. Pillow only warns, from 89
# megapixels on, up to 179.
MAX_IMAGE_PIXELS = 128 * 10**6
# Encoders write about ten scans. Each is a pass over all pixels, and a megabyte can hold thousands
# ("Two Issues with the JPEG Standard", libjpeg-turbo.org).
MAX_JPEG_SCANS = 32
# The image processors of Qwen-VL, GLM-V, Ernie-VL and others refuse a larger one (`smart_resize` in
# transformers/models/qwen2_vl/image_processing_qwen2_vl.py).
MAX_ASPECT_RATIO = 200
# GLM-V's processor refuses shorter sides in transformers 5.0. Others take an array that is one or
# three pixels high for one with the channels first (`infer_channel_dimension_format`).
MIN_SIDE = 28

# Decoders of damaged and hostile images raise whatever their parsing runs into: OSError,
# SyntaxError, struct.error, MemoryError and others.
DECODE_ERRORS = (Exception,)

# From 8K on (7680 × 4320), as decoding takes up to twelve bytes a pixel in each thread.
_ONE_AT_A_TIME, _LARGE = Lock(), 7680 * 4320

# Linux opens no longer path (PATH_MAX). Resolving one of a megabyte takes hours.
_MAX_PATH = 4096
# A data URL, or how the bytes that each format begins with look in base64.
_BASE64_IMAGE = re.compile(
    r"data:image/[a-z0-9.+-]{1,20};base64,|(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk[0-3]|SUkqA|TU0AK)"
    r"[A-Za-z0-9+/\s]{60}"
)
_JPEG_SCAN = b"\xff\xda"
# A marker with a segment, or the end of the image; within a scan, 00 and D0 to D7 follow an FF.
_JPEG_MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")


def encoded(cell: Any, folder: Path | None = None) -> bytes:
    """The bytes of a cell: raw bytes, ``datasets``' ``{bytes, path}``, or a text, which is a path,
    a data URL or base64.

    Args:
        folder: the dataset's own folder, below which paths in cells are read and to which they are
            relative; None if cells of this dataset must hold bytes.

    Raises:
        ValueError: the cell is empty or is not an image cell, or its path is not that of an image
            file below the folder.
        OSError: its file cannot be read.
    """
    if isinstance(cell, dict) and cell.get("bytes") is None and cell.get("path"):
        return _read(str(cell["path"]), folder)
    if isinstance(cell, str) and cell:
        return _of_text(cell, folder)
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes) or not data:
        raise ValueError(
            "the image cell is empty" if not data else f"not an image cell: {type(data)}"
        )
    return data


def is_base64(text: str) -> bool:
    """Whether a text is an image in base64 or a data URL, and not the name of one."""
    return _BASE64_IMAGE.match(text) is not None


def _of_text(text: str, folder: Path | None) -> bytes:
    """The image that a text has or names."""
    if text.startswith(("http://", "https://")):
        raise ValueError(f"the image is a web address ({text[:60]!r}), which is never opened here")
    if not is_base64(text):
        return _read(text, folder)
    if len(text) > MAX_IMAGE_BYTES:
        raise ValueError(f"larger than the limit of {MAX_IMAGE_BYTES // 2**20} MiB per image")
    try:
        # MIME's base64 (RFC 2045) is broken into lines.
        return base64.b64decode("".join((text.partition(",")[2] or text).split()), validate=True)
    except ValueError:
        raise ValueError(f"neither base64 nor a path: {text[:30]!r}…") from None


def _read(path: str, folder: Path | None) -> bytes:
    """The content of the file that a cell names."""
    if len(path) > _MAX_PATH:
        raise ValueError(f"neither an image nor the path of one: {path[:30]!r}…")
    if folder is None:
        raise ValueError(f"the image cell has no bytes, only the path {path!r}")
    folder, file = (Path(os.path.realpath(name)) for name in (folder, folder / path))
    if not file.is_relative_to(folder):
        raise ValueError(f"the image cell's path {path!r} leads out of the data's folder")
    if not file.is_file():  # also of a FIFO or a device, which may never end
        raise ValueError(f"no file {path!r} in the data's folder")
    with file.open("rb") as opened:
        data = opened.read(MAX_IMAGE_BYTES + 1)
    if len(data) > MAX_IMAGE_BYTES:
        raise ValueError(f"larger than the limit of {MAX_IMAGE_BYTES // 2**20} MiB per image")
    return data


def open_image(data: bytes) -> ImageFile.ImageFile:
    """Open an encoded image without decoding it.

    Raises:
        ValueError: it is in none of FORMATS, larger than MAX_IMAGE_PIXELS, or made to take long.
        Exception: it is damaged.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:  # whose message has an address in memory
        raise ValueError(f"not a complete image of a known format ({', '.join(FORMATS)})") from None
    if image.width * image.height > MAX_IMAGE_PIXELS:
        limit = f"more than {MAX_IMAGE_PIXELS // 10**6} megapixels"
        raise ValueError(f"{image.width} × {image.height} pixels, {limit}")
    if data.count(_JPEG_SCAN) > MAX_JPEG_SCANS and _n_jpeg_scans(data) > MAX_JPEG_SCANS:
        raise ValueError(f"a JPEG of more than {MAX_JPEG_SCANS} scans")
    return image


def _n_jpeg_scans(data: bytes) -> int:
    """The scans of a JPEG's first image; their marker may also occur in a segment or after it."""
    scans, position = 0, 2
    while (marker := _JPEG_MARKER.search(data, position)) and marker[0] != b"\xff\xd9":
        scans += marker[0] == _JPEG_SCAN
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return scans


def decode(data: bytes, enough: tuple[int, int] | None = None) -> Image.Image:
    """Decode to RGB: EXIF orientation applied, transparency on white, the first frame only.

    Args:
        enough: sufficient (width, height); a larger JPEG is decoded at a fraction of its size.
    """
    image: Image.Image = open_image(data)
    if enough is not None:
        image.draft("RGB", enough)
    with _ONE_AT_A_TIME if image.width * image.height > _LARGE else nullcontext():
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
    """Why an image cannot be shown to a judge, or None.

    It is decoded, a JPEG at an eighth of its size, and a PNG's chunk checksums are verified.
    """
    try:
        image = open_image(data)
        width, height = image.size
        if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
            return f"{width} × {height} pixels, an aspect ratio above {MAX_ASPECT_RATIO}"
        if image.format == "PNG":
            image.verify()
        decode(data, enough=(1, 1))
    except DECODE_ERRORS as error:
        return str(error) or type(error).__name__
    return None


def shown(data: bytes) -> Image.Image:
    """The image as judges are given it: decoded, and enlarged where a side is below MIN_SIDE."""
    image = decode(data)
    scale = MIN_SIDE / min(image.size)
    if scale <= 1:
        return image
    return image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
    )


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
