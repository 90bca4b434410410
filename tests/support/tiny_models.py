"""Random, seeded, very small checkpoints of eight multimodal families, with processors.

Each builder writes a folder that `AutoProcessor` and `AutoModelForImageTextToText` load offline.
The weights are random, with a standard deviation (`SPREAD`) large enough that greedy answers differ
from prompt to prompt, so that a shifted image or a wrong order shows in the text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

SPREAD = 0.15
CORPUS = (
    "Does the image match the text? Is it natural, sound and safe? Which image is better?",
    "<think>The image shows a red circle left of a blue square.</think><answer>Yes</answer>",
    "<think>The second image is blurred, the first is sharp.</think><answer>No</answer>",
)
CHAT_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_SPECIALS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
CHAT_TEMPLATE = (
    "{%- for message in messages %}<|im_start|>{{ message.role + '\n' }}"
    "{%- if message.content is string %}{{ message.content }}{% else %}"
    "{%- for part in message.content %}"
    "{%- if part.type == 'image' %}@IMAGE@{% else %}{{ part.text }}{% endif %}"
    "{%- endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


QWEN_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "patch_size": 8,
    "out_hidden_size": 64,
    "initializer_range": SPREAD,
}


def tiny_qwen3_vl(folder: Path, seed: int = 0) -> Path:
    """Write a random Qwen3-VL of about 0.2M parameters; a 64×64 image is 16 tokens."""
    from transformers import Qwen3VLConfig, Qwen3VLProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    tokenizer = byte_tokenizer(QWEN_SPECIALS)
    config = Qwen3VLConfig(
        text_config=text_config(tokenizer, head_dim=16, mrope_section=[2, 3, 3]),
        vision_config={
            **QWEN_VISION,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        **qwen_token_ids(tokenizer),
    )
    processor = qwen_processor(Qwen3VLProcessor, Qwen3VLVideoProcessor, tokenizer)
    return write_checkpoint(folder, config, processor, seed)


def tiny_qwen2_5_vl(folder: Path, seed: int = 0) -> Path:
    """Write a random Qwen2.5-VL of about 0.2M parameters; a 64×64 image is 16 tokens."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    tokenizer = byte_tokenizer(QWEN_SPECIALS)
    config = Qwen2_5_VLConfig(
        text_config=text_config(tokenizer, mrope_section=[2, 3, 3]),
        vision_config={**QWEN_VISION, "window_size": 32, "fullatt_block_indexes": [1]},
        **qwen_token_ids(tokenizer),
    )
    processor = qwen_processor(Qwen2_5_VLProcessor, Qwen2VLVideoProcessor, tokenizer)
    return write_checkpoint(folder, config, processor, seed)


def tiny_qwen3_vl_moe(folder: Path, seed: int = 0) -> Path:
    """Write a random Qwen3-VL-MoE: four experts per layer, two of them active.

    The experts are transposed in the file, as on the hub.
    """
    from transformers import AutoProcessor, Qwen3VLMoeConfig

    processor = AutoProcessor.from_pretrained(tiny_qwen3_vl(folder, seed))
    dense = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    text = {k: v for k, v in dense["text_config"].items() if k != "model_type"}
    vision = {k: v for k, v in dense["vision_config"].items() if k != "model_type"}
    config = Qwen3VLMoeConfig(
        text_config={**text, **experts},
        vision_config=vision,
        **qwen_token_ids(processor.tokenizer),
    )
    write_checkpoint(folder, config, processor, seed)
    return change_weights(folder, ".experts.", lambda weight: weight.transpose(1, 2).contiguous())


def tiny_qwen3_5(folder: Path, seed: int = 0) -> Path:
    """Write a random Qwen3.5: one layer of gated linear attention and one of full attention.

    Its states outlast a prompt; those of random weights are forgotten after a token or two. Images
    count more than they would, so that answers differ.
    """
    from transformers import Qwen3_5Config, Qwen3VLProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    tokenizer = byte_tokenizer(QWEN_SPECIALS)
    text = text_config(tokenizer, head_dim=32, mrope_section=[2, 3, 3])
    text["rope_parameters"]["partial_rotary_factor"] = 0.5
    config = Qwen3_5Config(
        text_config={
            **text,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
        vision_config={**QWEN_VISION, "num_position_embeddings": 64},
        **qwen_token_ids(tokenizer),
    )
    processor = qwen_processor(Qwen3VLProcessor, Qwen3VLVideoProcessor, tokenizer)
    write_checkpoint(folder, config, processor, seed)
    change_weights(folder, "merger.linear_fc2.weight", lambda weight: weight * 3)
    return change_weights(folder, "A_log", lambda weight: weight.exp().div(160).log())


# A vision transformer's, of 16 patches an image.
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
    "image_size": 32,
}


