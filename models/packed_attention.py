"""Attention over packed rows that computes only the token pairs their mask allows.

Each prompt attends to itself causally; each continuation attends to its prompt's keys and to its
own. Where PyTorch's flash kernels run, a continuation's two parts are two calls of them, merged by
their log-sum-exp (:func:`flash_attend`); elsewhere it is one call with repeated keys and a mask
(:func:`masked_attend`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, wraps
from itertools import accumulate, chain
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

LAYOUT = "packed_layout"  # attribute of a mask that holds its Layout

Span: TypeAlias = tuple[int, int]
"""First token and number of tokens."""
States: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Queries S × H × D, keys and values S × G × D: each of the G heads serves H / G query heads."""


@dataclass(frozen=True)
class Layout:
    """Where M prompts and their N continuations stand among the S = R · T tokens of packed rows."""

    prompts: Sequence[Span]
    continuations: Sequence[Sequence[Span]]
    """Those of each prompt."""
    tokens: int
    """S."""
    device: Any

    @cached_property
    def masked(self) -> _Masked:
        """What :func:`masked_attend` needs."""
        prompts = _Gather(self.prompts, self.device)
        own = _Gather(list(chain.from_iterable(self.continuations)), self.device)
        numbers = [n for n, spans in enumerate(self.continuations) for _ in spans]
        prompt_N = torch.tensor(numbers, dtype=torch.long, device=self.device)
        m, p = prompts.valid_A_B.shape
        n, c = own.valid_A_B.shape
        causal_C_C = torch.ones(c, c, dtype=torch.bool, device=self.device).tril()
        seen_N_C_P = prompts.valid_A_B[prompt_N][:, None].expand(n, c, p)
        mask_N_C_Q = torch.cat([seen_N_C_P, causal_C_C.expand(n, c, c)], dim=-1)
        places_S = torch.zeros(self.tokens, dtype=torch.long, device=self.device)
        for gather, offset in ((prompts, 0), (own, m * p)):
            valid = gather.valid_A_B.flatten()
            places_S[gather.index_A_B.flatten()[valid]] = offset + valid.nonzero()[:, 0]
        return _Masked(prompts, own, prompt_N, mask_N_C_Q[:, None], places_S)

    @cached_property
    def flash(self) -> _Flash | None:
        """What :func:`flash_attend` needs; None if a prompt, or what continues it, is empty."""
        spans = [*self.prompts, *chain.from_iterable(self.continuations)]
        prompts = [length for _, length in self.prompts]
        continued = [sum(length for _, length in spans) for spans in self.continuations]
        if not all([*prompts, *continued]):
            return None
        order = torch.cat([torch.arange(start, start + length) for start, length in spans])
        places = torch.zeros(self.tokens, dtype=torch.long)
        places[order] = torch.arange(len(order))
        in_order = torch.equal(order, torch.arange(self.tokens))
        return _Flash(
            None if in_order else order.to(self.device),
            None if in_order else places.to(self.device),
            _Sequences.of([length for _, length in spans if length], self.device),
            _Sequences.of(continued, self.device),
            _Sequences.of(prompts, self.device),
            sum(prompts),
        )


class _Gather:
    """Takes A spans of up to B tokens out of S."""

    def __init__(self, spans: Sequence[Span], device: Any) -> None:
        starts, lengths = (
            torch.tensor(column, dtype=torch.long) for column in zip(*spans, strict=True)
        )
        offsets_B = torch.arange(int(lengths.max()))
        valid_A_B = offsets_B < lengths[:, None]
        index_A_B = torch.where(valid_A_B, starts[:, None] + offsets_B, 0)
        # Spans of equal length that follow each other are a view.
        flat = index_A_B.flatten()
        in_order = bool(valid_A_B.all()) and bool((flat.diff() == 1).all())
        self.first = int(flat[0]) if in_order and len(flat) else None
        self.index_A_B, self.valid_A_B = index_A_B.to(device), valid_A_B.to(device)

    def __call__(self, states_S_H_D: Tensor) -> Tensor:
        """A × H × B × D; beyond a span's end stands any token."""
        if self.first is None:
            taken = states_S_H_D.index_select(0, self.index_A_B.flatten())
        else:
            taken = states_S_H_D[self.first : self.first + self.index_A_B.numel()]
        return taken.view(*self.index_A_B.shape, *taken.shape[1:]).transpose(1, 2)


