"""Generation that computes the key-value cache of equal prompts once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import DynamicLayer, StaticCache

from mtrl_judge.common.attributes import replaced_attribute

from .image_dedup import deduplicate_images
from .packing import (
    MROPE,
    TEXT_FIELDS,
    Prefix,
    count_images,
    join_images,
    prefixes_of,
    unique_prefixes,
)
from .routing import repeat_routes

STATIC_TOKENS = 256  # a static cache is as long as a multiple of these
Check: TypeAlias = Callable[
    [Tensor, dict[str, Any], list[int], Callable[[dict[str, Any]], Tensor]], None
]


@contextmanager
def share_prefill(
    model: Any,
    image_counts: Sequence[int],
    check: Check | None = None,
    static: StaticDecoding | None = None,
) -> Iterator[None]:
    """Within the context, `model.generate` reads equal prompts once and returns the same answers.

    Sampling still draws one random number per row and step, so with the same seed it returns the
    same tokens, up to rounding.

    Args:
        model: a transformers model without wrapper, for which
            :func:`~.packing.prefix_unsupported_reason` is None.
        image_counts: number of images of each prompt that `generate` will be given.
        check: called once, with the logits of each row's first token (B × V), the arguments of
            `generate`, the number of images in each row as the model sees them, and a function that
            returns transformers' own logits for such arguments.
        static: decode into its cache.
    """
    stock = model.generate

    def first_logits(inputs: dict[str, Any], generation_config: Any) -> Tensor:
        ids = ("pad_token_id", "eos_token_id", "bos_token_id")
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=1,
            output_logits=True,
            return_dict_in_generate=True,
            **{name: getattr(generation_config, name) for name in ids},
        )
        logits: Tensor = stock(generation_config=config, **inputs).logits[0]
        return logits

    def generate(*, generation_config: Any, **inputs: Any) -> Any:
        max_new_tokens = generation_config.max_new_tokens or 0
        counts = count_images(model.config, inputs["input_ids"], image_counts)
        if check is not None:
            # Ours first: a model may keep state (rope deltas) of the last prompts it read in full.
            prefilled = prefill(model, inputs, counts, 1)
            ours_B_V = first_logits(prefilled, generation_config)
            stock_logits = partial(first_logits, generation_config=generation_config)
            check(ours_B_V, inputs, counts, stock_logits)
        # Prefilled again after a check, which has written into the cache.
        prefilled = prefill(model, inputs, counts, max_new_tokens, static)
        return stock(generation_config=generation_config, **prefilled)

    with replaced_attribute(model, "generate", generate):
        yield


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped here
    """A cache layer allocated for all tokens to come; DynamicLayer copies itself at each token."""

    def __init__(self, keys: Tensor, values: Tensor, room: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        size = (*keys.shape[:2], keys.shape[2] + room)
        self._keys = keys.new_empty(*size, keys.shape[3])
        self._values = values.new_empty(*size, values.shape[3])
        self._length = 0
        self.update(keys, values)

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        start, self._length = self._length, self._length + keys.shape[2]
        self._keys[:, :, start : self._length] = keys
        self._values[:, :, start : self._length] = values
        self.keys = self._keys[:, :, : self._length]
        self.values = self._values[:, :, : self._length]
        return self.keys, self.values


class StaticDecoding:
    """A static key-value cache that is filled again by each generation.

    transformers compiles decoding into a static cache, on a GPU with CUDA graphs. Both refer to the
    memory of the cache (``StaticLayer.lazy_initialization`` in transformers/cache_utils.py), so
    another cache would be compiled for and captured again.
    """

    def __init__(self) -> None:
        self._cache: StaticCache | None = None
        self._rows = self._length = 0

    def filled(
        self, config: Any, layers: Sequence[DynamicLayer], inverse: Sequence[int], room: int
    ) -> StaticCache | None:
        """The cache with the prompts of B rows; None for fewer rows than it has.

        Args:
            config: the model's.
            layers: the cache of the distinct prompts.
            inverse: which of them each row has.
            room: tokens that are still to come.
        """
        length = layers[0].keys.shape[2]
        if len(inverse) < self._rows:
            return None
        if self._cache is None or len(inverse) > self._rows or length + room > self._length:
            self._rows = len(inverse)
            self._length = -(-(length + room) // STATIC_TOKENS) * STATIC_TOKENS
            self._cache = None  # free the old one first
            self._cache = StaticCache(config=config, max_cache_len=self._length)
        for layer, prompts in zip(self._cache.layers, layers, strict=True):
            keys, values = prompts.keys[inverse], prompts.values[inverse]
            if not layer.is_initialized:
                layer.lazy_initialization(keys, values)
            layer.keys[:, :, :length] = keys
            layer.values[:, :, :length] = values
            layer.cumulative_length.fill_(length)
        return self._cache


def prefill(
    model: Any,
    inputs: dict[str, Any],
    image_counts: Sequence[int],
    max_new_tokens: int,
    static: StaticDecoding | None = None,
) -> dict[str, Any]:
    """Arguments of `generate` that continue from a cache of all but the prompts' last tokens.

    Also where no two prompts are equal: all processes of a sharded model must run as many forward
    passes, and others may have equal prompts.

    Args:
        image_counts: as for :func:`~.packing.prefixes_of`.
    """
    prefixes = prefixes_of(inputs, image_counts)
    distinct, inverse = unique_prefixes(prefixes)
    return _prefilled(model, inputs, prefixes, distinct, inverse, max_new_tokens, static)


def prefill_copies(
    model: Any,
    inputs: dict[str, Any],
    image_counts: Sequence[int],
    copies: int,
    max_new_tokens: int,
) -> dict[str, Any]:
    """As :func:`prefill`, for several rows of each of the B prompts, which follow each other.

    Args:
        copies: rows of each prompt.
    """
    prefixes = prefixes_of(inputs, image_counts)
    distinct, places_B = unique_prefixes(prefixes)
    inverse = [place for place in places_B for _ in range(copies)]
    return _prefilled(model, inputs, prefixes, distinct, inverse, max_new_tokens, None)


def _prefilled(
    model: Any,
    inputs: dict[str, Any],
    prefixes: Sequence[Prefix],
    distinct: Sequence[int],
    inverse: Sequence[int],
    max_new_tokens: int,
    static: StaticDecoding | None,
) -> dict[str, Any]:
    """The arguments for rows each of which has one of the distinct prompts."""
    text = {name: inputs[name][distinct, :-1] for name in TEXT_FIELDS if name in inputs}
    if model.config.model_type not in MROPE:
        # As `generate` counts them; `forward` alone would count padding as well.
        text["position_ids"] = (text["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    images = join_images(prefixes[index].images for index in distinct)
    with torch.no_grad(), deduplicate_images(model):
        cache = model(**text, **images, use_cache=True, logits_to_keep=1).past_key_values
    # One more for the prompts' last tokens, which are still to be read.
    room = max_new_tokens + 1
    filled = static.filled(model.config, cache.layers, inverse, room) if static else None
    rows = torch.tensor(inverse, device=inputs["input_ids"].device)
    if filled is None:
        for index, layer in enumerate(cache.layers):
            layer.reorder_cache(rows)
            if type(layer) is DynamicLayer:  # others, of sliding windows and states, do not grow
                cache.layers[index] = PreallocatedLayer(layer.keys, layer.values, room)
    repeat_routes(cache if filled is None else filled, cache, rows)
    if model.config.model_type in MROPE:
        model.base_model.rope_deltas = model.base_model.rope_deltas[inverse]
    rows_of = [distinct[place] for place in inverse]
    return {
        "input_ids": inputs["input_ids"][rows_of],
        "attention_mask": inputs["attention_mask"][rows_of],
        "past_key_values": cache if filled is None else filled,
    }
