"""Attention for rows of :mod:`shared_prompt`, without the pairs of tokens that the mask forbids.

The prompt attends to itself causally, as one block; each continuation to the prompt's keys and to
its own. The rows' mask says the same, and is what every other attention function goes by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "mtrl_judge_shared_prompt"
LAYOUT = "shared_prompt_layout"  # the attribute of a mask that holds its Layout


@dataclass(frozen=True)
class Layout:
    """Where R rows of P + S tokens hold a prompt in P, and up to K continuations of C behind it."""

    prompt: int
    """P, the longest prompt."""
    places_R_K_C: Tensor
    """The place of each token of a continuation among the R · S; 0 where there is none."""
    slots_R_S: Tensor
    """The contrary: which of the R · K · C stands at each place; 0 where there is none."""
    sees_N_1_C_Q: Tensor
    """What the tokens of N = R · K continuations see of Q = P + C: the prompt and themselves."""


def layout(prompts: Sequence[int], sizes: Sequence[Sequence[int]], device: Any) -> Layout:
    """Lay rows out.

    Args:
        prompts: tokens of each row's prompt, without padding.
        sizes: tokens of each row's continuations, which stand one behind another; not all 0.
        device: where the row's tokens are.
    """
    behind = max(map(sum, sizes))
    most = max(map(len, sizes)), max(size for row in sizes for size in row)
    places = torch.zeros(len(sizes), *most, dtype=torch.long)
    slots = torch.zeros(len(sizes), behind, dtype=torch.long)
    for number, row in enumerate(sizes):
        for k, (start, size) in enumerate(zip([0, *accumulate(row)], row, strict=False)):
            columns = start + torch.arange(size)
            places[number, k, :size] = number * behind + columns
            slots[number, columns] = (number * most[0] + k) * most[1] + torch.arange(size)
    prompt_R_P = torch.arange(max(prompts)) < torch.tensor(prompts)[:, None]
    own_C_C = torch.ones(most[1], most[1], dtype=torch.bool).tril()
    grid = (len(sizes), *most, -1)
    sees = torch.cat([prompt_R_P[:, None, None].expand(grid), own_C_C.expand(grid)], dim=-1)
    return Layout(
        max(prompts), places.to(device), slots.to(device), sees.flatten(0, 1)[:, None].to(device)
    )


def shared_prompt_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **named: Any,
) -> tuple[Tensor, None]:
    """As transformers' `sdpa_attention_forward`, which it is for masks without a layout.

    Args:
        query: R × H × T × D.
        key: R × K × T × D, K heads of which each serves H / K of the queries' ones; so `value`.
    """
    laid: Layout | None = getattr(attention_mask, LAYOUT, None)
    if laid is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout, scaling, **named
        )
    parts = [laid.prompt, query.shape[2] - laid.prompt]
    both = (torch.split(states, parts, dim=2) for states in (query, key, value))
    prompts, behind = zip(*both, strict=True)
    # No token of a prompt sees the padding behind it.
    found, _ = sdpa_attention_forward(module, *prompts, None, dropout, scaling, is_causal=True)
    own = _continuations(laid, prompts, behind, scaling)
    own = own.index_select(0, laid.slots_R_S.flatten())
    return torch.cat([found, own.view(len(found), parts[1], *own.shape[1:])], dim=1), None


def _continuations(
    laid: Layout, prompts: Sequence[Tensor], behind: Sequence[Tensor], scaling: float | None
) -> Tensor:
    """What the continuations' tokens find: (R·K·C) × H × D.

    Args:
        prompts: queries, keys and values of the prompts' tokens.
        behind: of those behind them.
    """
    heads, kv_heads, width = behind[0].shape[1], behind[1].shape[1], behind[0].shape[-1]
    query, key, value = (_own(laid, states) for states in behind)
    # The heads that share a key stand in line as further queries, so that keys are not repeated.
    query = query.reshape(len(query), kv_heads, -1, width)
    mask = laid.sees_N_1_C_Q.repeat(1, 1, heads // kv_heads, 1)
    found = functional.scaled_dot_product_attention(
        query,
        torch.cat([_of_prompt(laid, prompts[1]), key], dim=2),
        torch.cat([_of_prompt(laid, prompts[2]), value], dim=2),
        attn_mask=mask,
        scale=scaling,
    )
    return found.reshape(len(found), heads, -1, width).transpose(1, 2).flatten(0, 1)


def _own(laid: Layout, states: Tensor) -> Tensor:
    """The states of the continuations' tokens: (R·K) × heads × C × D."""
    places = laid.places_R_K_C
    flat = states.transpose(1, 2).flatten(0, 1).index_select(0, places.flatten())
    return flat.view(-1, places.shape[-1], *flat.shape[1:]).transpose(1, 2)


def _of_prompt(laid: Layout, states: Tensor) -> Tensor:
    """The states of the prompt's tokens, for each continuation: (R·K) × heads × P × D."""
    return states[:, None].expand(-1, laid.places_R_K_C.shape[1], -1, -1, -1).flatten(0, 1)


AttentionInterface.register(NAME, shared_prompt_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
