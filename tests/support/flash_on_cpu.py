"""PyTorch's flash kernels over sequences of any lengths, for CPUs, one sequence at a time.

PyTorch has these operators for GPUs only. The same algorithm for a single sequence, which it has
for CPUs, computes each sequence here, so that what calls the operators runs as it does on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mtrl_judge.models.packed_attention import flash_unsupported_reason

aten = torch.ops.aten


@contextmanager
def flash_on_cpu() -> Iterator[list[tuple[int, int]]]:
    """Within the context, the operators run; the tokens of queries and of keys of each call."""
    calls: list[tuple[int, int]] = []

    def forward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bounds_q: Tensor,
        bounds_k: Tensor,
        longest_q: int,
        longest_k: int,
        dropout: float,
        causal: bool,
        debug: bool,
        *,
        scale: float | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        calls.append((len(query), len(key)))
        output = torch.empty_like(query)
        lse_H_S = query.new_empty(query.shape[1], len(query), dtype=torch.float32)
        for q, k in sequences(bounds_q, bounds_k, longest_q, longest_k):
            states = one_sequence(query[q], key[k], value[k])
            found, lse = aten._scaled_dot_product_flash_attention_for_cpu(
                *states, dropout, causal, scale=scale
            )
            output[q], lse_H_S[:, q] = found[0].transpose(0, 1), lse[0]
        empty = query.new_empty(0)
        return output, lse_H_S, empty, empty, empty

    def backward(
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: Tensor,
        lse_H_S: Tensor,
        bounds_q: Tensor,
        bounds_k: Tensor,
        longest_q: int,
        longest_k: int,
        dropout: float,
        causal: bool,
        rng_state: Tensor,
        unused: Tensor,
        *,
        scale: float | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert lse_H_S.is_contiguous()
        gradients = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        repeats = query.shape[1] // key.shape[1]
        for q, k in sequences(bounds_q, bounds_k, longest_q, longest_k):
            states = one_sequence(query[q], key[k], value[k])
            given = (one_head_each(part[q], 1) for part in (grad, output))
            of_query, *of_keys = aten._scaled_dot_product_flash_attention_for_cpu_backward(
                next(given), *states, next(given), lse_H_S[None, :, q], dropout, causal, scale=scale
            )
            gradients[0][q] = of_query[0].transpose(0, 1)
            for place, found in zip(gradients[1:], of_keys, strict=True):
                place[k] = found[0].unflatten(0, (-1, repeats)).sum(dim=1).transpose(0, 1)
        return gradients

    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", forward, "CPU")
        library.impl("_flash_attention_backward", backward, "CPU")
        flash_unsupported_reason.cache_clear()
        yield calls
    flash_unsupported_reason.cache_clear()


def sequences(
    bounds_q: Tensor, bounds_k: Tensor, longest_q: int, longest_k: int
) -> Iterator[tuple[slice, slice]]:
    for bounds, longest in ((bounds_q, longest_q), (bounds_k, longest_k)):
        assert bounds.dtype == torch.int32
        assert 0 < int(bounds.diff().min()) <= int(bounds.diff().max()) <= longest
    pairs = (pairwise(bounds.tolist()) for bounds in (bounds_q, bounds_k))
    for q, k in zip(*pairs, strict=True):
        yield slice(*q), slice(*k)


def one_sequence(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    repeats = query.shape[1] // key.shape[1]
    return one_head_each(query, 1), one_head_each(key, repeats), one_head_each(value, repeats)


def one_head_each(states_S_G_D: Tensor, repeats: int) -> Tensor:
    """1 × H × S × D."""
    return states_S_G_D.repeat_interleave(repeats, dim=1).transpose(0, 1)[None]
