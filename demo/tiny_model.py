"""The tiny model before pretraining: its tokenizer, processor and architecture.

Architecture, processor and chat format are Qwen3-VL's, so it runs wherever Qwen3-VL runs; its size
and its tokenizer are its own. Each fixed passage of the tasks' prompts is a single token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from mtrl_judge.common.markup import JUDGE_TAGS
from mtrl_judge.judge_tasks.prompts import instruction, render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.spec import STYLES, JudgeTask, Style

from .corpus import base_tasks
from .curriculum import Example
from .drawing import PIXELS

PATCH = 8  # pixels of a patch's edge
MERGE = 2  # patches of the edge of a cell, the part of an image that becomes one token
GRID = PIXELS // PATCH  # patches of an image's edge
CELLS = (GRID // MERGE) ** 2
CELL_PIXELS = PATCH * MERGE
PATCH_VALUES = 3 * 2 * PATCH * PATCH  # colors × frames × pixels: a still image is two frames
# About 1/sqrt(width). Qwen's 0.02 is for widths of thousands; with it, a narrow model starts far
# more slowly.
INITIALIZER_RANGE = 0.08

END, PAD = "<|im_end|>", "<|endoftext|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
SPECIALS = (PAD, "<|im_start|>", END, VISION_START, VISION_END, IMAGE, VIDEO)
CHAT_TEMPLATE = (
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n"
    "{%- if message.content is string %}{{ message.content }}{% else %}"
    "{%- for part in message.content %}"
    "{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif part.type == 'text' %}{{ part.text }}{% endif %}"
    "{%- endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def fixed_passages(tasks: Sequence[JudgeTask]) -> list[str]:
    """The passages of the tasks' prompts that are the same for every row.

    These are the parts of the question's template between images and values, and the instructions.
    """
    passages = dict.fromkeys(
        piece
        for task in tasks
        for piece in re.split(r"\{\{.*?\}\}|\{%.*?%\}|<image>", task.judge.question.strip())
        if piece
    )
    return [*passages, *instructions((t.judge.kind, t.judge.verdicts) for t in tasks)]


def instructions(answered: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """How a prompt ends, for kinds of tasks with their verdicts."""
    texts = (instruction(*task, style) for task in answered for style in STYLES)
    return list(dict.fromkeys("\n\n" + text for text in texts))


def build_tokenizer(examples: Sequence[Example]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the words of prompts and answers; each fixed passage is one token."""
    passages = fixed_passages(base_tasks())
    texts = []
    for example in examples:
        (message,) = render_messages(example.row, example.style)
        texts.append("".join(part.get("text", "") for part in message["content"]))
        texts.append(example.answer)
    whole = re.compile("|".join(map(re.escape, (*JUDGE_TAGS, *passages))))
    words = [whole.sub("\n", text) for text in texts] + ["user\nassistant\n"] * 2
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,  # never reached: training ends when every word is a token
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIALS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in (*JUDGE_TAGS, *passages)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(SPECIALS),
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Any:
    """Qwen3-VL's processor; every image is resized to about 64×64 pixels, 16 tokens."""
    patches = {
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": PIXELS * PIXELS, "longest_edge": PIXELS * PIXELS},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    return Qwen3VLProcessor(
        Qwen2VLImageProcessor(**patches),
        tokenizer,
        Qwen3VLVideoProcessor(**patches),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    """A model with random weights, drawn from torch's global generator."""
    token = tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "max_position_embeddings": 4096,
            "initializer_range": INITIALIZER_RANGE,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": 128,
            "num_position_embeddings": GRID * GRID,
            "deepstack_visual_indexes": [],
            "initializer_range": INITIALIZER_RANGE,
        },
        image_token_id=token(IMAGE),
        video_token_id=token(VIDEO),
        vision_start_token_id=token(VISION_START),
        vision_end_token_id=token(VISION_END),
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def prompt_text(tokenizer: PreTrainedTokenizerFast, row: JudgeRow, style: Style) -> str:
    """The prompt, each image placeholder repeated for the tokens of an image."""
    text = tokenizer.apply_chat_template(
        render_messages(row, style), tokenize=False, add_generation_prompt=True
    )
    return str(text).replace(IMAGE, IMAGE * CELLS)
