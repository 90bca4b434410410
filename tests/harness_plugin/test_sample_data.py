"""A sample corpus that does not have every shipped task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support.images import image_cells
from support.tasks import write_split

MATCH = """
import json, sys
from mtrl_judge.harness_plugin.register import register
register()
from lmms_eval.tasks import TaskManager
print(json.dumps(TaskManager().match_tasks(sys.argv[1:])))
"""
TASK = "mtrl_judge_unsafebench"


def match(root: Path, *names: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MATCH, *names],
        env={**os.environ, "MTRL_JUDGE_DATA": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_pattern_leaves_out_what_the_sample_does_not_have(tmp_path: Path) -> None:
    columns = {
        "image": image_cells(4),
        "safety_label": ["Unsafe", "Safe"] * 2,
        "category": ["Violence"] * 4,
        "source": ["Lexica"] * 4,
    }
    write_split(tmp_path, TASK, "test", columns)
    (tmp_path / "card.json").write_text(json.dumps({"source": "sample"}), encoding="utf-8")
    done = match(tmp_path, "mtrl_judge_u*", "mtrl_judge_s*")
    assert json.loads(done.stdout.splitlines()[-1]) == [TASK], done.stderr
    assert "mtrl_judge_seetrue: skipped, the sample corpus" in done.stderr
    named = match(tmp_path, "mtrl_judge_seetrue")
    assert named.returncode != 0
    assert "mtrl_judge_seetrue" in named.stderr