class _Masked(NamedTuple):
    prompts: _Gather
    continuations: _Gather
    prompt_N: Tensor
    """Which prompt each continuation continues."""
    mask_N_1_C_Q: Tensor
    """Which of Q = P + C keys, the prompt's and their own, the continuations see."""
    places_S: Tensor
    """Where each token stands among the M · P tokens of prompts and N · C of continuations."""


class _Sequences(NamedTuple):
    """Sequences that follow each other, as the flash kernels take them."""

    bounds: Tensor
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: Any) -> _Sequences:
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        # The kernels have another layout of the log-sum-exp where the longest has one token; it
        # is an upper bound.
        return cls(bounds.to(device), max(2, *lengths))


class _Flash(NamedTuple):
    order: Tensor | None
    """All prompts and then all continuations; None where they stand like that."""
    places_S: Tensor | None
    each: _Sequences
    """Every prompt and every continuation."""
    continued: _Sequences
    """All continuations of each prompt."""
    prompts: _Sequences
    prompt_tokens: int


# Attention functions that recognize packed rows


def accept_packed_rows(attention: str) -> None:
    """Let transformers' attention function of this name recognize the masks of packed rows.

    With any other mask it computes what it did before.
    """
    stock = AttentionInterface()[attention]
    if not hasattr(stock, LAYOUT):
        AttentionInterface.register(attention, _recognizing(stock))


