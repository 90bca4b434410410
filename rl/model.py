"""A model to train, what of it is trained, and the judge that comes out of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.files import whole_folder

from .settings import Settings

JUDGE = "judge"  # in a run's folder: the best checkpoint, ready to be evaluated
ADAPTER = "adapter"


def check_model(settings: Settings) -> None:
    """Find what is wrong with the model's name before anything is loaded or written.

    Raises:
        JudgeError: there is no such model, or it takes no images.
    """
    from mtrl_judge.models.checkpoint import check_config

    name, source = _source(settings)
    check_config(name, **source)


def _source(settings: Settings) -> tuple[str, dict[str, Any]]:
    name = settings.model.model_name_or_path
    if name is None:
        raise JudgeError("model_name_or_path: is missing; name a checkpoint's folder or a hub id")
    return name, {
        "revision": settings.model.model_revision,
        "trust_remote_code": settings.trainer.trust_remote_code,
    }


def load_trainable(settings: Settings) -> tuple[Any, Any]:
    """Model and processor, the processor padding on the left as generation needs it.

    Raises:
        JudgeError: they do not load.
    """
    from trl import get_quantization_config

    from mtrl_judge.models.checkpoint import load_model, load_processor

    name, source = _source(settings)
    processor = load_processor(name, **source)
    processor = _limited(processor, settings)
    processor.tokenizer.padding_side = processor.tokenizer.truncation_side = "left"
    how = {
        "dtype": settings.model.dtype,
        "attn_implementation": settings.model.attn_implementation,
        "quantization_config": get_quantization_config(settings.model),
        **(settings.trainer.model_init_kwargs or {}),
    }
    model = load_model(name, **source, **{k: v for k, v in how.items() if v is not None})
    return model.train(), processor


def _limited(processor: Any, settings: Settings) -> Any:
    """The processor with the run's bounds on pixels, which its checkpoints keep."""
    from mtrl_judge.models.pixels import supports_pixel_limits, with_pixel_limits

    least, most = settings.judge.min_pixels, settings.judge.max_pixels
    if not (least or most):
        return processor
    if not supports_pixel_limits(processor.image_processor):
        raise JudgeError(
            f"max_pixels: the processor of {settings.model.model_name_or_path} does not count "
            "pixels; leave min_pixels and max_pixels out and prepare smaller pictures"
        )
    return with_pixel_limits(processor, least, most)


def adapter_config(settings: Settings, model: Any) -> Any:
    """PEFT's configuration of the adapters that are asked for; None where there are to be none.

    Raises:
        JudgeError: it is not said where they go, or the model has no such modules.
    """
    import torch
    from trl import get_peft_config

    adapter = get_peft_config(settings.model)
    if adapter is None or adapter.target_parameters:
        return adapter
    targets = adapter.target_modules
    if not targets:
        raise JudgeError(
            "lora_target_modules: is missing; would be right: all-linear, or names of modules such "
            "as q_proj v_proj"
        )
    modules = dict(model.named_modules())
    layers = {
        name.rpartition(".")[2]
        for name, module in modules.items()
        if isinstance(module, torch.nn.Linear)
    }
    if isinstance(targets, str) and targets in layers:
        adapter.target_modules = targets = {targets}  # TRL makes a pattern of a single name
    patterns = {targets: targets} if isinstance(targets, str) else _by_last_parts(targets)
    for target, pattern in patterns.items():
        if target != "all-linear" and not any(re.fullmatch(pattern, name) for name in modules):
            hint = did_you_mean(target, sorted(layers))
            raise JudgeError(f"lora_target_modules: {target!r} is not in the model; {hint}")
    return adapter


def _by_last_parts(names: Iterable[str]) -> dict[str, str]:
    return {name: rf"(.*\.)?{re.escape(name)}" for name in sorted(names)}


def freeze_vision(model: Any, adapter: Any) -> None:
    """Leave the vision tower as it is: no gradients, and no adapters in it.

    Args:
        adapter: the PEFT configuration that is about to be used, or None.
    """
    tower = model.get_encoder(modality="image")
    tower.requires_grad_(False)
    if adapter is None:
        return
    (name,) = (name for name, module in model.named_modules() if module is tower)
    adapter.exclude_modules = rf".*{re.escape(name)}\..*"


def save_judge(trainer: Any, settings: Settings, folder: Path) -> None:
    """The best weights, whole: an adapter is merged into its base model first."""
    if not settings.model.use_peft:
        trainer.save_model(str(folder / JUDGE))
        return
    trainer.save_model(str(folder / ADAPTER))
    if not trainer.is_world_process_zero():
        return
    from peft import PeftModel

    from .checkpoints import write_card

    model, processor = load_trainable(settings)
    merged = PeftModel.from_pretrained(model, str(folder / ADAPTER)).merge_and_unload()
    with whole_folder(folder / JUDGE) as part:
        merged.save_pretrained(part)
        processor.save_pretrained(part)
        write_card(part, trainer.checkpoint_card)
