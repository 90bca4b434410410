"""Kinds of other packages, installed as users install them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtrl_judge.judge_tasks.kinds import ENTRY_POINTS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kinds.md").read_text(encoding="utf-8")
EXAMPLE = PAGE.partition("```python\n")[2].partition("```")[0]


def install(folder: Path, module: str, code: str, *points: str) -> None:
    """What installing a package with one module leaves in site-packages."""
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    lines = "\n".join([f"[{ENTRY_POINTS}]", *points])
    (info / "entry_points.txt").write_text(lines, encoding="utf-8")


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mtrl_judge", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_of_the_documentation_is_a_kind(tmp_path: Path) -> None:
    install(tmp_path, "severity", EXAMPLE, "severity = severity:KIND")
    made = run(tmp_path, "new", "mine", "--kind", "severity")
    assert made.returncode == 0, made.stderr
    assert run(tmp_path, "validate", "mine.yaml").stdout.startswith("mine.yaml: valid")
    answers = tmp_path / "answers.jsonl"
    answers.write_text(
        '{"item_id": "a", "text": "<answer>mild</answer>", "label": "severe"}\n'
        '{"item_id": "b", "text": "<answer>none</answer>", "label": "none"}\n',
        encoding="utf-8",
    )
    scored = run(tmp_path, "score", "answers.jsonl", "--task", "mine.yaml", "--out", "scored.jsonl")
    assert scored.returncode == 0, scored.stderr
    lines = (tmp_path / "scored.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["score"] for line in lines] == [0.5, 1.0]


@pytest.mark.parametrize(
    ("code", "point", "message"),
    [
        ("KIND = 1", "mine = mine:KIND", "is no Kind with name = 'mine'"),
        ("raise ImportError('no torch')", "mine = mine:KIND", "ImportError: no torch"),
        ("", "pairwise = mine:KIND", "there is a kind 'pairwise' already"),
    ],
)
def test_a_faulty_kind_is_one_message(tmp_path: Path, code: str, point: str, message: str) -> None:
    install(tmp_path, "mine", code, point)
    done = run(tmp_path, "validate", "mtrl_judge_seetrue")
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
