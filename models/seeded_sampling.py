"""Sampling whose random numbers belong to a row, not to the batch that it is in.

`generate` of transformers draws a token for all rows of a batch from one generator, so that what a
row draws depends on its neighbors. Here each row has numbers of its own, one for each token: the
token is the one in whose part of the cumulative distribution the number falls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


class SeededSampling(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped here
    """Draws a token for each of B · K rows and leaves only that one to choose.

    It has to come last of the processors, as one that a caller gives to `generate` does.

    Args:
        seeds_B: one for each prompt, whose K rows follow each other.
        samples: K. The first rows of a prompt draw the same numbers, whatever K is.
        tokens: the most that are drawn for a row.
        start: the number of tokens of the padded prompts.
        settings: `temperature`, `top_k` (0: all tokens) and `top_p`.
    """

    def __init__(
        self,
        seeds_B: Sequence[int],
        samples: int,
        tokens: int,
        start: int,
        settings: Mapping[str, Any],
    ) -> None:
        numbers_B_K_T = [np.random.default_rng(seed).random((samples, tokens)) for seed in seeds_B]
        self._numbers_R_T = torch.from_numpy(np.concatenate(numbers_B_K_T))
        self._start = start
        self._warpers = LogitsProcessorList(
            [TemperatureLogitsWarper(float(settings["temperature"]))]
        )
        if settings.get("top_k"):
            self._warpers.append(TopKLogitsWarper(settings["top_k"]))
        if settings.get("top_p", 1.0) < 1.0:
            self._warpers.append(TopPLogitsWarper(settings["top_p"]))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits, R × V, with the drawn token's at 0 and all others at -inf."""
        step = input_ids.shape[1] - self._start
        numbers_R = self._numbers_R_T[:, step].to(scores.device)
        probabilities_R_V = self._warpers(input_ids, scores.float()).double().softmax(dim=-1)
        summed_R_V = probabilities_R_V.cumsum(dim=-1)
        # Rounding can leave the sum of all a little above or below 1.
        targets_R_1 = (numbers_R * summed_R_V[:, -1])[:, None]
        drawn_R_1 = torch.searchsorted(summed_R_V, targets_R_1, right=True)
        drawn_R_1 = drawn_R_1.clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn_R_1, 0.0)
