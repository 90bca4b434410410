"""The model to train, which of its weights are trained, and the judge that comes out of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.files import whole_folder

from .settings import Settings

if TYPE_CHECKING:
    from .weights import BaseWeights

JUDGE = "judge"  # in a run's folder: the best checkpoint, ready to be evaluated
ADAPTER = "adapter"


def check_model(settings: Settings) -> None:
    """Check the model's name and type before anything is loaded or written.

    Raises:
        JudgeError: there is no such model, or it takes no images.
    """
    from mtrl_judge.models.checkpoint import check_config

    name, source = _source(settings)
    check_config(name, **source)


def _source(settings: Settings) -> tuple[str, dict[str, Any]]:
    return str(settings.model.model_name_or_path), {
        "revision": settings.model.model_revision,
        "trust_remote_code": settings.trainer.trust_remote_code,
    }


def base_name(settings: Settings) -> str:
    """The model that training started from, as a reader elsewhere knows it: without local paths.

    With a warm-up, this is what the warm-up started from.
    """
    name = str(settings.given["model_name_or_path"])
    return Path(name).resolve().name if Path(name).is_dir() else name


def checkpoint_card(settings: Settings) -> dict[str, Any]:
    """What is written beside every checkpoint's weights; evaluation takes ``style`` from it."""
    return {
        "style": settings.style,
        "base": base_name(settings),
        "method": settings.method,
        "tasks": [task.task for task in settings.tasks],
        "seed": settings.trainer.seed,
    }


def base_weights(settings: Settings, model: Any) -> BaseWeights | None:
    """What the judge's files must contain; None for a quantized model, whose files contain more.

    Args:
        model: as loaded, without adapters.
    """
    from trl import get_quantization_config

    from .weights import BaseWeights

    if get_quantization_config(settings.model) is not None:
        return None
    name, source = _source(settings)
    return BaseWeights.read(name, source["revision"], model)


def trainable(settings: Settings) -> tuple[Any, Any, Any]:
    """Model, processor and the PEFT configuration of its adapters, or None where it gets none.

    Raises:
        JudgeError: they cannot be loaded, or the settings do not fit the model.
    """
    model, processor = load(settings)
    adapter = adapter_config(settings, model)
    if settings.judge.freeze_vision:
        freeze_vision(model, adapter)
    return model, processor, adapter


def load(settings: Settings) -> tuple[Any, Any]:
    """Model and processor; the processor pads on the left, as generation needs it.

    Raises:
        JudgeError: they cannot be loaded.
    """
    from trl import get_quantization_config

    from mtrl_judge.models.checkpoint import load_model, load_processor

    from .weights import keep_layout

    name, source = _source(settings)
    processor = _limit_pixels(load_processor(name, **source), settings)
    processor.tokenizer.padding_side = processor.tokenizer.truncation_side = "left"
    options = {
        "dtype": settings.model.dtype,
        "attn_implementation": settings.model.attn_implementation,
        "quantization_config": get_quantization_config(settings.model),
        **(settings.trainer.model_init_kwargs or {}),
    }
    model = load_model(name, **source, **{k: v for k, v in options.items() if v is not None})
    keep_layout(model, name, source["revision"])
    return model.train(), processor


def _limit_pixels(processor: Any, settings: Settings) -> Any:
    """The processor with the run's limits on pixels, which its checkpoints keep."""
    from mtrl_judge.models.pixels import supports_pixel_limits, with_pixel_limits

    least, most = settings.judge.min_pixels, settings.judge.max_pixels
    if not (least or most):
        return processor
    if not supports_pixel_limits(processor.image_processor):
        raise JudgeError(
            f"max_pixels: the processor of {settings.model.model_name_or_path} does not limit "
            "pixels; leave min_pixels and max_pixels out and prepare smaller images"
        )
    return with_pixel_limits(processor, least, most)


def adapter_config(settings: Settings, model: Any) -> Any:
    """PEFT's configuration of the adapters; None where the settings ask for none.

    Raises:
        JudgeError: the target modules are missing, or not in the model.
    """
    import torch
    from trl import get_peft_config

    adapter = get_peft_config(settings.model)
    if adapter is None or adapter.target_parameters:
        return adapter
    targets = adapter.target_modules
    if not targets:
        raise JudgeError(
            "lora_target_modules: missing; expected all-linear, or names of modules such as "
            "q_proj v_proj"
        )
    modules = dict(model.named_modules())
    linear = (name for name, module in modules.items() if isinstance(module, torch.nn.Linear))
    layers = {name.rpartition(".")[2] for name in linear}
    if isinstance(targets, str) and targets in layers:
        # TRL turns a list of one name into that name, which PEFT would take for a pattern.
        adapter.target_modules = targets = {targets}
    if isinstance(targets, str):
        patterns = {targets: targets}
    else:
        patterns = {name: rf"(.*\.)?{re.escape(name)}" for name in sorted(targets)}
    for target, pattern in patterns.items():
        if target != "all-linear" and not any(re.fullmatch(pattern, name) for name in modules):
            hint = did_you_mean(target, sorted(layers))
            raise JudgeError(f"lora_target_modules: {target!r} is not in the model; {hint}")
    return adapter


def freeze_vision(model: Any, adapter: Any) -> None:
    """Leave the vision tower untrained: no gradients, and no adapters in it.

    Args:
        adapter: the PEFT configuration that is about to be used, or None.
    """
    tower = model.get_encoder(modality="image")
    tower.requires_grad_(False)
    if adapter is not None:
        (name,) = (name for name, module in model.named_modules() if module is tower)
        adapter.exclude_modules = rf".*{re.escape(name)}\..*"


def save_judge(trainer: Any, settings: Settings, folder: Path) -> None:
    """Write the best weights as a complete model: an adapter is merged into its base model."""
    from mtrl_judge.models.checkpoint import errors_of_saving

    written = folder / (ADAPTER if settings.model.use_peft else JUDGE)
    with errors_of_saving(written):
        trainer.save_model(str(written))
    if not settings.model.use_peft:
        return
    if not trainer.is_world_process_zero():
        return
    from peft import PeftModel

    from .checkpoints import write_card
    from .deepspeed import in_this_process_alone

    with in_this_process_alone():
        model, processor = load(settings)
    merged = PeftModel.from_pretrained(model, str(folder / ADAPTER)).merge_and_unload()
    with whole_folder(folder / JUDGE) as part, errors_of_saving(folder / JUDGE):
        merged.save_pretrained(part)
        processor.save_pretrained(part)
        write_card(part, trainer.checkpoint_card)
        if trainer.base_weights is not None:
            trainer.base_weights.check(part)
