"""A generation batch, shuffled by groups and cut into micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtrl_judge.models.packing import (
    TEXT_FIELDS,
    Prefix,
    prefixes_of,
    take_rows,
)

# What TRL keeps of prompts for a forward pass besides their tokens (``GRPOTrainer._compute_loss``).
_FORWARD_FIELDS = (
    *("pixel_values", "image_grid_thw", "image_sizes", "pixel_attention_mask", "spatial_shapes"),
    *("image_position_ids", "token_type_ids", "mm_token_type_ids", "num_images", "num_tiles"),
)


def shuffle_groups(batch: Mapping[str, Any], generations: int) -> dict[str, Any]:
    """Shuffle the groups of a generation batch; the rows of each stay neighbors.

    Consumes as many random numbers as TRL's ``shuffle_sequence_dict``, which shuffles the rows, so
    that the completions sampled next are the same.
    """
    rows = len(batch["prompt_ids"])
    if rows % generations:  # a group may span processes
        generations = 1
    groups = torch.randperm(rows).div(generations, rounding_mode="floor").tolist()
    order = torch.tensor(list(dict.fromkeys(groups)))
    indices = (order[:, None] * generations + torch.arange(generations)).flatten()

    def shuffled(values: Any) -> Any:
        if isinstance(values, Tensor):
            return values[indices] if values.ndim else values
        return None if values is None else [values[index] for index in indices]

    return {name: shuffled(values) for name, values in batch.items()}


def forward_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A micro-batch of a generation batch as arguments of TRL's method for log-probabilities."""
    ids, mask = (
        torch.cat([batch[f"prompt_{name}"], batch[f"completion_{name}"]], dim=1)
        for name in ("ids", "mask")
    )
    fields = {name: batch[name] for name in _FORWARD_FIELDS if name in batch}
    keep = batch["completion_ids"].shape[1]
    return {"input_ids": ids, "attention_mask": mask, "logits_to_keep": keep, **fields}


def micro_batches(
    input_ids: Tensor,
    attention_mask: Tensor,
    logits_to_keep: int,
    size: int,
    num_images: Sequence[int] | None,
    fields: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Up to ``size`` rows at a time, as arguments of TRL's method for log-probabilities.

    Args:
        input_ids: rows of a prompt, padded left, and a completion, padded right.
        logits_to_keep: the length of the completions, padding included.
        num_images: number of images of each row.
        fields: what the processor made of the images, and ``mm_token_type_ids``.
    """
    given = {name: values for name, values in fields.items() if values is not None}
    given |= {"input_ids": input_ids, "attention_mask": attention_mask}
    counts = num_images or [0] * len(input_ids)
    for start in range(0, len(input_ids), size):
        rows = range(len(input_ids))[start : start + size]
        yield {
            **take_rows(given, rows, counts),
            "logits_to_keep": logits_to_keep,
            "num_images": None if num_images is None else num_images[start : start + size],
        }


def prompts_and_completions(micro_batch: Mapping[str, Any]) -> tuple[list[Prefix], list[Tensor]]:
    """The prompts and the completions of a micro-batch, without padding and what is masked."""
    fields = dict(micro_batch)
    keep, num_images = fields.pop("logits_to_keep"), fields.pop("num_images")
    prompts = {name: fields[name][:, :-keep] for name in TEXT_FIELDS if name in fields}
    prefixes = prefixes_of({**fields, **prompts}, num_images or [0] * len(fields["input_ids"]))
    completions = [
        ids[-keep:][mask[-keep:].bool()]
        for ids, mask in zip(fields["input_ids"], fields["attention_mask"], strict=True)
    ]
    return prefixes, completions
