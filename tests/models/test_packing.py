"""Prompts and their images recognized, split and joined; attention over packed rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText

from mtrl_judge.models import packing
from mtrl_judge.models.packed_attention import LAYOUT, build_layout, packed_attention
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
    assert "only sdpa and eager accept a custom mask" in str(packing_unsupported_reason(flash))
    assert prefix_unsupported_reason(flash) is None
    dropping = model()
    dropping.config.text_config.attention_dropout = 0.1
    assert "dropout (0.1)" in str(packing_unsupported_reason(dropping))
    monkeypatch.setattr(packing, "MROPE", ("qwen2_vl",))
    assert str(packing_unsupported_reason(model())).startswith(
        "its family, qwen3_vl, is not among qwen2_vl"
    )


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


SIZES = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), min_size=1, max_size=3)
SIZES = SIZES.filter(lambda sizes: any(map(sum, sizes)))


@given(SIZES, st.data())
def test_attention_skips_only_what_the_mask_forbids(sizes: list[list[int]], data: Any) -> None:
    bodies = [data.draw(st.integers(1, 5)) for _ in sizes]
    branches = []
    for body, row in zip(bodies, sizes, strict=True):
        padding = [packing.PADDING] * (max(bodies) - body)
        numbers = [number for k, n in enumerate(row) for number in [k + 1] * n]
        branches.append(torch.tensor([0] * body + padding + numbers))
    padded = torch.nn.utils.rnn.pad_sequence(
        branches, batch_first=True, padding_value=packing.PADDING
    )
    mask = packing.branch_mask(padded, "sdpa", torch.float32)
    torch.manual_seed(0)
    rows, width = padded.shape
    query = torch.randn(rows, 4, width, 8)
    key, value = torch.randn(2, rows, 2, width, 8)
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = 2, True  # type: ignore[assignment]
    dense, _ = packed_attention(module, query, key, value, mask)
    setattr(mask, LAYOUT, build_layout(bodies, sizes, "cpu"))
    ours, _ = packed_attention(module, query, key, value, mask)
    real = padded != packing.PADDING
    torch.testing.assert_close(ours[real], dense[real], rtol=1e-5, atol=1e-6)
