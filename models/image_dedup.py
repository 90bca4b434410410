"""Equal images of a batch pass the vision tower once."""

from __future__ import annotations

import functools
import inspect
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .packing import MROPE, PLAIN, join_images, split_images

# What a processor returns for each image.
BY_IMAGE = ("pixel_values", "image_grid_thw", "image_sizes")


@contextmanager
def images_once(model: Any) -> Iterator[None]:
    """Within it, a model's `get_image_features` computes each distinct image once.

    Images are distinct by content, so two copies of one picture count as one. The features that are
    handed back are those of all images. Another family than those of `shared_prompt` is left alone.

    Args:
        model: of transformers, without a wrapper; it may hold adapters.
    """
    if model.config.model_type not in MROPE + PLAIN:
        yield
        return
    base = model.base_model
    stock = base.get_image_features
    signature = inspect.signature(stock)

    @functools.wraps(stock)  # `generate` passes what the signature names
    def get_image_features(*arguments: Any, **named: Any) -> Any:
        bound = signature.bind(*arguments, **named)
        rest = bound.arguments.pop("kwargs", {})
        given = {name: value for name, value in bound.arguments.items() if value is not None}
        return _features(stock, given, rest)

    base.get_image_features = get_image_features
    try:
        yield
    finally:
        del base.get_image_features


def _features(stock: Any, given: dict[str, Any], rest: Mapping[str, Any]) -> Any:
    by_image = {name: given[name] for name in BY_IMAGE if name in given}
    images = len(by_image.get("image_grid_thw", by_image["pixel_values"]))
    pieces = split_images(by_image, [1] * images)
    prompts = given.get("batch_num_images", [1] * images)
    tiled_N = [int(n) == 1 for n in prompts for _ in range(int(n))]
    first = _first_equal(pieces, tiled_N)
    own = _in_order(first, tiled_N)
    if len(own) >= images:
        return stock(**given, **rest)
    given |= join_images(pieces[k] for k in own)
    if not all(tiled_N):
        tiled = sum(tiled_N[k] for k in own)
        given["batch_num_images"] = [1] * tiled + [len(own) - tiled]
    found = stock(**given, **rest)
    places = [own.index(k) for k in first]
    spread = {"pooler_output": [found.pooler_output[place] for place in places]}
    if "deepstack_features" in found:
        spread["deepstack_features"] = [
            [layer[place] for place in places] for layer in found.deepstack_features
        ]
    return type(found)(**spread)


def _first_equal(pieces: Sequence[Mapping[str, Tensor]], tiled_N: Sequence[bool]) -> list[int]:
    """For each image the place of the first one that equals it."""
    sums_N = torch.stack([piece["pixel_values"].double().sum() for piece in pieces]).tolist()
    known: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    first = []
    for place, piece in enumerate(pieces):
        shapes = tuple(value.shape for value in piece.values())
        alike = known[(shapes, sums_N[place], tiled_N[place])]
        twin = next((k for k in alike if _equal(pieces[k], piece)), place)
        if twin == place:
            alike.append(place)
        first.append(twin)
    return first


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def _in_order(first: Sequence[int], tiled_N: Sequence[bool]) -> list[int]:
    """The distinct images, those that LLaVA-OneVision cuts into tiles first.

    It cuts an image that is alone in its prompt, so one that is not cut must not end up alone.
    """
    own = sorted(set(first), key=lambda k: (not tiled_N[k], k))
    whole = [k for k in own if not tiled_N[k]]
    return own + whole if len(whole) == 1 else own
