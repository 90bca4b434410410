"""Tiny models with MixLoRA whose weights are all random, so that every factor and score counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mtrl_judge.models.mixlora import MixLoraConfig, language_layers
from mtrl_judge.models.routing import end_of_prompt

FACTORS, SELECTED = 8, 3


def mixlora(folder: Path, model: Any, factors: int = FACTORS, **fields: Any) -> MixLoraConfig:
    """The configuration for a model that was loaded from a folder and is about to be adapted."""
    config = MixLoraConfig(
        r=factors,
        lora_alpha=16,
        target_modules="all-linear",
        exclude_modules=language_layers(model),
        end_of_prompt=end_of_prompt(AutoProcessor.from_pretrained(folder)),
        **{"selected": SELECTED, **fields},
    )
    config.bind(model)
    return config


def adapted(folder: Path, factors: int = FACTORS, seed: int = 0, **fields: Any) -> Any:
    """The model in a folder with MixLoRA, in evaluation mode."""
    from peft import get_peft_model

    model = AutoModelForImageTextToText.from_pretrained(folder)
    return shaken(get_peft_model(model, mixlora(folder, model, factors, **fields)), seed).eval()


def shaken(model: Any, seed: int = 0, spread: float = 0.3) -> Any:
    """The model with random weights in its adapters; PEFT begins with an output of 0."""
    draws = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = spread * torch.randn(weight.shape, generator=draws)
    return model
