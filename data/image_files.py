"""Pictures of a dataset: found by the names in its tables, checked, made no larger than useful."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

from PIL import Image

from mtrl_judge.common.errors import DataError
from mtrl_judge.judge_tasks.images import decode, fault_of

from .places import Place

# 7680 × 4320. As RGB that is 100 MB in memory, and no judge sees more than a part of it: the
# Qwen-VL processors go up to 16,384 patches of 28 × 28, 12.8 megapixels.
MOST_PIXELS = 7680 * 4320


class Picture(NamedTuple):
    """A picture as it is kept."""

    data: bytes | None
    """Encoded; None where there is nothing to keep."""
    fault: str | None = None
    """Why it does not decode."""
    change: str | None = None
    """What was done to it."""


class PictureIndex:
    """Which file of which place a table's value means."""

    def __init__(self, places: Iterable[Place]) -> None:
        self.by_name: defaultdict[str, list[tuple[str, Place]]] = defaultdict(list)
        for place in places:
            for file in place.files():
                self.by_name[PurePosixPath(file.name).name].append((file.name, place))

    def find(self, value: object) -> tuple[str, Place] | None:
        """By the whole path, else by most of its end, else by the base name.

        Raises:
            DataError: two files fit alike.
        """
        wanted = PurePosixPath(str(value))
        fitting = self.by_name.get(wanted.name, [])
        if len(fitting) < 2:
            return fitting[0] if fitting else None
        depth = {name: _common_end(PurePosixPath(name), wanted) for name, _ in fitting}
        most = max(depth.values())
        best = [each for each in fitting if depth[each[0]] == most]
        if len(best) > 1:
            names = ", ".join(f"{name} ({place.label})" for name, place in best[:3])
            raise DataError(f"two pictures may be meant by {str(value)!r}: {names}; keep one")
        return best[0]


def _common_end(first: PurePosixPath, second: PurePosixPath) -> int:
    count = 0
    for one, other in zip(reversed(first.parts), reversed(second.parts), strict=False):
        if one != other:
            break
        count += 1
    return count


def read_picture(found: tuple[str, Place] | None) -> Picture:
    """A picture of its own file, checked; one that is missing or broken has a fault."""
    if found is None:
        return Picture(None, "there is no such file")
    name, place = found
    try:
        return checked(place.picture(name))
    except ValueError as error:
        return Picture(None, str(error))


def checked(data: bytes) -> Picture:
    """The picture with its fault, or scaled down where it is larger than any judge sees."""
    if not data:
        return Picture(data, "the file is empty")
    fault = fault_of(data)
    if fault is not None:
        return Picture(data, fault)
    with Image.open(io.BytesIO(data)) as picture:
        width, height = picture.size
    if width * height <= MOST_PIXELS:
        return Picture(data)
    try:
        smaller = _scaled_down(data)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        return Picture(data, str(error) or type(error).__name__)
    return Picture(smaller, change=f"scaled down from {width} × {height}")


def _scaled_down(data: bytes) -> bytes:
    picture = decode(data)
    scale = (MOST_PIXELS / (picture.width * picture.height)) ** 0.5
    size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
    # The box filter over whole pixels first keeps the memory near that of the picture itself.
    picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    with Image.open(io.BytesIO(data)) as original:
        lossy = original.format in ("JPEG", "WEBP")
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG" if lossy else "PNG", **({"quality": 95} if lossy else {}))
    return buffer.getvalue()
