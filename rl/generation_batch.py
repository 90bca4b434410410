"""A generation batch, shuffled by groups and cut into micro-batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    return rows_of(batch, indices.tolist())


def rows_of(batch: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """Some rows of a batch whose entries are by row, as TRL's ``split_pixel_values_by_grid`` does.

    What is a single number is of the whole batch, and stays.
    """
    indices = torch.tensor(rows)

    def chosen(values: Any) -> Any:
        if isinstance(values, Tensor):
            return values[indices] if values.ndim else values
        return None if values is None else [values[index] for index in rows]

    return {name: chosen(values) for name, values in batch.items()}


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
    batch: Mapping[str, Any], passes: Iterable[Sequence[int]]
) -> Iterator[dict[str, Any]]:
    """The rows of each pass, likewise as arguments of TRL's method for log-probabilities.

    Args:
        batch: ``input_ids``, rows of a prompt, padded left, and a completion, padded right, of
            ``logits_to_keep`` tokens, and what else the method takes.
    """
    given, keep, counts = _fields(batch)
    for rows in passes:
        yield {
            **take_rows(given, rows, counts),
            "logits_to_keep": keep,
            "num_images": [counts[row] for row in rows],
        }


def _fields(batch: Mapping[str, Any]) -> tuple[dict[str, Any], int, list[int]]:
    """The tensors by row and by image, ``logits_to_keep``, and the number of images of each row.

    To the model, and so to TRL's own path for log-probabilities, each tile of an image is an image.
    """
    fields = {name: values for name, values in batch.items() if values is not None}
    keep, counts = fields.pop("logits_to_keep"), [0] * len(fields["input_ids"])
    for name in ("num_images", "num_tiles"):
        counts = fields.pop(name, counts)
    return fields, keep, counts


def prompts_and_completions(micro_batch: Mapping[str, Any]) -> tuple[list[Prefix], list[Tensor]]:
    """The prompts and the completions of a micro-batch, without padding and what is masked."""
    fields, keep, counts = _fields(micro_batch)
    prompts = {name: fields[name][:, :-keep] for name in TEXT_FIELDS if name in fields}
    prefixes = prefixes_of({**fields, **prompts}, counts)
    completions = [
        ids[-keep:][mask[-keep:].bool()]
        for ids, mask in zip(fields["input_ids"], fields["attention_mask"], strict=True)
    ]
    return prefixes, completions
