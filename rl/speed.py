"""How long a run takes on an H100, from what was measured there; docs/performance.md repeats it.

Other models are scaled: the update by parameters, since its time is that of matrix products (both
measured models reach a quarter of the device's peak), and generation by layers, since each token
waits for one after the other. Neither knows of communication between devices.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .settings import Settings

DEVICE = "H100 80GB"


class MeasuredUpdate(NamedTuple):
    """Log-probabilities, forward and backward, in bfloat16 with gradient checkpointing."""

    what: str
    rows_per_s: float
    """At the fastest micro-batch."""
    parameters: float
    prompt_tokens: int
    """Computed once for a group."""
    group: int
    answer_tokens: int

    @property
    def tokens_per_s(self) -> float:
        return self.rows_per_s * (self.prompt_tokens / self.group + self.answer_tokens)


class MeasuredGeneration(NamedTuple):
    """Generation by transformers."""

    what: str
    ms_per_token: float
    """For all completions of a batch together."""
    completions: int
    layers: int

    @property
    def tokens_per_s(self) -> float:
        return self.completions / self.ms_per_token * 1000


# `python -m benchmarks.gpu`; prompts are images of 1,024 and of 784 tokens with 100 of text.
FULL = MeasuredUpdate("full training of 2B, G = 16", 82.7, 2.13e9, 1124, 16, 128)
ADAPTERS = MeasuredUpdate("adapters of 4B, G = 8", 27.0, 4.44e9, 884, 8, 256)
GENERATION = MeasuredGeneration("4B with adapters, 32 completions", 75, 32, 36)
COMPILED = MeasuredGeneration("4B with adapters, 32 completions, compiled", 38, 32, 36)
# For each token of a batch and each layer in a validation: 16 answers of 256 tokens by Qwen3-VL-4B,
# which has 36 layers, took 27 s.
VALIDATION_MS_PER_LAYER = 3.0


class Estimate(NamedTuple):
    """Seconds of a step, and how they were found; None for what was not measured."""

    update_s: float | None
    update: str
    generation_s: float | None
    generation: str

    @property
    def total_s(self) -> float:
        """Of what was measured."""
        return (self.update_s or 0.0) + (self.generation_s or 0.0)


def estimate(settings: Settings, config: Any, parameters: int, prompt_tokens: int) -> Estimate:
    """The time of a GRPO step whose completions are all as long as they may be.

    Args:
        config: of the model.
        parameters: of the model, without adapters.
    """
    text = config.get_text_config()
    if getattr(text, "num_experts", None):
        unknown = "no mixture of experts was measured"
        return Estimate(None, unknown, None, unknown)
    return Estimate(
        *_update(settings, parameters, prompt_tokens),
        *_generation(settings, text.num_hidden_layers),
    )


def _update(settings: Settings, parameters: int, prompt_tokens: int) -> tuple[float, str]:
    trainer = settings.trainer
    measured = ADAPTERS if settings.model.use_peft else FULL
    rows = trainer.per_device_train_batch_size * trainer.gradient_accumulation_steps
    shared = trainer.num_generations if settings.judge.share_prompt else 1
    tokens = rows * (prompt_tokens / shared + trainer.max_completion_length)
    rate = measured.tokens_per_s * measured.parameters / parameters
    return tokens / rate, (
        f"{tokens:,.0f} tokens at {rate:,.0f} a second; {measured.what}: "
        f"{measured.tokens_per_s:,.0f}, scaled from {measured.parameters / 1e9:.1f}B to "
        f"{parameters / 1e9:.1f}B parameters"
    )


def _generation(settings: Settings, layers: int) -> tuple[float | None, str]:
    trainer = settings.trainer
    if trainer.use_vllm:
        return None, "by vLLM, which was not measured"
    measured = COMPILED if trainer.cache_implementation == "static" else GENERATION
    ms = measured.ms_per_token * layers / measured.layers
    rollouts = trainer.gradient_accumulation_steps / (
        trainer.steps_per_generation * trainer.num_iterations
    )
    batch = trainer.per_device_train_batch_size * trainer.steps_per_generation
    tokens = trainer.max_completion_length
    return rollouts * tokens * ms / 1000, (
        f"{batch} completions of {tokens:,} tokens at {ms:.0f} ms a token; {measured.what}: "
        f"{measured.ms_per_token:g} ms, {measured.tokens_per_s:,.0f} tokens a second, scaled from "
        f"{measured.layers} to {layers} layers"
    )


def duration(seconds: float) -> str:
    """A length of time in words.

    >>> [duration(s) for s in (2.34, 95, 5000, 90_000)]
    ['2.3 s', '2 min', '1 h 24 min', '25 h 0 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
