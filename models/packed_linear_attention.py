"""Gated linear attention over packed rows: each continuation goes on from its prompt's state.

A layer of linear attention (Gated DeltaNet, arXiv 2412.06464) has no keys that a mask could hide.
It carries a state from token to token, so in a packed row a continuation would go on from the one
before it. Here a layer first reads all prompts, and then all continuations as a batch whose states
begin as copies of their prompts'. Gradients reach the prompts through the states.

This happens within a layer. To its model, a packed row remains one forward pass, so gradient
checkpointing, which has no cache, works as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache, LinearAttentionLayer

from .packed_attention import Layout, Span

# The kernel that transformers calls for a single token (flash-linear-attention) has no gradients.
FEWEST_TOKENS = 2


@dataclass(frozen=True)
class Fork:
    """Where M prompts and their N continuations stand among the S tokens of packed rows.

    Layers of linear attention get it as their attention mask.
    """

    prompts_M_P: Tensor
    """The places of the prompts' tokens, padded on the left."""
    mask_M_P: Tensor
    """False at that padding; after a prompt, it would change the state."""
    prompt_N: Tensor
    """The prompt of each continuation."""
    continuations_N_C: Tensor
    """The places of the continuations' tokens; any place beyond a continuation's end."""
    order_S: Tensor
    """Where each token of the rows is among these M · P + N · C; 0 for padding."""

    @classmethod
    def of(cls, layout: Layout) -> Fork:
        """The fork of packed rows."""
        spans = [*chain.from_iterable(layout.continuations)]
        longest = max(length for _, length in layout.prompts)
        shifted = [(start + length - longest, longest) for start, length in layout.prompts]
        prompts_M_P = _places(shifted, longest)
        starts_M_1 = torch.tensor([[start] for start, _ in layout.prompts])
        mask_M_P = prompts_M_P >= starts_M_1
        width = max(FEWEST_TOKENS, *(length for _, length in spans))
        continuations_N_C = _places(spans, width)
        valid_N_C = torch.arange(width) < torch.tensor([[length] for _, length in spans])
        numbers = [m for m, spans in enumerate(layout.continuations) for _ in spans]
        order_S = torch.zeros(layout.tokens, dtype=torch.long)
        for places, valid, offset in (
            (prompts_M_P, mask_M_P, 0),
            (continuations_N_C, valid_N_C, prompts_M_P.numel()),
        ):
            order_S[places[valid]] = offset + valid.flatten().nonzero()[:, 0]
        parts = (
            torch.where(mask_M_P, prompts_M_P, 0),
            mask_M_P,
            torch.tensor(numbers),
            torch.where(valid_N_C, continuations_N_C, 0),
            order_S,
        )
        return cls(*(part.to(layout.device) for part in parts))


def _places(spans: Sequence[Span], width: int) -> Tensor:
    return torch.tensor([[start] for start, _ in spans]) + torch.arange(width)


def fork_linear_attention(model: Any) -> None:
    """Let a model's layers of linear attention read packed rows; all else stays as it is."""
    for layer in model.base_model.language_model.layers:
        attention = getattr(layer, "linear_attn", None)
        forward = vars(attention).get("forward") if attention is not None else None
        forked = isinstance(forward, partial) and forward.func is _forward
        if attention is not None and not forked:
            # A partial function, because a copy of the model must call the copy's own layers.
            attention.forward = partial(_forward, attention.forward, attention.layer_idx)


def _forward(
    stock: Callable[..., Tensor],
    layer: int,
    hidden_states: Tensor,
    attention_mask: Any = None,
    **kwargs: Any,
) -> Tensor:
    """A layer's forward pass, R × T × D, which a :class:`Fork` splits in two.

    Args:
        stock: the layer's own.
        layer: its index.
    """
    if not isinstance(attention_mask, Fork):
        return stock(hidden_states, attention_mask=attention_mask, **kwargs)
    fork, state = attention_mask, _State()
    cache_name = "cache" if "cache" in kwargs else "cache_params"  # before transformers 5.24
    kwargs[cache_name] = Cache(layers=[state] * (layer + 1))
    states_S_D = hidden_states.flatten(0, 1)
    prompts = functional.embedding(fork.prompts_M_P, states_S_D)
    prompts_M_P_D = stock(prompts, attention_mask=fork.mask_M_P, **kwargs)
    state.fork(fork.prompt_N)
    continuations = functional.embedding(fork.continuations_N_C, states_S_D)
    continuations_N_C_D = stock(continuations, **kwargs)
    tokens = torch.cat([prompts_M_P_D.flatten(0, 1), continuations_N_C_D.flatten(0, 1)])
    return tokens.index_select(0, fork.order_S).view_as(hidden_states)


class _State(LinearAttentionLayer):  # type: ignore[misc]  # transformers is untyped here
    """A layer's states with their gradients; transformers writes new states over old ones."""

    def __init__(self) -> None:
        super().__init__()
        self.record_past = True  # the input of the convolution is kept instead of written over

    def update_recurrent_state(self, recurrent_states: Tensor, *_: Any, **__: Any) -> Tensor:
        self.recurrent_states[0] = recurrent_states
        return recurrent_states

    def fork(self, prompt_N: Tensor) -> None:
        """Go on with copies of the states of these prompts."""
        inputs = self.conv_states[0][..., -self.conv_kernel_size[0] :]
        self.conv_states[0] = inputs.index_select(0, prompt_N)
        self.recurrent_states[0] = self.recurrent_states[0].index_select(0, prompt_N)
