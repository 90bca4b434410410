"""MTRL_JUDGE_SPLIT: which split lmms-eval judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.images import image_cells
from support.tasks import write_split, write_yaml

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.harness_plugin.evaluation_split import SPLIT_VARIABLE, evaluated_split
from mtrl_judge.harness_plugin.hooks import JudgeHooks
from mtrl_judge.harness_plugin.prompt_style import set_backend
from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE, load_rows


def columns(n: int, word: str) -> dict[str, Any]:
    return {
        "image": image_cells(n, n),
        "text": [f"{word} {i}" for i in range(n)],
        "label": [i % 2 for i in range(n)],
    }


def test_lmms_eval_judges_the_split_that_the_variable_names(
    tmp_path: Path, random_judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    root = tmp_path / "data"
    task = load_judge_task(write_yaml(tmp_path, "their_points"))
    write_split(root, "their_points", "test", columns(6, "test"))
    write_split(root, "their_points", "validation", columns(60, "validation"))
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(root))
    found = {}
    for split in ("", "validation"):
        monkeypatch.setenv(SPLIT_VARIABLE, split)
        results = simple_evaluate(
            model="mtrl_judge",
            model_args=f"pretrained={random_judge},scoring=logprob",
            tasks=["their_points"],
            task_manager=TaskManager(include_path=str(tmp_path)),
            limit=4,
            bootstrap_iters=0,
        )
        about = results["configs"]["their_points"]["metadata"]["judge"]
        found[split] = about["split"], about["rows"], about["calibration"] is not None
        rows = load_rows(task, about["split"], root).rows.dataset
        judged = [row["item_id"] for row in results["samples"]["their_points"]]
        assert judged == rows["item_id"][:4]
    set_backend(None)
    # What is calibrated on validation rows is not scored on them.
    assert found == {"": ("test", 6, True), "validation": ("validation", 60, False)}


def test_a_split_that_nobody_evaluates_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_judge_task(write_yaml(tmp_path, "their_points"))
    monkeypatch.setenv(SPLIT_VARIABLE, "valid")
    with pytest.raises(JudgeError, match=r"MTRL_JUDGE_SPLIT: no split 'valid'.* 'validation'"):
        evaluated_split(task)
    write_split(tmp_path, "their_points", "test", columns(6, "test"))
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    monkeypatch.setenv(SPLIT_VARIABLE, "validation")
    with pytest.raises(JudgeError, match=r"no validation split in .*; available: test"):
        JudgeHooks(task).prepare()
