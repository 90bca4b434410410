"""Unusual images are decoded as people see them; broken or oversized ones are reported."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.images import encode

from mtrl_judge.judge_tasks.images import decode, fault_of

RAMP = np.linspace(0, 65535, 64).reshape(8, 8)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (RAMP.astype(np.uint16), "PNG"),
        (RAMP.astype(np.uint16), "TIFF"),
        (RAMP.astype(np.int32), "TIFF"),
        ((RAMP / 65535).astype(np.float32), "TIFF"),
    ],
)
def test_gray_of_many_bits_is_scaled_and_not_clipped(values: Any, kind: str) -> None:
    shown = np.asarray(decode(encode(Image.fromarray(values), kind)))
    assert shown.shape == (8, 8, 3)
    assert np.abs(shown[..., 0] - RAMP / 257).max() <= 1


def test_printers_colors_come_back() -> None:
    """A JPEG of CMYK is kept inverted, as Adobe does."""
    data = encode(Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert np.abs(np.asarray(decode(data))[8, 8].astype(int) - (200, 30, 60)).max() <= 3


def test_an_animation_is_its_first_image() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        more = {"lossless": True} if kind == "WEBP" else {}
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **more)
        assert decode(data).getpixel((4, 4)) == (255, 0, 0)
        assert fault_of(data) is None


def test_a_palette_with_a_clear_color_lies_on_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 1), 1)
    shown = decode(encode(image, "PNG", transparency=0))
    assert shown.getpixel((0, 0)) == (255, 255, 255)
    assert shown.getpixel((1, 1)) == (0, 0, 255)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_image_is_turned_back(orientation: int) -> None:
    """EXIF says how a viewer has to turn it; with each of the ways it comes out upright."""
    upright = Image.new("L", (6, 4))
    upright.putpixel((0, 0), 255)
    turns = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for turn in turns[orientation]:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = decode(encode(stored, "PNG", exif=exif))
    assert shown.size == (6, 4)
    assert shown.getpixel((0, 0)) == (255, 255, 255)
