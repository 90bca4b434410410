"""A host outside the supported versions is named at startup, and stays usable without us."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from mtrl_judge.common.host_versions import SUPPORTED, check_versions

ROOT = Path(__file__).parents[2]


def _python(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def _install(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
    )


@pytest.mark.parametrize("version", ["0.7.2", "0.8.0"])
def test_an_unsupported_lmms_eval_is_left_alone(tmp_path: Path, version: str) -> None:
    _install(tmp_path, "lmms_eval", version)
    code = "from mtrl_judge.harness_plugin.register import register; import sys\n"
    code += "print(register(), 'lmms_eval' in sys.modules)"
    done = _python(tmp_path, "-c", code)
    assert done.stdout == "[] False\n"
    assert done.stderr.splitlines() == [
        "mtrl-judge: its tasks and its backend are not available",
        f"lmms-eval: found {version}; supported from 0.7.3 up to, not including, 0.8; "
        "pip install 'lmms-eval>=0.7.3,<0.8'",
    ]


def test_training_stops_with_an_unsupported_trl(tmp_path: Path) -> None:
    _install(tmp_path, "trl", "1.17.0")
    done = _python(tmp_path, "-m", "mtrl_judge.rl.train", "grpo", "--recipe", "cpu_demo")
    assert done.returncode == 2
    assert done.stderr.startswith("trl: found 1.17.0; supported from 1.16 ")
    assert "Traceback" not in done.stderr


def test_installed_versions_and_bounds_of_the_package_agree() -> None:
    check_versions(SUPPORTED)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    bounds = {need.name: need.specifier for need in map(Requirement, lines)}
    for name, (lowest, below) in SUPPORTED.items():
        lower = [Version(s.version) for s in bounds[name] if s.operator == ">="]
        upper = [Version(s.version) for s in bounds[name] if s.operator == "<"]
        assert (lower, upper) == ([Version(lowest)], [Version(below)]), name
