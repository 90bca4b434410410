"""The Python examples of docs/api.md run, on a small sample corpus and a random model."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
from support.tiny_models import tiny_qwen3_vl

from mtrl_judge.demo.corpus import Sizes, write_sample

PAGE = Path(__file__).parent.parent / "docs" / "api.md"


def test_the_examples_of_the_api_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sample(tmp_path / "mtrl-data", seed=0, sizes=Sizes(4, 2, 4, 2))
    tiny_qwen3_vl(tmp_path / "tiny-base")
    monkeypatch.chdir(tmp_path)
    # Fences are blanked, not removed, so that a failure reports the line of the page.
    text = re.sub(r"(?m)^```.*$", "", PAGE.read_text(encoding="utf-8"))
    test = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) > 20
    assert doctest.DocTestRunner().run(test).failed == 0
