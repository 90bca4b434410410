"""The paper's comparison: the plan of its steps, resuming, and the tables."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.results import sample, write_results

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.demo.corpus import SMALL, write_sample
from mtrl_judge.experiments import stages
from mtrl_judge.experiments.paper import (
    ARMS,
    Contestant,
    Experiment,
    plan,
    record_settings,
    report,
    run_experiment,
    set_up,
)
from mtrl_judge.experiments.paper_tables import BASE, MAJORITY, OURS, PAPER, SFT, Score, compare
from mtrl_judge.experiments.stages import CURVE
from mtrl_judge.judge_tasks.loading import load_shipped_tasks
from mtrl_judge.rl.callbacks import LOG_FILE
from mtrl_judge.rl.run_record import RUN_FILE

SHIPPED = {task.task: task for task in load_shipped_tasks()}
TRAIN = [name for name, task in SHIPPED.items() if task.judge.role == "train"]
OOD = [name for name, task in SHIPPED.items() if task.judge.role == "ood"]
ARM = {arm.name: arm for arm in ARMS}


def write_evaluations(
    experiment: Experiment, by_arm: Mapping[str, Mapping[int, float]], source: str
) -> None:
    """Evaluations of every arm: one Macro-F1 on all its tasks for each seed."""
    for name, by_seed in by_arm.items():
        arm = ARM[name]
        for seed, score in by_seed.items():
            for task in experiment.tasks if arm.single else [None]:
                contestant = Contestant(arm, task, seed if arm.method else None)
                tasks = [task.task for task in experiment.evaluated_on(contestant)]
                rates = {"macro_f1": score, "majority_macro_f1": 1 / 3, "null_rate": 0.25}
                write_results(
                    experiment.evaluation_folder(contestant),
                    {name: [sample(n, "Yes", "Yes") for n in range(4)] for name in tasks},
                    metrics=dict.fromkeys(tasks, rates),
                    about={task: {"source": source} for task in tasks},
                )


def score_of(
    arm: str, task: str, value: float | None, seed: int | None = 0, **fields: Any
) -> Score:
    score = Score(
        arm=arm,
        seed=seed,
        task=task,
        metric="macro_f1",
        value=value,
        majority=None,
        null_rate=0.0,
        flip_rate=None,
        n=4,
        source="hub",
        fingerprint="rows",
        parser=2,
        results="r.json",
        run=None,
    )
    return replace(score, **fields)


# The plan


def test_the_plan_trains_and_evaluates_every_arm(tmp_path: Path) -> None:
    steps = plan(set_up("tiny_cpu", tmp_path / "out"))
    assert len(steps) == 31  # sample, base, and its evaluation; 2 x (1 + 6) judges, two steps each
    commands = {step.name: step.command for step in steps}
    names = list(commands)
    assert names[:3] == ["sample corpus", "tiny base model", "off the shelf: evaluation"]
    assert len(commands) == 31
    assert not any(step.is_done() for step in steps)
    assert "RL-Single mtrl_judge_agin_nat, seed 0: training" in names
    assert names[-2:] == ["MT-RL-Judge, seed 0: training", "MT-RL-Judge, seed 0: evaluation"]
    # Judges are evaluated in the style that they were trained for, on the tasks of their arm.
    ours = commands["MT-RL-Judge, seed 0: evaluation"]
    assert "--style reasoned" in commands["off the shelf: evaluation"]
    assert "--style direct" in commands["SFT-Unified, seed 0: evaluation"]
    assert "--style reasoned" in ours
    assert all(task in ours for task in [*TRAIN, *OOD])
    single = commands["RL-Single mtrl_judge_seetrue, seed 0: evaluation"]
    assert "--tasks mtrl_judge_seetrue " in single
    assert "mjbench" not in single


def test_a_training_on_one_task_has_a_third_of_the_steps(tmp_path: Path) -> None:
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
    eval_args = ["--limit", "2", "--model_args", "max_pixels=9"]
    experiment = set_up(
        str(tmp_path / "sft" / "mine.yaml"), tmp_path, seeds=[3], eval_args=eval_args
    )
    commands = {step.name: step.command for step in plan(experiment)}
    single = commands["RL-Single mtrl_judge_seetrue, seed 3: training"]
    assert f"grpo --recipe {tmp_path}/grpo/mine.yaml" in single
    assert "--seed 3 --tasks mtrl_judge_seetrue --balance proportional" in single
    assert "--max_steps 17 --eval_steps 4 --save_steps 4" in single
    assert "max_steps" not in commands["MT-RL-Judge, seed 3: training"]
    evaluation = commands["off the shelf: evaluation"]
    assert "--model_args pretrained=base,device=cpu,max_pixels=9" in evaluation
    assert evaluation.count("--model_args") == 1
    assert "--limit 2" in evaluation


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"recipe": "tiny_cup"}, "did you mean 'tiny_cpu'?"),
        ({"only": ["sft-singel"]}, "did you mean 'sft-single'?"),
        ({"data_root": Path("nowhere")}, "data_root: no folder nowhere"),
        ({"recipe": "mine.yaml"}, "mine/grpo/mine.yaml and mine/sft/mine.yaml"),
    ],
)
def test_errors_are_found_before_anything_runs(
    tmp_path: Path, options: dict[str, Any], part: str
) -> None:
    with pytest.raises(JudgeError) as error:
        set_up(out=tmp_path, **{"recipe": "tiny_cpu", **options})
    assert part in str(error.value)


def test_a_training_on_several_machines_is_left_to_the_user(tmp_path: Path) -> None:
    training = plan(set_up("qwen3_vl_30b_a3b", tmp_path, only=[OURS]))[0]
    with pytest.raises(JudgeError, match="start the training on each") as error:
        training.run()
    assert training.command in str(error.value)


# Resuming


def test_an_interrupted_training_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = set_up("tiny_cpu", tmp_path, only=[OURS])
    step = plan(experiment)[2]
    folder = experiment.run_folder(Contestant(ARM[OURS], None, 0))
    commands: list[Sequence[str]] = []

    def train(
        name: str, command: Sequence[str], *, environment: Mapping[str, str], log: Path
    ) -> None:
        commands.append(command)
        assert {**os.environ, **environment}["OMP_NUM_THREADS"]
        folder.mkdir(parents=True, exist_ok=True)
        finished = {"step": 60} if "--resume" in command else None
        (folder / RUN_FILE).write_text(json.dumps({"finished": finished}))
        (folder / LOG_FILE).write_text('{"step": 1, "reward": 0.5, "a/reward": 0.5}\n')

    monkeypatch.setattr(stages, "run_command", train)
    # Of a judge whose run has been removed.
    write_evaluations(experiment, {OURS: {0: 0.75}}, source="hub")
    assert plan(experiment)[3].is_done()
    step.run()
    assert not step.is_done()
    assert not plan(experiment)[3].is_done()
    step.run()
    assert step.is_done()
    assert [command[-1] == "--resume" for command in commands] == [False, True]
    assert commands[0][:4] == [sys.executable, "-m", "mtrl_judge.rl.train", "grpo"]
    (folder / CURVE).unlink()
    step.run()  # only the plot is missing
    assert len(commands) == 2
    assert step.is_done()


def test_the_settings_of_an_experiment_stay_the_same(tmp_path: Path) -> None:
    record_settings(set_up("tiny_cpu", tmp_path, only=[OURS]))
    record_settings(set_up("tiny_cpu", tmp_path, only=["sft-single"]))  # SFT is new here
    record_settings(set_up("tiny_cpu", tmp_path, seeds=[0, 1]))
    with pytest.raises(JudgeError) as error:
        record_settings(set_up("tiny_cpu", tmp_path, model="another/base"))
    assert "grpo_settings.json" in str(error.value)
    assert 'model_name_or_path: was null, is "another/base"' in str(error.value)


# Tables


def test_the_report_has_means_spreads_and_sources(tmp_path: Path) -> None:
    experiment = set_up("tiny_cpu", tmp_path)
    by_arm = {
        BASE: {0: 0.6},
        "SFT-Single": {0: 0.7},
        SFT: {0: 0.40, 1: 0.50},
        OURS: {0: 0.70, 1: 0.72},
    }
    write_evaluations(experiment, by_arm, source="sample")
    shown = str(report(experiment))
    assert "45.00 ± 7.07" in shown
    assert "paper" not in shown
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["seeds"] == [0, 1]
    inside, outside = results["in_distribution"], results["out_of_distribution"]
    cell = outside[OURS]["tasks"]["mtrl_judge_mjbench_safety"]
    assert (cell["mean"], cell["seeds"]) == (pytest.approx(71), 2)
    assert cell["spread"] == pytest.approx(2**0.5)
    assert all((tmp_path / score["results"]).is_file() for score in results["scores"])
    assert outside[OURS]["null_rate"]["mean"] == pytest.approx(25)
    assert inside["SFT-Single"]["mean"]["mean"] == pytest.approx(70)
    assert inside[MAJORITY]["mean"]["mean"] == pytest.approx(100 / 3)
    assert "SFT-Single" not in outside
    ours = [s for s in results["scores"] if s["arm"] == OURS and s["seed"] == 1]
    assert {s["run"] for s in ours} == {"runs/mt-rl-judge/seed-1"}
    assert {s["task"] for s in ours} == {*TRAIN, *OOD}
    with (tmp_path / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(results["scores"]) == 5 * 9 + 6
    text = (tmp_path / "results.md").read_text()
    assert results["conclusion"] in text
    assert "steps, on one task" in text
    assert "RL-Single" not in text


def test_the_papers_scores_stand_beside_those_of_real_data(tmp_path: Path) -> None:
    experiment = set_up("tiny_cpu", tmp_path)
    write_evaluations(experiment, {BASE: {0: 0.6}, OURS: {0: 0.7}}, source="hub")
    shown = str(report(experiment))
    inside, outside = (x for x in shown.splitlines() if x.startswith("MT-RL-Judge, paper"))
    assert "79.74" in inside  # the mean over the six
    assert outside.split()[2:] == ["60.59", "–", "82.23", "–", "–"]
    assert "arXiv 2603.11665" in shown
    paper = yaml.safe_load(PAPER.read_text())["macro_f1"]
    assert list(paper) == list(ARM)
    assert {len(numbers) for numbers in paper.values()} == {6, 8}
    assert all(numbers.keys() <= SHIPPED.keys() for numbers in paper.values())


@pytest.mark.parametrize(
    ("scores", "part"),
    [
        ([0.4, 0.5], "SFT-Unified 45.00 ± 7.07 (-15.00 points)"),
        ([0.5, 0.8], "MT-RL-Judge 65.00 ± 21.21 (+5.00 points, within one standard deviation)"),
        ([0.7, 0.8], "MT-RL-Judge 75.00 ± 7.07 (+15.00 points)"),
        ([0.5], "MT-RL-Judge 50.00 (-10.00 points)"),
    ],
)
def test_the_conclusion_follows_sign_and_spread(scores: list[float], part: str) -> None:
    task, arm = OOD[0], part.split()[0]
    rows = [score_of(BASE, task, 0.6, seed=None)]
    rows += [score_of(arm, task, value, seed) for seed, value in enumerate(scores)]
    conclusion = compare(rows, list(ARM), TRAIN, [task]).conclusion
    assert part in conclusion
    assert f"{BASE} 60.00" in conclusion
    other = OURS if arm == SFT else SFT
    assert f"{other} not evaluated" in conclusion


def test_an_incomplete_row_has_no_mean() -> None:
    scores = [score_of(OURS, TRAIN[0], 0.5), score_of(OURS, TRAIN[1], None)]
    comparison = compare(scores, [OURS], TRAIN[:2], OOD)
    (row,) = comparison.in_distribution.values()
    assert row.mean is None
    assert "has to be evaluated first" in comparison.conclusion
    assert "–" in str(comparison)


def write_two_arms(experiment: Experiment, n: int = 4, **about: Any) -> None:
    """Evaluations of the base model and of MT-RL-Judge; ``about`` changes the metadata of ours."""
    for contestant, changes in (
        (Contestant(ARM[BASE]), {}),
        (Contestant(ARM[OURS], seed=0), about),
    ):
        tasks = [task.task for task in experiment.evaluated_on(contestant)]
        rows = [sample(number, "Yes", "Yes") for number in range(n if changes else 4)]
        write_results(
            experiment.evaluation_folder(contestant),
            dict.fromkeys(tasks, rows),
            model=contestant.name,
            about=dict.fromkeys(tasks, changes),
        )


@pytest.mark.parametrize(
    ("n", "about", "part"),
    [
        (4, {"fingerprint": "others"}, "by fingerprint: .* others: MT-RL-Judge, seed 0"),
        (3, {"engine": "vllm"}, "by rows judged: 4 rows: off the shelf | 3 rows: MT-RL-Judge"),
        (4, {"parser": 9}, "by parser: version 1: off the shelf | version 9: MT-RL-Judge"),
        (4, {"question": "Is it?"}, "by question: .*: off the shelf"),
    ],
)
def test_judges_of_other_rows_or_asked_otherwise_are_not_compared(
    tmp_path: Path, n: int, about: dict[str, Any], part: str
) -> None:
    experiment = set_up("tiny_cpu", tmp_path)
    write_two_arms(experiment, n, **about)
    with pytest.raises(JudgeError, match=part) as caught:
        report(experiment)
    assert f"remove the outdated ones in {tmp_path / 'evaluations'}" in str(caught.value)


def test_judges_are_compared_across_their_styles_and_the_report_says_so(tmp_path: Path) -> None:
    experiment = set_up("tiny_cpu", tmp_path)
    write_two_arms(experiment, style="direct", instruction="Say it.", scoring="logprob")
    report(experiment)
    text = (tmp_path / "results.md").read_text()
    assert "all tasks by style: reasoned: off the shelf | direct: MT-RL-Judge, seed 0" in text
    assert "all tasks by scoring: generation: off the shelf | logprob: MT-RL-Judge" in text


# All of it


@pytest.mark.slow
def test_two_arms_are_trained_evaluated_and_compared(
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
    experiment = set_up(
        str(tmp_path / "grpo" / "mine.yaml"),
        out,
        model=str(random_judge),
        data_root=data,
        only=["off-the-shelf", "mt-rl-judge"],
        eval_args=["--limit", "2", "--model_args", "max_new_tokens=4"],
    )
    run_experiment(experiment)
    results = json.loads((out / "results.json").read_text())
    assert {score["arm"] for score in results["scores"]} == {BASE, OURS}
    assert {score["task"] for score in results["scores"]} == {"mtrl_judge_unsafebench", *OOD}
    for score in results["scores"]:
        assert (score["source"], score["n"]) == ("sample", 2)
        assert (out / score["results"]).is_file()
    run = json.loads((out / results["scores"][-1]["run"] / RUN_FILE).read_text())
    assert run["finished"]["step"] == 1
    before = (out / "steps.json").read_bytes()
    run_experiment(experiment)
    assert (out / "steps.json").read_bytes() == before
