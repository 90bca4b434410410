"""Cards that speak against training: it is asked, accepted, and recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.training import FLAGS, guessing_judge, run, small_world

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.rl.preflight import accepted_licenses
from mtrl_judge.rl.run_record import RUN_FILE
from mtrl_judge.rl.train import JUDGE

SEETRUE, AGIN = find_task("mtrl_judge_seetrue"), find_task("mtrl_judge_agin_nat")
REAL = {"mtrl_judge_seetrue": {"source": "prepared"}, "mtrl_judge_agin_nat": {"source": "folder"}}


def test_a_card_that_forbids_training_is_heeded_until_accepted() -> None:
    with pytest.raises(JudgeError, match=r"test set.*\n.*--accept-license seetrue"):
        accepted_licenses([SEETRUE, AGIN], REAL, ["agin_nat"])
    for name in ("seetrue", "mtrl_judge_seetrue"):
        accepted = accepted_licenses([SEETRUE, AGIN], REAL, [name])
        assert list(accepted) == ["mtrl_judge_seetrue"]
    # A name of a task that is not trained on may be in a recipe that several runs share.
    assert accepted_licenses([AGIN], REAL, ["seetrue"]) == {}
    with pytest.raises(JudgeError, match="did you mean 'seetrue'"):
        accepted_licenses([AGIN], REAL, ["setrue"])


def test_the_sample_is_not_the_dataset() -> None:
    assert accepted_licenses([SEETRUE], {"mtrl_judge_seetrue": {"source": "sample"}}, []) == {}


def test_what_was_accepted_stands_in_record_and_model_card(base: Path, tmp_path: Path) -> None:
    text = (
        (small_world(base) / "red.yaml")
        .read_text()
        .replace("citation: none", "citation: none, forbids_training: keep it for tests")
    )
    (tmp_path / "red.yaml").write_text(text)
    given = {
        **FLAGS,
        "model_name_or_path": guessing_judge(base),
        "output_dir": tmp_path / "run",
        "data_root": small_world(base) / "data",
        "max_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
    }
    words = [*(f"--{name}={value}" for name, value in given.items())]
    words += ["--tasks", str(tmp_path / "red.yaml")]
    with pytest.raises(JudgeError, match="keep it for tests"):
        run("sft", words)
    assert not (tmp_path / "run").exists()
    judge = run("sft", [*words, "--accept-license", "red"])
    assert judge.name == JUDGE
    (start,) = json.loads((tmp_path / "run" / RUN_FILE).read_text())["starts"]
    assert start["accepted_licenses"] == {"red": "keep it for tests"}
    assert "Against training on it: keep it for tests" in (judge / "README.md").read_text()
