"""Images that tests make, their encodings, and near-duplicates of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

Size = tuple[int, int]
Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def random_image(seed: int, size: Size = (64, 64)) -> Image.Image:
    """Smooth random colors; images of two seeds differ at any size at which they are seen."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def photo(seed: int) -> Image.Image:
    """Clouds of color with as much coarse and fine structure as photographs have."""
    rng = np.random.default_rng(seed)
    total = np.zeros((160, 200, 3), dtype=np.float32)
    for cells in (2, 4, 8, 16, 32, 64):
        noise = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        layers = [
            np.asarray(Image.fromarray(noise[..., c]).resize((200, 160), Image.Resampling.BICUBIC))
            for c in range(3)
        ]
        total += np.stack(layers, axis=-1) / cells ** rng.uniform(0.4, 1.2)
    shown = (total - total.mean()) / total.std() * 50 + 128
    return Image.fromarray(np.clip(shown, 0, 255).astype(np.uint8))


def encode(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file; options are those of PIL's ``save``."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def image_cell(color: str, size: Size = (16, 16)) -> dict[str, Any]:
    """An image of one color as ``datasets`` stores it."""
    return {"bytes": encode(Image.new("RGB", size, color)), "path": None}


def image_cells(n: int, start: int = 0, size: Size = (32, 32)) -> list[dict[str, Any]]:
    """Cells of up to 256 images, each of its own color; ``start`` continues a list."""
    return [image_cell(f"#{i:02x}{255 - i:02x}80", size) for i in range(start, start + n)]


# Near copies


def cropped(*sides: float) -> Change:
    """Cut off up to these shares of the left, top, right and bottom."""

    def crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        left, top, right, bottom = (rng.uniform(0, side) for side in sides)
        width, height = image.size
        box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
        return image.crop(tuple(round(edge) for edge in box))  # type: ignore[arg-type]

    return crop


def recompressed(file_format: str, quality: int) -> Change:
    return lambda image, _: Image.open(io.BytesIO(encode(image, file_format, quality=quality)))


def resized(scale: float) -> Change:
    return lambda image, _: image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS
    )


def both(first: Change, second: Change) -> Change:
    return lambda image, rng: second(first(image, rng), rng)


CHANGES: dict[str, Change] = {
    "JPEG 40": recompressed("JPEG", 40),
    "WebP 60": recompressed("WEBP", 60),
    "half": resized(0.5),
    "double": resized(2.0),
    "cropped by up to 5 %": cropped(0.05, 0.05, 0.05, 0.05),
    "cropped by up to 10 %": cropped(0.1, 0.1, 0.1, 0.1),
    "cropped on one side": cropped(0.1, 0, 0, 0),
    "cropped and compressed": both(cropped(0.08, 0, 0.08, 0.05), recompressed("JPEG", 60)),
}
