"""The benchmark for a GPU, on the CPU with a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_all_parts_are_measured() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--brief"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    *lines, last = done.stdout.splitlines()
    figures = json.loads(last)
    assert figures.pop("seconds") > 0
    told = [line.split(":")[0] for line in lines if line.split(":")[0] in figures]
    assert told == list(figures)
    assert figures.pop("update_2b_flash") == {"not_run": "flash_attn is not installed"}
    assert not [name for name, of_part in figures.items() if "error" in of_part], figures
    for name in ("update_2b", "update_4b_lora"):
        assert figures[name]["update_ratio"] > 0
        assert figures[name]["passes_ratio"] > 0
    for name in ("step_ratio", "passes_step_ratio"):
        assert figures["step_2b"][name] > 0
    for checked in (figures["recipe"], figures["generation_4b_lora"]):
        (check,) = checked["self_check"].values()
        assert 0 < check["rounding_mean"] < 0.1
    assert figures["recipe"]["estimated_gib"]["while training"] > 0
    for way in ("shared", "static"):
        assert figures["generation_4b_lora"][f"{way}_same_as_stock"] == 1
    for name in ("generation_ratio", "logprob_ratio", "auto_docs_per_s", "static_cache_docs_per_s"):
        assert figures["backend"][name] > 0
