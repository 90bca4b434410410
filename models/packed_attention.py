"""Attention for the rows of :mod:`packing` that skips the token pairs their mask forbids.

The prompt attends to itself causally, as one block; each continuation attends to the prompt's keys
and to its own. The rows' mask expresses the same pattern for every other attention function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "mtrl_judge_shared_prompt"  # in transformers' registry of attention functions
LAYOUT = "packed_layout"  # attribute of a mask that holds its Layout


@dataclass(frozen=True)
class Layout:
    """Where R rows of P + S tokens hold a prompt (P) and up to K continuations of C tokens (S)."""

    prompt_length: int
    """P, the length of the longest prompt."""
    index_R_K_C: Tensor
    """The index of each continuation token among the R · S; 0 beyond a continuation's end."""
    inverse_R_S: Tensor
    """The inverse: which of the R · K · C tokens stands at each index; 0 at padding."""
    mask_N_1_C_Q: Tensor
    """Which of Q = P + C keys, the prompt's and their own, the N = R · K continuations see."""


def build_layout(prompts: Sequence[int], sizes: Sequence[Sequence[int]], device: Any) -> Layout:
    """The layout of rows.

    Args:
        prompts: tokens of each row's prompt, without padding.
        sizes: tokens of each row's continuations, which follow each other; not all 0.
        device: where the rows are.
    """
    sizes_R_K = pad_sequence([torch.tensor(row) for row in sizes], batch_first=True)
    r, s, c = len(sizes), max(map(sum, sizes)), int(sizes_R_K.max())
    starts_R_K = torch.arange(r)[:, None] * s + sizes_R_K.cumsum(dim=1) - sizes_R_K
    valid_R_K_C = torch.arange(c) < sizes_R_K[:, :, None]
    index_R_K_C = torch.where(valid_R_K_C, starts_R_K[:, :, None] + torch.arange(c), 0)
    inverse = torch.zeros(r * s, dtype=torch.long)
    inverse[index_R_K_C[valid_R_K_C]] = valid_R_K_C.flatten().nonzero()[:, 0]
    prompt_R_P = torch.arange(max(prompts)) < torch.tensor(prompts)[:, None]
    causal_C_C = torch.ones(c, c, dtype=torch.bool).tril()
    grid = (*valid_R_K_C.shape, -1)
    mask = torch.cat([prompt_R_P[:, None, None].expand(grid), causal_C_C.expand(grid)], dim=-1)
    return Layout(
        max(prompts),
        index_R_K_C.to(device),
        inverse.view(r, s).to(device),
        mask.flatten(0, 1)[:, None].to(device),
    )


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' `sdpa_attention_forward`, which handles all masks without a layout.

    Args:
        query: R × H × T × D.
        key: R × G × T × D; each of the G heads serves H / G query heads. Likewise ``value``.
    """
    layout: Layout | None = getattr(attention_mask, LAYOUT, None)
    if layout is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
    sizes = [layout.prompt_length, query.shape[2] - layout.prompt_length]
    split = (torch.split(states, sizes, dim=2) for states in (query, key, value))
    prompt, continuations = zip(*split, strict=True)
    # Causal attention suffices: the padding of a prompt follows its tokens.
    output, _ = sdpa_attention_forward(module, *prompt, None, dropout, scaling, is_causal=True)
    continued = _attend(layout, prompt, continuations, scaling)
    continued = continued.index_select(0, layout.inverse_R_S.flatten())
    continued = continued.view(len(output), sizes[1], *continued.shape[1:])
    return torch.cat([output, continued], dim=1), None


def _attend(
    layout: Layout, prompt: Sequence[Tensor], continuations: Sequence[Tensor], scaling: float | None
) -> Tensor:
    """The attention output of the continuations' tokens, (R · K · C) × H × D.

    Args:
        prompt: queries, keys and values of the prompts' tokens, rows × heads × tokens × D.
        continuations: those of the continuations' tokens.
    """

    def gather(states: Tensor) -> Tensor:
        """From R rows × heads × S tokens to (R · K) continuations × heads × C tokens."""
        tokens = states.transpose(1, 2).flatten(0, 1).index_select(0, index.flatten())
        return tokens.view(-1, index.shape[-1], *tokens.shape[1:]).transpose(1, 2)

    def repeat(states: Tensor) -> Tensor:
        """The prompt's states for each of its K continuations."""
        return states[:, None].expand(-1, index.shape[1], -1, -1, -1).flatten(0, 1)

    index = layout.index_R_K_C
    query, key, value = map(gather, continuations)
    n, heads, _, width = query.shape
    groups = key.shape[1]
    # Query heads that share a key head become further queries of it, so keys are not repeated.
    output = functional.scaled_dot_product_attention(
        query.reshape(n, groups, -1, width),
        torch.cat([repeat(prompt[1]), key], dim=2),
        torch.cat([repeat(prompt[2]), value], dim=2),
        attn_mask=layout.mask_N_1_C_Q.repeat(1, 1, heads // groups, 1),
        scale=scaling,
    )
    return output.reshape(n, heads, -1, width).transpose(1, 2).flatten(0, 1)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
