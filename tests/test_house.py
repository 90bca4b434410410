"""Imports run one way, and the packages are entered by their own names."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The two guests never meet, but where the paper's comparison trains judges and then evaluates them.
ONE_DOOR = {"rl": {("experiment.py", "harness_plugin")}}
PACKAGES = ("judge_tasks", "models", "prepare", "harness_plugin", "rl", "cli")


def imports(path: Path) -> set[str]:
    """The packages a file imports, ours by their folder, others by their top level."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    ours = {name.split(".")[1] for name in names if name.startswith("mtrl_judge.")}
    return ours | {name.split(".")[0] for name in names if not name.startswith("mtrl_judge")}


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        (
            "judge_tasks",
            {"torch", "lmms_eval", "trl", "transformers", "models", "harness_plugin", "rl", "cli"},
        ),
        (
            "prepare",
            {"torch", "lmms_eval", "trl", "transformers", "models", "harness_plugin", "rl", "cli"},
        ),
        ("models", {"lmms_eval", "trl", "harness_plugin", "rl", "cli"}),
        ("harness_plugin", {"trl", "rl", "cli"}),
        ("rl", {"lmms_eval", "harness_plugin", "cli"}),
        ("cli", {"lmms_eval", "trl", "torch"}),
    ],
)
def test_imports_run_one_way(package: str, forbidden: set[str]) -> None:
    files = sorted((ROOT / package).glob("**/*.py"))
    assert files
    found = {(path.name, name) for path in files for name in imports(path) & forbidden}
    assert found == ONE_DOOR.get(package, set())


def test_the_way_in_names_what_is_there() -> None:
    import mtrl_judge.judge_tasks as api

    assert all(getattr(api, name).__name__ == name for name in api.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_flat_import_is_refused(package: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {package}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"this folder is the package mtrl_judge.{package}" in done.stderr
