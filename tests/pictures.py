"""Pictures to look for, and near copies of them."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def encoded(picture: Image.Image, kind: str = "PNG", **save: int) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, kind, **save)
    return buffer.getvalue()


def textured(seed: int) -> Image.Image:
    """Clouds of colour, as much of coarse as of fine structure as photographs have."""
    draw = np.random.default_rng(seed)
    total = np.zeros((160, 200, 3), dtype=np.float32)
    for cells in (2, 4, 8, 16, 32, 64):
        noise = draw.normal(size=(cells, cells, 3)).astype(np.float32)
        layers = [
            np.asarray(Image.fromarray(noise[..., c]).resize((200, 160), Image.Resampling.BICUBIC))
            for c in range(3)
        ]
        total += np.stack(layers, axis=-1) / cells ** draw.uniform(0.4, 1.2)
    shown = (total - total.mean()) / total.std() * 50 + 128
    return Image.fromarray(np.clip(shown, 0, 255).astype(np.uint8))


def cropped(*sides: float) -> Change:
    """Cut off shares of left, top, right and bottom, drawn up to these."""

    def crop(picture: Image.Image, draw: np.random.Generator) -> Image.Image:
        left, top, right, bottom = (draw.uniform(0, side) for side in sides)
        width, height = picture.size
        box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
        return picture.crop(tuple(round(edge) for edge in box))  # type: ignore[arg-type]

    return crop


def recompressed(kind: str, quality: int) -> Change:
    return lambda picture, _: Image.open(io.BytesIO(encoded(picture, kind, quality=quality)))


def resized(scale: float) -> Change:
    return lambda picture, _: picture.resize(
        (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
    )


def both(first: Change, second: Change) -> Change:
    return lambda picture, draw: second(first(picture, draw), draw)


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