def tiny_llava(folder: Path, seed: int = 0, **text: Any) -> Path:
    """Write a random LLaVA: CLIP and Llama, 16 tokens an image of any size.

    Args:
        text: fields of the text config.
    """
    from transformers import LlavaConfig, LlavaProcessor
    from transformers.models.clip.image_processing_clip import CLIPImageProcessor

    tokenizer = byte_tokenizer(("<image>",))
    square = {"height": 32, "width": 32}
    processor = LlavaProcessor(
        CLIPImageProcessor(size=square, crop_size=square),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE.replace("@IMAGE@", "<image>"),
    )
    config = LlavaConfig(
        text_config={"model_type": "llama", **text_config(tokenizer), **text},
        vision_config={"model_type": "clip_vision_model", **VISION},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return write_checkpoint(folder, config, processor, seed)


def deep_llava(folder: Path, seed: int = 0) -> Path:
    """Write a random LLaVA of 20 layers: in bfloat16 it rounds by 0.1 nats and more."""
    return tiny_llava(folder, seed, num_hidden_layers=20, initializer_range=0.2)


def tiny_llava_onevision(folder: Path, seed: int = 0) -> Path:
    """Write a random LLaVA-OneVision of about 0.2M parameters; it cuts an image into tiles."""
    from transformers import LlavaOnevisionConfig, LlavaOnevisionProcessor
    from transformers.models.llava_onevision.image_processing_llava_onevision import (
        LlavaOnevisionImageProcessor,
    )
    from transformers.models.llava_onevision.video_processing_llava_onevision import (
        LlavaOnevisionVideoProcessor,
    )

    tokenizer = byte_tokenizer(("<image>", "<video>"))
    tile = {"height": 32, "width": 32}
    pinpoints = [[32 * rows, 32 * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=tile, image_grid_pinpoints=pinpoints),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=tile),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE.replace("@IMAGE@", "<image>"),
    )
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **text_config(tokenizer)},
        vision_config={
            "model_type": "siglip_vision_model",
            **VISION,
            "vision_use_head": False,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )
    return write_checkpoint(folder, config, processor, seed)


def tiny_gemma3(folder: Path, seed: int = 0) -> Path:
    """Write a random Gemma 3: a layer with a window of 24 tokens and one without, 16 an image."""
    from transformers import Gemma3Config, Gemma3Processor
    from transformers.models.gemma3.image_processing_gemma3 import Gemma3ImageProcessor

    roles = {
        "boi_token": "<start_of_image>",
        "image_token": "<image_soft_token>",
        "eoi_token": "<end_of_image>",
    }
    tokenizer = byte_tokenizer(tuple(roles.values()), roles)
    processor = Gemma3Processor(
        Gemma3ImageProcessor(size={"height": 32, "width": 32}),
        tokenizer,
        image_seq_length=16,
        chat_template=CHAT_TEMPLATE.replace("@IMAGE@", "<start_of_image>"),
    )
    config = Gemma3Config(
        text_config={
            **text_config(tokenizer, head_dim=16),
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 24,
            "query_pre_attn_scalar": 16,
        },
        vision_config={**VISION, "vision_use_head": False},
        mm_tokens_per_image=16,
        tie_word_embeddings=False,  # else this random model repeats the last token
        initializer_range=SPREAD,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_id=tokenizer.image_token_id,
    )
    write_checkpoint(folder, config, processor, seed)
    # transformers initializes it with 0, which would hide images from the text model.
    projection = random_weight((VISION["hidden_size"], config.text_config.hidden_size), seed)
    return change_weights(folder, "mm_input_projection_weight", lambda _: projection)


def tiny_internvl(folder: Path, seed: int = 0) -> Path:
    """Write a random InternVL, which cuts an image into tiles of 4 tokens."""
    from transformers import InternVLConfig, InternVLProcessor
    from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
    from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

    roles = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = byte_tokenizer(tuple(roles.values()), roles)
    tile = {"height": 32, "width": 32}
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=tile, max_patches=4),
        tokenizer,
        InternVLVideoProcessor(size=tile),
        image_seq_length=4,
        chat_template=CHAT_TEMPLATE.replace("@IMAGE@", "<IMG_CONTEXT>\n"),
    )
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **text_config(tokenizer)},
        vision_config=VISION,
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
    )
    return write_checkpoint(folder, config, processor, seed)


def byte_tokenizer(specials: tuple[str, ...], roles: dict[str, str] | None = None) -> Any:
    """A byte-level BPE tokenizer of a few hundred tokens, which can represent any text.

    Args:
        specials: special tokens besides those of the chat template.
        roles: attributes of the tokenizer under which a processor looks for some of them.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=[*CHAT_SPECIALS, *specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    # As in Qwen3: single tokens, but not special ones.
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=roles or {},
    )


def qwen_processor(processor_class: Any, video_class: Any, tokenizer: Any) -> Any:
    """A processor with Qwen2-VL's image processor, for patches of 8 pixels."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    patches = {"patch_size": 8, "size": {"shortest_edge": 32 * 32, "longest_edge": 256 * 256}}
    placeholder = "<|vision_start|><|image_pad|><|vision_end|>"
    return processor_class(
        Qwen2VLImageProcessor(**patches),
        tokenizer,
        video_class(**patches),
        chat_template=CHAT_TEMPLATE.replace("@IMAGE@", placeholder),
    )


def qwen_token_ids(tokenizer: Any) -> dict[str, int]:
    """The token ids that a Qwen-VL config holds."""
    names = ("vision_start", "vision_end", "image", "video")
    return {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in zip(names, QWEN_SPECIALS, strict=True)
    }


def text_config(
    tokenizer: Any, head_dim: int | None = None, mrope_section: list[int] | None = None
) -> dict[str, Any]:
    """Two layers of width 64 with four heads, as a dictionary that every Qwen text config takes."""
    config: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": SPREAD,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    if head_dim is not None:
        config["head_dim"] = head_dim
    if mrope_section is not None:
        config["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": mrope_section,
        }
    return config


def change_weights(folder: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """Change the weights of a checkpoint whose names contain a name."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    weights = load_file(file)
    changed = {key: change(value) if name in key else value for key, value in weights.items()}
    save_file(changed, file, {"format": "pt"})
    return folder


def random_weight(shape: tuple[int, ...], seed: int) -> Any:
    import torch

    return SPREAD * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def write_checkpoint(folder: Path, config: Any, processor: Any, seed: int) -> Path:
    """Initialize the weights with `seed` and save model and processor to `folder`."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
