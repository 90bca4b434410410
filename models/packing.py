"""Several continuations of a prompt in one forward pass that computes the prompt once.

A row holds prompts followed by their continuations, without padding::

    p₁ p₂ … pₙ₋₁ | q₁ q₂ … qₘ₋₁ | pₙ a₁ a₂ … | pₙ b₁ b₂ … | qₘ c₁ c₂ … | qₘ d₁ d₂ …

The attention mask lets each continuation attend to its prompt and to itself, and its positions
continue the prompt's. The prompt's last token is repeated before each continuation because it
predicts a different first token in each. To the model this is one ordinary forward pass, so
adapters, gradient checkpointing and DDP work unchanged.

The attention functions of transformers learn to recognize such a row, and compute only the token
pairs that the mask allows (:mod:`.packed_attention`). Where they cannot, they read the mask. Then
there is a row for each prompt, because a mask grows with the square of a row's length::

    p₁ p₂ … pₙ₋₁         | pₙ a₁ a₂ … | pₙ b₁ b₂ …
    q₁ q₂ … qₘ₋₁ padding | qₘ c₁ c₂ … | qₘ d₁ d₂ … | padding

Layers of linear attention split a row again (:mod:`.packed_linear_attention`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from .packed_attention import LAYOUT, Layout, accept_packed_rows
from .packed_linear_attention import Fork, fork_linear_attention

Images: TypeAlias = Mapping[str, Tensor]

# Families whose position ids and image features are handled here, by the config's `model_type`.
# Multimodal rotary positions (Qwen2-VL, arXiv 2409.12191, section 2.1): a token has a temporal, a
# vertical and a horizontal position, and text after an image continues from the greatest of them.
MROPE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5")
# One position per token.
PLAIN = ("llava", "llava_onevision", "internvl", "gemma3")
# Types of layers that are handled in some families, besides full attention.
OTHER_LAYERS = {"qwen3_5": ("linear_attention",), "gemma3": ("sliding_attention",)}
# Families that may cut an image into tiles, each of which is an image to the model: the field of
# the config with the number of tokens of a tile.
TILE_TOKENS = {"internvl": "image_seq_length", "gemma3": "mm_tokens_per_image"}
# transformers' attention functions that accept a custom mask.
MASKED_ATTENTION = ("sdpa", "eager")

IGNORED = -100  # label of a position without a target; transformers' ignore_index
PADDING = -1  # branch of padding; the prompt's tokens are branch 0, its continuations 1, 2, …
# What `pad_left` adds. A multiple of the blocks of attention kernels would leave their sums as they
# are.
MORE_PADDING = 7
# What kind of token each is: 0 text, 1 image. Families use one name or the other.
TYPES = ("mm_token_type_ids", "token_type_ids")
TEXT_FIELDS = ("input_ids", "attention_mask", *TYPES)  # the other fields are images'


class Prefix(NamedTuple):
    """A prompt of P tokens, without padding."""

    ids_P: Tensor
    types_P: Tensor | None
    """0 text, 1 image; None where the family has no field of TYPES."""
    images: Images
    """The processor's tensors for its images, by the model's argument names."""


class Packed(NamedTuple):
    """R rows of T tokens that hold N continuations of up to C tokens."""

    inputs: dict[str, Any]
    """The model's arguments; `attention_mask` is R × 1 × T × T, or one for each type of layer."""
    labels_R_T: Tensor
    """The token that each position predicts; -100 where none is needed."""
    places_N_C: Tensor
    """Where among the R · T tokens those of the continuations are."""
    valid_N_C: Tensor

    def unpack(self, values_R_T: Tensor) -> Tensor:
        """The value at each token of each continuation, N × C; 0 beyond its end."""
        values_N_C = values_R_T.flatten()[self.places_N_C]
        return torch.where(self.valid_N_C, values_N_C, values_N_C.new_zeros(()))


