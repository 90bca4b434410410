"""The images of a dataset: found by the names in its tables, checked, scaled down if huge."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable
from itertools import takewhile
from pathlib import PurePosixPath
from typing import NamedTuple

from PIL import Image

from mtrl_judge.common.errors import DataError
from mtrl_judge.judge_tasks.images import DECODE_ERRORS, decode, fault_of, open_image

from .raw_files import RawFiles

# 7680 × 4320. As RGB that is 100 MB in memory, and more than any judge sees: the Qwen-VL
# processors use up to 16,384 patches of 28 × 28, which are 12.8 megapixels.
MAX_PIXELS = 7680 * 4320


class CheckedImage(NamedTuple):
    """An encoded image as it is written to the data root."""

    data: bytes | None
    """None if there is no file to keep."""
    fault: str | None = None
    """Why it cannot be shown to a judge."""
    change: str | None = None
    """How it differs from the file."""


class ImageIndex:
    """Finds the file that a table means by a path or a name."""

    def __init__(self, sources: Iterable[RawFiles]) -> None:
        self.by_name: defaultdict[str, list[tuple[str, RawFiles]]] = defaultdict(list)
        for source in sources:
            for name in source.sizes:
                self.by_name[PurePosixPath(name).name].append((name, source))

    def find(self, value: object) -> tuple[str, RawFiles] | None:
        """The file with the same base name that shares most of the path, from its end.

        Raises:
            DataError: two files share equally much.
        """
        wanted = PurePosixPath(str(value))
        files = self.by_name.get(wanted.name, [])
        shared = [_shared_end(PurePosixPath(name), wanted) for name, _ in files]
        best = [file for file, n in zip(files, shared, strict=True) if n == max(shared)]
        if len(best) > 1:
            names = ", ".join(f"{name} ({source.label})" for name, source in best[:3])
            raise DataError(f"image {str(value)!r}: found {names}; expected a single file")
        return best[0] if best else None

    def read(self, value: object) -> bytes:
        """The content of the file that a table means.

        Raises:
            ValueError: there is no such file, or it cannot be read.
        """
        file = self.find(value)
        if file is None:
            raise ValueError("there is no such file")
        name, source = file
        return source.read_image(name)


def _shared_end(first: PurePosixPath, second: PurePosixPath) -> int:
    """How many parts two paths share, from their ends."""
    parts = zip(reversed(first.parts), reversed(second.parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], parts))


def check_image(data: bytes) -> CheckedImage:
    """The image with its fault, or scaled down to MAX_PIXELS."""
    fault = fault_of(data) if data else "the file is empty"
    if fault is not None:
        return CheckedImage(data, fault)
    with open_image(data) as file:
        (width, height), lossy = file.size, file.format in ("JPEG", "WEBP")
    if width * height <= MAX_PIXELS:
        return CheckedImage(data)
    scale = (MAX_PIXELS / (width * height)) ** 0.5
    buffer = io.BytesIO()
    try:
        image = decode(data)
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        # The gap has Pillow reduce by a box filter first, which keeps memory near the image's own.
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    except DECODE_ERRORS as error:
        return CheckedImage(data, str(error) or type(error).__name__)
    image.save(buffer, "JPEG" if lossy else "PNG", **({"quality": 95} if lossy else {}))
    return CheckedImage(buffer.getvalue(), change=f"scaled down from {width} × {height}")
