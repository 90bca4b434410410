"""A checkpoint to a processor and a model, or a message that says what is wrong with the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import read_json
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD, STYLES

CARD_EXAMPLE = '{"style": "reasoned"}'


def read_checkpoint_card(path: str | Path) -> dict[str, Any]:
    """Read what training wrote beside a checkpoint's weights (`mtrl_judge.json`).

    Returns:
        The card, or an empty dictionary for a checkpoint that is not ours.

    Raises:
        JudgeError: it cannot be read, or its `style` is neither "reasoned" nor "direct".
    """
    file = Path(path) / CHECKPOINT_CARD
    if not file.is_file():
        return {}
    card = read_json(file, advice=f"expected {CARD_EXAMPLE}")
    if card.get("style") not in STYLES:
        right = " or ".join(STYLES)
        raise JudgeError(f"{file}: style: {card.get('style')!r}; would be right: {right}")
    return card


def check_config(pretrained: str, **source: Any) -> None:
    """Check that `pretrained` holds the config of an image-text-to-text model.

    Args:
        pretrained: a checkpoint's folder or a hub id.
        source: `revision` and `trust_remote_code`, as transformers takes them.

    Raises:
        JudgeError: it is no checkpoint, an adapter only, or a model that takes no images.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    folder = Path(pretrained)
    if folder.is_dir():
        _check_folder(folder)
    elif folder.is_file():
        raise JudgeError(f"pretrained: {folder} is a file; would be right: the checkpoint's folder")
    elif folder.is_absolute() or pretrained.startswith(".") or pretrained.count("/") != 1:
        raise JudgeError(
            f"pretrained: no folder {folder}; would be right: a checkpoint's folder or a hub id"
        )
    try:
        config = AutoConfig.from_pretrained(pretrained, **source)
    except (OSError, ValueError, KeyError) as error:
        raise JudgeError(
            f"pretrained: {pretrained} has no config that transformers can read: {error}"
        ) from None
    by_itself = "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})
    if not by_itself and type(config) not in AutoModelForImageTextToText._model_mapping:
        named = ", ".join(config.architectures or []) or "no architecture named"
        raise JudgeError(
            f"pretrained: {pretrained} is a {config.model_type} ({named}), which takes no images "
            "with text; would be right: an image-text-to-text model such as Qwen3-VL"
        )


def load_processor(pretrained: str, **source: Any) -> Any:
    """Load the processor, with a tokenizer, an image processor and a chat template.

    Args:
        pretrained: a checkpoint's folder or a hub id.
        source: `revision` and `trust_remote_code`, as transformers takes them.

    Raises:
        JudgeError: it does not load, or a part of it is missing.
    """
    from transformers import AutoProcessor

    right = "would be right: the files that its processor's save_pretrained writes"
    try:
        processor = AutoProcessor.from_pretrained(pretrained, **source)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise JudgeError(
            f"pretrained: {pretrained} has no processor that loads: {error}; {right}"
        ) from None
    for part in ("image_processor", "tokenizer"):
        if getattr(processor, part, None) is None:
            raise JudgeError(f"pretrained: the processor of {pretrained} has no {part}; {right}")
    # Where a tokenizer's files are missing, transformers makes an empty one of the family's class.
    tokens = processor.tokenizer("Yes", add_special_tokens=False)["input_ids"]
    if processor.tokenizer.decode(tokens, skip_special_tokens=True).strip() != "Yes":
        raise JudgeError(f"pretrained: the tokenizer of {pretrained} cannot write 'Yes'; {right}")
    if processor.chat_template is None:
        raise JudgeError(f"pretrained: the processor of {pretrained} has no chat template; {right}")
    return processor


def load_model(pretrained: str, **how: Any) -> Any:
    """Load the weights, in evaluation mode; missing ones are never drawn at random.

    Args:
        pretrained: a checkpoint's folder or a hub id.
        how: further arguments of `AutoModelForImageTextToText.from_pretrained`.

    Raises:
        JudgeError: it does not load, or lacks weights.
    """
    from transformers import AutoModelForImageTextToText

    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            pretrained, output_loading_info=True, **how
        )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise JudgeError(f"pretrained: {pretrained} does not load: {error}") from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise JudgeError(
            f"pretrained: {pretrained} lacks {len(missing)} of the model's weights, such as "
            f"{', '.join(missing[:3])}; would be right: a complete checkpoint"
        )
    return model.eval()


def _check_folder(folder: Path) -> None:
    there = sorted(path.name for path in folder.iterdir())
    if "config.json" in there:
        return
    shown = ", ".join(there[:8]) + (", …" if len(there) > 8 else "") if there else "nothing"
    if "adapter_config.json" in there:
        raise JudgeError(
            f"pretrained: {folder} holds an adapter only; merge it into its base model first"
        )
    raise JudgeError(
        f"pretrained: {folder} is no model folder: no config.json, there is {shown}; "
        "would be right: config.json, weights and processor files"
    )
