"""Images on their way to the data root: broken ones are named, overlarge ones scaled down."""

from __future__ import annotations

import io
import zlib

import pytest
from PIL import Image
from support.images import encode

from mtrl_judge.data.image_files import MAX_PIXELS, check_image


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_a_huge_image_is_scaled_down(file_format: str) -> None:
    large = Image.linear_gradient("L").resize((12_500, 8_000))
    checked = check_image(encode(large, file_format))
    assert checked.fault is None
    assert checked.change == "scaled down from 12500 × 8000"
    smaller = Image.open(io.BytesIO(checked.data or b""))
    assert smaller.format == file_format
    assert 0.99 * MAX_PIXELS < smaller.width * smaller.height <= MAX_PIXELS
    assert smaller.getpixel((10, smaller.height - 10)) == pytest.approx((255,) * 3, abs=3)


def test_a_decompression_bomb_is_a_fault() -> None:
    """A PNG of 60,000 × 60,000 in a few bytes: only its head says so."""
    head = bytearray(encode(Image.new("1", (8, 8)), "PNG"))
    head[16:24] = (60_000).to_bytes(4, "big") * 2
    head[29:33] = zlib.crc32(head[12:29]).to_bytes(4, "big")
    checked = check_image(bytes(head))
    assert "decompression bomb" in (checked.fault or "")


def test_an_empty_file_is_a_fault_and_an_ordinary_one_stays() -> None:
    assert check_image(b"").fault == "the file is empty"
    data = encode(Image.new("RGB", (9, 9), "red"), "JPEG")
    assert check_image(data) == (data, None, None)
