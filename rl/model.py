"""The model to train, which of its weights are trained, and the judge that comes out of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.files import whole_folder

from .finished_run import JUDGE
from .settings import Settings

if TYPE_CHECKING:
    from .weights import BaseWeights

ADAPTER = "adapter"


def check_model(settings: Settings) -> None:
    """Check the model's name and type before anything is loaded or written.

    Raises:
        JudgeError: there is no such model, or it takes no images.
    """
    from mtrl_judge.models.checkpoint import BASE, check_config, unmerged

    name, source = _source(settings)
    check_config(name, **source)
    if (adapters := unmerged(name)) is not None:
        raise JudgeError(
            f"model_name_or_path: {name} has adapters that cannot be merged ({adapters}); "
            f"expected the model that it was trained from, such as {Path(name) / BASE}"
        )


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
    if adapter is not None and settings.judge.adapter == "mixlora":
        from mtrl_judge.models.routing import end_of_prompt

        adapter.end_of_prompt = end_of_prompt(processor)
        adapter.bind(model)
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
    if settings.judge.adapter == "mixlora":
        return _mixlora(settings, adapter, model, patterns.values())
    return adapter


def _mixlora(settings: Settings, lora: Any, model: Any, patterns: Iterable[str]) -> Any:
    """The configuration of MixLoRA for what LoRA's would adapt, within the language model.

    Raises:
        JudgeError: the model, or layers of experts, cannot have it.
    """
    from torch import nn

    from mtrl_judge.models.mixlora import MixLoraConfig, language_layers, unsupported_reason

    if reason := unsupported_reason(model):
        raise JudgeError(f"adapter: mixlora: not for this model: {reason}")
    routed = [name for name, module in model.named_modules() if hasattr(module, "experts")]
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{block}.") for block in routed)
        linear = lora.target_modules == "all-linear" and isinstance(module, nn.Linear)
        if inside and (linear or any(re.fullmatch(pattern, name) for pattern in patterns)):
            raise JudgeError(
                f"lora_target_modules: {name} belongs to a layer of experts, which read single "
                "tokens, and adapter: mixlora reads whole prompts; expected projections of "
                "attention, such as q_proj v_proj"
            )
    judge, selected = settings.judge, settings.model.lora_r
    return MixLoraConfig(
        task_type=lora.task_type,
        r=judge.mixlora_factors,
        target_modules=lora.target_modules,
        exclude_modules=language_layers(model),
        lora_alpha=lora.lora_alpha * judge.mixlora_factors / selected,
        lora_dropout=lora.lora_dropout,
        bias=lora.bias,
        modules_to_save=lora.modules_to_save,
        selected=selected,
        trains_router=judge.mixlora_router == "trained",
    )


def freeze_vision(model: Any, adapter: Any) -> None:
    """Leave the vision tower untrained: no gradients, and no adapters in it.

    Args:
        adapter: the PEFT configuration that is about to be used, or None.
    """
    tower = model.get_encoder(modality="image")
    tower.requires_grad_(False)
    # The layers of MixLoRA are all in the language model.
    if adapter is not None and not hasattr(adapter, "end_of_prompt"):
        (name,) = (name for name, module in model.named_modules() if module is tower)
        adapter.exclude_modules = rf".*{re.escape(name)}\..*"


def save_judge(trainer: Any, settings: Settings, folder: Path) -> None:
    """Write the best weights as a complete model: an adapter is merged into its base model.

    One that cannot be merged is written beside it: see
    :func:`~mtrl_judge.models.checkpoint.load_model`.
    """
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
    if settings.judge.adapter == "mixlora":
        _save_unmerged(trainer, model, processor, folder)
        return
    merged = PeftModel.from_pretrained(model, str(folder / ADAPTER)).merge_and_unload()
    with whole_folder(folder / JUDGE) as part, errors_of_saving(folder / JUDGE):
        merged.save_pretrained(part)
        processor.save_pretrained(part)
        write_card(part, trainer.checkpoint_card)
        if trainer.base_weights is not None:
            trainer.base_weights.check(part)


def _save_unmerged(trainer: Any, model: Any, processor: Any, folder: Path) -> None:
    """Write a judge whose adapter stays one.

    Its weights are in folders of their own, so that no other program takes the base model's for the
    judge's.

    Args:
        model: the base model.
    """
    from mtrl_judge.models.checkpoint import BASE, MIXLORA, errors_of_saving
    from mtrl_judge.models.mixlora import with_mixlora

    from .checkpoints import write_card

    with whole_folder(folder / JUDGE) as part, errors_of_saving(folder / JUDGE):
        model.save_pretrained(part / BASE)
        if trainer.base_weights is not None:
            trainer.base_weights.check(part / BASE)
        for name in ("config.json", "generation_config.json"):
            if (part / BASE / name).is_file():
                shutil.copy(part / BASE / name, part)
        processor.save_pretrained(part)
        adapted = with_mixlora(model, folder / ADAPTER)
        adapted.peft_config["default"].base_model_name_or_path = BASE
        adapted.save_pretrained(part / MIXLORA)
        write_card(part, trainer.checkpoint_card)
