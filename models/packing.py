"""Several continuations of one prompt in one forward pass, the prompt's own work done once.

A row holds the prompt and, behind it, its continuations::

    p₁ p₂ … pₙ₋₁ padding | pₙ a₁ a₂ … | pₙ b₁ b₂ … | padding

The mask lets each continuation see the prompt and itself; its positions go on from the prompt's.
The prompt's last token stands before each continuation because it foretells another first token in
each. So it is one ordinary forward pass, whatever wraps the model. Prompts are padded to the
longest of the pass, continuations are not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from .packed_attention import LAYOUT, NAME, layout

Images: TypeAlias = Mapping[str, Tensor]

# Families whose positions and image features are known here, by the config's `model_type`.
# Multimodal rotary positions: text after an image goes on from the greatest of its three positions.
MROPE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
# One position a token.
PLAIN = ("llava", "llava_onevision")
# Of transformers' attention functions those that take a mask of ours.
MASKED_ATTENTION = ("sdpa", "eager", NAME)

# Tokens from which a group goes into a further row: the mask is as large as their square.
LONGEST_ROW = 8192
IGNORED = -100  # a position without a next token, as transformers marks it
PADDING = -1  # where the prompt's tokens are marked 0, and those of its continuations 1, 2, …


class Prefix(NamedTuple):
    """A prompt of P tokens, without padding."""

    ids_P: Tensor
    types_P: Tensor | None
    """`mm_token_type_ids`: 0 text, 1 image; only families of MROPE have them."""
    images: Images
    """What the processor makes of its images, by the model's names."""


class Packed(NamedTuple):
    """R rows of T tokens that hold N continuations of up to C tokens."""

    inputs: dict[str, Tensor]
    """What the model takes; `attention_mask` is R × 1 × T × T."""
    labels_R_T: Tensor
    """The token that each position foretells, -100 where none is asked for."""
    rows_N_C: Tensor
    columns_N_C: Tensor
    asked_N_C: Tensor

    def unpack(self, values_R_T: Tensor) -> Tensor:
        """What belongs to each token of each continuation, N × C; 0 behind its end."""
        values_N_C = values_R_T[self.rows_N_C, self.columns_N_C]
        return torch.where(self.asked_N_C, values_N_C, values_N_C.new_zeros(()))


def why_no_prefix(model: Any) -> str | None:
    """Why this model cannot read a prompt once for several continuations, or None where it can.

    Args:
        model: of transformers, without a wrapper; it may hold adapters.
    """
    config, text = model.config, model.config.get_text_config()
    if config.model_type not in MROPE + PLAIN:
        return f"its family, {config.model_type}, is not among {', '.join(MROPE + PLAIN)}"
    other = sorted(set(getattr(text, "layer_types", None) or ()) - {"full_attention"})
    if other:
        return f"it has layers of {', '.join(other)}"
    parts = [config, text, getattr(config, "vision_config", config)]
    rates = [float(getattr(part, "attention_dropout", 0.0) or 0.0) for part in parts]
    rates += [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    if max(rates):
        return f"it has dropout ({max(rates):g}), which each repetition of a prompt draws anew"
    return None


def why_not(model: Any) -> str | None:
    """Why rows of this model cannot be packed, or None where they can.

    Args:
        model: as of :func:`why_no_prefix`.
    """
    attention = model.config.get_text_config()._attn_implementation
    if attention not in MASKED_ATTENTION:
        able = " and ".join(MASKED_ATTENTION[:2])
        return f"attn_implementation is {attention}, which takes no mask of ours; {able} do"
    return why_no_prefix(model)


def use_shared_attention(model: Any) -> None:
    """Let a model's text layers skip what the mask of packed rows forbids; else they compute it."""
    text = model.config.get_text_config()
    if why_not(model) is None and text._attn_implementation == "sdpa":
        text._attn_implementation = NAME


def same_prompts(prefixes: Sequence[Prefix]) -> list[int]:
    """For each prompt the place of the first one that equals it, images included.

    >>> text = Prefix(torch.tensor([1, 2]), None, {})
    >>> same_prompts([text, text._replace(ids_P=torch.tensor([1, 3])), text])
    [0, 1, 0]
    """
    known: dict[tuple[int, ...], list[int]] = defaultdict(list)
    first = []
    for place, prefix in enumerate(prefixes):
        alike = known[tuple(prefix.ids_P.tolist())]
        twin = next((k for k in alike if _same_images(prefixes[k].images, prefix.images)), None)
        if twin is None:
            alike.append(place)
        first.append(place if twin is None else twin)
    return first


def _same_images(one: Images, other: Images) -> bool:
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape and torch.equal(one[name], other[name]) for name in one
    )


