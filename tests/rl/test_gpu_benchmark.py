"""The benchmark for a GPU, on the CPU with a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_recipe_for_one_gpu_is_measured() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    shared, stock = figures["shared"], figures["stock"]
    assert set(shared["self_check"]) == {
        "log-probabilities of the first micro-batch",
        "logits of the first generated tokens",
    }
    for check in shared["self_check"].values():
        assert 0 < check["rounding_mean"] < 0.1
    assert stock["self_check"] == {}
    assert 0 < shared["seconds"]["logprobs"] < shared["seconds"]["step"]
    assert figures["logprob_ratio"] > 0
