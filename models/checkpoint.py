"""Load a checkpoint's processor and model, or report what is wrong with the checkpoint."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtrl_judge.common.errors import JudgeError, first_line
from mtrl_judge.common.files import read_json
from mtrl_judge.common.hashing import digest
from mtrl_judge.judge_tasks.hub import hub_fault
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD, STYLES

# What answers depend on; a folder can also have the state of a training, and results.
_OF_THE_MODEL = (
    "*.safetensors",
    "pytorch_model*.bin",
    "config.json",
    "*processor_config.json",
    "chat_template*",
    "*token*.json",
    "*.model",
    "vocab.json",
    "merges.txt",
    "*.py",
    "base/*.safetensors",
    "mixlora/adapter*",
    "arrow/*/adapter*",
)
# In the folder of a judge whose adapters cannot be merged: its base model, and the adapters.
BASE, MIXLORA, ARROW = "base", "mixlora", "arrow"


def read_checkpoint_card(path: str | Path) -> dict[str, Any]:
    """Read `mtrl_judge.json`, which training writes beside a checkpoint's weights.

    Returns:
        The card, or an empty dictionary for a checkpoint without one.

    Raises:
        JudgeError: the card is not a JSON object, or its `style` is unknown.
    """
    file = Path(path) / CHECKPOINT_CARD
    card = read_json(file, missing_ok=True)
    if file.exists() and card.get("style") not in STYLES:
        expected = " or ".join(STYLES)
        raise JudgeError(f"{file}: style: found {card.get('style')!r}; expected {expected}")
    return card


@contextmanager
def errors_of_saving(folder: Path) -> Iterator[None]:
    """Within the block, that a model's file cannot be written is an OSError, as of other files.

    safetensors and torch, which names only the line of its source, raise errors of their own.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        signs = ("inline_container", "iostream error")  # of torch.save
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in signs):
            raise
        raise OSError(errno.EIO, f"{first_line(error)}; is the disk full?", str(folder)) from error


def check_config(pretrained: str, **source: Any) -> None:
    """Check that `pretrained` holds the config of an image-text-to-text model.

    Args:
        pretrained: a checkpoint folder or a hub id.
        source: `revision` and `trust_remote_code` for transformers.

    Raises:
        JudgeError: it is not a checkpoint, only an adapter, or a model without image inputs.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    folder = Path(pretrained)
    if folder.is_dir():
        files = sorted(path.name for path in folder.iterdir())
        if "config.json" not in files and "adapter_config.json" in files:
            raise JudgeError(
                f"pretrained: {folder} holds only an adapter; merge it into its base model first"
            )
        if "config.json" not in files:
            raise JudgeError(
                f"pretrained: {folder} has no config.json (found: "
                f"{', '.join(files[:8]) or 'nothing'}); expected a checkpoint folder with config, "
                "weights and processor files"
            )
    elif folder.is_absolute() or pretrained.startswith(".") or pretrained.count("/") != 1:
        raise JudgeError(
            f"pretrained: {folder} is not a folder; expected a checkpoint folder or a hub id"
        )
    fault = None if folder.is_dir() else hub_fault()
    try:
        config = AutoConfig.from_pretrained(pretrained, **source)
    except (OSError, ValueError, KeyError) as error:
        if fault:
            raise JudgeError(
                f"pretrained: the hub cannot be reached ({fault}), and {pretrained} is not in its "
                "cache; expected a checkpoint folder, or a model that was downloaded before"
            ) from None
        raise JudgeError(
            f"pretrained: transformers cannot read the config of {pretrained}: {error}"
        ) from None
    # Remote code registers its classes in `auto_map`, not in transformers' mapping.
    in_remote_code = "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})
    if not in_remote_code and type(config) not in AutoModelForImageTextToText._model_mapping:
        architectures = ", ".join(config.architectures or []) or "no architectures listed"
        raise JudgeError(
            f"pretrained: {pretrained} is a {config.model_type} ({architectures}), which takes no "
            "images; expected an image-text-to-text model such as Qwen3-VL"
        )


def unmerged(pretrained: str | Path) -> str | None:
    """The kind of a judge's adapters that are not merged into its model; None for a whole model."""
    folder = Path(pretrained)
    return next((kind for kind in (MIXLORA, ARROW) if (folder / kind).is_dir()), None)


def hub_commit(name: str, revision: object = None) -> str | None:
    """The commit of a model on the hub, as far as the cache has it; None for any other name."""
    from huggingface_hub import try_to_load_from_cache

    if name.count("/") != 1:
        return None
    try:
        file = try_to_load_from_cache(name, "config.json", revision=str(revision or "main"))
    except ValueError:  # not a name on the hub
        return None
    return Path(file).parent.name if isinstance(file, str) else None


