"""Prompts and their images recognized, split and joined; attention over packed rows."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.flash_on_cpu import flash_on_cpu
from support.tiny_models import tiny_gemma3, tiny_qwen3_5
from transformers import AutoModelForImageTextToText

from mtrl_judge.models import packed_attention as packed_attention_module
from mtrl_judge.models import packing
from mtrl_judge.models.packed_attention import (
    Layout,
    flash_unsupported_reason,
    packed_attention,
)
from mtrl_judge.models.packing import (
    Prefix,
    join_images,
    packing_unsupported_reason,
    prefix_unsupported_reason,
    split_images,
    unique_prefixes,
)


def test_models_that_cannot_share_a_prompt_are_recognized(
    random_judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def model() -> Any:
        return AutoModelForImageTextToText.from_pretrained(random_judge)

    assert packing_unsupported_reason(model()) is None
    sliding = model()
    sliding.config.text_config.layer_types = ["full_attention", "sliding_attention"]
    assert packing_unsupported_reason(sliding) == "it has layers of sliding_attention"
    linear = model()
    linear.config.text_config.layer_types = ["linear_attention"] * 2
    assert "linear_attention" in str(packing_unsupported_reason(linear))
    flash = model()
    flash.config.text_config._attn_implementation = "flash_attention_2"
    assert packing_unsupported_reason(flash) is None
    flash.hf_device_map = {"model.visual": 0, "model.language_model": 1}
    assert "over several devices only sdpa and eager" in str(packing_unsupported_reason(flash))
    assert prefix_unsupported_reason(flash) is None
    dropping = model()
    dropping.config.text_config.attention_dropout = 0.1
    assert "dropout (0.1)" in str(packing_unsupported_reason(dropping))
    monkeypatch.setattr(packing, "MROPE", ("qwen2_vl",))
    assert str(packing_unsupported_reason(model())).startswith(
        "its family, qwen3_vl, is not among qwen2_vl"
    )


def test_layers_of_other_kinds_have_limits_of_their_own(tmp_path: Path) -> None:
    gemma, qwen = (
        AutoModelForImageTextToText.from_pretrained(build(tmp_path / build.__name__))
        for build in (tiny_gemma3, tiny_qwen3_5)
    )
    assert packing_unsupported_reason(gemma) is packing_unsupported_reason(qwen) is None
    gemma.config.text_config._attn_implementation = "flash_attention_2"
    assert packing_unsupported_reason(gemma) == (
        "attn_implementation is flash_attention_2; with sliding windows only sdpa and eager do"
    )
    qwen.hf_device_map = {"model.visual": 0, "model.language_model": 1}
    assert packing_unsupported_reason(qwen) == (
        "it has layers of linear attention over several devices"
    )
    assert prefix_unsupported_reason(gemma) is prefix_unsupported_reason(qwen) is None


def test_a_copy_of_a_model_reads_packed_rows_with_its_own_layers(tmp_path: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(tiny_qwen3_5(tmp_path)).eval()
    ids = torch.tensor([5, 6, 7, 8])
    packing.pack(model, [Prefix(ids, None, {})], [[ids]])
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.base_model.language_model.layers[0].linear_attn.parameters():
            weight.mul_(2)
        packed = packing.pack(other, [Prefix(ids, None, {})], [[ids]])
        found = packed.unpack(_logps(other(**packed.inputs).logits, packed.labels_R_T))[0]
        logits = other(torch.cat([ids, ids])[None, :-1]).logits[:, len(ids) - 1 :]
    torch.testing.assert_close(found, _logps(logits, ids[None])[0], rtol=0, atol=1e-5)


def _logps(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(dim=-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]


GRIDS = st.lists(st.tuples(st.integers(1, 2), st.integers(1, 3)), min_size=1, max_size=3)


@given(st.lists(GRIDS, min_size=1, max_size=4), st.booleans())
def test_images_are_split_by_prompt_and_joined_again(grids: list[list[Any]], patched: bool) -> None:
    counts = [len(images) for images in grids]
    grid = torch.tensor([[1, *edges] for images in grids for edges in images])
    patches = torch.arange(int(grid.prod(dim=1).sum()))[:, None]
    fields: dict[str, Any] = {"image_grid_thw": grid, "pixel_values": patches}
    if not patched:
        fields = {"pixel_values": torch.arange(sum(counts))[:, None], "sizes": list(grid)}
    pieces = split_images(fields, counts)
    assert len(pieces) == len(counts)
    assert [len(piece[list(fields)[-1 if not patched else 0]]) for piece in pieces] == counts
    joined = join_images(pieces)
    assert joined.keys() == fields.keys()
    assert torch.equal(joined["pixel_values"], fields["pixel_values"])


def test_prompts_are_equal_only_with_their_images() -> None:
    ids = torch.tensor([1, 2, 3])
    one, other = ({"pixel_values": torch.full((2, 4), value)} for value in (0.0, 1.0))
    twice = [Prefix(ids, None, dict(one)), Prefix(ids.clone(), None, dict(one))]
    rows = [*twice, Prefix(ids, None, other), Prefix(ids[:2], None, one), Prefix(ids, None, {})]
    assert unique_prefixes(rows) == ([0, 2, 3, 4], [0, 0, 1, 2, 3])


SIZES = st.lists(
    st.tuples(st.integers(1, 5), st.lists(st.integers(0, 4), min_size=1, max_size=3)),
    min_size=1,
    max_size=3,
)


@given(SIZES, st.booleans(), st.booleans())
def test_attention_over_packed_rows_is_that_of_their_mask(
    sizes: list[tuple[int, list[int]]], one_row: bool, flash: bool
) -> None:
    """With a row for all prompts or one for each, with a mask and with flash kernels."""
    width = sum(body + sum(lengths) for body, lengths in sizes)
    rows, start, prompts, continuations = 1 if one_row else len(sizes), 0, [], []
    group_S, branch_S = (torch.full((rows * width,), packing.PADDING) for _ in range(2))
    for index, (body, _) in enumerate(sizes):
        start = start if one_row else index * width
        prompts.append((start, body))
        group_S[start : start + body], branch_S[start : start + body] = index, 0
        start += body
    for index, (_, lengths) in enumerate(sizes):
        start = start if one_row else index * width + max(b for b, _ in sizes)
        continuations.append([])
        for number, length in enumerate(lengths, 1):
            continuations[-1].append((start, length))
            group_S[start : start + length], branch_S[start : start + length] = index, number
            start += length
    same_S_S = group_S == group_S[:, None]
    allowed_S_S = same_S_S & ((branch_S == 0) | (branch_S == branch_S[:, None]))
    allowed_S_S = (allowed_S_S & (group_S >= 0)).tril()
    torch.manual_seed(0)
    states = [torch.randn(rows, h, width, 8, requires_grad=True) for h in (4, 2, 2)]
    query, key, value = (part.transpose(1, 2).flatten(0, 1).transpose(0, 1) for part in states)
    key, value = (part.repeat_interleave(2, dim=0) for part in (key, value))
    scores = (query @ key.transpose(1, 2) / 8**0.5).masked_fill(~allowed_S_S, -torch.inf)
    real = branch_S != packing.PADDING
    expected = (scores[:, real].softmax(dim=-1) @ value).transpose(0, 1)
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = 2, True  # type: ignore[assignment]
    layout = Layout(prompts, continuations, rows * width, "cpu")
    with flash_on_cpu() if flash else nullcontext() as calls:
        ours = packed_attention(module, states, layout).flatten(0, 1)[real]
        direction = torch.randn_like(expected)
        gradients = torch.autograd.grad((ours * direction).sum(), states)
    if flash:
        whole = all(sum(lengths) for _, lengths in sizes)
        kept = [(n, k) for n, k in calls if n > 0]
        assert (len(kept) > 2) == whole, "the kernels ran for these rows, if not only to be tried"
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    theirs = torch.autograd.grad((expected * direction).sum(), states)
    torch.testing.assert_close(gradients, theirs, rtol=1e-4, atol=1e-5)


def test_flash_kernels_that_cannot_be_used_are_found_out() -> None:
    of = (torch.device("cpu"), torch.float32, 4, 2, 8)
    flash_unsupported_reason.cache_clear()
    assert "do not run here (Could not run" in str(flash_unsupported_reason(*of))
    with flash_on_cpu():
        assert flash_unsupported_reason(*of) is None
        flash_unsupported_reason.cache_clear()
        with patch.object(packed_attention_module, "_LAST_PLACES", 0):
            assert "give other numbers here" in str(flash_unsupported_reason(*of))
