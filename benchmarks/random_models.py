"""Qwen3-VL with random weights, as large as the published ones, and prompts for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers import Qwen3VLForConditionalGeneration

from mtrl_judge.demo.tiny_model import PATCH, build_model, build_processor, build_tokenizer
from mtrl_judge.rl.memory import architecture

SEED = 0
LARGE_PATCH = 16  # pixels; two by two patches are a token
# Qwen3-VL-2B: the fields of Qwen/Qwen3-VL-2B-Instruct that differ from those of the 4B model.
TEXT_2B = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
}
VISION_2B = {"out_hidden_size": 2048}
MODEL_4B = "Qwen/Qwen3-VL-4B-Instruct"
RUBRIC = (
    "Judge how well the image matches the text. Look at every thing that the text names, at its "
    "color, its number and its place, and say whether the image shows it as it is described. "
)


def random_processor(size: str, edge: int) -> Any:
    """The tiny model's tokenizer, and images of exactly `edge` × `edge` pixels."""
    processor = build_processor(build_tokenizer([]))
    processor.tokenizer.padding_side = "left"
    processor.image_processor.patch_size = PATCH if size == "tiny" else LARGE_PATCH
    processor.image_processor.size = {"shortest_edge": edge**2, "longest_edge": edge**2}
    return processor


def random_model(size: str, tokenizer: Any, *, attention: str = "sdpa") -> Any:
    """A model of "tiny" size on the CPU, or of "2b" or "4b" in bfloat16 on the GPU."""
    torch.manual_seed(SEED)
    tiny = build_model(tokenizer)
    if size == "tiny":
        return tiny
    found = architecture(MODEL_4B)
    assert found is not None
    config = found[0]
    if size == "2b":
        config.text_config.update(TEXT_2B)
        config.vision_config.update(VISION_2B)
    for name in ("image_token_id", "video_token_id", "vision_start_token_id"):
        setattr(config, name, getattr(tiny.config, name))
    config.text_config.update({"pad_token_id": tokenizer.pad_token_id})
    with torch.device("cuda"):
        model = Qwen3VLForConditionalGeneration._from_config(
            config, dtype=torch.bfloat16, attn_implementation=attention
        )
    model.generation_config = tiny.generation_config
    return model


def write_random(size: str, folder: Path, edge: int) -> None:
    """A checkpoint."""
    processor = random_processor(size, edge)
    random_model(size, processor.tokenizer).save_pretrained(folder)
    processor.save_pretrained(folder)


def random_prompts(number: int, *, edge: int, text: int) -> Dataset:
    """Prompts with an image of noise and a text of so many characters, each a token."""
    draw, size = Random(SEED), (edge, edge)
    rows: dict[str, list[Any]] = {
        "prompt": [
            [{"role": "user", "content": f"{index:03} {(RUBRIC * 9)[:text]}"}]
            for index in range(number)
        ],
        "images": [
            [Image.frombytes("RGB", size, draw.randbytes(3 * edge**2))] for _ in range(number)
        ],
    }
    return as_dataset(rows, number)


def as_dataset(rows: Mapping[str, list[Any]], number: int) -> Dataset:
    """Prompts and images with the columns that a training of a judge reads beside them."""
    columns = {"task": "t", "kind": "pointwise", "label": "Yes", "verdicts": ["Yes", "No"]}
    features = {
        "prompt": [{"role": Value("string"), "content": Value("string")}],
        "images": List(ImageFeature()),
        **dict.fromkeys(("task", "kind", "label"), Value("string")),
        "verdicts": List(Value("string")),
    }
    made = {**rows, **{name: [value] * number for name, value in columns.items()}}
    return Dataset.from_dict(made, features=Features(features))


def never_sampled(tokenizer: Any) -> list[int]:
    """Tokens of images, which a completion may not contain: TRL stops at them."""
    ids: list[int] = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
    return ids