def model_revision(pretrained: str, revision: str | None = None) -> str | None:
    """What identifies a model's weights, tokenizer and processor: equal for equal copies.

    Args:
        pretrained: a checkpoint folder, or a hub id whose config has been loaded.
        revision: of the hub id.

    Returns:
        The commit on the hub, or for a folder a hash of its files, which takes a few seconds per
        GB; None if the commit is not in the cache.
    """
    folder = Path(pretrained)
    if not folder.is_dir():
        return hub_commit(pretrained, revision)
    files = sorted({file for pattern in _OF_THE_MODEL for file in folder.glob(pattern)})
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(_file_hash, files)
        named = zip((file.relative_to(folder) for file in files), hashes, strict=True)
        return f"files {digest(f'{name} {found}'.encode() for name, found in named)[:16]}"


def _file_hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_processor(pretrained: str, **source: Any) -> Any:
    """Load the processor, with a tokenizer, an image processor and a chat template.

    Args:
        pretrained: a checkpoint folder or a hub id.
        source: `revision` and `trust_remote_code` for transformers.

    Raises:
        JudgeError: it does not load, or a part is missing.
    """
    from transformers import AutoProcessor

    expected = "expected the files that the processor's save_pretrained writes"
    try:
        processor = AutoProcessor.from_pretrained(pretrained, **source)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise JudgeError(
            f"pretrained: the processor of {pretrained} does not load: {error}; {expected}"
        ) from None
    for part in ("image_processor", "tokenizer", "chat_template"):
        if getattr(processor, part, None) is None:
            raise JudgeError(f"pretrained: the processor of {pretrained} has no {part}; {expected}")
    # Without tokenizer files, transformers builds an empty tokenizer of the family's class.
    tokens = processor.tokenizer("Yes", add_special_tokens=False)["input_ids"]
    if processor.tokenizer.decode(tokens, skip_special_tokens=True).strip() != "Yes":
        raise JudgeError(f"pretrained: the tokenizer of {pretrained} has no vocabulary; {expected}")
    return processor


def end_tokens(pretrained: str, **source: Any) -> int | list[int] | None:
    """The end tokens that a checkpoint names, as its loaded model would.

    Args:
        pretrained: a checkpoint folder or a hub id.
        source: `revision` and `trust_remote_code` for transformers.
    """
    from transformers import AutoConfig, GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(pretrained, **source)
    except OSError:  # no generation_config.json
        config = AutoConfig.from_pretrained(pretrained, **source)
        generation = GenerationConfig.from_model_config(config)
    ids: int | list[int] | None = generation.eos_token_id
    return ids


def load_model(pretrained: str, **options: Any) -> Any:
    """Load the model in evaluation mode; missing weights are an error, not newly initialized.

    A judge whose adapters cannot be merged (:func:`unmerged`) has them and its base model in two
    folders, and is loaded as the base model with the adapters' layers in it.

    Args:
        pretrained: a checkpoint folder or a hub id.
        options: further arguments of `AutoModelForImageTextToText.from_pretrained`.

    Raises:
        JudgeError: it does not load, or lacks weights.
    """
    from transformers import AutoModelForImageTextToText
    from transformers.integrations import is_deepspeed_zero3_enabled

    folder, adapters = Path(pretrained), unmerged(pretrained)
    try:
        model, loading_info = AutoModelForImageTextToText.from_pretrained(
            folder / BASE if adapters else pretrained, output_loading_info=True, **options
        )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise JudgeError(f"pretrained: {pretrained} does not load: {error}") from None
    missing = sorted(loading_info["missing_keys"])
    if missing:
        raise JudgeError(
            f"pretrained: {pretrained} lacks {len(missing)} of the model's weights, such as "
            f"{', '.join(missing[:3])}; expected a complete checkpoint"
        )
    if is_deepspeed_zero3_enabled():
        # For saving, from_pretrained keeps the renamings that the checkpoint's names needed
        # (transformers/core_model_loading.py of 5.23), but with ZeRO-3 it keeps all of the family's
        # (integrations/deepspeed.py), so that weights would be saved under names of other
        # checkpoints.
        kept = getattr(model, "_weight_conversions", None) or []
        model._weight_conversions = [each for each in kept if each.was_used()]
    if adapters == MIXLORA:
        from .mixlora import with_mixlora

        model = with_mixlora(model, folder / MIXLORA).get_base_model()
    elif adapters == ARROW:
        from .arrow import with_arrow

        model = with_arrow(model, sorted((folder / ARROW).iterdir())).get_base_model()
    return model.eval()
