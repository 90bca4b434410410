"""The notebook runs from top to bottom."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "judge_a_judge.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(
    tmp_path: Path, random_judge: Path, sample_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Path(sys.executable).parent  # as where the environment is active
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("MODEL", str(random_judge))
    monkeypatch.setenv("MTRL_JUDGE_DATA", str(sample_root))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [str(cell["outputs"]) for cell in notebook.cells if cell.cell_type == "code"]
    for expected, output in zip(
        ("", "image/png", "'Yes'", "confidence", "", "seetrue", "item"), outputs, strict=True
    ):
        assert expected in output
