"""Tests of vLLM itself, on a CPU: `make test-vllm`.

They are not part of `make test`, because vLLM pins its own torch and transformers, so that it needs
an environment of its own. The folder is not called `vllm`: it would be imported as vLLM.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def sample() -> Path:
    """The sample corpus in full size."""
    return Path(os.environ["MTRL_JUDGE_DATA"])


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The tiny judge that was pretrained on it, in float32."""
    return Path(os.environ["MTRL_JUDGE_TINY"])
