"""Imports run one way, and the packages are entered by their own names."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mtrl_judge

ROOT = Path(__file__).parent.parent
# What each folder may import of the others; nothing else, without exception.
MAY_IMPORT: dict[str, set[str]] = {
    "common": set(),
    "metrics": {"common"},
    "judge_tasks": {"common", "metrics"},
    "data": {"common", "metrics", "judge_tasks"},
    "models": {"common", "metrics", "judge_tasks"},
    "leaderboard": {"common", "metrics", "judge_tasks"},
    "demo": {"common", "metrics", "judge_tasks", "models"},
}
MAY_IMPORT["harness_plugin"] = MAY_IMPORT["rl"] = {*MAY_IMPORT}
MAY_IMPORT["serving"] = {"common", "metrics", "judge_tasks", "data", "models"}
MAY_IMPORT["experiments"] = {*MAY_IMPORT}
MAY_IMPORT["cli"] = {*MAY_IMPORT}
# Only these folders may import these libraries.
ONLY_IN = {
    "lmms_eval": {"harness_plugin"},
    "trl": {"rl"},
    "peft": {"models", "rl"},
    "torch": {"models", "rl", "demo", "harness_plugin", "serving"},
    "starlette": {"serving"},
    "uvicorn": {"serving"},
    "prometheus_client": {"serving"},
    "transformers": {"models", "rl", "demo", "harness_plugin"},
}


def imports(path: Path) -> set[str]:
    """The packages a file imports: ours by their folder, others by their top level."""
    package = ["mtrl_judge", *path.relative_to(ROOT).parent.parts]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            bare = module == "mtrl_judge"
            names |= {f"{module}.{alias.name}" for alias in node.names} if bare else {module}
    return {name.split(".")[name.startswith("mtrl_judge.")] for name in names}


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_imports_run_one_way(folder: str) -> None:
    files = sorted((ROOT / folder).glob("**/*.py"))
    assert files
    allowed = MAY_IMPORT[folder] | {folder}
    forbidden = {name for name, folders in ONLY_IN.items() if folder not in folders}
    forbidden |= {*MAY_IMPORT} - allowed
    found = {(path.name, name) for path in files for name in imports(path) & forbidden}
    assert found == set()


def test_tests_use_public_names_and_import_no_other_test() -> None:
    for path in (ROOT / "tests").glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                parts = [*node.module.split("."), *(alias.name for alias in node.names)]
                assert not [part for part in parts if part.startswith("test_")], path
                if parts[0] == "mtrl_judge":
                    assert not [part for part in parts if part.startswith("_")], path


def test_every_folder_with_code_is_packaged() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    mapped = project["tool"]["setuptools"]["package-dir"]
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(mapped)
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("[!.]*/**/__init__.py")}
    folders = {path for path in folders if path.parts[0] not in ("benchmarks", "build", "tests")}
    assert folders == set(map(Path, mapped.values()))
    assert {path.parts[0] for path in folders} == {*MAY_IMPORT, "package", "task_yamls"}


@pytest.mark.parametrize(
    ("file", "extras"), [("constraints.txt", "dev"), ("constraints-gpu.txt", "gpu,sample")]
)
def test_the_constraints_are_within_the_bounds(file: str, extras: str) -> None:
    """Every requirement of the package and of these extras is pinned to a version it allows."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(name): version for name, version in (e.split("==") for e in lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    pending = [*project["dependencies"]]
    pending += [line for extra in extras.split(",") for line in optional[extra]]
    while pending:
        requirement = Requirement(pending.pop())
        if requirement.name == project["name"]:
            pending += [line for extra in requirement.extras for line in optional[extra]]
            continue
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
        # And what the extras of others require, such as TRL's range of vLLM.
        for line in metadata.requires(requirement.name) or () if requirement.extras else ():
            needed = Requirement(line)
            if needed.marker and any(
                needed.marker.evaluate({"extra": extra}) for extra in requirement.extras
            ):
                found = pinned[canonicalize_name(needed.name)]
                assert needed.specifier.contains(found), needed


def test_the_judge_is_a_public_name_that_is_imported_on_use() -> None:
    from mtrl_judge.serving.judge import Judge

    assert mtrl_judge.Judge is Judge
    code = "import sys, mtrl_judge; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_flat_import_is_refused() -> None:
    code = (
        "import importlib\n"
        f"for name in {sorted(MAY_IMPORT)}:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in MAY_IMPORT:
        assert f"and import mtrl_judge.{name}\n" in done.stdout
