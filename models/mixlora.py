"""MixLoRA: adapters whose factors are selected by the input (arXiv 2402.15896).

A layer has E factors, pairs of a row of A and a column of B. A router scores them for each prompt,
and the r best make the prompt's low-rank change of the weights. Two things differ from the released
code (VT-NLP/MixLoRA), in which no gradient reaches a router and decoding with a cache would choose
anew for each token: a factor is weighted by its score, and the choice is made once, from the tokens
of the prompt (:mod:`.routing`). Rows of A and columns of B are chosen in pairs.

A layer is LoRA's of PEFT with a router, registered as a custom module; so PEFT places, trains,
saves and loads it. Axis suffixes: E factors, and those of :mod:`.routing`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel
from peft.tuners.lora import Linear
from torch import Tensor, nn
from transformers import PreTrainedModel

from mtrl_judge.common.errors import JudgeError

from .routing import Routing

_CONFIG = "adapter_config.json"


@dataclass
class MixLoraConfig(LoraConfig):  # type: ignore[misc]  # PEFT has no types
    """LoRA's configuration, in which ``r`` is the number of factors, and what routing needs.

    ``lora_alpha`` is that of LoRA with as many factors as are selected, times r / selected.
    """

    selected: int = field(default=4, metadata={"help": "Factors that a prompt uses."})
    trains_router: bool = field(default=True, metadata={"help": "False keeps it as it is drawn."})
    end_of_prompt: Sequence[int] = field(
        default=(), metadata={"help": "Tokens between a prompt and its answer."}
    )

    @classmethod
    def read(cls, folder: Path) -> MixLoraConfig:
        """As PEFT saved it, which would read it as LoRA's."""
        values = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        return cls(**values)

    def bind(self, model: Any) -> Routing:
        """Prepare for the adapters of this model, which is about to get them."""
        routing = Routing(model, self.end_of_prompt)
        self._register_custom_module({nn.Linear: partial(MixLoraLinear, routing=routing)})
        return routing


class MixLoraLinear(Linear):  # type: ignore[misc]
    """A linear layer with E factors, of which each prompt uses some.

    Args:
        routing: shared by all layers of the model.
    """

    adapter_layer_names = (*Linear.adapter_layer_names, "lora_router")

    def __init__(
        self, base_layer: Any, adapter_name: str, *, routing: Routing, **named: Any
    ) -> None:
        super().__init__(base_layer, adapter_name, **named)
        self.routing = routing

    def update_layer(
        self, adapter_name: str, r: int, lora_alpha: int, config: MixLoraConfig, **named: Any
    ) -> None:
        """Overrides PEFT's: adds the router."""
        if not hasattr(self, "lora_router"):  # PEFT calls it within its own __init__
            self.lora_router = nn.ModuleDict()
            self.selected, self.trains_router = config.selected, config.trains_router
        self.lora_router[adapter_name] = nn.Linear(self.in_features, r, bias=False)
        super().update_layer(adapter_name, r, lora_alpha, config=config, **named)

    def set_adapter(self, *arguments: Any, **named: Any) -> None:
        """Overrides PEFT's, which would train a router that is to stay as it is."""
        super().set_adapter(*arguments, **named)
        if not self.trains_router:
            self.lora_router.requires_grad_(False)

    def forward(self, x: Tensor, *arguments: Any, **named: Any) -> Tensor:
        """R × T × in to R × T × out."""
        result: Tensor = self.base_layer(x, *arguments, **named)
        if self.disable_adapters:
            return result
        (name,) = self.active_adapters
        down, up = self.lora_A[name], self.lora_B[name]
        x = self._cast_input_dtype(x, down.weight.dtype)
        router_E_D: Any = self.lora_router[name].weight
        gates = self.routing.gates(id(self), x, router_E_D, self.selected)
        low: Tensor = down(self.lora_dropout[name](x))
        change: Tensor = up(low * gates.to(low.dtype)) * self.scaling[name]
        return result + change.to(result.dtype)

    def merge(self, *_: Any, **__: Any) -> None:
        """Overrides PEFT's.

        Raises:
            JudgeError: always.
        """
        raise JudgeError(
            "adapter: mixlora: cannot be merged, because each prompt has weights of its own"
        )


def unsupported_reason(model: Any) -> str | None:
    """Why a model cannot have these adapters; None if it can."""
    text = model.config.get_text_config()
    types = set(getattr(text, "layer_types", None) or ())
    if "linear_attention" in types:
        return "its layers of linear attention do not read rows of prompts as they come"
    return None


def language_layers(model: Any) -> str:
    """The pattern of the names outside the language model, where no tokens of prompts come by."""
    language = model.base_model.language_model
    (name,) = (name for name, module in model.named_modules() if module is language)
    return rf"(?!{name.replace('.', '[.]')}[.]).*"


def with_mixlora(model: PreTrainedModel, folder: Path) -> PeftModel:
    """A model with the adapter that PEFT wrote to a folder.

    Raises:
        JudgeError: the adapter is not of this model.
    """
    try:
        config = MixLoraConfig.read(folder)
        config.bind(model)
        return PeftModel.from_pretrained(model, str(folder), config=config)
    except (OSError, TypeError, ValueError, RuntimeError, KeyError) as error:
        raise JudgeError(f"{folder}: the adapter does not load: {error}") from None
