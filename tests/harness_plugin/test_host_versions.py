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


LMMS_EVAL_0_8 = (
    "lmms-eval: found 0.8.0; supported from 0.7.3 up to, not including, 0.8; "
    "pip install 'lmms-eval>=0.7.3,<0.8'"
)


@pytest.mark.parametrize(
    ("name", "version"), [("lmms_eval", "0.7.2"), ("lmms_eval", "0.8.0"), ("pydantic", "2.7.4")]
)
def test_an_unsupported_host_stays_usable_for_other_tasks(
    tmp_path: Path, name: str, version: str
) -> None:
    _install(tmp_path, name, version)
    code = "from mtrl_judge.harness_plugin.register import register; import sys\n"
    code += "print(register(), {'lmms_eval', 'pydantic'} & {*sys.modules})"
    done = _python(tmp_path, "-c", code, "--tasks", "mme", "--output_path", "logs/mtrl_judge")
    assert done.stdout == "[] set()\n"
    first, second = done.stderr.splitlines()
    assert first == "mtrl-judge: its tasks and its backend are not available"
    assert second.startswith(f"{name.replace('_', '-')}: found {version}; supported from ")


@pytest.mark.parametrize(
    "words", [("--model=mtrl_judge", "--tasks", "mme"), ("--tasks", "mtrl_id")]
)
def test_an_unsupported_host_ends_where_it_is_to_run_us(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    _install(tmp_path, "transformers", "4.57.0")
    code = "from mtrl_judge.harness_plugin.register import register; register()"
    done = _python(tmp_path, "-c", code, *words)
    assert done.returncode == 2
    assert "\ntransformers: found 4.57.0; supported from 5.17 " in done.stderr


def test_lmms_eval_ends_before_it_loads_anything(tmp_path: Path) -> None:
    _install(tmp_path, "lmms_eval", "0.8.0")
    done = _python(tmp_path, "-m", "lmms_eval", "--tasks", "mme,mtrl_judge_seetrue")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-2:] == [
        "mtrl-judge: its tasks and its backend are not available",
        LMMS_EVAL_0_8,
    ]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["eval", "robustness", "demo", "experiment", "tasks"])
def test_a_command_with_an_unsupported_host_is_one_message(tmp_path: Path, command: str) -> None:
    _install(tmp_path, "lmms_eval", "0.8.0")
    done = _python(tmp_path, "-m", "mtrl_judge", command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{LMMS_EVAL_0_8}\n"


def test_training_stops_with_an_unsupported_trl(tmp_path: Path) -> None:
    _install(tmp_path, "trl", "1.17.0")
    done = _python(tmp_path, "-m", "mtrl_judge.rl.train", "grpo", "--recipe", "tiny_cpu")
    assert done.returncode == 2
    assert done.stderr.startswith("trl: found 1.17.0; supported from 1.16 ")
    assert "Traceback" not in done.stderr


def test_the_judge_of_the_python_interface_names_an_unsupported_host(tmp_path: Path) -> None:
    _install(tmp_path, "transformers", "4.57.0")
    done = _python(tmp_path, "-c", "from mtrl_judge import Judge")
    assert done.stderr.splitlines()[-1] == (
        "mtrl_judge.common.errors.JudgeError: transformers: found 4.57.0; supported from 5.17 up "
        "to, not including, 6; pip install 'transformers>=5.17,<6'"
    )


def test_installed_versions_and_bounds_of_the_package_agree() -> None:
    check_versions(SUPPORTED)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    bounds = {need.name: need.specifier for need in map(Requirement, lines)}
    for name, (lowest, below) in SUPPORTED.items():
        lower = [Version(s.version) for s in bounds[name] if s.operator == ">="]
        upper = [Version(s.version) for s in bounds[name] if s.operator == "<"]
        assert (lower, upper) == ([Version(lowest)], [Version(below)]), name
