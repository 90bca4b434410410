"""The tiny model untaught: its tokenizer, processor and architecture.

A Qwen3-VL in architecture, processor and chat form, so every host that runs Qwen3-VL runs it; only
its size and its tokenizer are its own. The tokenizer knows each fixed passage of the tasks' prompts
as one token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mtrl_judge.judge_tasks.loading import load_shipped_tasks
from mtrl_judge.judge_tasks.prompts import instruction, render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.spec import STYLES, JudgeTask, Style

from .curriculum import Example
from .drawing import PIXELS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

PATCH = 8
MERGE = 2
GRID = PIXELS // PATCH
CELLS = (GRID // MERGE) ** 2
CELL_PIXELS = PATCH * MERGE
PATCH_VALUES = 3 * 2 * PATCH * PATCH
SPREAD = 0.08  # about 1/sqrt(width); Qwen's 0.02 is for widths of thousands and starts far slower

END, PAD = "<|im_end|>", "<|endoftext|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
SPECIALS = (PAD, "<|im_start|>", END, VISION_START, VISION_END, IMAGE, VIDEO)
FORM_TOKENS = ("<think>", "</think>", "<answer>", "</answer>")
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

    They are read from the YAML: what stands between the places that a row fills, and how the
    judge is to answer.
    """
    passages = dict.fromkeys(
        piece
        for task in tasks
        for piece in re.split(r"\{\{.*?\}\}|<image>", task.judge.question.strip())
        if piece
    )
    asked = (instruction(t.judge.verdicts, style) for t in tasks for style in STYLES)
    return [*passages, *dict.fromkeys("\n\n" + text for text in asked)]


def build_tokenizer(examples: Sequence[Example]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the words of prompts and answers; each fixed passage is one token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    passages = fixed_passages(load_shipped_tasks())
    cut = re.compile("|".join(map(re.escape, (*FORM_TOKENS, *passages))))
    words = [cut.sub("\n", text) for e in examples for text in (_content(e.row, e.style), e.answer)]
    words += ["user\nassistant\n"] * 2
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,  # never reached: it ends when every word is one token
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIALS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in (*FORM_TOKENS, *passages)])
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
    """Qwen3-VL's processor; every picture becomes about 64×64 pixels, 16 tokens."""
    from transformers import Qwen3VLProcessor
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    cut = {
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": PIXELS * PIXELS, "longest_edge": PIXELS * PIXELS},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    return Qwen3VLProcessor(
        Qwen2VLImageProcessor(**cut),
        tokenizer,
        Qwen3VLVideoProcessor(**cut),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    """An untaught model, its weights from torch's present seed."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

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
            "initializer_range": SPREAD,
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
            "initializer_range": SPREAD,
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
    """The prompt with its image places spread to the tokens a picture takes."""
    text = tokenizer.apply_chat_template(
        render_messages(row, style), tokenize=False, add_generation_prompt=True
    )
    return str(text).replace(IMAGE, IMAGE * CELLS)


def _content(row: JudgeRow, style: Style) -> str:
    (message,) = render_messages(row, style)
    return "".join(part.get("text", "") for part in message["content"])
