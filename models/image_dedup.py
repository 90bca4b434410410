"""Run each distinct image of a batch through the vision tower once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from mtrl_judge.common.attributes import replaced_attribute

from .packing import MROPE, PLAIN, join_images, same_images, split_images, unique

# The processor's fields with one entry per image.
IMAGE_FIELDS = ("pixel_values", "image_grid_thw", "image_sizes")


@contextmanager
def deduplicate_images(model: Any) -> Iterator[None]:
    """Within the context, `model.get_image_features` computes each distinct image once.

    Images are compared by content. The features returned are those of all images, duplicates
    included. Families other than those of :mod:`packing` are left unchanged.

    Args:
        model: a transformers model without wrapper; it may hold adapters.
    """
    if model.config.model_type not in MROPE + PLAIN:
        yield
        return
    base = model.base_model
    stock = base.get_image_features
    signature = inspect.signature(stock)

    @functools.wraps(stock)  # `generate` passes only arguments that the signature names
    def get_image_features(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        rest = bound.arguments.pop("kwargs", {})
        given = {name: value for name, value in bound.arguments.items() if value is not None}
        return _distinct_features(stock, given, rest)

    with replaced_attribute(base, "get_image_features", get_image_features):
        yield


def _distinct_features(stock: Any, given: dict[str, Any], rest: Mapping[str, Any]) -> Any:
    fields = {name: given[name] for name in IMAGE_FIELDS if name in given}
    n = len(fields.get("image_grid_thw", fields["pixel_values"]))
    images = split_images(fields, [1] * n)
    # LLaVA-OneVision cuts an image into tiles only where it is the only one of its prompt
    # (`batch_num_images`), so the same image has other features in a prompt with several.
    counts = given.get("batch_num_images", [1] * n)
    tiled_N = [int(count) == 1 for count in counts for _ in range(int(count))]
    # The sum is a cheap hash: only images with the same one are compared in full.
    sums_N = torch.stack([image["pixel_values"].double().sum() for image in images]).tolist()
    shapes_N = [tuple(value.shape for value in image.values()) for image in images]
    distinct, inverse = unique(
        list(zip(shapes_N, sums_N, tiled_N, strict=True)),
        lambda i, j: same_images(images[i], images[j]),
    )
    chosen = sorted(distinct, key=lambda index: not tiled_N[index])
    whole = [index for index in chosen if not tiled_N[index]]
    if len(whole) == 1:
        chosen += whole  # alone in its prompt, it would be cut into tiles
    if len(chosen) >= n:
        return stock(**given, **rest)
    given |= join_images(images[index] for index in chosen)
    if whole:
        tiled = sum(tiled_N[index] for index in chosen)
        given["batch_num_images"] = [1] * tiled + [len(chosen) - tiled]
    output = stock(**given, **rest)
    spread = [chosen.index(distinct[index]) for index in inverse]
    pooled = output.pooler_output  # one tensor where all images have as many tokens
    one = isinstance(pooled, torch.Tensor)
    result = {"pooler_output": pooled[spread] if one else [pooled[index] for index in spread]}
    if "deepstack_features" in output:
        lengths = [len(features) for features in output.pooler_output]
        result["deepstack_features"] = [
            _spread(layer, lengths, spread) for layer in output.deepstack_features
        ]
    return type(output)(**result)


def _spread(layer: Any, lengths: list[int], spread: list[int]) -> Any:
    """A layer of deepstack features for all images; before transformers 5.18, it is one tensor."""
    if not isinstance(layer, torch.Tensor):
        return [layer[index] for index in spread]
    parts = torch.split(layer, lengths)
    return torch.cat([parts[index] for index in spread])
