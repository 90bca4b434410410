"""Near copies are found, and what is only alike is not."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from mtrl_judge.judge_tasks.near import near_copies
from mtrl_judge.judge_tasks.sample import Sizes, write_sample

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


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Pictures of the sample, each another drawing."""
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("near") / "sample"
    write_sample(folder, seed=5, sizes=Sizes(train=90, validation=2, test=2, test_pairs=2))
    tasks = ("agin_nat", "seetrue", "imagereward", "unsafebench")
    files = [folder / f"mtrl_judge_{task}" / "train.parquet" for task in tasks]
    cells = [cell for file in files for cell in pq.read_table(file)["image"].to_pylist()]
    return [cell["bytes"] for cell in cells]


@pytest.fixture(scope="module")
def pictures(drawings: list[bytes]) -> list[bytes]:
    return [*drawings[::4], *(encoded(textured(seed)) for seed in range(30))]


@pytest.mark.parametrize(
    ("name", "copies_first"),
    [*((name, False) for name in CHANGES), ("cropped by up to 10 %", True), ("half", True)],
)
def test_near_copies_are_found(pictures: list[bytes], name: str, copies_first: bool) -> None:
    draw = np.random.default_rng(7)
    copies = [
        encoded(CHANGES[name](Image.open(io.BytesIO(data)).convert("RGB"), draw), "PNG")
        for data in pictures
    ]
    sides = (copies, pictures) if copies_first else (pictures, copies)
    found = {(each.first, each.second) for each in near_copies(*sides)}
    assert {pair for pair in found if pair[0] != pair[1]} == set()
    assert len(found) >= 0.95 * len(pictures), f"{len(found)} of {len(pictures)}"


def test_drawings_that_are_only_alike_are_no_copies(drawings: list[bytes]) -> None:
    """The hard case: few pictures of things, on plain grounds, in few places."""
    assert near_copies(drawings[::2], drawings[1::2]) == []


def test_pictures_of_one_colour_and_broken_ones_are_left_to_their_bytes() -> None:
    flat = [encoded(Image.new("RGB", (32, 32), colour)) for colour in ("red", "#fe0000")]
    assert near_copies(flat, [*flat, b"", b"no picture"]) == []
    assert near_copies([], flat) == near_copies(flat, []) == []


def test_turned_and_clear_pictures_are_seen_as_they_are_shown() -> None:
    picture = textured(3)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture.rotate(90, expand=True).save(buffer, "JPEG", quality=90, exif=exif)
    assert [each[:2] for each in near_copies([encoded(picture)], [buffer.getvalue()])] == [(0, 0)]
