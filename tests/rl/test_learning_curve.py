"""The learning curve is plotted from a run's log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.rl.learning_curve import learning_curve


@pytest.mark.parametrize("training", [{"reward": 0.5, "a/reward": 0.4}, {"loss": 2.0}])
def test_a_curve_is_plotted_from_a_log(tmp_path: Path, training: dict[str, float]) -> None:
    lines = [{"step": step, **training} for step in range(1, 30)]
    lines += [{"step": 10, "eval_macro_f1": 0.4, "eval_a/macro_f1": 0.4, "eval_b/macro_f1": None}]
    log, out = tmp_path / "log.jsonl", tmp_path / "curve.png"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    learning_curve(log, out)
    assert out.read_bytes().startswith(b"\x89PNG")
    log.write_text('{"step": 1}\n')
    with pytest.raises(JudgeError, match=str(log)):
        learning_curve(log, out)
    with pytest.raises(JudgeError, match=r"none\.jsonl"):
        learning_curve(tmp_path / "none.jsonl", out)
