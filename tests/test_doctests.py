"""The examples in docstrings hold."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    ".".join(["mtrl_judge", *path.relative_to(ROOT).with_suffix("").parts])
    for path in ROOT.glob("[!.]*/**/*.py")
    if path.parts[len(ROOT.parts)] not in ("benchmarks", "build", "package", "tests")
    if ">>>" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_hold(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted
    assert not result.failed
