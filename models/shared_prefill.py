"""Generation for prompts that occur several times: each is read once, its cache then repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import DynamicLayer

from .image_dedup import images_once
from .packing import MROPE, Prefix, join_images, same_prompts, split_images

Check: TypeAlias = Callable[[Tensor, Tensor], None]

# What `generate` takes beside images and the model's own settings.
_TEXT = ("input_ids", "attention_mask", "mm_token_type_ids")


@contextmanager
def prefill_once(model: Any, counts: list[int], check: Check | None = None) -> Iterator[None]:
    """Within it, `model.generate` reads equal prompts once; the answers are the same.

    Every row has a random number of its own in each step, as without it, so with the same seed the
    same tokens are drawn, but for roundings.

    Args:
        model: of transformers, without a wrapper, for which `why_not` is None.
        counts: images of each prompt that `generate` will be given.
        check: called once with the logits of each row's first tokens (B × V) and with those that
            transformers finds by itself.
    """
    stock = model.generate

    def generate(*, generation_config: Any, **inputs: Any) -> Any:
        def read() -> dict[str, Any]:
            return _read_once(model, inputs, counts, room=generation_config.max_new_tokens or 0)

        if check is not None:
            _compare(stock, generation_config, inputs, read(), check)
        shared = read()  # anew, because the check writes into its cache
        return stock(generation_config=generation_config, **shared)

    model.generate = generate
    try:
        yield
    finally:
        del model.generate


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types here
    """A layer of a cache with room for further tokens, so that none copies those before it."""

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


def _read_once(model: Any, inputs: dict[str, Any], counts: list[int], room: int) -> dict[str, Any]:
    """What `generate` takes to go on from the cache of all but the prompts' last tokens.

    Args:
        room: tokens to be generated, at most.
    """
    prefixes, fields_B = _prefixes(inputs, counts)
    first = same_prompts(prefixes)
    own = sorted(set(first))
    if len(own) == len(first):
        return inputs
    index_M = torch.tensor(own, device=inputs["input_ids"].device)
    text = {name: inputs[name][index_M, :-1] for name in _TEXT if name in inputs}
    if model.config.model_type not in MROPE:
        # As `generate` counts them; `forward` by itself would count the padding too.
        text["position_ids"] = (text["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad(), images_once(model):
        cache = model(
            **text, **join_images(fields_B[k] for k in own), use_cache=True, logits_to_keep=1
        ).past_key_values
    rows_B = torch.tensor([own.index(k) for k in first], device=index_M.device)
    # One more: the prompts' last tokens are still to be read.
    cache.layers = [
        _RoomyLayer(layer.keys[rows_B], layer.values[rows_B], room + 1) for layer in cache.layers
    ]
    if model.config.model_type in MROPE:
        model.base_model.rope_deltas = model.base_model.rope_deltas[rows_B]
    return {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "past_key_values": cache,
    }


def _prefixes(
    inputs: dict[str, Any], counts: list[int]
) -> tuple[list[Prefix], list[dict[str, Any]]]:
    fields = {name: value for name, value in inputs.items() if name not in _TEXT}
    pieces = split_images(fields, counts)
    rows = zip(inputs["input_ids"], inputs["attention_mask"].bool(), pieces, strict=True)
    return [Prefix(ids[mask], None, piece) for ids, mask, piece in rows], pieces


def _compare(
    stock: Any, settings: Any, inputs: dict[str, Any], shared: dict[str, Any], check: Check
) -> None:
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=1,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=settings.pad_token_id,
        eos_token_id=settings.eos_token_id,
        bos_token_id=settings.bos_token_id,
    )
    # With the cache first: a model may keep what it knows of the last prompts it read in full.
    ours, theirs = (stock(generation_config=greedy, **given).logits for given in (shared, inputs))
    check(ours[0], theirs[0])
