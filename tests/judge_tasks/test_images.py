"""Unusual images are decoded as people see them; broken or oversized ones are reported."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.images import encode

from mtrl_judge.judge_tasks.images import decode, fault_of, shown, truncation_refused

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


@pytest.mark.parametrize(
    ("size", "seen"),
    [((1, 1), (28, 28)), ((3, 600), (28, 5600)), ((40, 30), (40, 30)), ((2000, 10), (5600, 28))],
)
def test_a_short_side_is_enlarged(size: tuple[int, int], seen: tuple[int, int]) -> None:
    data = encode(Image.new("RGB", size, "red"))
    assert fault_of(data) is None
    assert shown(data).size == seen
    assert shown(data).getpixel((9, 9)) == (255, 0, 0)


def chunk(kind: bytes, content: bytes) -> bytes:
    size, checksum = len(content), zlib.crc32(kind + content)
    return size.to_bytes(4, "big") + kind + content + checksum.to_bytes(4, "big")


def png(width: int, height: int, bits: int, pixels: bytes, *chunks: bytes) -> bytes:
    """A grayscale PNG with right checksums, whatever it contains."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, 0, 0, 0, 0])
    parts = (chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(pixels)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def jpeg_of_many_scans() -> bytes:
    data = encode(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + 100 * last + data[-2:]


def ghostscript_runs(*_: object) -> None:
    raise AssertionError("EPS reached Ghostscript")


def test_hostile_images_are_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", ghostscript_runs)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    bomb = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(100_000_000)))
    faults = {
        "13000 × 13000 pixels, more than 128": png(13_000, 13_000, 1, bytes(13_000 * 1626)),
        "a JPEG of more than 32 scans": jpeg_of_many_scans(),
        "not a complete image of a known format": eps,
        "too large for": png(8, 8, 8, bytes(72), bomb),
        "truncated": png(64, 64, 8, bytes(100)),
        "2000 × 3 pixels, an aspect ratio above 200": encode(Image.new("L", (2000, 3))),
        "3 × 601 pixels": encode(Image.new("L", (3, 601)), "GIF"),
    }
    with truncation_refused():  # as on loading, whatever lmms-eval has set
        found = {expected: fault_of(data) or "" for expected, data in faults.items()}
    assert all(expected in fault for expected, fault in found.items()), found


def test_scans_are_those_of_the_image() -> None:
    """A phone appends a film to a photo, which may contain anything; a thumbnail has scans too."""
    data = encode(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    segment = b"\xff\xe1" + (202).to_bytes(2, "big") + 100 * b"\xff\xda"
    assert fault_of(data[:2] + segment + data[2:] + 100 * b"\xff\xda") is None
