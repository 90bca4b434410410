"""The sampler's log-probabilities held against the trainer's, in every generation batch.

What vLLM samples is trained on as if the trainer had sampled it. Whatever makes the two differ
(other tokens, pixels, weights, data type) shows in the log-probabilities of the sampled tokens,
while rewards and losses look healthy.
"""

from __future__ import annotations

import logging

from mtrl_judge.common.errors import JudgeError

logger = logging.getLogger(__name__)


class SamplerCheck:
    """Stops a run whose sampler differs from its trainer by more than rounding.

    Differences are means over the sampled tokens, in nats. Each of the first batches is checked by
    itself, later ones by a running mean, because a cache of old features shows only now and then.
    """

    FIRST = 3
    """Batches in which the trainer's rounding is measured."""
    FACTOR = 10.0
    """How many times the trainer's rounding the difference may be."""
    FLOOR = 1e-3
    """A difference that is never too large. The trainer gives a share to image tokens, which are
    never sampled; for a judge whose training diverged, that alone makes 1e-4."""

    def __init__(self) -> None:
        self._batches = 0
        self._rounding = 0.0
        self._mean = 0.0

    @property
    def measures_rounding(self) -> bool:
        """Whether the next batch comes with a measurement of the trainer's rounding."""
        return self._batches < self.FIRST

    def add(self, difference: float, rounding: float | None) -> None:
        """Check one more generation batch.

        Args:
            difference: between sampler and trainer. NaN counts as too much.
            rounding: of the trainer (:func:`.self_check.rounding`), while ``measures_rounding``.

        Raises:
            JudgeError: the difference is clearly larger than the rounding.
        """
        self._batches += 1
        self._rounding = max(self._rounding, rounding or 0.0)
        allowed = max(self.FLOOR, self.FACTOR * self._rounding)
        weight = 1 / min(self._batches, 10)
        self._mean += weight * (difference - self._mean)
        checked = difference if self._batches <= self.FIRST else self._mean
        if not checked <= allowed:
            raise JudgeError(
                f"the sampler's log-probabilities differ from the trainer's by {checked:.2g} in "
                f"the mean (rounding gives {self._rounding:.2g}, {allowed:.2g} is allowed): it "
                "reads other prompts, images, weights or computes otherwise. Check that vLLM and "
                "the trainer have the same checkpoint, data type and limits on pixels; with "
                "vllm_mode: server, that the server was started with the command that --dry_run "
                "prints. Train with --use_vllm false to go on without vLLM"
            )
        if self._batches == self.FIRST:
            logger.info(
                "use_vllm: log-probabilities of sampler and trainer match up to %.2g in the mean "
                "(rounding: %.2g)",
                self._mean,
                self._rounding,
            )
