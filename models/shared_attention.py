"""Attention for rows of :mod:`shared_prompt`, without the pairs of tokens that the mask forbids.

The prompt attends to itself causally, as one block; each continuation to the prompt's keys and to
its own. The rows' mask says the same, and is what every other attention function goes by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    """Where R rows of T tokens hold prompts and up to K continuations of up to C tokens each."""

    prompt: int
    """Tokens of the longest prompt, P; a row's prompt stands first."""
    places_R_K_C: Tensor
    """The place of each token of a continuation among the R · T; 0 where there is none."""
    filled_F: Tensor
    """Those of the R · K · C where there is one."""
    sees_N_1_C_S: Tensor
    """What the tokens of N = R · K continuations see of S = P + C: the prompt and themselves."""


def layout(
    prompts: Sequence[int], spans: Sequence[Sequence[tuple[int, int]]], width: int, device: Any
) -> Layout:
    """Lay rows out.

    Args:
        prompts: tokens of each row's prompt, which stands first.
        spans: for each row, where its continuations start and how many tokens they have.
        width: tokens of a row, T.
        device: where the row's tokens are.
    """
    # At least one token, where all completions are empty because they were truncated.
    size = max(map(len, spans)), max(1, *(tokens for row in spans for _, tokens in row))
    places = torch.zeros(len(spans), *size, dtype=torch.long)
    filled = torch.zeros(len(spans), *size, dtype=torch.bool)
    for number, row in enumerate(spans):
        for k, (start, tokens) in enumerate(row):
            places[number, k, :tokens] = number * width + start + torch.arange(tokens)
            filled[number, k, :tokens] = True
    prompt_R_P = torch.arange(max(prompts)) < torch.tensor(prompts)[:, None]
    own_C_C = torch.ones(size[1], size[1], dtype=torch.bool).tril()
    grid = (len(spans), *size, -1)
    sees = torch.cat([prompt_R_P[:, None, None].expand(grid), own_C_C.expand(grid)], dim=-1)
    return Layout(
        max(prompts),
        places.to(device),
        filled.flatten().nonzero()[:, 0].to(device),
        sees.flatten(0, 1)[:, None].to(device),
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
    prompt = slice(0, laid.prompt)
    # Behind a shorter prompt stand tokens of continuations; what is found for them is written over.
    found, _ = sdpa_attention_forward(
        module,
        query[:, :, prompt],
        key[:, :, prompt],
        value[:, :, prompt],
        None,
        dropout,
        scaling,
        is_causal=True,
    )
    rows, _, tokens, _ = query.shape
    found = functional.pad(found, (0, 0, 0, 0, 0, tokens - laid.prompt)).flatten(0, 1)
    own = _continuations(laid, query, key, value, scaling).index_select(0, laid.filled_F)
    found = found.index_copy(0, laid.places_R_K_C.flatten()[laid.filled_F], own)
    return found.view(rows, tokens, *found.shape[1:]), None


def _continuations(
    laid: Layout, query: Tensor, key: Tensor, value: Tensor, scaling: float | None
) -> Tensor:
    """What the continuations' tokens find: (R·K·C) × H × D."""
    heads, kv_heads, width = query.shape[1], key.shape[1], query.shape[-1]
    each = heads // kv_heads
    # The heads that share a key stand in line as further queries, so that keys are not repeated.
    queries = _own(laid, query)
    queries = queries.reshape(len(queries), kv_heads, -1, width)
    keys, values = (
        torch.cat([_of_prompt(laid, states), _own(laid, states)], dim=2) for states in (key, value)
    )
    mask = laid.sees_N_1_C_S.repeat(1, 1, each, 1)
    found = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, scale=scaling
    )
    return found.reshape(len(found), heads, -1, width).transpose(1, 2).flatten(0, 1)


def _own(laid: Layout, states: Tensor) -> Tensor:
    """The states of the continuations' tokens: (R·K) × heads × C × D."""
    places = laid.places_R_K_C
    flat = states.transpose(1, 2).flatten(0, 1).index_select(0, places.flatten())
    return flat.view(-1, places.shape[-1], *flat.shape[1:]).transpose(1, 2)


def _of_prompt(laid: Layout, states: Tensor) -> Tensor:
    """The states of the prompt's tokens, for each continuation: (R·K) × heads × P × D."""
    prompt = states[:, None, :, : laid.prompt]
    return prompt.expand(-1, laid.places_R_K_C.shape[1], -1, -1, -1).flatten(0, 1)


AttentionInterface.register(NAME, shared_prompt_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