def split_images(fields: Mapping[str, Any], counts: Sequence[int]) -> list[dict[str, Any]]:
    """What a processor made of the images of several prompts, prompt by prompt.

    Args:
        fields: tensors or lists. Those as long as there are images, or as there are prompts, are
            cut; with `image_grid_thw` the rows of `pixel_values` are patches (Qwen2-VL).
        counts: images of each prompt.

    Raises:
        ValueError: a field is neither.
    """
    images, prompts = sum(counts), len(counts)
    pieces: list[dict[str, Any]] = [{} for _ in counts]
    for name, values in fields.items():
        if name == "pixel_values" and "image_grid_thw" in fields:
            patches = torch.as_tensor(fields["image_grid_thw"]).prod(dim=1).tolist()
            sizes = [sum(patches[start : start + n]) for start, n in _spans(counts)]
        elif len(values) == images:
            sizes = list(counts)
        elif len(values) == prompts:
            sizes = [1] * prompts
        else:
            raise ValueError(f"{name}: {len(values)} rows for {images} images, {prompts} prompts")
        for piece, (start, n) in zip(pieces, _spans(sizes), strict=True):
            if n:
                piece[name] = values[start : start + n]
    return pieces


def join_images(pieces: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The contrary of :func:`split_images`."""
    columns: dict[str, list[Any]] = defaultdict(list)
    for piece in pieces:
        for name, values in piece.items():
            columns[name].append(values)
    return {
        name: torch.cat(parts) if isinstance(parts[0], Tensor) else [v for p in parts for v in p]
        for name, parts in columns.items()
    }


def _spans(sizes: Iterable[int]) -> Iterable[tuple[int, int]]:
    """Where each piece starts, and its size."""
    start = 0
    for size in sizes:
        yield start, size
        start += size


def pack(
    model: Any, prefixes: Sequence[Prefix], continuations: Sequence[Sequence[Tensor]]
) -> Packed:
    """Lay prompts and their continuations out for one forward pass.

    Args:
        model: of transformers, without a wrapper, for which :func:`why_not` is None.
        prefixes: M different prompts, each ending in a token of text.
        continuations: for each prompt the token ids of its continuations, of any lengths.
    """
    device = prefixes[0].ids_P.device
    body = max(len(prefix.ids_P) for prefix in prefixes) - 1
    rows: list[_Row] = []
    places: list[tuple[int, int, int]] = []  # row, first column, tokens
    for prefix, positions, group in zip(
        prefixes, _positions(model, prefixes), continuations, strict=True
    ):
        row = None
        for tokens in group:
            if row is None or row.length + len(tokens) > LONGEST_ROW:
                row = _Row(prefix, positions, body)
                rows.append(row)
            places.append((len(rows) - 1, row.append(tokens), len(tokens)))
    longest = max(tokens for *_, tokens in places)
    place_N_3 = torch.tensor(places, device=device)
    offsets_C = torch.arange(longest, device=device)
    asked_N_C = offsets_C < place_N_3[:, 2:]
    inputs = _inputs(model, rows)
    if longest:  # else all are empty, as completions that were truncated and masked
        bodies = [len(row.prefix.ids_P) - 1 for row in rows]
        laid = layout(bodies, [row.sizes for row in rows], device)
        setattr(inputs["attention_mask"], LAYOUT, laid)
    return Packed(
        inputs,
        _padded([torch.cat(row.labels) for row in rows], IGNORED),
        place_N_3[:, :1].expand_as(asked_N_C),
        torch.where(asked_N_C, place_N_3[:, 1:2] + offsets_C, 0),
        asked_N_C,
    )


class _Row:
    """A prompt without its last token, padded, then continuations, each behind that token."""

    def __init__(self, prefix: Prefix, positions: Tensor, length: int) -> None:
        self.prefix = prefix
        self._last, self._last_position = prefix.ids_P[-1:], positions[..., -1:]
        body = prefix.ids_P[:-1]
        missing = (0, length - len(body))
        # Any token of text pads.
        self.ids = [body, self._last.expand(missing[1])]
        self.positions = [functional.pad(positions[..., :-1], missing)]
        self.branches = [functional.pad(torch.zeros_like(body), missing, value=PADDING)]
        self.labels = [body.new_full((length,), IGNORED)]
        self.length = length
        self.sizes: list[int] = []  # tokens of each continuation

    def append(self, tokens: Tensor) -> int:
        """Add a continuation; the column whose position foretells its first token."""
        column = self.length
        self.ids.append(torch.cat([self._last, tokens[:-1]])[: len(tokens)])
        steps = torch.arange(len(tokens), device=tokens.device)
        self.positions.append(self._last_position + steps)
        self.branches.append(torch.full_like(tokens, len(self.branches)))
        self.labels.append(tokens)
        self.sizes.append(len(tokens))
        self.length += len(tokens)
        return column


def _inputs(model: Any, rows: Sequence[_Row]) -> dict[str, Tensor]:
    ids = [torch.cat(row.ids) for row in rows]
    positions = _padded([torch.cat(row.positions, dim=-1).movedim(-1, 0) for row in rows], 0)
    if positions.dim() == 3:
        positions = positions.permute(2, 0, 1)  # R × T × 3 to 3 × R × T
    text = model.config.get_text_config()
    branches_R_T = _padded([torch.cat(row.branches) for row in rows], PADDING)
    return {
        "input_ids": _padded(ids, text.pad_token_id or 0),
        "position_ids": positions,
        "attention_mask": _mask(branches_R_T, text._attn_implementation, model.dtype),
        **join_images(row.prefix.images for row in rows),
    }


def _mask(branches_R_T: Tensor, attention: str, dtype: torch.dtype) -> Tensor:
    """What each token may see, R × 1 × T × T; nobody sees padding, which sees the prompt."""
    width = branches_R_T.shape[1]
    keys, queries = branches_R_T[:, None, :], branches_R_T[:, :, None]
    causal = torch.ones(width, width, dtype=torch.bool, device=branches_R_T.device).tril()
    sees = (((keys == 0) | (keys == queries)) & causal)[:, None]
    if attention != "eager":
        return sees
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(
        ~sees, torch.finfo(dtype).min
    )


def _positions(model: Any, prefixes: Sequence[Prefix]) -> list[Tensor]:
    """The rotary positions of each prompt's tokens: P, or 3 × P."""
    if model.config.model_type in PLAIN:
        return [torch.arange(len(p.ids_P), device=p.ids_P.device) for p in prefixes]
    found = []
    for prefix in prefixes:
        types = torch.zeros_like(prefix.ids_P) if prefix.types_P is None else prefix.types_P
        positions_3_1_P, _ = model.base_model.get_rope_index(
            prefix.ids_P[None],
            mm_token_type_ids=types[None],
            image_grid_thw=prefix.images.get("image_grid_thw"),
            attention_mask=torch.ones_like(prefix.ids_P)[None],
        )
        found.append(positions_3_1_P[:, 0])
    return found


def _padded(rows: Sequence[Tensor], value: int) -> Tensor:
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)
