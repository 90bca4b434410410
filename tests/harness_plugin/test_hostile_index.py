"""A folder of a stranger's YAMLs on the include path of the stock lmms-eval."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.tasks import write_yaml


def test_hostile_yamls_neither_stall_nor_break_the_index(tmp_path: Path) -> None:
    from lmms_eval.models import MODEL_REGISTRY_V2  # noqa: F401  registers the judge tasks
    from lmms_eval.tasks import TaskManager

    write_yaml(tmp_path, "good")
    bomb = "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 9))
    (tmp_path / "bomb.yaml").write_text(f"judge: {{}}\na0: &a0 [x]\n{bomb}")
    (tmp_path / "large.yaml").write_text("judge: {}\n" + "- a\n" * 10**6)
    (tmp_path / "ring.yaml").write_text("include: ring.yaml\njudge: {}\n")
    os.mkfifo(tmp_path / "fifo.yaml")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    assert {"good", "bomb", "large", "ring"} <= manager.task_index.keys()
    with pytest.raises(
        SystemExit, match=r"with each alias(.|\n)*larger than(.|\n)*includes itself"
    ):
        manager.match_tasks(["bomb", "large", "ring"])
