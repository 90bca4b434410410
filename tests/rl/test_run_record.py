"""A run's record: enough to understand it, to repeat it, and to refuse a different one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.rl.callbacks import LOG_FILE, JsonLog
from mtrl_judge.rl.checkpoints import MANIFEST
from mtrl_judge.rl.finished_run import RUN_FILE
from mtrl_judge.rl.run_record import (
    RECIPE_FILE,
    finish_record,
    finished_now,
    start_record,
)
from mtrl_judge.rl.settings import Settings, parse_settings

TASKS = ("mtrl_judge_agin_nat", "mtrl_judge_agin_rat")


@pytest.fixture(scope="module")
def data(data_root: Path) -> dict[str, dict[str, Any]]:
    return {name: load_rows(find_task(name), "train", data_root).record for name in TASKS}


def settings_of(folder: Path, *flags: str) -> Settings:
    cpu = ("--use_cpu", "true", "--bf16", "false", "--gradient_checkpointing", "false")
    batch = ("--per_device_train_batch_size", "8", "--max_steps", "6")
    where = ("--output_dir", str(folder), "--model_name_or_path", "Qwen/Qwen3-VL-4B-Instruct")
    return parse_settings("grpo", [*where, *cpu, *batch, "--tasks", *TASKS, *flags])


def run_of(folder: Path) -> Any:
    return json.loads((folder / RUN_FILE).read_text())


def test_a_start_records_what_it_was_made_from(data: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    start_record(folder, settings_of(folder, "--alpha", "0.25"), data)
    run = run_of(folder)
    assert run["method"] == "grpo"
    assert run["data"] == data
    (start,) = run["starts"]
    assert start["settings"]["alpha"] == 0.25
    assert start["versions"]["torch"]
    assert start["git"] is None or len(start["git"]["commit"]) == 40
    assert (start["seed"], start["device"]) == (42, "cpu")
    engine = {"type": "one process", "version": None, "processes": 1, "mixed_precision": "no"}
    assert start["engine"] == engine
    assert start["from_step"] == 0


def test_the_recipe_of_a_run_gives_its_settings_again(data: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ("--alpha", "0.25", "--balance", "2.0", "--hub_token", "secret")
    settings = settings_of(folder, *flags)
    start_record(folder, settings, data)
    assert "secret" not in (folder / RECIPE_FILE).read_text() + (folder / RUN_FILE).read_text()
    again = parse_settings("grpo", ["--recipe", str(folder / RECIPE_FILE)])
    assert again.judge == settings.judge
    assert {**again.given, "hub_token": "secret"} == settings.given


def test_a_new_run_needs_an_empty_folder(data: Any, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(JudgeError, match="is not empty and holds no run; choose another"):
        start_record(tmp_path, settings_of(tmp_path), data)
    folder = tmp_path / "run"
    start_record(folder, settings_of(folder), data)
    write_checkpoint(folder, 40)
    with pytest.raises(JudgeError, match="continue from step 40 with --resume, or choose another"):
        start_record(folder, settings_of(folder), data)
    finish_record(folder, finished_now(60, {"macro_f1": 0.5}))
    for flags in ((), ("--resume", "true")):
        with pytest.raises(JudgeError, match="finished at step 60"):
            start_record(folder, settings_of(folder, *flags), data)
    # More steps extend it, and then belong to it.
    for flags in (("--max_steps", "80"), ("--max_steps", "80")):
        start_record(folder, settings_of(folder, "--resume", "true", *flags), data)
    with pytest.raises(JudgeError, match="max_steps: was 80, now 6"):
        start_record(folder, settings_of(folder, "--resume", "true"), data)


def write_checkpoint(folder: Path, step: int) -> None:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir()
    (checkpoint / MANIFEST).write_text('{"files": {}}')


def test_a_resumed_run_is_the_one_that_was_started(data: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(JudgeError, match="holds no run; leave --resume out"):
        start_record(folder, settings_of(folder, "--resume", "true"), data)
    start_record(folder, settings_of(folder), data)
    write_checkpoint(folder, 3)
    # A default written out, and what has no part in the learning, make it no other run.
    free = ("--alpha", "0.1", "--save_steps", "7", "--eval_steps", "7", "--report_to", "wandb")
    start_record(folder, settings_of(folder, "--resume", "true", *free), data)
    assert [start["from_step"] for start in run_of(folder)["starts"]] == [0, 3]
    other = ("--learning_rate", "0.5", "--num_generations", "4", "--seed", "7", "--alpha", "0.2")
    rat = {**data[TASKS[1]], "fingerprint": "other"}
    with pytest.raises(JudgeError) as caught:
        start_record(
            folder, settings_of(folder, "--resume", "true", *other), {**data, TASKS[1]: rat}
        )
    text = str(caught.value)
    assert "learning_rate: was 1e-06, now 0.5" in text
    assert "alpha: was 0.1, now 0.2" in text
    assert "seed: was 42, now 7" in text
    assert "num_generations: was 8, now 4" in text
    assert f"data: {TASKS[1]}: was 8 rows" in text
    assert f"data: {TASKS[0]}" not in text
    fewer = {TASKS[0]: data[TASKS[0]]}
    with pytest.raises(JudgeError, match=f"data: {TASKS[1]}: no longer among the tasks"):
        start_record(folder, settings_of(folder, "--resume", "true"), fewer)
    record = run_of(folder)
    assert len(record["starts"]) == 2
    record["parser"] -= 1
    (folder / RUN_FILE).write_text(json.dumps(record))
    with pytest.raises(JudgeError, match=rf"parser: was version {record['parser']}, now version"):
        start_record(folder, settings_of(folder, "--resume", "true"), data)


def test_a_run_is_resumed_by_its_engine(data: Any, tmp_path: Path) -> None:
    """Checkpoints of FSDP, DeepSpeed and DDP have different forms."""
    folder = tmp_path / "run"
    start_record(folder, settings_of(folder), data)
    run = run_of(folder)
    run["starts"][0]["engine"] |= {"type": "FSDP", "version": 2}
    (folder / RUN_FILE).write_text(json.dumps(run))
    with pytest.raises(JudgeError, match=r'engine: was {"type": "FSDP", .*, now {"type": "one pr'):
        start_record(folder, settings_of(folder, "--resume", "true"), data)


def test_a_broken_record_is_named(data: Any, tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text("{")
    with pytest.raises(JudgeError, match=r"run\.json: not valid JSON"):
        start_record(tmp_path, settings_of(tmp_path, "--resume", "true"), data)


def state_at(step: int) -> TrainerState:
    return TrainerState(epoch=step / 10, global_step=step)


def log(journal: JsonLog, step: int, **figures: Any) -> None:
    journal.on_log(None, state_at(step), TrainerControl(), figures)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()]


def test_the_log_has_each_step_once_after_a_kill(tmp_path: Path) -> None:
    import numpy as np
    import torch

    journal = JsonLog(tmp_path)
    log(journal, 1, loss=0.5, entropy=math.nan, text="no figure", reward=None)
    log(journal, 2, loss=np.float32(0.25), grad_norm=torch.tensor(math.inf))
    log(journal, 2, eval_macro_f1=0.75)
    log(journal, 2, train_runtime=9.0, train_loss=0.5)  # stopped here by a signal once
    log(journal, 3, loss=0.125)
    with (tmp_path / LOG_FILE).open("a") as file:
        file.write('{"step": 4, "lo')
    resumed = JsonLog(tmp_path)
    resumed.on_train_begin(None, state_at(2), TrainerControl())
    log(resumed, 3, loss=0.0625)
    figures = [
        {k: v for k, v in line.items() if k not in ("epoch", "time")} for line in lines_of(tmp_path)
    ]
    assert figures == [
        {"step": 1, "loss": 0.5, "entropy": None, "reward": None},
        {"step": 2, "loss": 0.25, "grad_norm": None},
        {"step": 2, "eval_macro_f1": 0.75},
        {"step": 3, "loss": 0.0625},
    ]


def test_a_run_that_begins_again_logs_its_start_once(tmp_path: Path) -> None:
    log(JsonLog(tmp_path), 0, eval_macro_f1=0.75)  # of eval_on_start, before a crash
    resumed = JsonLog(tmp_path)
    resumed.on_train_begin(None, state_at(0), TrainerControl())
    log(resumed, 0, eval_macro_f1=0.75)
    assert [line["step"] for line in lines_of(tmp_path)] == [0]


def test_only_the_main_process_logs(tmp_path: Path) -> None:
    state = TrainerState(global_step=1, is_world_process_zero=False)
    JsonLog(tmp_path).on_log(None, state, TrainerControl(), {"loss": 1.0})
    assert not (tmp_path / LOG_FILE).exists()
