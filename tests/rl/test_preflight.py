"""What stops a run before it starts, cards against training and leaks, until it is accepted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.training import TASKS, guessing_judge, run, small_world, values

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.loading import find_task, load_judge_task, load_shipped_tasks
from mtrl_judge.rl.finished_run import RUN_FILE
from mtrl_judge.rl.preflight import accepted_licenses, checked_leaks
from mtrl_judge.rl.train import JUDGE

ONE_STEP = {"max_steps": 1, "eval_strategy": "no", "save_strategy": "no"}
SEETRUE, AGIN = find_task("mtrl_judge_seetrue"), find_task("mtrl_judge_agin_nat")
REAL = {"mtrl_judge_seetrue": {"source": "prepared"}, "mtrl_judge_agin_nat": {"source": "folder"}}


def test_a_card_that_forbids_training_stops_it_until_accepted() -> None:
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


def test_what_was_accepted_is_in_record_and_model_card(base: Path, tmp_path: Path) -> None:
    text = (
        (small_world(base) / "red.yaml")
        .read_text()
        .replace("citation: none", "citation: none, forbids_training: keep it for tests")
    )
    (tmp_path / "red.yaml").write_text(text)
    out, tasks = tmp_path / "run", [str(tmp_path / "red.yaml")]
    given = values(small_world(base), out, guessing_judge(base), **ONE_STEP, tasks=tasks)
    with pytest.raises(JudgeError, match="keep it for tests"):
        run("sft", given)
    assert not out.exists()
    judge = run("sft", {**given, "accept_license": ["red"]})
    assert judge.name == JUDGE
    (start,) = json.loads((out / RUN_FILE).read_text())["starts"]
    assert start["accepted_licenses"] == {"red": "keep it for tests"}
    assert "Its terms on training: keep it for tests" in (judge / "README.md").read_text()


def test_training_refuses_and_records_what_was_allowed(base: Path, tmp_path: Path) -> None:
    world = small_world(base)
    root = tmp_path / "data"
    for task in TASKS:
        (root / task).mkdir(parents=True)
        for split in ("train", "test"):
            data = (world / "data" / task / f"{split}.parquet").read_bytes()
            (root / task / f"{split}.parquet").write_bytes(data)
    shown = (root / "red" / "train.parquet").read_bytes()
    fields = {**ONE_STEP, "data_root": str(root), "allow_leaks": False}
    given = values(world, tmp_path / "run", guessing_judge(base), **fields)
    for split in ("validation", "test"):
        leaked = root / "warm" / f"{split}.parquet"
        leaked.write_bytes(shown)
        with pytest.raises(JudgeError, match=rf"(?s)warm \({split}\).*--allow_leaks"):
            run("sft", given)
        assert not (tmp_path / "run").exists()
        if split == "validation":
            leaked.unlink()
    run("sft", {**given, "allow_leaks": True})
    (start,) = json.loads((tmp_path / "run" / RUN_FILE).read_text())["starts"]
    assert start["leaks"]["refused"] > 0
    assert start["leaks"]["allowed"] is True
    assert start["leaks"]["left_out"].keys() == {task.task for task in load_shipped_tasks()}


def test_unchecked_out_of_distribution_tasks_are_named(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    red = load_judge_task(small_world(base) / "red.yaml")
    checked_leaks([red], small_world(base) / "data", allowed=False)
    (warning,) = [record.getMessage() for record in caplog.records]
    (line,) = warning.splitlines()[1:]
    of_role = [task.task for task in load_shipped_tasks() if task.judge.role == "ood"]
    assert line.strip() == f"not in the data root: {', '.join(of_role)}"
