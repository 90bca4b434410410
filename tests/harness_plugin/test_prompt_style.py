"""The prompt style of an evaluation, and what decides it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tasks import write_task

from mtrl_judge.harness_plugin.prompt_style import (
    Backend,
    evaluation_record,
    evaluation_scoring,
    evaluation_style,
    set_backend,
)


def test_scoring_and_style(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = write_task(tmp_path)
    set_backend(Backend("transformers", "logprob", "reasoned", (None, None), "", None, dict))
    assert (evaluation_style(task), evaluation_scoring()) == ("direct", "logprob")
    assert evaluation_record(task)["style_source"] == "scoring"
    monkeypatch.setenv("MTRL_JUDGE_STYLE", "reasoned")
    assert (evaluation_style(task), evaluation_scoring()) == ("reasoned", "logprob")
    assert evaluation_record(task)["style_source"] == "override"
    set_backend(None)
    assert (evaluation_style(task), evaluation_scoring()) == ("reasoned", "generation")
