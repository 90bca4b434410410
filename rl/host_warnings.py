"""Warnings that only the authors of TRL and PEFT can act on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# transformers 5.23 renamed gradient checkpointing (modeling_utils.py, training_args.py). TRL 1.16
# uses the old names: trl/trainer/base_config.py, and trl/models/utils.py in every step.
_RENAMED = r"`(is_)?gradient_checkpointing"


@contextmanager
def without_renamed() -> Iterator[None]:
    """The block runs without warnings of the old names of gradient checkpointing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _RENAMED, FutureWarning)
        yield
