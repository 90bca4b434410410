"""How many tokens a model on a GPU can hold at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mtrl_judge.common.errors import JudgeError

# A token's keys and values stay until its answer is complete. Reading it takes as much again in one
# layer's and the vision tower's intermediate results, and images wait as pixels: for Qwen3-VL-4B
# 144 KiB of keys and values, 110 of the largest layer and 60 of pixels.
_CACHES_PER_TOKEN = 3
_SHARE = 0.8  # of the free memory; logits and kernels' workspaces take the rest


@dataclass
class TokenBudget:
    """The tokens of prompts and answers that fit into memory together."""

    tokens: int

    def rows(self, longest: float) -> int:
        """How many rows of up to so many tokens fit; at least one.

        >>> TokenBudget(1000).rows(240.5), TokenBudget(1000).rows(5000)
        (4, 1)
        """
        return max(1, int(self.tokens / longest))


def token_budget(model: Any) -> TokenBudget:
    """The budget of the memory that is free beside a loaded model, by estimate.

    Args:
        model: a transformers model without wrapper.

    Raises:
        JudgeError: the model is not on a GPU.
    """
    device = model.device
    if device.type != "cuda":
        raise JudgeError(
            "batch_size: auto goes by the memory of a GPU, but the model is on "
            f"{device.type}; expected a positive integer"
        )
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + reserved
    return TokenBudget(max(1, int(_SHARE * free / bytes_per_token(model.config, model.dtype))))


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """What a token of a prompt or an answer takes while answers are generated, by estimate."""
    text = config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    cache = 2 * text.num_hidden_layers * heads * width * dtype.itemsize
    return int(_CACHES_PER_TOKEN * cache)
