"""An experiment: the plan of its steps, resuming, and the tables of what it has evaluated."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.results import judged_pairs, judged_rows, sample, write_results

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.demo.corpus import SMALL, write_sample
from mtrl_judge.experiments import stages
from mtrl_judge.experiments.arms_file import read_arms, shipped_arms
from mtrl_judge.experiments.experiment import (
    Contestant,
    Experiment,
    plan,
    record_settings,
    report,
    run_experiment,
    set_up,
)
from mtrl_judge.experiments.experiment_tables import MAJORITY, PAPER
from mtrl_judge.experiments.stages import CURVE
from mtrl_judge.harness_plugin.prompt_style import DEMONSTRATIONS_VARIABLE as VARIABLE
from mtrl_judge.rl.callbacks import LOG_FILE
from mtrl_judge.rl.finished_run import RUN_FILE
from mtrl_judge.rl.recipes import resolve_tasks

TRAIN, OOD = ([task.task for task in resolve_tasks([group])] for group in ("mtrl_id", "mtrl_ood"))
ARM = {arm.name: arm for arm in read_arms("paper").arms}
BASE, SFT, OURS = "off the shelf", "SFT-Unified", "MT-RL-Judge"
ROWS = 40


def write_evaluations(
    experiment: Experiment,
    skills: Mapping[str, Sequence[float]],
    *,
    corpus: int | None = 0,
    source: str = "sample",
    again: Mapping[str, float] | None = None,
) -> None:
    """Evaluations of arms, with the share of right verdicts on all tasks for each seed.

    Args:
        again: for each condition, the skill of the evaluation under it.
    """
    for name, by_seed in skills.items():
        arm = experiment.arms_file.arm(name)
        trained = experiment.arms_file.trained(arm)
        for seed, skill in enumerate(by_seed):
            for task in experiment.tasks if trained.one_per_task else [None]:
                judge = Contestant(arm, task, corpus, seed if trained.method else None)
                conditions = {"unchanged": (skill, experiment.evaluated_on(judge))}
                for condition, tasks in experiment.conditions(judge).items():
                    if again and condition in again:
                        conditions[condition] = (again[condition], tasks)
                for condition, (share, tasks) in conditions.items():
                    names = [task.task for task in tasks]
                    rows = {
                        name: judged_pairs(ROWS // 2, share, seed)
                        if name in OOD
                        else judged_rows(ROWS, share, seed)
                        for name in names
                    }
                    write_results(
                        experiment.evaluation_folder(judge, condition),
                        rows,
                        metrics={name: {"majority_macro_f1": 1 / 3} for name in names},
                        about={
                            name: {
                                "source": source,
                                "role": "ood" if name in OOD else "train",
                                "fingerprint": f"rows of {name}, corpus {corpus}",
                            }
                            for name in names
                        },
                    )


# The plan


def test_the_plan_trains_and_evaluates_every_arm(tmp_path: Path) -> None:
    steps = plan(set_up("tiny_cpu", tmp_path / "out")).steps
    assert len(steps) == 31  # sample, base, and its evaluation; 2 x (1 + 6) judges, two steps each
    commands = {step.name: step.command for step in steps}
    names = list(commands)
    assert names[:3] == [
        "sample corpus, corpus 0",
        "tiny base model, corpus 0",
        "off the shelf, corpus 0: evaluation",
    ]
    assert len(commands) == 31
    assert not any(step.is_done() for step in steps)
    assert "RL-Single mtrl_judge_agin_nat, corpus 0, seed 0: training" in names
    assert names[-2:] == [
        "MT-RL-Judge, corpus 0, seed 0: training",
        "MT-RL-Judge, corpus 0, seed 0: evaluation",
    ]
    # Judges are evaluated in the style that they were trained for, on the tasks of their arm.
    ours = commands["MT-RL-Judge, corpus 0, seed 0: evaluation"]
    assert "--style reasoned" in commands["off the shelf, corpus 0: evaluation"]
    assert "--style direct" in commands["SFT-Unified, corpus 0, seed 0: evaluation"]
    assert "--style reasoned" in ours
    assert all(task in ours for task in [*TRAIN, *OOD])
    single = commands["RL-Single mtrl_judge_seetrue, corpus 0, seed 0: evaluation"]
    assert "--tasks mtrl_judge_seetrue " in single
    assert "mjbench" not in single


def write_recipes(folder: Path, **fields: Any) -> str:
    """A recipe for both methods."""
    recipe = {
        "model_name_or_path": "base",
        "use_cpu": True,
        "bf16": False,
        "tasks": ["mtrl_judge_seetrue", "mtrl_judge_unsafebench"],
        **fields,
    }
    for method in ("grpo", "sft"):
        (folder / method).mkdir()
        (folder / method / "mine.yaml").write_text(yaml.safe_dump(recipe))
    return str(folder / "sft" / "mine.yaml")


@pytest.mark.parametrize(
    ("balance", "steps"),
    [
        ("uniform", "--max_steps 25 --eval_steps 5 --save_steps 5"),
        (
            {"mtrl_judge_seetrue": 1.0, "mtrl_judge_unsafebench": 3.0},
            "--balance proportional --max_steps 13 --eval_steps 3 --save_steps 3",
        ),
    ],
)
def test_a_training_on_one_task_has_as_many_of_its_items(
    tmp_path: Path, balance: Any, steps: str
) -> None:
    recipe = write_recipes(tmp_path, balance=balance, max_steps=50, eval_steps=10)
    eval_args = ["--limit", "2", "--model_args", "max_pixels=9"]
    experiment = set_up(recipe, tmp_path, seeds=[3], eval_args=eval_args)
    commands = {step.name: step.command for step in plan(experiment).steps}
    single = commands["RL-Single mtrl_judge_seetrue, seed 3: training"]
    assert f"grpo --recipe {tmp_path}/grpo/mine.yaml" in single
    assert f"--seed 3 --tasks mtrl_judge_seetrue {steps}" in single
    assert "max_steps" not in commands["MT-RL-Judge, seed 3: training"]
    evaluation = commands["off the shelf: evaluation"]
    assert "--model_args pretrained=base,device=cpu,max_pixels=9" in evaluation
    assert evaluation.count("--model_args") == 1
    assert "--limit 2" in evaluation


def test_a_share_of_the_steps_that_only_the_data_would_show_is_refused(tmp_path: Path) -> None:
    recipe = write_recipes(tmp_path, balance="proportional", max_steps=50)
    with pytest.raises(JudgeError) as error:
        set_up(recipe, tmp_path)
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert "arms.SFT-Single: balance: is 'proportional'" in lines[0]
    assert "num_train_epochs" in lines[1]


@pytest.mark.parametrize("file", shipped_arms(), ids=lambda path: path.stem)
def test_shipped_arms_can_be_run_and_are_what_the_help_lists(file: Path, tmp_path: Path) -> None:
    experiment = set_up("tiny_cpu", tmp_path, arms=file.stem, corpora=[1], seeds=[0, 4])
    steps, last = plan(experiment)
    assert len({step.name for step in steps}) == len(steps)
    assert any("corpus 1, seed 4" in name for name in last)
    from mtrl_judge.cli.main import experiment as command

    assert file.stem in str(command.__annotations__["arms"])


def test_controls_ask_the_same_judges_in_other_ways(tmp_path: Path) -> None:
    experiment = set_up("tiny_cpu", tmp_path, arms="controls")
    commands = {step.name: step.command for step in plan(experiment).steps}
    judge = "pretrained=" + str(tmp_path / "runs" / "sft-unified" / "corpus-0" / "seed-0" / "judge")
    asked = commands["SFT-Unified, log-probability, corpus 0, seed 0: evaluation"]
    assert f"{judge},device=cpu,scoring=logprob" in asked
    assert "--style direct" in asked
    assert "--style direct" in commands["off the shelf, direct, corpus 0: evaluation"]
    fitted = commands["off the shelf, fitted threshold, corpus 0: evaluation"]
    assert "scoring=logprob,calibration=bias" in fitted
    assert "mjbench" not in fitted  # no validation rows to fit a threshold to
    assert (
        "--style reasoned --answers data" in commands["SFT, reasoned, corpus 0, seed 0: training"]
    )
    answers = commands["SFT, own answers, corpus 0, seed 0: training"]
    assert "--style reasoned --answers rft" in answers
    single = commands["RL-Single mtrl_judge_seetrue, corpus 0, seed 0: training"]
    assert "--max_steps 10" in single  # a sixth of 60, and as many validations
    assert "--eval_steps 0.25" in single
    again = commands["MT-RL-Judge, corpus 0, seed 0: evaluation, paraphrase_2"]
    assert again.startswith("env MTRL_JUDGE_PROBE=paraphrase_2 mtrl-judge eval")
    assert "--repeats 2" in commands["MT-RL-Judge, corpus 0, seed 0: evaluation, repeats"]
    # An arm that evaluates the judges of another has them trained, even if that arm is left out.
    # Names can have a comma, which also separates them.
    names = ["SFT-Unified, log-probability", "mt-rl-judge,off-the-shelf"]
    only = set_up("tiny_cpu", tmp_path, arms="controls", only=names)
    assert "SFT-Unified, corpus 0, seed 0: training" in [step.name for step in plan(only).steps]


def test_judges_are_shown_what_they_were_trained_with_or_what_their_arm_says(
    tmp_path: Path,
) -> None:
    experiment = set_up("tiny_cpu", tmp_path, arms="demonstrations")
    commands = {step.name: step.command for step in plan(experiment).steps}

    def shown(arm: str) -> dict[str, Any] | None:
        words = shlex.split(commands[f"{arm}: evaluation"])
        given = [word.partition("=")[2] for word in words if word.startswith(VARIABLE)]
        assert ("mjbench" in " ".join(words)) == (not given or '"k":0' in given[0])
        return json.loads(given[0]) if given else None

    retrieved = {"k": 2, "by": ["image"], "encoder": "judge"}
    assert shown("off the shelf, corpus 0") is None
    assert shown("trained without, corpus 0, seed 0") is None
    as_trained = shown("trained with retrieved, corpus 0, seed 0")
    assert as_trained is not None
    assert retrieved.items() <= as_trained.items()
    assert shown("off the shelf, retrieved shown, corpus 0") == as_trained
    training = commands["trained with retrieved, corpus 0, seed 0: training"]
    flags = shlex.split(training)
    assert json.loads(flags[flags.index("--demonstrations") + 1]) == retrieved
    none = shown("trained with retrieved, none shown, corpus 0, seed 0")
    assert none is not None
    assert none["k"] == 0


def test_arms_may_vote(tmp_path: Path) -> None:
    file = tmp_path / "arms.yaml"
    file.write_text(
        "arms: {a: {evaluation: {samples: 4, vote: mean}}, b: }\nconsistency: [repeats, rerun]\n"
    )
    experiment = set_up("tiny_cpu", tmp_path, arms=str(file))
    commands = {step.name: step.command for step in plan(experiment).steps}
    assert "device=cpu,samples=4,vote=mean" in commands["a, corpus 0: evaluation"]
    assert "samples" not in commands["b, corpus 0: evaluation"]
    again = [name.rpartition(", ") for name in commands if "evaluation, " in name]
    asked_again = [(name[0], condition) for name, _, condition in again]
    # Samples follow from the seed, so those of a second answer would be the same.
    assert asked_again == [("a", "rerun"), ("b", "repeats"), ("b", "rerun")]


def test_every_fault_of_an_arms_file_is_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "arms.yaml"
    file.write_text(
        """
        refernce: x
        fields: {alfa: 0.1}
        arms:
          a b: {metod: sft}
          a-b: {method: ppo, fields: {seed: 3}}
          c: {judge: d, evaluation: {stile: direct}}
          trained: {method: grpo, fields: {seed: 3, betta: 0.1, lora_r: many, answers: rft}}
          4: {method: sft}
          "!": {}
        claims:
          - {text: x, arms: [a], tasks: ood, expect: better}
        """
    )
    with pytest.raises(JudgeError) as error:
        set_up("tiny_cpu", tmp_path, arms=str(file))
    lines = [line.removeprefix(f"{file}: ") for line in str(error.value).splitlines()]
    for part in (
        "refernce: unknown key; did you mean 'reference'?",
        "fields.alfa: unknown field; did you mean 'alpha'?",
        "arms.a b: has the folder 'a-b', as 'a-b' has; rename one",
        "arms.a b.metod: unknown key; did you mean 'method'?",
        "arms.a-b.method: is 'ppo'; expected 'grpo' or 'sft'",
        "arms.c.evaluation.stile: unknown key; did you mean 'style'?",
        "arms.trained.fields.seed: is set by the experiment for all arms; leave it out",
        "arms.trained.fields.betta: unknown field; did you mean 'beta'?",
        "arms.trained.fields.lora_r: is 'many'; expected a valid integer",
        "arms.4: is not text; expected a name, quoted",
        "arms.!: expected a name with letters, of at most 60 characters",
        "claims.0.expect: is 'better'; expected 'higher', 'lower' or 'same'",
    ):
        assert part in lines
    assert any(line.startswith("claims.0.arms") for line in lines)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("arms: {a: {judge: b}, b: {}}", "arms.a.judge: 'b' trains no judges"),
        ("arms: {a: {judge: c}, b: {method: sft}}", "arms.a.judge: no arm 'c'; known: a, b"),
        ("arms: {a: {judge: b, method: sft}, b: {method: sft}}", "has a method of its own (sft)"),
        ("arms: {a: {fields: {alpha: 0.5}}}", "arms.a.fields: nothing is trained here"),
        ("arms: {a: {evaluation: {calibration: bias}}}", "calibration: needs scoring: logprob"),
        (
            "arms: {a: {evaluation: {demonstrations: {k: 2, encoder: tfidf}}}}",
            "arms.a.evaluation.demonstrations: encoder: compares nothing",
        ),
        ("arms: {a: {evaluation: {vote: mean}}}", "evaluation.vote: only with samples"),
        ("arms: {a: }\nreference: b", "reference: no arm 'b'; known: a"),
        ("arms: {a: }\nconsistency: [swp]", "consistency: no 'swp'; did you mean 'swap'?"),
        ("arms: [a, b]", "arms: is ['a', 'b']; expected arms by name"),
        ("- a", "expected arms by name, under the key `arms`"),
        ("arms: {a: , a: {method: sft}}", "a: given twice (line 1); keep one"),
        (
            "arms: {a: , b: {method: sft, fields: {alpha: 0.5}}}",
            "arms.b.fields.alpha: unknown field; not a field of sft",
        ),
        (
            "arms: {a: , b: {method: sft, one_per_task: true}}\n"
            "claims: [{text: x, arms: [a, b], tasks: ood, expect: same, rate: f1}]",
            "claims.0.tasks: ood, but the judges of 'b' are evaluated on their own task only",
        ),
        (
            "arms: {a: , b: }\n"
            "claims: [{text: x, arms: [a, b], tasks: train, expect: same, rate: macrof1}]",
            "claims.0.rate: no rate 'macrof1'; did you mean 'macro_f1'?",
        ),
        (
            "arms: {a: , b: }\nclaims: [{text: x, arms: [a, b], tasks: train, expect: same}]",
            "claims.0.margin: is missing",
        ),
        (
            "arms: {a: , b: }\n"
            "claims: [{text: x, arms: [a, b], tasks: train, expect: lower, margin: 0.1}]",
            "claims.0.margin: has no effect with expect: lower",
        ),
    ],
)
def test_arms_that_do_not_fit_together_are_refused(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "arms.yaml"
    file.write_text(text)
    with pytest.raises(JudgeError) as error:
        read_arms(str(file))
    assert part in str(error.value)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"recipe": "tiny_cup"}, "did you mean 'tiny_cpu'?"),
        ({"only": ["sft-singel"]}, "did you mean 'sft-single'?"),
        ({"data_root": Path("nowhere"), "model": "base"}, "data_root: no folder nowhere"),
        ({"data_root": Path(__file__).parent}, "--model: missing"),
        ({"corpora": [0], "model": "base"}, "--corpora: sample corpora and their base models"),
        ({"arms": "papers"}, "did you mean 'paper'?"),
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
    training = plan(set_up("qwen3_vl_30b_a3b", tmp_path, only=[OURS])).steps[0]
    with pytest.raises(JudgeError, match="start the training on each") as error:
        training.run()
    assert training.command in str(error.value)


# Resuming


def test_an_interrupted_training_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = set_up("tiny_cpu", tmp_path, only=[OURS])
    step = plan(experiment).steps[2]
    folder = experiment.run_folder(Contestant(ARM[OURS], None, 0, 0))
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
    write_evaluations(experiment, {OURS: [0.75]})
    assert plan(experiment).steps[3].is_done()
    step.run()
    assert not step.is_done()
    assert not plan(experiment).steps[3].is_done()
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
    record_settings(set_up("tiny_cpu", tmp_path, seeds=[0, 1], corpora=[2]))
    with pytest.raises(JudgeError) as error:
        record_settings(set_up("tiny_cpu", tmp_path, model="another/base"))
    assert "off-the-shelf.json" in str(error.value)
    assert '"model_name_or_path": "another/base"' in str(error.value)


# Tables


def test_the_report_has_means_spreads_and_sources(tmp_path: Path) -> None:
    experiment = set_up("tiny_cpu", tmp_path)
    skills = {BASE: [0.6], "SFT-Single": [0.7], SFT: [0.3, 0.5], OURS: [0.7, 0.9]}
    write_evaluations(experiment, skills)
    shown = str(report(experiment))
    assert "paper" not in shown.replace("paper.yaml", "")
    results = json.loads((tmp_path / "results.json").read_text())
    inside, outside = results["arms"]["train"], results["arms"]["ood"]
    records = results["records"]
    ours = [r["value"] for r in records if r["arm"] == OURS and r["task"] == OOD[0]]
    cell = outside[OURS]["tasks"][OOD[0]]
    assert (cell["mean"], cell["units"]) == (pytest.approx(50 * sum(ours)), 2)
    assert cell["spread"] == pytest.approx(100 * abs(ours[0] - ours[1]) / 2**0.5)
    assert f"{cell['mean']:.2f} ± {cell['spread']:.2f}" in shown
    assert all((tmp_path / record["results"]).is_file() for record in records)
    assert inside["SFT-Single"]["mean"]["units"] == 1
    assert inside[MAJORITY]["mean"]["mean"] == pytest.approx(100 / 3)
    assert "SFT-Single" not in outside
    of_ours = [r for r in records if r["arm"] == OURS and r["seed"] == 1]
    assert {r["run"] for r in of_ours} == {"runs/mt-rl-judge/corpus-0/seed-1"}
    assert {r["task"] for r in of_ours} == {*TRAIN, *OOD}
    with (tmp_path / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(records) == 5 * 9 + 6
    effects = {each["arm"]: each for each in results["effects"]["ood"]}
    assert list(effects) == [SFT, OURS]
    difference = effects[OURS]["difference"]
    assert difference["low"] < difference["value"] < difference["high"]
    means = {arm: outside[arm]["mean"]["mean"] for arm in (BASE, OURS)}
    assert 100 * difference["value"] == pytest.approx(means[OURS] - means[BASE])
    outcomes = {(*c["arms"], c["tasks"]): c["outcome"] for c in results["claims"]}
    assert outcomes[OURS, SFT, "ood"] == "holds"
    assert outcomes[OURS, "RL-Single", "train"] == "cannot be decided"  # RL-Single is missing
    text = (tmp_path / "results.md").read_text()
    assert "each task's share of 60 steps" in text
    assert "what training on other tasks makes it forget" in text
    assert "\n| RL-Single" not in text


def test_results_of_several_folders_can_be_put_together(tmp_path: Path) -> None:
    """Corpora that were finished one after the other, on several machines."""
    merged = set_up("tiny_cpu", tmp_path / "merged", corpora=[0, 1])
    for corpus in (0, 1):
        part = set_up("tiny_cpu", tmp_path / f"part-{corpus}", corpora=[corpus])
        record_settings(part)
        write_evaluations(part, {BASE: [0.5], OURS: [0.8 - corpus / 10]}, corpus=corpus)
        shutil.copytree(part.out, merged.out, dirs_exist_ok=True)
    record_settings(merged)
    assert report(merged) is not None
    results = json.loads((merged.out / "results.json").read_text())
    assert results["arms"]["ood"][OURS]["mean"]["units"] == 2
    (effect,) = results["effects"]["ood"]
    assert effect["units"] == 2
    # A resumed part also reports what another one has finished.
    assert str(report(set_up("tiny_cpu", merged.out, corpora=[1]))) == str(report(merged))


def test_repeated_judgments_are_compared_row_by_row(tmp_path: Path) -> None:
    experiment = set_up("tiny_cpu", tmp_path, arms="controls")
    again = {"paraphrase_1": 0.8, "paraphrase_2": 0.2}
    write_evaluations(experiment, {BASE: [0.8], OURS: [0.8]}, again=again)
    report(experiment)
    results = json.loads((tmp_path / "results.json").read_text())
    rows, other = (judged_rows(ROWS, skill, 0) for skill in again.values())
    same = [a["verdict"] == b["verdict"] for a, b in zip(rows, other, strict=True)]
    expected = 100 * (1 + sum(same) / ROWS) / 2  # the mean of both paraphrases
    assert results["arms"]["train"][OURS]["rates"]["paraphrase"]["mean"] == pytest.approx(expected)
    (claim,) = [c for c in results["claims"] if c["rate"] == "paraphrase"]
    assert claim["effect"]["difference"]["value"] == pytest.approx(0)
    assert claim["outcome"] == "cannot be decided"
    assert "repeats" not in results["arms"]["train"][OURS]["rates"]


def test_the_papers_scores_stand_beside_those_of_real_data(tmp_path: Path) -> None:
    experiment = set_up("tiny_cpu", tmp_path)
    write_evaluations(experiment, {BASE: [0.6], OURS: [0.7]}, source="hub")
    shown = str(report(experiment))
    inside, outside = (x for x in shown.splitlines() if x.startswith("MT-RL-Judge, paper"))
    assert "79.74" in inside  # the mean over the six
    assert outside.split()[2:6] == ["60.59", "–", "82.23", "–"]
    assert "arXiv 2603.11665" in shown
    paper = yaml.safe_load(PAPER.read_text())["macro_f1"]
    assert list(paper) == list(ARM)
    assert {len(numbers) for numbers in paper.values()} == {6, 8}
    assert all(numbers.keys() <= {*TRAIN, *OOD} for numbers in paper.values())


def test_an_arm_without_all_tasks_has_no_mean(tmp_path: Path) -> None:
    experiment = set_up("tiny_cpu", tmp_path)
    write_evaluations(experiment, {BASE: [0.6], "RL-Single": [0.7]})
    shutil.rmtree(
        experiment.out / "evaluations" / "unchanged" / "rl-single" / "corpus-0" / TRAIN[0]
    )
    comparison = report(experiment)
    assert comparison is not None
    assert comparison.arms["train"]["RL-Single"].mean is None
    assert not comparison.effects["train"]
    assert "–" in str(comparison)


def write_two_arms(experiment: Experiment, n: int = 4, **about: Any) -> None:
    """Evaluations of the base model and of MT-RL-Judge; ``about`` changes the metadata of ours."""
    for contestant, changes in (
        (Contestant(ARM[BASE], corpus=0), {}),
        (Contestant(ARM[OURS], corpus=0, seed=0), about),
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
        (4, {"fingerprint": "others"}, "by fingerprint: .* others: MT-RL-Judge, corpus 0, seed 0"),
        (3, {"engine": "vllm"}, "by rows judged: 4 rows: off the shelf, corpus 0 | 3 rows: MT-RL"),
        (4, {"parser": 9}, "by parser: version 1: off the shelf, corpus 0 | version 9: MT-RL"),
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


def test_the_report_says_how_arms_were_asked(tmp_path: Path) -> None:
    experiment = set_up("tiny_cpu", tmp_path)
    write_two_arms(experiment, style="direct", instruction="Say it.")
    report(experiment)
    text = (tmp_path / "results.md").read_text()
    asked = "reasoned (off the shelf; RL-Single; MT-RL-Judge), direct (SFT-Single; SFT-Unified)"
    assert f"- Asked in the style: {asked}." in text
    assert "by style" not in text


# All of it


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_two_arms_are_trained_evaluated_and_compared(
    tmp_path: Path, random_judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sample data, a random tiny judge, the user's own recipe and arms, the stock TRL and
    lmms-eval."""
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
    arms = {
        OURS: {"method": "grpo"},
        "probable": {"judge": OURS, "evaluation": {"scoring": "logprob"}},
    }
    file = tmp_path / "arms.yaml"
    file.write_text(yaml.safe_dump({"arms": arms, "consistency": ["repeats"]}, sort_keys=False))
    experiment = set_up(
        str(tmp_path / "grpo" / "mine.yaml"),
        out,
        arms=str(file),
        model=str(random_judge),
        data_root=data,
        eval_args=["--limit", "2", "--model_args", "max_new_tokens=4"],
    )
    run_experiment(experiment)
    results = json.loads((out / "results.json").read_text())
    assert {record["arm"] for record in results["records"]} == {OURS, "probable"}
    assert "repeats" in results["arms"]["train"][OURS]["rates"]
    assert {record["task"] for record in results["records"]} == {"mtrl_judge_unsafebench", *OOD}
    for record in results["records"]:
        assert (record["source"], record["n"]) == ("sample", 2)
        assert (out / record["results"]).is_file()
    run = json.loads((out / results["records"][-1]["run"] / RUN_FILE).read_text())
    assert run["finished"]["step"] == 1
    before = (out / "steps.json").read_bytes()
    run_experiment(experiment)
    assert (out / "steps.json").read_bytes() == before


def test_arrow_composes_what_an_arm_trained_on_single_tasks(tmp_path: Path) -> None:
    experiment = set_up("tiny_cpu", tmp_path, arms="mixlora", only=["Arrow over LoRA-Single"])
    names = [step.name for step in plan(experiment).steps]
    trainings = [name for name in names if name.endswith("training")]
    assert len(trainings) == len(experiment.tasks)
    assert names[-2:] == [
        f"Arrow over LoRA-Single, corpus 0, seed 0: {what}"
        for what in ("composition", "evaluation")
    ]
    (judge,) = {str(step.command).split("--out ")[1] for step in plan(experiment).steps[-2:-1]}
    assert judge in plan(experiment).steps[-1].command
    file = tmp_path / "arms.yaml"
    file.write_text("arms: {all: {method: grpo}, one: {judge: all, composed: true}}")
    with pytest.raises(JudgeError, match="composed: needs the judges of an arm with one_per_task"):
        read_arms(str(file))
