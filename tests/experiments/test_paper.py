"""The paper's comparison: the plan of its steps, going on where it was, and the tables."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.results import sample, write_results

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.demo.corpus import SMALL, write_sample
from mtrl_judge.experiments import paper as experiment
from mtrl_judge.experiments import paper_tables as comparison
from mtrl_judge.experiments import stages
from mtrl_judge.experiments.demo import run_demo
from mtrl_judge.experiments.paper import (
    ARMS,
    Contestant,
    Experiment,
    keep_settings,
    plan,
    run_experiment,
    set_up,
)
from mtrl_judge.experiments.paper_tables import BASE, OURS, SFT, Figure, compare, printed
from mtrl_judge.experiments.pipeline import Step, listed, run_steps
from mtrl_judge.experiments.stages import CURVE
from mtrl_judge.judge_tasks.loading import load_shipped_tasks
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD, DATA_CARD
from mtrl_judge.rl.callbacks import LOG_FILE
from mtrl_judge.rl.learning_curve import learning_curve
from mtrl_judge.rl.run_record import RUN_FILE

SHIPPED = {task.task: task for task in load_shipped_tasks()}
TRAIN = [name for name, task in SHIPPED.items() if task.judge.role == "train"]
OOD = [name for name, task in SHIPPED.items() if task.judge.role == "ood"]
ARM = {arm.name: arm for arm in ARMS}


def tiny(out: Path, *only: str, **fields: Any) -> Experiment:
    return set_up(
        "tiny_cpu", out, **{"seeds": [0], "model": None, "data_root": None, **fields}, only=only
    )


def write_scores(
    folder: Path, scores: Mapping[str, float], *, source: str = "folder", n: int = 4
) -> Path:
    """The files of a run with one Macro-F1 on each task."""
    return write_results(
        folder / "model",
        {task: [sample(number, "Yes", "Yes") for number in range(n)] for task in scores},
        metrics={
            task: {"macro_f1": score, "majority_macro_f1": 1 / 3, "null_rate": 0.25}
            for task, score in scores.items()
        },
        about={
            task: {
                "role": SHIPPED[task].judge.role,
                "source": source,
                "fingerprint": f"{task}-rows",
            }
            for task in scores
        },
    )


def write_evaluations(
    made: Experiment, by_arm: Mapping[str, Mapping[int, float]], **how: Any
) -> None:
    """Each arm with one score on all its tasks for each seed (of the base model for all)."""
    for name, by_seed in by_arm.items():
        for seed, score in by_seed.items():
            arm = ARM[name]
            tasks = made.tasks if arm.single else [None]
            for task in tasks:
                judge = Contestant(arm, task, seed if arm.method else None)
                names = [each.task for each in made.judged_on(judge)]
                write_scores(made.evaluation_folder(judge), dict.fromkeys(names, score), **how)


def figure(arm: str, task: str, score: float, seed: int | None = 0, **fields: Any) -> Figure:
    shown: dict[str, Any] = {
        "majority_macro_f1": None,
        "null_rate": 0.0,
        "flip_rate": None,
        "n": 4,
        "source": "hub",
        "fingerprint": "rows",
        "results": "r.json",
        "run": None,
    }
    return Figure(arm=arm, seed=seed, task=task, macro_f1=score, **{**shown, **fields})


# Plan


def test_the_plan_trains_and_judges_every_arm(tmp_path: Path) -> None:
    steps = plan(tiny(tmp_path / "out"))
    assert len(steps) == 31  # sample, base, and its evaluation; 2 x (1 + 6) judges, two steps each
    names = [step.name for step in steps]
    assert names[:3] == ["the sample corpus", "the tiny base model", "off the shelf: evaluation"]
    assert len(set(names)) == 31
    assert not any(step.is_done() for step in steps)
    assert "RL-Single mtrl_judge_agin_nat, seed 0: training" in names
    assert names[-2:] == ["MT-RL-Judge, seed 0: training", "MT-RL-Judge, seed 0: evaluation"]


def test_a_judge_is_asked_in_the_style_it_was_trained_for(tmp_path: Path) -> None:
    commands = {step.name: step.command for step in plan(tiny(tmp_path))}
    assert "--style reasoned" in commands["off the shelf: evaluation"]
    assert "--style direct" in commands["SFT-Unified, seed 0: evaluation"]
    assert "--style reasoned" in commands["MT-RL-Judge, seed 0: evaluation"]
    single = commands["RL-Single mtrl_judge_seetrue, seed 0: evaluation"]
    assert "--tasks mtrl_judge_seetrue " in single
    assert "mjbench" not in single
    assert all(task in commands["MT-RL-Judge, seed 0: evaluation"] for task in [*TRAIN, *OOD])


def test_a_run_on_one_task_has_a_third_of_the_steps(tmp_path: Path) -> None:
    recipe = {
        "model_name_or_path": "base",
        "use_cpu": True,
        "bf16": False,
        "balance": {"mtrl_judge_seetrue": 1.0, "mtrl_judge_unsafebench": 2.0},
        "tasks": ["mtrl_judge_seetrue", "mtrl_judge_unsafebench"],
        "max_steps": 50,
        "eval_steps": 10,
    }
    for method in ("grpo", "sft"):
        (tmp_path / method).mkdir()
        (tmp_path / method / "mine.yaml").write_text(yaml.safe_dump(recipe))
    made = set_up(
        str(tmp_path / "sft" / "mine.yaml"), tmp_path, seeds=[3], model=None, data_root=None
    )
    commands = {step.name: step.command for step in plan(made)}
    single = commands["RL-Single mtrl_judge_seetrue, seed 3: training"]
    assert f"grpo --recipe {tmp_path}/grpo/mine.yaml" in single
    assert "--seed 3 --tasks mtrl_judge_seetrue --balance proportional" in single
    assert "--max_steps 17 --eval_steps 4 --save_steps 4" in single
    assert "max_steps" not in commands["MT-RL-Judge, seed 3: training"]


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"recipe": "tiny_cup"}, "did you mean 'tiny_cpu'?"),
        ({"only": ["sft-singel"]}, "did you mean 'sft-single'?"),
        ({"data_root": Path("nowhere")}, "--data-root: no folder nowhere"),
        ({"recipe": "mine.yaml"}, "mine/grpo/mine.yaml and mine/sft/mine.yaml"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(
    tmp_path: Path, fields: dict[str, Any], part: str
) -> None:
    given = {"recipe": "tiny_cpu", "seeds": [0], "model": None, "data_root": None, **fields}
    with pytest.raises(JudgeError) as error:
        set_up(out=tmp_path, **given)
    assert part in str(error.value)


def test_several_machines_are_left_to_the_user(tmp_path: Path) -> None:
    made = set_up("qwen3_vl_30b_a3b", tmp_path, seeds=[0], model=None, data_root=None, only=[OURS])
    training = plan(made)[0]
    with pytest.raises(JudgeError, match="start it on each") as error:
        training.run()
    assert training.command in str(error.value)


# Going on


def marking(folder: Path, name: str, *, fails: bool = False) -> Step:
    """A step that writes a file, and a line in a diary each time that it runs."""

    def run() -> None:
        with (folder / "diary").open("a") as diary:
            diary.write(f"{name}\n")
        if fails:
            raise JudgeError(f"{name}: no")
        (folder / name).touch()

    return Step(name, "mark", (folder / name).is_file, run, f"touch {name}")


def test_what_is_done_is_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    durations = tmp_path / "steps.json"
    broken = [marking(tmp_path, "a"), marking(tmp_path, "b", fails=True), marking(tmp_path, "c")]
    with pytest.raises(JudgeError, match="b: no"):
        list(run_steps(broken, durations))
    steps = [marking(tmp_path, name) for name in "abc"]
    assert "[1/3] a: done" in listed(steps)
    assert [step.name for step in run_steps(steps, durations)] == ["b", "c"]
    assert list(run_steps(steps, durations)) == []
    assert (tmp_path / "diary").read_text().split() == ["a", "b", "b", "c"]
    took = json.loads(durations.read_text())
    assert all(each["done"] and each["kind"] == "mark" for each in took.values())
    assert "[2/3] b" in capsys.readouterr().out


def test_a_step_that_leaves_nothing_whole_is_an_error(tmp_path: Path) -> None:
    step = Step("empty", "mark", lambda: False, lambda: None, "true")
    with pytest.raises(JudgeError, match="empty: ran to its end"):
        list(run_steps([step], tmp_path / "steps.json"))


def test_sigterm_lets_a_training_write_its_checkpoint(tmp_path: Path) -> None:
    child = (
        "import pathlib, signal, sys, time\n"
        "def stop(*_): pathlib.Path('saved').touch(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop); pathlib.Path('ready').touch(); time.sleep(60)\n"
    )
    parent = (
        "import os, pathlib, sys\n"
        "from mtrl_judge.experiments.pipeline import Step, run_child, run_steps\n"
        f"run = lambda: run_child('t', [sys.executable, '-c', {child!r}], os.environ, None)\n"
        "list(run_steps([Step('t', 'train', lambda: False, run, '')], pathlib.Path('s.json')))\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert (tmp_path / "saved").exists()
    assert json.loads((tmp_path / "s.json").read_text())["t"]["done"] is False


def test_a_training_that_was_broken_off_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny(tmp_path, OURS)
    (step,) = [step for step in plan(made) if step.name == "MT-RL-Judge, seed 0: training"]
    folder = made.run_folder(Contestant(ARM[OURS], None, 0))
    commands: list[list[str]] = []

    def train(_: str, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        commands.append(command)
        assert environment["OMP_NUM_THREADS"] == os.environ.get("OMP_NUM_THREADS", "1")
        folder.mkdir(parents=True, exist_ok=True)
        finished = {"step": 60} if "--resume" in command else None
        (folder / RUN_FILE).write_text(json.dumps({"finished": finished}))
        (folder / LOG_FILE).write_text('{"step": 1, "reward": 0.5, "a/reward": 0.5}\n')

    monkeypatch.setattr(stages, "run_child", train)
    step.run()
    assert not step.is_done()
    step.run()
    assert step.is_done()
    assert [command[-1] == "--resume" for command in commands] == [False, True]
    assert commands[0][:4] == [sys.executable, "-m", "mtrl_judge.rl.train", "grpo"]
    (folder / CURVE).unlink()
    step.run()  # only the picture is missing
    assert len(commands) == 2
    assert step.is_done()


def test_an_experiment_keeps_its_settings(tmp_path: Path) -> None:
    keep_settings(tiny(tmp_path, OURS))
    keep_settings(tiny(tmp_path, "sft-single"))  # new to it, and nothing to differ from
    keep_settings(tiny(tmp_path, seeds=[0, 1]))
    with pytest.raises(JudgeError) as error:
        keep_settings(tiny(tmp_path, model="another/base"))
    assert 'grpo model_name_or_path: null then, "another/base" now' in str(error.value)


# Tables


def test_the_report_has_mean_and_spread_and_says_where_from(tmp_path: Path) -> None:
    made = tiny(tmp_path)
    write_evaluations(
        made,
        {
            BASE: {0: 0.6},
            "SFT-Single": {0: 0.7},
            SFT: {0: 0.40, 1: 0.50},
            OURS: {0: 0.70, 1: 0.72},
        },
        source="sample",
    )
    shown = experiment.report(made)
    assert shown is not None
    assert "45.00 ± 7.07" in shown
    assert "paper" not in shown
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["seeds"] == [0, 1]
    cell = results["out_of_distribution"][OURS]["tasks"]["mtrl_judge_mjbench_safety"]
    assert (cell["mean"], cell["seeds"]) == (pytest.approx(71), 2)
    assert cell["spread"] == pytest.approx(2**0.5)
    assert all((tmp_path / file).is_file() for file in cell["results"])
    assert results["out_of_distribution"][OURS]["null_rate"]["mean"] == pytest.approx(25)
    assert results["in_distribution"]["SFT-Single"]["mean"]["mean"] == pytest.approx(70)
    assert results["in_distribution"]["constant judge"]["mean"]["mean"] == pytest.approx(100 / 3)
    assert "SFT-Single" not in results["out_of_distribution"]
    ours = [f for f in results["figures"] if f["arm"] == OURS and f["seed"] == 1]
    assert {f["run"] for f in ours} == {"runs/mt-rl-judge/seed-1"}
    assert {f["fingerprint"] for f in ours} == {f"{task}-rows" for task in [*TRAIN, *OOD]}
    with (tmp_path / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(results["figures"]) == 5 * 9 + 6
    text = (tmp_path / "results.md").read_text()
    assert results["conclusion"] in text
    assert "steps a task" in text
    assert "RL-Single" not in text


def test_the_paper_stands_beside_real_data(tmp_path: Path) -> None:
    made = tiny(tmp_path)
    write_evaluations(made, {BASE: {0: 0.6}, OURS: {0: 0.7}}, source="hub")
    shown = experiment.report(made)
    assert shown is not None
    inside, outside = (x for x in shown.splitlines() if x.startswith("MT-RL-Judge, paper"))
    assert "79.74" in inside  # the mean over the six
    assert outside.split()[2:] == ["60.59", "–", "82.23", "–", "–"]
    assert "arXiv 2603.11665" in shown


def test_the_papers_numbers_are_of_arms_and_tasks_there_are() -> None:
    paper = yaml.safe_load(comparison.PAPER.read_text())["macro_f1"]
    assert list(paper) == list(ARM)
    assert {len(numbers) for numbers in paper.values()} == {6, 8}
    assert all(numbers.keys() <= SHIPPED.keys() for numbers in paper.values())


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        (
            [0.4, 0.5],
            "SFT-Unified fell below it (45.00, -15.00 points, more than its spread ov",
        ),
        (
            [0.5, 0.8],
            "MT-RL-Judge kept it (65.00, +5.00 points, within its spread over 2 seeds",
        ),
        ([0.7, 0.8], "MT-RL-Judge raised it (75.00, +15.00 points, more than its spread"),
        ([0.5], "MT-RL-Judge fell below it (50.00, -10.00 points, one seed, so its spread is unkn"),
        ([0.6], "SFT-Unified kept it (60.00, no change)"),
    ],
)
def test_the_conclusion_follows_sign_and_spread(scores: list[float], sentence: str) -> None:
    (task,) = OOD[:1]
    arm = sentence.split()[0]
    figures = [figure(BASE, task, 0.6, seed=None)]
    figures += [figure(arm, task, score, seed) for seed, score in enumerate(scores)]
    said = compare(figures, list(ARM), TRAIN, [task]).conclusion
    assert sentence in said
    assert f"{BASE} 60.00" in said
    other = OURS if arm == SFT else SFT
    assert f"{other} has not been evaluated" in said


def test_a_table_that_is_not_whole_has_no_mean() -> None:
    figures = [figure(OURS, TRAIN[0], 0.5), figure(OURS, TRAIN[1], float("nan"))]
    compared = compare(figures, [OURS], TRAIN[:2], OOD)
    (row,) = compared.in_distribution.rows
    assert row.mean is None
    assert compared.conclusion.startswith("Out of distribution nothing can be said")
    assert "–" in printed(compared)


@pytest.mark.parametrize("fields", [{"fingerprint": "others"}, {"n": 3}])
def test_arms_that_were_judged_on_other_rows_are_not_compared(fields: dict[str, Any]) -> None:
    figures = [figure(BASE, OOD[0], 0.5), figure(OURS, OOD[0], 0.5, results="new.json", **fields)]
    with pytest.raises(JudgeError, match=r"judged on other rows: 4 \(rows\) in r.json"):
        compare(figures, list(ARM), TRAIN, OOD)


# Curve


@pytest.mark.parametrize("training", [{"reward": 0.5, "a/reward": 0.4}, {"loss": 2.0}])
def test_a_curve_is_drawn_from_a_log(tmp_path: Path, training: dict[str, float]) -> None:
    lines = [{"step": step, **training} for step in range(1, 30)]
    lines += [{"step": 10, "eval_macro_f1": 0.4, "eval_a/macro_f1": 0.4, "eval_b/macro_f1": None}]
    log, out = tmp_path / "log.jsonl", tmp_path / "curve.png"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    learning_curve(log, out)
    assert out.read_bytes().startswith(b"\x89PNG")
    log.write_text('{"step": 1}\n')
    with pytest.raises(JudgeError, match="has no figures"):
        learning_curve(log, out)
    with pytest.raises(JudgeError, match="cannot be read"):
        learning_curve(tmp_path / "none.jsonl", out)


# Demo


def test_a_demo_that_is_done_shows_before_and_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "seed-5"
    for card in (folder / "data" / DATA_CARD, folder / "base" / CHECKPOINT_CARD):
        card.parent.mkdir(parents=True)
        card.write_text("{}")
    (folder / "run").mkdir()
    (folder / "run" / RUN_FILE).write_text('{"finished": {"step": 1}}')
    (folder / "run" / CURVE).touch()
    for when, score in (("before", 0.25), ("after", 0.75)):
        write_scores(folder / when, dict.fromkeys(SHIPPED, score))
    run_demo(tmp_path, seed=5)
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if line.startswith("mtrl_judge_seetrue")]
    assert line.split()[1:] == ["train", "0.250", "0.750", "0.333", "0.250", "–", "4"]
    assert str(folder / "run" / CURVE) in shown


# The whole of it


@pytest.mark.slow
def test_two_arms_are_trained_judged_and_compared(
    tmp_path: Path, random_judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sample data, a random tiny judge, a recipe of the user's, the stock TRL and lmms-eval."""
    data = tmp_path / "data"
    write_sample(data, sizes=replace(SMALL, train=16, validation=8, test=8, test_pairs=4))
    recipe: dict[str, Any] = {
        "tasks": ["mtrl_judge_unsafebench"],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "max_steps": 1,
        "eval_strategy": "no",
        "per_device_train_batch_size": 4,
    }
    grpo = {**recipe, "num_generations": 4, "max_completion_length": 4}
    for method, fields in (("grpo", grpo), ("sft", recipe)):
        path = tmp_path / method / "mine.yaml"
        path.parent.mkdir()
        path.write_text(yaml.safe_dump(fields))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "out"
    arguments: dict[str, Any] = {
        "model": str(random_judge),
        "data_root": data,
        "only": ["off-the-shelf", "mt-rl-judge"],
        "eval_args": ["--limit", "2", "--model_args", "max_new_tokens=4"],
    }
    run_experiment(str(tmp_path / "grpo" / "mine.yaml"), out, **arguments)
    results = json.loads((out / "results.json").read_text())
    assert {figure["arm"] for figure in results["figures"]} == {BASE, OURS}
    assert {figure["task"] for figure in results["figures"]} == {"mtrl_judge_unsafebench", *OOD}
    for figure in results["figures"]:
        assert (figure["source"], figure["n"]) == ("sample", 2)
        assert (out / figure["results"]).is_file()
    run = json.loads((out / results["figures"][-1]["run"] / RUN_FILE).read_text())
    assert run["finished"]["step"] == 1
    before = (out / "steps.json").read_bytes()
    run_experiment(str(tmp_path / "grpo" / "mine.yaml"), out, **arguments)
    assert (out / "steps.json").read_bytes() == before
