"""A sample corpus that does not have every shipped task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.images import image_cells
from support.tasks import write_split

from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE

TASK = "mtrl_judge_unsafebench"


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """lmms-eval's index of the shipped tasks, one of which the corpus has."""
    from lmms_eval.models import MODEL_REGISTRY_V2  # noqa: F401  registers the judge tasks
    from lmms_eval.tasks import TaskManager

    columns = {
        "image": image_cells(4),
        "safety_label": ["Unsafe", "Safe"] * 2,
        "category": ["Violence"] * 4,
        "source": ["Lexica"] * 4,
    }
    write_split(tmp_path, TASK, "test", columns)
    (tmp_path / "card.json").write_text(json.dumps({"source": "sample"}), encoding="utf-8")
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    return TaskManager(include_defaults=False)


def test_a_pattern_leaves_out_what_the_sample_does_not_have(
    manager: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert manager.match_tasks(["mtrl_judge_u*", "mtrl_judge_s*"]) == [TASK]
    assert "mtrl_judge_seetrue: skipped, the sample corpus" in capsys.readouterr().err


def test_a_task_that_is_named_must_be_there(
    manager: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        manager.match_tasks(["mtrl_judge_seetrue"])
    assert stopped.value.code
    assert "mtrl_judge_seetrue" in capsys.readouterr().err