def _recognizing(stock: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(stock)
    def attend(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        *arguments: Any,
        **named: Any,
    ) -> Any:
        layout: Layout | None = getattr(attention_mask, LAYOUT, None)
        if layout is None:
            return stock(module, query, key, value, attention_mask, *arguments, **named)
        return packed_attention(module, (query, key, value), layout, named.get("scaling")), None

    setattr(attend, LAYOUT, True)
    return attend


def packed_attention(
    module: Any, states: Sequence[Tensor], layout: Layout, scaling: float | None = None
) -> Tensor:
    """The output of attention, R × T × H × D, for states of R × heads × T × D."""
    rows, width = states[0].shape[0], states[0].shape[2]
    if torch.is_autocast_enabled(states[0].device.type):
        # As for scaled_dot_product_attention; rotary positions may have left them in float32.
        dtype = torch.get_autocast_dtype(states[0].device.type)
        states = [part.to(dtype) for part in states]
    query, key, value = (part.transpose(1, 2).flatten(0, 1) for part in states)
    heads, groups, size = query.shape[1], *key.shape[1:]
    reason = flash_unsupported_reason(query.device, query.dtype, heads, groups, size)
    if reason is None and layout.flash is not None:
        output = flash_attend((query, key, value), layout.flash, scaling)
    else:
        output = masked_attend(module, (query, key, value), layout.masked, scaling)
    return output.view(rows, width, *output.shape[1:])


# With a mask


def masked_attend(module: Any, states: States, layout: _Masked, scaling: float | None) -> Tensor:
    """The output of attention, S × H × D, by PyTorch's `scaled_dot_product_attention`."""
    prompts = [layout.prompts(part) for part in states]
    query, key, value = (layout.continuations(part) for part in states)
    # Causal attention suffices: the padding of a prompt follows its tokens.
    output_M_P_H_D, _ = sdpa_attention_forward(module, *prompts, None, 0.0, scaling, is_causal=True)
    n, heads, _, width = query.shape
    groups = key.shape[1]
    # Query heads that share a key head become further queries of it, so keys are not repeated.
    continued = functional.scaled_dot_product_attention(
        query.reshape(n, groups, -1, width),
        torch.cat([prompts[1][layout.prompt_N], key], dim=2),
        torch.cat([prompts[2][layout.prompt_N], value], dim=2),
        attn_mask=layout.mask_N_1_C_Q.repeat(1, 1, heads // groups, 1),
        scale=scaling,
    )
    continued_N_C_H_D = continued.reshape(n, heads, -1, width).transpose(1, 2)
    tokens = torch.cat([output_M_P_H_D.flatten(0, 1), continued_N_C_H_D.flatten(0, 1)])
    return tokens.index_select(0, layout.places_S)


# With flash kernels


def flash_attend(states: States, layout: _Flash, scaling: float | None) -> Tensor:
    """The output of attention, S × H × D, by the flash kernels of PyTorch."""
    if layout.order is not None:
        query, key, value = (part.index_select(0, layout.order) for part in states)
    else:
        query, key, value = states
    output: Tensor = _FlashAttention.apply(query, key, value, layout, scaling)
    return output if layout.places_S is None else output.index_select(0, layout.places_S)


class _FlashAttention(torch.autograd.Function):
    """Attention within each sequence, and of continuations to their prompts, as one softmax."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: _Flash, scaling: float | None
    ) -> Tensor:
        states, scale = (query, key, value), scaling or query.shape[-1] ** -0.5
        output, lse_H_S, lse_H_A = _merged((query, key, value), layout, scale)
        ctx.save_for_backward(*states, output, lse_H_S, lse_H_A)
        ctx.layout, ctx.scale = layout, scale
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *merged = ctx.saved_tensors
        gradients = _gradients(grad_output, (query, key, value), merged, ctx.layout, ctx.scale)
        return (*gradients, None, None)


def _merged(states: States, layout: _Flash, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """The output, S × H × D, and the log-sum-exp of all tokens and of the A that continue."""
    n = layout.prompt_tokens
    query, key, value = states
    output, lse_H_S = _kernel(states, layout.each, layout.each, scale, causal=True)
    if n == len(query):
        return output, lse_H_S, lse_H_S[:, n:]
    to_prompts = (query[n:], key[:n], value[:n])
    other, other_lse_H_A = _kernel(to_prompts, layout.continued, layout.prompts, scale)
    lse_H_A = torch.logaddexp(lse_H_S[:, n:], other_lse_H_A)
    own_share, other_share = (
        (lse - lse_H_A).exp().T[:, :, None] for lse in (lse_H_S[:, n:], other_lse_H_A)
    )
    merged = own_share * output[n:].float() + other_share * other.float()
    output[n:] = merged.to(output.dtype)
    lse_H_S[:, n:] = lse_H_A
    return output, lse_H_S, lse_H_A


def _gradients(
    grad_output: Tensor, states: States, merged: Sequence[Tensor], layout: _Flash, scale: float
) -> States:
    """Of queries, keys and values.

    Given the output and the log-sum-exp of the whole softmax, the kernels' backward pass over a
    part of the keys is that part of the gradient (Ring Attention, arXiv 2310.01889, does so too).
    """
    n = layout.prompt_tokens
    query, key, value = states
    output, lse_H_S, lse_H_A = merged
    of_query, of_key, of_value = _backward_kernel(
        grad_output, states, output, lse_H_S, layout.each, layout.each, scale, causal=True
    )
    if n < len(query):
        to_prompts = (query[n:], key[:n], value[:n])
        more = _backward_kernel(
            *(grad_output[n:], to_prompts, output[n:], lse_H_A.contiguous()),
            *(layout.continued, layout.prompts, scale),
        )
        of_query[n:] += more[0]
        of_key[:n] += more[1]
        of_value[:n] += more[2]
    return of_query, of_key, of_value


# FlashAttention-2 (arXiv 2307.08691) over sequences of any lengths, as PyTorch's `varlen_attn`
# calls it (torch/nn/attention/varlen.py). That function has no gradient of the log-sum-exp.


def _kernel(
    states: States, queries: _Sequences, keys: _Sequences, scale: float, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """The output and its log-sum-exp, H × S."""
    output, lse, *_ = torch.ops.aten._flash_attention_forward(
        *states,
        *(queries.bounds, keys.bounds, queries.longest, keys.longest),
        *(0.0, causal, False),
        scale=scale,
    )
    return output, lse


def _backward_kernel(
    grad_output: Tensor,
    states: States,
    output: Tensor,
    lse: Tensor,
    queries: _Sequences,
    keys: _Sequences,
    scale: float,
    *,
    causal: bool = False,
) -> States:
    no_dropout = torch.zeros(2, dtype=torch.uint64, device=output.device)
    gradients: States = torch.ops.aten._flash_attention_backward(
        *(grad_output.contiguous(), *states, output, lse),
        *(queries.bounds, keys.bounds, queries.longest, keys.longest),
        *(0.0, causal, no_dropout, torch.empty(0, device=output.device)),
        scale=scale,
    )
    return gradients


@cache
def flash_unsupported_reason(
    device: torch.device, dtype: torch.dtype, heads: int, groups: int, size: int
) -> str | None:
    """Why :func:`flash_attend` cannot be used for such states; None if it can.

    It is tried out once, because the kernels depend on the device and on how PyTorch was built.

    Args:
        heads: H.
        groups: G.
        size: D.
    """
    spans = [(0, 5), (5, 9)], [[(14, 3), (17, 1)], [(18, 4)]]
    layout = Layout(*spans, tokens=22, device=device)
    assert layout.flash is not None
    generator = torch.Generator().manual_seed(0)
    shapes = [(22, heads, size), (22, groups, size), (22, groups, size), (22, heads, size)]
    query, key, value, grad = (
        torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes
    )
    try:
        with torch.no_grad():
            states, scale = (query, key, value), size**-0.5
            merged = _merged(states, layout.flash, scale)
            found = [merged[0], *_gradients(grad, states, merged, layout.flash, scale)]
    except (RuntimeError, TypeError) as error:
        return f"PyTorch's flash kernels do not run here ({str(error).partition('. ')[0]})"
    expected = _reference((query.float(), key.float(), value.float()), grad.float())
    for one, other in zip(found, expected, strict=True):
        off = float((one.float() - other).norm() / other.norm())
        if not off < _LAST_PLACES * torch.finfo(dtype).eps:
            return f"PyTorch's flash kernels give other numbers here (by {off:.2g})"
    return None


_LAST_PLACES = 16


def _reference(states: States, grad_S_H_D: Tensor) -> list[Tensor]:
    """The output of attention in :func:`flash_unsupported_reason`, and gradients."""
    query, key, value = states
    repeats = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(repeats, dim=1) for part in (key, value))
    # Prompts of 5 and 9 tokens, then continuations of 3 and 1 of the first and of 4 of the second.
    prompt_S, branch_S = (
        torch.tensor(numbers, device=query.device).repeat_interleave(
            torch.tensor([5, 9, 3, 1, 4], device=query.device)
        )
        for numbers in ([0, 1, 0, 0, 1], [0, 0, 1, 2, 1])
    )
    seen_S_S = (branch_S == 0) | (branch_S == branch_S[:, None])
    allowed_S_S = (seen_S_S & (prompt_S == prompt_S[:, None])).tril()
    scale = query.shape[-1] ** -0.5
    scores = torch.einsum("qhd,khd->hqk", query, key) * scale
    weights = scores.masked_fill(~allowed_S_S, -torch.inf).softmax(dim=-1)
    of_weights = torch.einsum("qhd,khd->hqk", grad_S_H_D, value)
    of_scores = weights * (of_weights - (weights * of_weights).sum(dim=-1, keepdim=True)) * scale
    of_key, of_value = (
        torch.einsum("hqk,qhd->khd", *pair).view(len(key), -1, repeats, key.shape[2]).sum(dim=2)
        for pair in ((of_scores, query), (weights, grad_S_H_D))
    )
    output, of_query = (
        torch.einsum("hqk,khd->qhd", *pair) for pair in ((weights, value), (of_scores, key))
    )
    return [output, of_query, of_key, of_value]