def prefix_unsupported_reason(model: Any) -> str | None:
    """Why this model cannot compute a prompt once for several continuations; None if it can.

    Args:
        model: a transformers model without wrapper; it may hold adapters.
    """
    config, text = model.config, model.config.get_text_config()
    if config.model_type not in MROPE + PLAIN:
        return f"its family, {config.model_type}, is not among {', '.join(MROPE + PLAIN)}"
    other_layers = _layer_types(model) - {"full_attention"}
    other_layers -= {*OTHER_LAYERS.get(config.model_type, ())}
    if other_layers:
        return f"it has layers of {', '.join(sorted(other_layers))}"
    configs = [config, text, getattr(config, "vision_config", config)]
    rates = [float(getattr(part, "attention_dropout", 0.0) or 0.0) for part in configs]
    rates += [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    if max(rates):
        return f"it has dropout ({max(rates):g}), which is sampled anew for each copy of a prompt"
    return None


def packing_unsupported_reason(model: Any) -> str | None:
    """Why rows of this model cannot be packed; None if they can.

    Args:
        model: as for :func:`prefix_unsupported_reason`.
    """
    attention = model.config.get_text_config()._attn_implementation
    if _reads_masks(model) and attention not in MASKED_ATTENTION:
        where = "over several devices" if _several_devices(model) else "with sliding windows"
        return f"attn_implementation is {attention}; {where} only sdpa and eager do"
    if "linear_attention" in _layer_types(model) and _several_devices(model):
        return "it has layers of linear attention over several devices"
    return prefix_unsupported_reason(model)


def _reads_masks(model: Any) -> bool:
    """Whether the rows' mask says what to attend to, and not only their `Layout`.

    "eager" is no function of transformers but a model's own, accelerate copies a mask from device
    to device, but not what it holds, and a `Layout` knows of no sliding windows.
    """
    eager = model.config.get_text_config()._attn_implementation == "eager"
    return eager or _several_devices(model) or "sliding_attention" in _layer_types(model)


def _several_devices(model: Any) -> bool:
    return len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1


def _layer_types(model: Any) -> set[str]:
    return set(getattr(model.config.get_text_config(), "layer_types", None) or ())


def prefixes_of(inputs: Mapping[str, Any], image_counts: Sequence[int]) -> list[Prefix]:
    """The B prompts of a padded batch.

    Args:
        inputs: the processor's output, on the model's device; text fields are B × T.
        image_counts: number of images of each prompt, as the model sees them: see
            :func:`count_images`. So everywhere in this file.
    """
    images_B = split_images(
        {name: value for name, value in inputs.items() if name not in TEXT_FIELDS}, image_counts
    )
    masks_B_T = inputs["attention_mask"].bool()
    types_B_T = next((inputs[name] for name in TYPES if name in inputs), None)
    return [
        Prefix(
            inputs["input_ids"][index][mask_T],
            None if types_B_T is None else types_B_T[index][mask_T],
            images,
        )
        for index, (mask_T, images) in enumerate(zip(masks_B_T, images_B, strict=True))
    ]


def count_images(
    config: Any, prompts: Iterable[Sequence[int] | Tensor], image_counts: Sequence[int]
) -> list[int]:
    """How many images the model sees in each prompt: where an image was cut, each of its tiles.

    Args:
        config: of the model.
        prompts: the token ids of each prompt.
        image_counts: number of images of each prompt, before they are cut.
    """
    if config.model_type not in TILE_TOKENS:
        return list(image_counts)
    tokens = getattr(config, TILE_TOKENS[config.model_type])
    counts = (int((torch.as_tensor(ids) == config.image_token_id).sum()) for ids in prompts)
    return [count // tokens for count in counts]


def unique(
    keys: Sequence[Hashable], equal: Callable[[int, int], bool] = lambda i, j: True
) -> tuple[list[int], list[int]]:
    """Indices of the distinct items, and for each item which of them it equals.

    As `numpy.unique` with `return_index` and `return_inverse`, but in order of appearance.

    Args:
        keys: items with different keys are distinct.
        equal: compares two items that have the same key, by their indices.

    >>> unique("abab")
    ([0, 1], [0, 1, 0, 1])
    """
    indices: list[int] = []
    inverse: list[int] = []
    by_key: defaultdict[Hashable, list[int]] = defaultdict(list)  # key -> positions in `indices`
    for index, key in enumerate(keys):
        match = next((n for n in by_key[key] if equal(indices[n], index)), None)
        if match is None:
            match = len(indices)
            indices.append(index)
            by_key[key].append(match)
        inverse.append(match)
    return indices, inverse


def unique_prefixes(prefixes: Sequence[Prefix]) -> tuple[list[int], list[int]]:
    """:func:`unique` prompts; equal prompts have the same tokens and the same images.

    >>> text = Prefix(torch.tensor([1, 2]), None, {})
    >>> unique_prefixes([text, text._replace(ids_P=torch.tensor([1, 3])), text])
    ([0, 1], [0, 1, 0])
    """
    return unique(
        [tuple(prefix.ids_P.tolist()) for prefix in prefixes],
        lambda i, j: same_images(prefixes[i].images, prefixes[j].images),
    )


def same_images(first: Images, second: Images) -> bool:
    """Whether two images, or the images of two prompts, have the same tensors."""
    return first.keys() == second.keys() and all(
        first[name].shape == second[name].shape and torch.equal(first[name], second[name])
        for name in first
    )


def split_images(fields: Mapping[str, Any], image_counts: Sequence[int]) -> list[dict[str, Any]]:
    """Split the processor's image fields of a batch by prompt.

    Args:
        fields: tensors or lists with one entry per image or one per prompt. With
            `image_grid_thw`, the rows of `pixel_values` are patches (Qwen2-VL); with
            `num_patches`, they are tiles (InternVL).
        image_counts: number of images of each prompt.

    Raises:
        ValueError: a field has another number of entries.
    """
    images, prompts = sum(image_counts), len(image_counts)
    pieces: list[dict[str, Any]] = [{} for _ in image_counts]
    for name, values in fields.items():
        if name == "pixel_values" and "image_grid_thw" in fields:
            patches = torch.as_tensor(fields["image_grid_thw"]).prod(dim=1).tolist()
            bounds = accumulate(image_counts, initial=0)
            sizes = [sum(patches[start:end]) for start, end in pairwise(bounds)]
        elif name == "pixel_values" and "num_patches" in fields:
            tiles = torch.split(torch.as_tensor(fields["num_patches"]), list(image_counts))
            sizes = [int(of_prompt.sum()) for of_prompt in tiles]
        elif len(values) == images:
            sizes = list(image_counts)
        elif len(values) == prompts:
            sizes = [1] * prompts
        else:
            raise ValueError(f"{name}: {len(values)} rows for {images} images, {prompts} prompts")
        starts = accumulate(sizes, initial=0)
        for piece, start, size in zip(pieces, starts, sizes, strict=False):
            if size:
                piece[name] = values[start : start + size]
    return pieces


def take_rows(
    inputs: Mapping[str, Any], rows: Sequence[int], image_counts: Sequence[int]
) -> dict[str, Any]:
    """Some of the B prompts of a padded batch, as a batch.

    Args:
        inputs: as for :func:`prefixes_of`; so is ``image_counts``.
    """
    text = {name: inputs[name] for name in TEXT_FIELDS if name in inputs}
    images_B = split_images({n: v for n, v in inputs.items() if n not in text}, image_counts)
    return {
        **{name: values[list(rows)] for name, values in text.items()},
        **join_images(images_B[row] for row in rows),
    }


def pad_left(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A batch with more padding, which changes nothing but the order of its sums."""
    wider = {
        name: functional.pad(inputs[name], (MORE_PADDING, 0))
        for name in TEXT_FIELDS
        if name in inputs
    }
    return {**inputs, **wider}


def join_images(pieces: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The inverse of :func:`split_images`."""
    columns: defaultdict[str, list[Any]] = defaultdict(list)
    for piece in pieces:
        for name, values in piece.items():
            columns[name].append(values)
    return {
        name: torch.cat(parts) if isinstance(parts[0], Tensor) else [v for p in parts for v in p]
        for name, parts in columns.items()
    }


def pack(
    model: Any, prefixes: Sequence[Prefix], continuations: Sequence[Sequence[Tensor]]
) -> Packed:
    """Lay out prompts and their continuations for one forward pass.

    Args:
        model: a transformers model without wrapper, for which
            :func:`prefix_unsupported_reason` is None.
        prefixes: M distinct prompts, each ending in a text token.
        continuations: the token ids of each prompt's continuations, of any lengths.
    """
    device, text = prefixes[0].ids_P.device, model.config.get_text_config()
    attention, reads_masks = text._attn_implementation, _reads_masks(model)
    groups = [
        _Group(prefix, _rotary_positions(model, prefix), tokens)
        for prefix, tokens in zip(prefixes, continuations, strict=True)
    ]
    rows = [[group] for group in groups] if reads_masks else [groups]
    prompt_width = max(sum(group.prompt_tokens for group in row) for row in rows)
    columns = zip(*(_row_tensors(row, prompt_width) for row in rows), strict=True)
    fills = (text.pad_token_id or 0, 0, PADDING, IGNORED)
    ids_R_T, positions, branches_R_T, labels_R_T = (
        nn.utils.rnn.pad_sequence(list(column), batch_first=True, padding_value=fill)
        for column, fill in zip(columns, fills, strict=True)
    )
    layout = _layout(rows, prompt_width, ids_R_T)
    mask: Any
    if "sliding_attention" in _layer_types(model):
        mask = _masks_by_layer_type(model, prefixes, positions, branches_R_T)
    elif reads_masks:
        mask = branch_mask(branches_R_T, attention, model.dtype)
    else:
        accept_packed_rows(attention)
        # A mask in form only, which takes no memory.
        none = torch.zeros((), dtype=torch.bool, device=device)
        mask = none.expand(len(rows), 1, *ids_R_T.shape[1:] * 2)
        setattr(mask, LAYOUT, layout)
    if "linear_attention" in _layer_types(model):
        fork_linear_attention(model)
        mask = {"full_attention": mask, "linear_attention": Fork.of(layout)}
    spans_N_2 = torch.tensor([*chain.from_iterable(layout.continuations)], device=device)
    offsets_C = torch.arange(int(spans_N_2[:, 1].max()), device=device)
    valid_N_C = offsets_C < spans_N_2[:, 1:]
    inputs = {
        "input_ids": ids_R_T,
        "position_ids": positions if positions.dim() == 2 else positions.permute(2, 0, 1),
        "attention_mask": mask,
        **join_images(prefix.images for prefix in prefixes),
    }
    places_N_C = torch.where(valid_N_C, spans_N_2[:, :1] + offsets_C, 0)
    return Packed(inputs, labels_R_T, places_N_C, valid_N_C)


class _Group(NamedTuple):
    """A prompt, the rotary positions of its tokens, and its continuations."""

    prefix: Prefix
    positions: Tensor
    continuations: Sequence[Tensor]

    @property
    def prompt_tokens(self) -> int:
        """Without the last, which is repeated before each continuation."""
        return len(self.prefix.ids_P) - 1


def _layout(rows: Sequence[Sequence[_Group]], prompt_width: int, ids_R_T: Tensor) -> Layout:
    """Where rows hold their prompts and continuations."""
    prompts, continuations = [], []
    width = ids_R_T.shape[1]
    for index, row in enumerate(rows):
        place, column = index * width, index * width + prompt_width
        for group in row:
            prompts.append((place, group.prompt_tokens))
            place += group.prompt_tokens
            lengths = [len(tokens) for tokens in group.continuations]
            starts = list(accumulate(lengths, initial=column))
            continuations.append(list(zip(starts, lengths, strict=False)))
            column = starts[-1]
    return Layout(prompts, continuations, ids_R_T.numel(), ids_R_T.device)


def _row_tensors(
    groups: Sequence[_Group], prompt_width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, positions, branches and labels of a row's T tokens; positions are T or T × 3."""
    last = groups[-1].prefix.ids_P[-1:]
    padding = (0, prompt_width - sum(group.prompt_tokens for group in groups))
    prompts = [group.prefix.ids_P[:-1] for group in groups]
    positions = [torch.cat([group.positions[..., :-1] for group in groups], dim=-1)]
    positions[0] = functional.pad(positions[0], padding)
    # Padded with a prompt's last token: unlike an image token, any text token will do.
    ids = [*prompts, last.expand(padding[1])]
    branches = [functional.pad(torch.zeros_like(torch.cat(prompts)), padding, value=PADDING)]
    labels = [last.new_full((prompt_width,), IGNORED)]
    for group in groups:
        for number, tokens in enumerate(group.continuations, 1):
            ids.append(torch.cat([group.prefix.ids_P[-1:], tokens[:-1]])[: len(tokens)])
            offsets = torch.arange(len(tokens), device=tokens.device)
            positions.append(group.positions[..., -1:] + offsets)
            branches.append(torch.full_like(tokens, number))
            labels.append(tokens)
    return (
        torch.cat(ids),
        torch.cat(positions, dim=-1).movedim(-1, 0),
        torch.cat(branches),
        torch.cat(labels),
    )


def branch_mask(branches_R_T: Tensor, attention: str, dtype: torch.dtype) -> Tensor:
    """What each token attends to, R × 1 × T × T: earlier tokens of the prompt and its branch.

    Padding attends to the prompt, so that no softmax is over nothing; nothing attends to padding.

    Args:
        branches_R_T: 0 for the prompt, 1, 2, … for its continuations, PADDING for padding.
        attention: "eager" adds the mask to the scores; the others take a boolean mask.
    """
    width = branches_R_T.shape[1]
    keys, queries = branches_R_T[:, None, :], branches_R_T[:, :, None]
    causal_T_T = torch.ones(width, width, dtype=torch.bool, device=branches_R_T.device).tril()
    return _as_mask((((keys == 0) | (keys == queries)) & causal_T_T)[:, None], attention, dtype)


def _as_mask(allowed: Tensor, attention: str, dtype: torch.dtype) -> Tensor:
    if attention != "eager":
        return allowed
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )


def _masks_by_layer_type(
    model: Any, prefixes: Sequence[Prefix], positions_R_T: Tensor, branches_R_T: Tensor
) -> dict[str, Tensor]:
    """As :func:`branch_mask`, for a family with several masks, by the type of layer.

    transformers' own masks of each prompt with one continuation say which tokens attend to which,
    by their positions: within a sliding window, and to all tokens of the same image.

    Args:
        prefixes: the prompt of each row.
    """
    text = model.config.get_text_config()
    longest_prompt = max(len(prefix.ids_P) for prefix in prefixes)
    length = max(int(positions_R_T.max()) + 1, longest_prompt)
    types_R_L = torch.zeros(len(prefixes), length, dtype=torch.long, device=positions_R_T.device)
    for row, prefix in enumerate(prefixes):
        if prefix.types_P is not None:
            types_R_L[row, : len(prefix.types_P)] = prefix.types_P
    masks = model.create_masks_for_generate(
        config=model.config,
        inputs_embeds=torch.empty(*types_R_L.shape, 0, dtype=model.dtype, device=types_R_L.device),
        attention_mask=None,
        past_key_values=None,
        position_ids=None,
        token_type_ids=types_R_L,
    )
    keys, queries = branches_R_T[:, None, :], branches_R_T[:, :, None]
    same_branch_R_T_T = (keys == 0) | (keys == queries)
    rows = torch.arange(len(prefixes), device=types_R_L.device)[:, None, None]
    packed = {}
    for layers, mask_R_1_L_L in masks.items():
        if mask_R_1_L_L is None:  # causal
            seen_R_T_T = positions_R_T[:, None, :] <= positions_R_T[:, :, None]
        else:
            mask_R_L_L = mask_R_1_L_L[:, 0]
            allowed_R_L_L = mask_R_L_L if mask_R_L_L.dtype == torch.bool else mask_R_L_L == 0
            seen_R_T_T = allowed_R_L_L[rows, positions_R_T[:, :, None], positions_R_T[:, None, :]]
        allowed = (same_branch_R_T_T & seen_R_T_T)[:, None]
        packed[layers] = _as_mask(allowed, text._attn_implementation, model.dtype)
    return packed


def _rotary_positions(model: Any, prefix: Prefix) -> Tensor:
    """The rotary positions of a prompt's tokens: P, or 3 × P with multimodal rotary positions."""
    if model.config.model_type in PLAIN:
        return torch.arange(len(prefix.ids_P), device=prefix.ids_P.device)
    types_P = torch.zeros_like(prefix.ids_P) if prefix.types_P is None else prefix.types_P
    positions_3_1_P, _ = model.base_model.get_rope_index(
        prefix.ids_P[None],
        mm_token_type_ids=types_P[None],
        image_grid_thw=prefix.images.get("image_grid_thw"),
        attention_mask=torch.ones_like(prefix.ids_P)[None],
    )
    positions_3_P: Tensor = positions_3_1_P[:, 0]
    return positions_3_P
