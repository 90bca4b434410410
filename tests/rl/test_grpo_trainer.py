"""What JudgeGRPOTrainer adds to TRL's: the order of prompts, resampling, the log of each task."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import numpy as np
import pytest
import torch
from datasets import Dataset
from support.training import GRPO, TASKS, guessing_judge, random_judge, small_world, values
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl.trainer.utils import RepeatSampler

from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.scoring import score
from mtrl_judge.rl import rewards
from mtrl_judge.rl.dataset import build_dataset
from mtrl_judge.rl.grpo_trainer import JudgeGRPOTrainer, PromptSampler
from mtrl_judge.rl.settings import build_settings
from mtrl_judge.rl.zero_variance import OtherPrompts, uninformative, zero_variance

pytestmark = pytest.mark.usefixtures("one_thread")


# The order of the prompts


def sampler(rows: int = 20, unit: int = 1, **changes: Any) -> PromptSampler:
    given = {"batch_size": 4, "generations": 3, "repeat_count": 2, "shuffle": True, "seed": 7}
    return PromptSampler(rows, unit=unit, **{**given, **changes})


@pytest.mark.parametrize("rows", [20, 22])
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_first_epoch_is_trls_own(rows: int, shuffle: bool) -> None:
    stock = RepeatSampler(
        range(rows), mini_repeat_count=3, batch_size=4, repeat_count=2, shuffle=shuffle, seed=7
    )
    ours = sampler(rows, shuffle=shuffle)
    assert list(ours) == list(stock)
    assert len(ours) == len(stock) == len(list(ours))


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    straight, resumed = sampler(), sampler()
    orders = []
    for epoch in range(3):
        straight.set_epoch(epoch)
        orders.append(list(straight))
    resumed.set_epoch(2)
    assert list(resumed) == orders[2]
    next(iter(resumed))  # broken off
    resumed.set_epoch(1)
    assert list(resumed) == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    assert list(sampler(seed=8)) != orders[0]


def test_units_stay_together_in_each_generation_batch() -> None:
    ours = sampler(rows=21, unit=2)
    order = list(ours)
    assert len(order) == len(ours) == 20 * 3 * 2
    for start in range(0, len(order), 4 * 3):
        batch = order[start : start + 4 * 3]
        assert all(n == 3 for n in Counter(batch).values())
        assert {row // 2 for row in batch if row % 2} == {row // 2 for row in batch if not row % 2}


# Trainers on the CPU


class Watched(JudgeGRPOTrainer):
    """Keeps each micro-batch."""

    def __init__(self, **named: Any) -> None:
        self.batches: list[dict[str, Any]] = []
        super().__init__(**named)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        self.batches.append(dict(inputs))
        return super().compute_loss(model, inputs, *rest, **named)


def trainer_of(
    base: Path, out: Path, functions: Sequence[Any], judge: Path, **fields: Any
) -> Watched:
    fields = {**GRPO, "max_steps": 1, "save_strategy": "no", "eval_strategy": "no", **fields}
    settings = build_settings("grpo", values(small_world(base), out, judge, **fields))
    processor = AutoProcessor.from_pretrained(judge)
    processor.tokenizer.padding_side = "left"
    return Watched(
        model=AutoModelForImageTextToText.from_pretrained(judge),
        args=settings.trainer,
        train_dataset=build_dataset(settings.tasks, style="direct", root=settings.data_root),
        processing_class=processor,
        reward_funcs=[*functions],
        resample_tries=settings.judge.resample_tries,
    )


class Witness:
    """A reward that keeps what it was called with."""

    __name__ = "witness"

    def __init__(self, reward: Any) -> None:
        self.reward = reward
        self.calls: list[dict[str, Any]] = []

    def __call__(self, **columns: Any) -> list[float]:
        self.calls.append({**columns, "reward": self.reward(**columns)})
        return cast(list[float], self.calls[-1]["reward"])


def first_log(trainer: Any) -> dict[str, float]:
    return cast(dict[str, float], trainer.state.log_history[0])


def test_the_log_of_each_task_is_what_its_completions_earned(base: Path, tmp_path: Path) -> None:
    witness = Witness(lambda label, **_: [float(verdict == "Yes") for verdict in label])
    alpha = 0.25
    trainer = trainer_of(
        base,
        tmp_path,
        [rewards.accuracy, rewards.format, witness],
        guessing_judge(base),
        per_device_train_batch_size=40,
        temperature=2.0,  # some answers are none
    )
    trainer.reward_weights = torch.tensor([1 - alpha, alpha, 0.5])
    trainer.train()
    (call,) = witness.calls
    log = first_log(trainer)
    by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for n, completion in enumerate(call["completions"]):
        doc = {name: call[name][n] for name in ("kind", "label", "verdicts")}
        row = JudgeRow(item_id="", task="", question="", n_images=0, **doc)
        scored = score(row, completion[0]["content"])
        by_task[call["task"][n]].append(
            {
                "group": n // 4,
                "reward": (1 - alpha) * (scored.correct or 0)
                + alpha * scored.format
                + 0.5 * call["reward"][n],
                "accuracy": scored.correct,
                "format": scored.format,
                "null_rate": scored.verdict.value is None,
                "length": len(call["completion_ids"][n]),
            }
        )
    assert by_task.keys() == set(TASKS)
    zero_variance: list[bool] = []
    for task, rollouts in by_task.items():
        for name in ("reward", "accuracy", "format", "null_rate", "length"):
            mean = fmean(float(rollout[name]) for rollout in rollouts)
            assert log[f"{task}/{name}"] == pytest.approx(mean, abs=1e-6), name
        groups = [
            {round(r["reward"], 6) for r in rollouts if r["group"] == group}
            for group in {r["group"] for r in rollouts}
        ]
        share = fmean(len(group) == 1 for group in groups)
        assert log[f"{task}/zero_variance_groups"] == pytest.approx(share)
        zero_variance += [len(group) == 1 for group in groups]
    assert 0 < sum(zero_variance) < len(zero_variance)
    n_all = sum(map(len, by_task.values()))
    mean = sum(len(r) * log[f"{task}/reward"] for task, r in by_task.items()) / n_all
    assert log["reward"] == pytest.approx(mean, abs=1e-6)
    assert 0 < log["rewards/accuracy/mean"] < 1
    assert 0 < fmean(r["null_rate"] for rs in by_task.values() for r in rs) < 1


# Zero-variance groups


def correct(completions: Sequence[Any], **columns: Any) -> list[float]:
    named = {name: columns[name] for name in ("kind", "label", "verdicts")}
    return [scored or 0.0 for scored in rewards.accuracy(completions, **named)]


def by_tokens(completion_ids: Sequence[Any], **_: Any) -> list[float]:
    """A reward that differs within every group."""
    return [stable_hash("luck", *ids) % 1000 / 1000 for ids in completion_ids]


def test_groups_that_are_all_right_or_all_wrong_are_replaced(base: Path, tmp_path: Path) -> None:
    witness = Witness(correct)
    trainer = trainer_of(
        base,
        tmp_path,
        [witness, by_tokens],
        guessing_judge(base),
        resample_tries=9,
        per_device_train_batch_size=32,
    )
    trainer.train()
    assert 1 < len(witness.calls) <= 1 + 9
    batches = [[row[::4] for row in (c["task"], c["item_id"])] for c in witness.calls]
    flat = [
        [len(set(call["reward"][start : start + 4])) == 1 for start in range(0, 32, 4)]
        for call in witness.calls
    ]
    assert any(flat[0])
    assert not any(flat[-1])
    assert first_log(trainer)["resampled_groups"] == sum(map(sum, flat)) / 8
    seen = set(zip(*batches[0], strict=True))
    sampled = list(zip(batches[0][0], flat[0], strict=True))
    for now, after, replaced, became in zip(batches, batches[1:], flat, flat[1:], strict=False):
        assert after[0] == now[0]  # each task keeps its share
        for group, was_flat in enumerate(replaced):
            item = (after[0][group], after[1][group])
            if was_flat:
                assert item not in seen
                seen.add(item)
                sampled.append((item[0], became[group]))
            else:
                assert item == (now[0][group], now[1][group])
    for task in TASKS:
        shares = [not was_flat for of, was_flat in sampled if of == task]
        assert first_log(trainer)[f"{task}/informative_groups"] == pytest.approx(fmean(shares))
        assert first_log(trainer)[f"{task}/zero_variance_groups"] == 0
    for call in witness.calls:  # each group is one prompt
        assert all(call["item_id"][n] == call["item_id"][n // 4 * 4] for n in range(32))
    (batch,) = trainer.batches
    check_rows_belong_together(trainer, batch, witness.calls[-1])


def check_rows_belong_together(trainer: Any, batch: dict[str, Any], call: dict[str, Any]) -> None:
    """Prompt tokens, images, completion tokens and what the reward saw are of one row each."""
    processor = trainer.processing_class
    decode = processor.tokenizer.decode
    texts = {}
    for row in trainer.train_dataset:
        (message,) = row["prompt"]
        (texts[row["item_id"]],) = (p["text"] for p in message["content"] if p["type"] == "text")
    rows = {row["item_id"]: row for row in trainer.train_dataset}
    patches = torch.split(batch["pixel_values"], batch["image_grid_thw"].prod(-1).tolist())
    trained = []
    for n, own_patches in enumerate(patches):
        prompt = decode(batch["prompt_ids"][n][batch["prompt_mask"][n].bool()])
        (item,) = (item for item, text in texts.items() if text in prompt)
        pixels = processor.image_processor(images=rows[item]["images"], return_tensors="pt")
        assert torch.equal(own_patches, pixels["pixel_values"])
        ids = batch["completion_ids"][n][batch["completion_mask"][n].bool()].tolist()
        trained.append((item, tuple(ids)))
    assert Counter(trained) == Counter(
        zip(call["item_id"], map(tuple, call["completion_ids"]), strict=True)
    )
    for n, item in enumerate(call["item_id"]):
        said = decode(call["completion_ids"][n], skip_special_tokens=True)
        assert call["completions"][n][0]["content"] == said
        assert (call["label"][n], call["task"][n]) == (rows[item]["label"], rows[item]["task"])
        assert call["prompts"][n][0]["content"][0]["image"] == rows[item]["images"][0]


def test_resampling_ends_and_repeats(base: Path, tmp_path: Path) -> None:
    """A random judge is never right, and no reward but accuracy makes its groups informative."""
    items = []
    for run in range(2):
        witness = Witness(by_tokens)
        trainer = trainer_of(
            base, tmp_path / str(run), [witness], random_judge(base), resample_tries=2
        )
        trainer.train()
        assert len(witness.calls) == 1 + 2
        assert first_log(trainer)["resampled_groups"] == 2
        assert first_log(trainer)["frac_reward_zero_std"] == 0
        items.append([call["item_id"] for call in witness.calls])
    assert items[0] == items[1]
    assert len({tuple(call) for call in items[0]}) == 3


def test_a_task_without_other_items_keeps_its_groups(base: Path, tmp_path: Path) -> None:
    witness = Witness(by_tokens)
    fields = {"resample_tries": 9, "per_device_train_batch_size": 32}
    trainer = trainer_of(base, tmp_path, [witness], random_judge(base), **fields)
    trainer.train()
    tasks = Counter(witness.calls[0]["task"][::4])
    items = {
        (task, item)
        for call in witness.calls
        for task, item in zip(call["task"], call["item_id"], strict=True)
    }
    all_items = set(
        zip(trainer.train_dataset["task"], trainer.train_dataset["item_id"], strict=True)
    )
    assert items == all_items
    assert all(Counter(call["task"][::4]) == tasks for call in witness.calls)
    assert all(len(set(zip(c["task"], c["item_id"], strict=True))) == 8 for c in witness.calls)
    assert first_log(trainer)["resampled_groups"] == (len(all_items) - 8) / 8


def test_both_orders_of_a_pair_are_replaced_together() -> None:
    dataset = Dataset.from_dict(
        {
            "task": ["pair"] * 6 + ["point"] * 4,
            "item_id": ["a", "a", "b", "b", "c", "c", "0", "1", "2", "3"],
        }
    )
    prompts = OtherPrompts(dataset, unit=2, seed=0)
    assert prompts.draw("pair", {("pair", "a"), ("pair", "c")}) == ([2, 3], {("pair", "b")})
    drawn = prompts.draw("point", {("point", "1")})
    assert drawn == ([8, 9], {("point", "2"), ("point", "3")})
    assert prompts.draw("point", {("point", "1"), ("point", "2")}) is None


def test_draws_are_spread_over_the_items_and_depend_on_the_key() -> None:
    dataset = Dataset.from_dict({"task": ["t"] * 50, "item_id": [str(n) for n in range(50)]})
    prompts = OtherPrompts(dataset, unit=1, seed=0)
    drawn = [prompts.draw("t", {("t", "0")}, step) for step in range(500)]
    assert drawn == [prompts.draw("t", {("t", "0")}, step) for step in range(500)]
    counts = Counter(rows[0] for rows, _ in filter(None, drawn))
    assert set(counts) == set(range(1, 50))
    assert max(counts.values()) < 40  # 10 each, and twice as often after an item that is skipped


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_twenty_equal_rewards_have_zero_variance(dtype: Any) -> None:
    """In float32 their standard deviation is not 0."""
    for value in (0.1, 0.3, 0.9):
        rewards_N = np.full(40, value, dtype=dtype)
        rewards_N[3] += 0.01
        assert zero_variance(rewards_N, 20).tolist() == [False, True]


def test_form_makes_a_group_informative_until_it_is_learned() -> None:
    correct_N, format_N = np.zeros(8), np.array([1.0, 0, 0, 0, 0, 0, 0, 0])
    assert uninformative(correct_N, format_N, 0.89, 4).tolist() == [False, True]
    assert uninformative(correct_N, format_N, 0.9, 4).tolist() == [True, True]


def test_a_resumed_run_knows_how_well_formed_answers_have_been(base: Path, tmp_path: Path) -> None:
    """In the direct style no answer is in the reasoned form: each batch adds a share of 0."""
    fields = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    shares = []
    for checkpoint in (None, str(tmp_path / "checkpoint-1")):
        trainer = trainer_of(base, tmp_path, [by_tokens], random_judge(base), **fields)
        if checkpoint is None:
            trainer.well_formed_rate.add(0.5)
        trainer.train(resume_from_checkpoint=checkpoint)
        shares.append(trainer.well_formed_rate.now)
    assert shares == pytest.approx([0.405, 0.405])  # 0.9 x 0.9 x 0.5
