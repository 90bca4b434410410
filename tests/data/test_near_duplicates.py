"""Near-duplicates are found, and images that are merely similar are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from support.images import CHANGES, encode, photo

from mtrl_judge.data import near_duplicates as near
from mtrl_judge.data.near_duplicates import find_near_duplicates, hash_images
from mtrl_judge.demo.corpus import Sizes, write_sample


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Images of the sample corpus, all different."""
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("near") / "sample"
    write_sample(folder, seed=5, sizes=Sizes(train=90, validation=2, test=2, test_pairs=2))
    tasks = ("agin_nat", "seetrue", "imagereward", "unsafebench")
    files = [folder / f"mtrl_judge_{task}" / "train.parquet" for task in tasks]
    cells = [cell for file in files for cell in pq.read_table(file)["image"].to_pylist()]
    return [cell["bytes"] for cell in cells]


@pytest.fixture(scope="module")
def images(drawings: list[bytes]) -> list[bytes]:
    return [*drawings[::4], *(encode(photo(seed)) for seed in range(30))]


@pytest.mark.parametrize(
    ("name", "copies_first"),
    [*((name, False) for name in CHANGES), ("cropped by up to 10 %", True), ("half", True)],
)
def test_near_duplicates_are_found(images: list[bytes], name: str, copies_first: bool) -> None:
    draw = np.random.default_rng(7)
    copies = [
        encode(CHANGES[name](Image.open(io.BytesIO(data)).convert("RGB"), draw)) for data in images
    ]
    sides = (copies, images) if copies_first else (images, copies)
    found = {(pair.first, pair.second) for pair in find_near_duplicates(*sides)}
    assert {pair for pair in found if pair[0] != pair[1]} == set()
    assert len(found) >= 0.95 * len(images), f"{len(found)} of {len(images)}"


def test_similar_drawings_are_not_duplicates(drawings: list[bytes]) -> None:
    """The hard case: a few things on plain backgrounds, in few positions."""
    assert find_near_duplicates(drawings[::2], drawings[1::2]) == []


def test_the_same_in_another_color_is_not_a_duplicate() -> None:
    light, blue, red = photo(3).convert("YCbCr").split()
    tinted = Image.merge("YCbCr", (light, blue.point(lambda v: v - 8), red.point(lambda v: v + 8)))
    images = [
        encode(tinted.convert("RGB")),
        encode(ImageEnhance.Brightness(photo(3)).enhance(0.9)),
    ]
    assert find_near_duplicates([encode(photo(3))], images) == [(0, 1)]


def test_images_of_one_color_and_damaged_ones_are_never_found() -> None:
    flat = [encode(Image.new("RGB", (32, 32), color)) for color in ("red", "#fe0000")]
    assert find_near_duplicates(flat, [*flat, b"", b"no image"]) == []
    assert find_near_duplicates([], flat) == find_near_duplicates(flat, []) == []


def test_several_processes_give_the_same_hashes(
    images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed, done = [*images[-20:], b"no image"], []
    alone = hash_images(mixed)
    monkeypatch.setattr(near, "MANY", 1)
    together = hash_images(mixed, done.append)
    assert (alone.codes_N_W_B == together.codes_N_W_B).all()
    assert list(alone.known_N) == list(together.known_N) == [True] * 20 + [False]
    assert done == list(range(1, 22))


def test_exif_rotation_is_applied() -> None:
    image = photo(3)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(image.rotate(90, expand=True), "JPEG", quality=90, exif=exif)
    assert find_near_duplicates([encode(image)], [turned]) == [(0, 0)]
