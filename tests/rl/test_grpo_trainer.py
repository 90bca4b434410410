"""What JudgeGRPOTrainer adds to TRL's: the order of prompts, resampling, the log of each task."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import pytest
import torch
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


def uneven(item_id: Sequence[str], completion_ids: Sequence[Any], **_: Any) -> list[float]:
    """0 for half of the items; for the others whatever a completion happens to be."""
    return [
        0.0 if is_constant(item) else stable_hash("luck", *ids) % 1000 / 1000
        for item, ids in zip(item_id, completion_ids, strict=True)
    ]


def is_constant(item_id: str) -> bool:
    return stable_hash("flat", item_id) % 2 == 0


def test_zero_variance_groups_are_replaced_whole(base: Path, tmp_path: Path) -> None:
    witness = Witness(uneven)
    trainer = trainer_of(
        base,
        tmp_path,
        [witness],
        random_judge(base),
        resample_tries=9,
        per_device_train_batch_size=32,
    )
    trainer.train()
    began, ended = (witness.calls[n]["item_id"] for n in (0, -1))
    assert any(map(is_constant, began))
    assert 1 < len(witness.calls) <= 1 + 9
    assert not any(map(is_constant, ended))
    assert first_log(trainer)["frac_reward_zero_std"] == 0
    resampled = [sum(map(is_constant, call["item_id"])) / 32 for call in witness.calls]
    assert first_log(trainer)["resampled_groups"] == pytest.approx(sum(resampled))
    # Groups with variance stay; each group is one prompt.
    for index, item in enumerate(began):
        if not is_constant(item):
            assert ended[index] == item
        assert ended[index] == ended[index // 4 * 4]
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
    items = []
    for run in range(2):
        witness = Witness(lambda completions, **_: [0.9] * len(completions))
        trainer = trainer_of(
            base, tmp_path / str(run), [witness], random_judge(base), resample_tries=2
        )
        trainer.train()
        assert len(witness.calls) == 1 + 2
        assert first_log(trainer)["resampled_groups"] == 2
        assert first_log(trainer)["frac_reward_zero_std"] == 1
        items.append([call["item_id"] for call in witness.calls])
    assert items[0] == items[1]
    assert len({tuple(call) for call in items[0]}) == 3


def test_twenty_equal_rewards_are_a_zero_variance_group(base: Path, tmp_path: Path) -> None:
    """In float32 their standard deviation is not 0."""

    def reward(item_id: Sequence[str], trainer_state: Any, **_: Any) -> list[float]:
        step = trainer_state.global_step
        values = [(0.1, 0.3, 0.9, 0.9)[step]] * len(item_id)
        values[3] += 0.01 * (step == 3)
        return values

    trainer = trainer_of(
        base,
        tmp_path,
        [reward],
        random_judge(base),
        resample_tries=1,
        per_device_train_batch_size=40,
        num_generations=20,
        max_steps=4,
        logging_steps=1,
    )
    trainer.train()
    shares = [line["resampled_groups"] for line in trainer.state.log_history[:4]]
    assert shares == [1, 1, 1, 0.5]
