"""Complete runs on a tiny judge: what they learn and leave unchanged, and how they resume."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.commands import held_elsewhere, python_module
from support.images import image_cell
from support.tasks import write_split, write_yaml
from support.tiny_models import tiny_llava_onevision, tiny_qwen2_5_vl, tiny_qwen3_vl
from support.training import (
    GRPO,
    TASKS,
    VALUES,
    colors,
    environment,
    guessing_judge,
    log_of,
    random_judge,
    run,
    small_world,
    values,
)
from transformers import AutoModelForImageTextToText, AutoProcessor

from mtrl_judge.judge_tasks.loading import find_task, load_judge_task
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.judge_tasks.spec import ANSWERS_FILE
from mtrl_judge.judge_tasks.verdicts import parse_verdict
from mtrl_judge.models.checkpoint import read_checkpoint_card
from mtrl_judge.models.transformers_judge import TransformersJudge
from mtrl_judge.rl import model as weights
from mtrl_judge.rl import train
from mtrl_judge.rl.arguments import Method
from mtrl_judge.rl.callbacks import LOG_FILE, JsonLog
from mtrl_judge.rl.checkpoints import latest_checkpoint
from mtrl_judge.rl.rejection_sampling import read_answers
from mtrl_judge.rl.settings import as_flags
from mtrl_judge.rl.sft_trainer import JudgeSFTTrainer

TRAIN = "mtrl_judge.rl.train"
DISTINCT = "{'support.training:distinct_tokens': 1.0}"
ONE_STEP = {"max_steps": 1, "save_steps": 1}


pytestmark = pytest.mark.usefixtures("one_thread")


def grpo(base: Path, out: Path, judge: Path, *tasks: str, **fields: Any) -> dict[str, Any]:
    return values(small_world(base), out, judge, *tasks, **{**GRPO, **fields})


def command(method: Method, given: dict[str, Any]) -> list[str]:
    """The words after `mtrl-judge train`."""
    return [method, *as_flags(given)]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return weights


def changed(before: Path, after: Path) -> set[str]:
    old, new = weights_of(before), weights_of(after)
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


# Learning


def test_sft_teaches_a_random_judge(base: Path) -> None:
    """To answer in form, and correctly although a third of the labels was wrong."""
    random, taught = random_judge(base), guessing_judge(base)
    rows = [
        JudgeRow.from_doc(doc)
        for doc in load_rows(
            load_judge_task(small_world(base) / "red.yaml"), "test", small_world(base) / "data"
        ).rows.dataset
    ]
    right = {}
    for folder in (random, taught):
        judge = TransformersJudge(
            AutoModelForImageTextToText.from_pretrained(folder),
            AutoProcessor.from_pretrained(folder),
        )
        texts = judge.judge(rows, "direct", batch_size=8, max_new_tokens=4)
        right[folder] = fmean(t == r.label for t, r in zip(texts, rows, strict=True))
    assert right[random] < 0.2
    assert right[taught] > 0.8


def test_grpo_raises_the_reward(base: Path, tmp_path: Path) -> None:
    """From a judge that is right somewhat more often than not to one that always is."""
    fields = {"max_steps": 30, "save_steps": 15, "learning_rate": 3e-4}
    out = run(
        "grpo",
        grpo(base, tmp_path, guessing_judge(base), per_device_train_batch_size=16, **fields),
    )
    rewards = [line["reward"] for line in log_of(out.parent) if "reward" in line]
    assert len(rewards) == 30
    first, last = fmean(rewards[:6]), fmean(rewards[-6:])
    assert 0.4 < first < last - 0.1
    assert last > 0.9
    finished = json.loads((out.parent / "run.json").read_text())["finished"]
    assert finished["scores"]["macro_f1"] == 1.0


def test_of_an_sft_example_the_answer_alone_carries_loss(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[dict[str, Any]] = []
    compute_loss = JudgeSFTTrainer.compute_loss

    def recorded(self: Any, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        batches.append(dict(inputs))
        return compute_loss(self, model, inputs, *rest, **named)

    monkeypatch.setattr(JudgeSFTTrainer, "compute_loss", recorded)
    judge = run("sft", values(small_world(base), tmp_path, random_judge(base), **ONE_STEP))
    (batch,) = batches
    decode = AutoProcessor.from_pretrained(judge).tokenizer.decode
    answers = set()
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        asked = re.search(r"Is it \w+ (\d+)\?", decode(ids))
        assert asked
        answer = "Yes" if int(asked[1]) % 2 else "No"
        assert decode(ids[labels != -100]) == f"{answer}<|im_end|>\n"
        answers.add(answer)
    assert answers == {"Yes", "No"}


def test_an_sft_judge_is_evaluated_in_the_style_it_learned(base: Path) -> None:
    from mtrl_judge.harness_plugin import prompt_style as style
    from mtrl_judge.harness_plugin.model import MtrlJudge

    card = read_checkpoint_card(guessing_judge(base))
    assert card["style"] == "direct"
    assert card["method"] == "sft"
    assert card["tasks"] == ["guess"]
    assert card["base"] == random_judge(base).name
    MtrlJudge(pretrained=str(guessing_judge(base)), device="cpu")
    try:
        assert style.evaluation_style(find_task("mtrl_judge_seetrue")) == "direct"
    finally:
        style.set_backend(None)


# What is trained and what is not


def test_a_frozen_tower_stays_as_it_is(base: Path, tmp_path: Path) -> None:
    before = guessing_judge(base)
    fields = {"freeze_vision": True, "temperature": 2.0, "user_rewards": DISTINCT}
    after = run("grpo", grpo(base, tmp_path, before, **fields, **ONE_STEP))
    moved = changed(before, after)
    assert moved
    assert not any("visual" in name for name in moved)
    assert {name for name in weights_of(before) if "visual" not in name} == moved


@pytest.mark.parametrize("family", [tiny_qwen3_vl, tiny_qwen2_5_vl, tiny_llava_onevision])
def test_the_tower_of_each_family_is_found(family: Callable[[Path], Path], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = AutoModelForImageTextToText.from_pretrained(family(tmp_path))
    in_tower = {name for name, _ in model.named_parameters() if re.search("visual|vision", name)}
    assert in_tower
    weights.freeze_vision(model, None)
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen == in_tower
    adapter = LoraConfig(r=2, target_modules="all-linear")
    weights.freeze_vision(model, adapter)
    adapted = [name for name, _ in get_peft_model(model, adapter).named_parameters()]
    adapted = [name for name in adapted if "lora_" in name]
    assert adapted
    assert not any(re.search("visual|vision", name) for name in adapted)


def test_a_merged_judge_answers_as_its_adapter_did(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    before = guessing_judge(base)
    fields = {
        "use_peft": True,
        "lora_r": 4,
        "lora_target_modules": ["all-linear"],
        "freeze_vision": True,
        "learning_rate": 2e-2,
        "user_rewards": DISTINCT,
    }
    steps = {"max_steps": 3, "save_steps": 3}
    after = run("grpo", grpo(base, tmp_path, before, temperature=2.0, **fields, **steps))
    adapter = after.parent / "adapter"
    lora = load_file(adapter / "adapter_model.safetensors")
    assert lora
    assert not any("visual" in name for name in lora)
    assert all("visual" not in name for name in changed(before, after))
    assert read_checkpoint_card(after)["style"] == "direct"

    processor = AutoProcessor.from_pretrained(after)
    merged = AutoModelForImageTextToText.from_pretrained(after).eval()
    untrained = AutoModelForImageTextToText.from_pretrained(before).eval()
    doc = load_rows(
        load_judge_task(small_world(base) / "red.yaml"), "test", small_world(base) / "data"
    ).rows.dataset[0]
    row = JudgeRow.from_doc(doc)
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row.question}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    inputs = processor(text=[text], images=list(row.images), return_tensors="pt")
    with torch.no_grad():
        old = untrained(**inputs).logits
        adapted = PeftModel.from_pretrained(untrained, str(adapter)).eval()(**inputs).logits
        new = merged(**inputs).logits
    torch.testing.assert_close(new, adapted, atol=1e-4, rtol=1e-4)
    assert (new - old).abs().max() > 0.1


def test_grpo_starts_from_its_warm_up_which_resumes_too(
    base: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    recipe = tmp_path / "warm.yaml"
    recipe.write_text(yaml.safe_dump({**VALUES, "max_steps": 3, "save_steps": 3}))
    log = JsonLog.on_log

    def stop_at_the_first(self: Any, args: Any, state: Any, *rest: Any, **named: Any) -> None:
        log(self, args, state, *rest, **named)
        if state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(JsonLog, "on_log", stop_at_the_first)
    out = tmp_path / "run"
    warm = out / "warm_up"
    # A learning rate of 0: what comes out is what the warm-up made.
    fields = {"warm_up": str(recipe), "learning_rate": 0.0, **ONE_STEP}
    words = command("grpo", grpo(base, out, random_judge(base), **fields))
    with pytest.raises(SystemExit) as stopped:
        train.main(words)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert latest_checkpoint(warm) is not None
    assert latest_checkpoint(out) is None
    monkeypatch.undo()
    train.main([*words, "--resume"])
    record = json.loads((warm / "run.json").read_text())
    assert 1 <= record["starts"][1]["from_step"] <= 2
    assert record["finished"]["step"] == 3
    assert [line["step"] for line in log_of(warm) if "loss" in line] == [1, 2, 3]
    assert changed(random_judge(base), warm / "judge")
    assert not changed(warm / "judge", out / "judge")
    methods = [read_checkpoint_card(folder / "judge")["method"] for folder in (warm, out)]
    assert methods == ["sft", "grpo"]


def test_a_warm_up_learns_the_base_models_own_correct_answers(base: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "warm.yaml"
    recipe.write_text(yaml.safe_dump({**VALUES, "max_steps": 3, "save_steps": 3}))
    out, warm = tmp_path / "run", tmp_path / "run" / "warm_up"
    # A learning rate of 0: what comes out is what the warm-up made.
    fields = {"warm_up": f"rft:{recipe}", "rft_items": 9, "rft_samples": 3, **ONE_STEP}
    fields |= {"learning_rate": 0.0, "temperature": 1.5}
    train.main(command("grpo", grpo(base, out, guessing_judge(base), **fields)))
    answers, world = read_answers([out / ANSWERS_FILE]), small_world(base)
    labels = {}
    for name in TASKS:
        task = load_judge_task(world / f"{name}.yaml")
        rows = load_rows(task, "train", world / "data").rows.dataset.with_format(None)
        labels |= {(name, row["item_id"]): row["label"] for row in rows}
    assert 4 < len(answers) <= 18  # of 18 prompts, those with a correct answer among three
    for key, texts in answers.items():
        (text,) = texts  # equal ones count once
        assert parse_verdict(text, ("Yes", "No")).value == labels[key.task, key.item_id]
    recorded = yaml.safe_load((warm / "recipe.yaml").read_text())
    assert recorded["answers"] == str(out / ANSWERS_FILE)
    assert changed(guessing_judge(base), warm / "judge")
    assert not changed(warm / "judge", out / "judge")


def test_sft_alone_learns_the_base_models_own_correct_answers(base: Path, tmp_path: Path) -> None:
    fields = {"answers": "rft", "rft_items": 9, "rft_samples": 3, "max_steps": 2, "save_steps": 2}
    given = values(small_world(base), tmp_path / "run", guessing_judge(base), **fields)
    train.main(command("sft", given))
    assert 4 < len(read_answers([tmp_path / "run" / ANSWERS_FILE])) <= 18
    recorded = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recorded["answers"] == "rft"  # the recipe of the same run
    assert changed(guessing_judge(base), tmp_path / "run" / "judge")


def test_both_orders_of_a_pair_are_rewarded_together(base: Path, tmp_path: Path) -> None:
    pairs = {
        "kind": "pairwise",
        "images": "[image0, image1]",
        "label": "{column: label}",
        "verdicts": '["1", "2"]',
        "orders": "both",
        "splits": "{validation: {from: train, fraction: 0.25, seed: 0}}",
    }
    for split in ("train", "test"):
        seen = [image_cell(color, (32, 32)) for color, _ in colors(split, 24)]
        columns = {
            "image0": seen[:12],
            "image1": seen[12:],
            "text": [f"{split} pair {i}" for i in range(12)],
            "label": [i % 2 for i in range(12)],
        }
        write_split(tmp_path / "data", "pair", split, columns)
    write_yaml(tmp_path, "pair", **pairs)
    fields = {**GRPO, **ONE_STEP, "consistency_weight": 0.5, "per_device_train_batch_size": 16}
    fields["resample_tries"] = 1  # would raise if it left an order without its other one
    judge = run("grpo", values(tmp_path, tmp_path / "run", random_judge(base), "pair", **fields))
    first, validated, *_ = log_of(judge.parent)
    assert {"rewards/consistency/mean", "pair/reward"} <= first.keys()
    assert "eval_pair/macro_f1" in validated


def test_stated_confidences_are_rewarded_and_validated(base: Path, tmp_path: Path) -> None:
    """A random judge states none, which costs as much as the worst one."""
    fields = {**ONE_STEP, "style": "confidence", "confidence_weight": 1.0}
    judge = run("grpo", grpo(base, tmp_path, random_judge(base), **fields))
    first, validated, *_ = log_of(judge.parent)
    assert first["rewards/confidence/mean"] == -1
    assert first["reward"] == pytest.approx(-1)  # alpha is 0
    assert validated["eval_red/stated_confidences"] == 0
    assert "eval_red/stated_ece" not in validated
    assert read_checkpoint_card(judge)["style"] == "confidence"


def test_training_stops_when_validation_does_not_improve(base: Path, tmp_path: Path) -> None:
    fields = {"learning_rate": 0.0, "max_steps": 9, "save_steps": 1, "patience": 2}
    judge = run("grpo", grpo(base, tmp_path, guessing_judge(base), **fields))
    finished = json.loads((judge.parent / "run.json").read_text())["finished"]
    assert finished["step"] == 3  # the first is the best, and two more are no better
    assert finished["scores"]["macro_f1"] == log_of(judge.parent)[1]["eval_macro_f1"]


# Resuming


STEPS = 7
ROLLOUTS = {
    # Four prompts at once; an epoch is four steps, so the run meets its second one.
    1: {"per_device_train_batch_size": 16, "save_steps": 3},
    # Four prompts for two steps: a checkpoint of every third one lies between two generations.
    2: {"per_device_train_batch_size": 8, "save_steps": 3, "steps_per_generation": 2},
}


def stoppable(base: Path, out: Path, per_generation: int, **fields: Any) -> list[str]:
    given = grpo(
        base,
        out,
        guessing_judge(base),
        "red",
        max_steps=STEPS,
        resample_tries=1,
        temperature=1.5,
        user_rewards="{'support.training:interrupted': 0.5}",
        **ROLLOUTS[per_generation],
        **fields,
    )
    return command("grpo", given)


@pytest.fixture(scope="module")
def unbroken(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("unbroken")
    for n in ROLLOUTS:
        train.main(stoppable(base, folder / str(n), n))
    return {n: outcome(folder / str(n)) for n in ROLLOUTS}


def outcome(folder: Path) -> dict[str, Any]:
    """What a finished run leaves, less the times."""
    last = latest_checkpoint(folder)
    assert last is not None
    clocks = ("time", "train_runtime", "step_time")
    return {
        "last": last.name,
        "weights": {name: value.numpy().tobytes() for name, value in weights_of(last).items()},
        "judge": {n: v.numpy().tobytes() for n, v in weights_of(folder / "judge").items()},
        "log": [
            {name: value for name, value in line.items() if name not in clocks}
            for line in log_of(folder)
            if "train_runtime" not in line
        ],
    }


@pytest.mark.parametrize("per_generation", ROLLOUTS)
def test_a_run_that_was_asked_to_stop_resumes_exactly(
    base: Path, unbroken: Any, tmp_path: Path, monkeypatch: Any, per_generation: int
) -> None:
    monkeypatch.setenv("SIGNAL", f"{int(signal.SIGTERM)}@4")
    with pytest.raises(SystemExit) as stopped:
        train.main(stoppable(base, tmp_path, per_generation))
    assert stopped.value.code == 128 + signal.SIGTERM
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-5"
    assert not (tmp_path / "judge").exists()
    monkeypatch.delenv("SIGNAL")
    train.main(stoppable(base, tmp_path, per_generation, resume=True))
    assert outcome(tmp_path) == unbroken[per_generation]


def test_a_run_that_crashed_resumes_exactly(
    base: Path, unbroken: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("SIGNAL", "crash@4")
    with pytest.raises(RuntimeError, match="crash"):
        train.main(stoppable(base, tmp_path, 2))
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-3"
    monkeypatch.delenv("SIGNAL")
    train.main(stoppable(base, tmp_path, 2, resume=True))
    assert outcome(tmp_path) == unbroken[2]


def message_of(words: list[str]) -> str:
    """The one message that a mistake ends in."""
    printed = io.StringIO()
    with redirect_stderr(printed), pytest.raises(SystemExit) as stopped:
        train.main(words)
    assert stopped.value.code == 2
    return printed.getvalue()


def test_a_finished_or_different_run_is_not_resumed(
    base: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("SIGNAL", f"{int(signal.SIGTERM)}@0")
    with pytest.raises(SystemExit):
        train.main(stoppable(base, tmp_path, 1))
    monkeypatch.delenv("SIGNAL")
    other = message_of(stoppable(base, tmp_path, 1, resume=True, learning_rate=0.5))
    assert "other settings or data:\n  learning_rate: was 0.001, now 0.5" in other
    assert "continue from step 1 with --resume" in message_of(stoppable(base, tmp_path, 1))
    (tmp_path / "new").mkdir()
    assert "holds no run" in message_of(stoppable(base, tmp_path / "new", 1, resume=True))
    done = tmp_path / "done"
    words = command("grpo", grpo(base, done, guessing_judge(base), "red", **ONE_STEP))
    train.main(words)
    assert "finished at step 1" in message_of([*words, "--resume"])
    assert "finished at step 1" in message_of(words)


def test_more_steps_extend_a_finished_run(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {**ONE_STEP, "eval_steps": 1, "save_steps": 1}
    for steps in (1, 2):
        given = grpo(base, tmp_path, guessing_judge(base), "red", **{**fields, "max_steps": steps})
        resume = ["--resume"] if steps == 2 else []
        with warnings.catch_warnings(record=True) as caught:
            train.main([*command("grpo", given), *resume])
        assert not [warning for warning in caught if warning.category is FutureWarning]
        end = capsys.readouterr().out
        assert f"judge: {tmp_path / 'judge'}\n" in end
        assert f" of {steps}, mean Macro-F1 " in end
        assert f"next:  mtrl-judge eval --model_args pretrained={tmp_path / 'judge'}" in end
    logged = map(json.loads, (tmp_path / LOG_FILE).read_text().splitlines())
    assert [line["step"] for line in logged if "loss" in line] == [1, 2]


def test_a_folder_that_another_process_trains_in_is_refused(base: Path, tmp_path: Path) -> None:
    words = command("grpo", grpo(base, tmp_path, guessing_judge(base), "red", **ONE_STEP))
    with held_elsewhere(tmp_path) as other:
        assert f"{tmp_path}: in use by process {other.pid} on " in message_of(words)
    train.main(words)
    assert not [*tmp_path.rglob("*.lock")]


LORA = {"use_peft": True}
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"model_name_or_path": "./nowhere"}, "nowhere is not a folder"),
    ({"data_root": "./nowhere"}, "data_root: no folder ./nowhere"),
    ({"learning_rate": "fast"}, "--learning_rate: is 'fast'; expected a valid number"),
    ({"user_rewards": "{'support.training:of_no_column': 1}"}, "of_no_column: parameter 'txet'"),
    ({"user_rewards": "{'support.training:distinct': 1}"}, "did you mean 'distinct_tokens'"),
    ({"patience": 2, "eval_strategy": "no"}, "patience: has no effect with eval_strategy: no"),
    (LORA, "lora_target_modules: missing"),
    (
        {**LORA, "lora_target_modules": ["q_prj"]},
        "'q_prj' is not in the model; did you mean 'q_proj'",
    ),
    ({"balance": "{red: 1}"}, "balance: warm: expected one weight for each task"),
    ({"processes": 2}, "processes: is 2, but 1 started"),
    ({"report_to": "tensorbord"}, "report_to: 'tensorbord'; did you mean 'tensorboard'?"),
    ({"warm_up": "tiny"}, "warm_up: 'tiny' is neither shipped nor a .yaml file"),
]


@pytest.mark.parametrize(("fields", "part"), MISTAKES, ids=[part for _, part in MISTAKES])
def test_a_mistake_ends_in_one_message(
    base: Path, tmp_path: Path, fields: dict[str, Any], part: str
) -> None:
    given = grpo(base, tmp_path, guessing_judge(base), **{**ONE_STEP, **fields})
    assert part in message_of(command("grpo", given))


def test_a_users_reward_reads_a_raw_column(base: Path, tmp_path: Path) -> None:
    reward = "{'support.training:of_a_raw_column': 1.0}"
    fields = {**ONE_STEP, "user_rewards": reward, "resample_tries": 1}
    judge = run("grpo", grpo(base, tmp_path, guessing_judge(base), **fields))
    assert log_of(judge.parent)[0]["rewards/of_a_raw_column/std"] > 0


def test_a_reward_that_is_no_number_is_named(base: Path, tmp_path: Path) -> None:
    """TRL would take NaN for "does not apply"."""
    reward = "{'support.training:undefined_in_one_process': 1.0}"
    fields = {**ONE_STEP, "user_rewards": reward, "resample_tries": 1}
    given = grpo(base, tmp_path, guessing_judge(base), "red", **fields)
    message = message_of(command("grpo", given))
    named = r"undefined_in_one_process returned NaN or infinity for a completion of item \S+ of red"
    assert re.search(named, message)


def test_a_wrong_method_or_task_ends_in_one_message(base: Path, tmp_path: Path) -> None:
    assert "'grp' is not a method; did you mean 'grpo'" in message_of(["grp"])
    assert "'' is not a method" in message_of([])
    task = write_yaml(tmp_path, "red")  # has data, and nothing to validate on
    fields = {**ONE_STEP, "tasks": [str(task)]}
    given = grpo(base, tmp_path / "run", guessing_judge(base), **fields)
    assert "validation" in message_of(command("grpo", given))


# Several processes


def rewards_logged(folder: Path) -> list[dict[str, float]]:
    named = re.compile(r"reward$|reward_std|rewards/|groups|(red|guess)/|eval_|frac_")
    return [
        {name: value for name, value in line.items() if named.search(name)}
        for line in log_of(folder)
        if "train_runtime" not in line
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_two_processes_earn_what_one_earns(base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The same rewards, figures of each task, resampled prompts and validation, at each step.

    It is exact because a temperature of 0.001 makes sampling greedy and a learning rate of 0 keeps
    the weights, so a completion depends on its prompt alone, and every group is all right or all
    wrong and is replaced. The warm-up before, at a learning rate of 0 as well, is there for what
    two processes must agree on.
    """
    recipe = tmp_path / "warm.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {**VALUES, **ONE_STEP, "learning_rate": 0.0, "per_device_train_batch_size": 4}
        )
    )
    fields = {
        "max_steps": 3,
        "save_steps": 3,
        "learning_rate": 0.0,
        "temperature": 0.001,
        "resample_tries": 2,
        "user_rewards": "{'support.training:by_position': 1.0}",
        "warm_up": str(recipe),
        "validation_items": 7,  # 6 of red, 7 of guess: two processes cannot share them evenly
    }
    calls: dict[int, list[list[list[str]]]] = {}
    for processes in (1, 2):
        witness = tmp_path / f"witness{processes}"
        witness.mkdir()
        out = tmp_path / str(processes)
        batch = {"per_device_train_batch_size": 32 // processes, "processes": processes}
        tasks = ("red", "guess")
        given = grpo(base, out, guessing_judge(base), *tasks, **fields, **batch)
        words = command("grpo", given)
        if processes == 1:
            monkeypatch.setenv("WITNESS", str(witness))
            monkeypatch.setenv("RANK", "0")
            train.main(words)
            monkeypatch.undo()
        else:
            done = subprocess.run(
                [*python_module(TRAIN, 2), *words],
                env=environment(WITNESS=str(witness), ACCELERATE_USE_CPU="true"),
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr[-3000:]
        calls[processes] = [
            [json.loads(line)["items"] for line in path.read_text().splitlines()]
            for path in sorted(witness.iterdir())
        ]
    one, two = rewards_logged(tmp_path / "1"), rewards_logged(tmp_path / "2")
    assert len(one) == 4  # three steps and a validation
    for alone, shared in zip(one, two, strict=True):
        assert shared == pytest.approx(alone, abs=1e-5)
    # Both took part in lockstep, each with its half of what one process had alone.
    (alone_calls,), (first, second) = calls[1], calls[2]
    assert [a + b for a, b in zip(first, second, strict=True)] == alone_calls
    assert len(alone_calls) > 3
    assert any(line.get("resampled_groups") for line in one)
    assert 0 < one[-1]["eval_guess/macro_f1"] < 1
    assert not changed(tmp_path / "1" / "judge", tmp_path / "2" / "judge")


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_processes_that_replace_unequal_numbers_of_groups_stay_together(
    base: Path, tmp_path: Path
) -> None:
    fields = {"max_steps": 3, "save_steps": 3, "temperature": 1.0, "resample_tries": 2}
    fields |= {"user_rewards": "{'support.training:by_position': 1.0}", "processes": 2}
    fields |= {"per_device_train_batch_size": 16}
    given = grpo(base, tmp_path / "run", guessing_judge(base), "guess", **fields)
    done = subprocess.run(
        [*python_module(TRAIN, 2), *command("grpo", given)],
        env=environment(WITNESS=str(tmp_path), ACCELERATE_USE_CPU="true"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (
        [json.loads(line)["items"][::4] for line in (tmp_path / f"{rank}.jsonl").open()]
        for rank in range(2)
    )
    assert len(first) == len(second) > 3
    changed_groups = [
        [sum(a != b for a, b in zip(now, after, strict=True)) for now, after in pairwise(calls)]
        for calls in (first, second)
    ]
    assert changed_groups[0] != changed_groups[1]
    for here, there in zip(first, second, strict=True):
        assert len({*here, *there}) == 8
