"""Ratings in training: rewards, SFT targets, validation, and the kept checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from support.images import image_cell
from support.tasks import write_split, write_yaml
from support.training import GRPO, log_of, random_judge, run, values

from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.scoring import score
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.metrics.records import Record
from mtrl_judge.rl.dataset import build_dataset
from mtrl_judge.rl.kept_best import KeptBest
from mtrl_judge.rl.rewards import accuracy
from mtrl_judge.rl.train import JUDGE
from mtrl_judge.rl.validation_items import choose_items

pytestmark = pytest.mark.usefixtures("one_thread")
ROWS = 40


def brightness(split: str) -> dict[str, list[Any]]:
    """Images that are brighter and brighter, and how bright people find them on average."""
    shades = [6 * n + 10 + ("train", "test").index(split) for n in range(ROWS)]
    return {
        "image": [image_cell(f"#{s:02x}{s:02x}{s:02x}", (32, 32)) for s in shades],
        "text": [f"{split} {n}" for n in range(ROWS)],
        "brightness": [round(1 + 4 * (s - 10) / 240, 2) for s in shades],
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks with the same images: in one of them, most were rated 5 whatever they show."""
    root = tmp_path_factory.mktemp("world")
    for task in ("bright", "generous"):
        write_yaml(
            root,
            task,
            kind="score",
            question="'How bright is {{ text }}?'",
            label="{column: brightness}",
            scale="{min: 1, max: 5}",
            verdicts="null",
            splits="{validation: {from: train, fraction: 0.4, seed: 0, stratify: label}}",
        )
        for split in ("train", "test"):
            write_split(root / "data", task, split, brightness(split))
    columns = brightness("train")
    columns["brightness"] = [5.0 if n % 5 < 3 else b for n, b in enumerate(columns["brightness"])]
    write_split(root / "data", "generous", "train", columns)
    return root


def test_a_judge_learns_to_rate_and_is_rewarded_as_it_is_scored(world: Path, base: Path) -> None:
    """SFT on the levels, then GRPO; what is logged is what the scorer says."""
    fields = {"validation_items": 16, "logging_steps": 1}
    given = values(world, world / "sft", random_judge(base), "bright", **fields)
    run(
        "sft", {**given, "max_steps": 90, "eval_steps": 30, "save_steps": 30, "learning_rate": 3e-3}
    )
    found = [line for line in log_of(world / "sft") if "eval_spearman" in line]
    assert found[-1]["eval_spearman"] == found[-1]["eval_bright/spearman"]
    assert max(line["eval_spearman"] for line in found) > 0.5
    assert sum(found[-1][f"eval_bright/share_{level}"] for level in range(1, 6)) <= 1

    judge = world / "sft" / JUDGE
    given = values(world, world / "grpo", judge, "bright", **fields)
    grpo = {**given, **GRPO, "max_steps": 2, "eval_steps": 2, "save_steps": 2}
    run("grpo", {**grpo, "accuracy_reward": "fidelity"})
    logged = [line["rewards/fidelity/mean"] for line in log_of(world / "grpo") if "reward" in line]
    assert len(logged) == 2
    assert all(0 < reward < 1 for reward in logged)
    (validated,) = [line for line in log_of(world / "grpo") if "eval_spearman" in line]
    assert "eval_bright/null_rate" in validated


@pytest.mark.slow
def test_grpo_makes_ratings_of_what_is_seen(world: Path, base: Path) -> None:
    """A judge that gives nearly everything a 5 sees more than it says; the reward brings it out."""
    fields = {"save_strategy": "no", "learning_rate": 3e-3, "max_steps": 90}
    given = values(world, world / "generous", random_judge(base), "generous", **fields)
    run("sft", {**given, "eval_strategy": "no"})
    fields = {"validation_items": 16, "eval_on_start": True, "eval_steps": 20, "save_steps": 20}
    given = values(world, world / "raised", world / "generous" / JUDGE, "bright", **fields)
    run(
        "grpo",
        {**given, **GRPO, "max_steps": 40, "per_device_train_batch_size": 32, "num_generations": 8},
    )
    found = [line["eval_spearman"] for line in log_of(world / "raised") if "eval_spearman" in line]
    assert found[0] < 0.5, found
    assert found[-1] > 0.7, found


def test_the_reward_is_the_score_of_evaluation(world: Path, base: Path) -> None:
    task = load_judge_task(world / "bright.yaml")
    rows = load_rows(task, "train", world / "data").rows.dataset
    texts = ["3", "2.5", "Score: 4/5", "4/10", "<think>x</think><answer>5</answer>", "1-2", ""]
    for doc in rows.select(range(0, len(rows), 5)):
        row = JudgeRow.from_doc(doc)
        columns = [[value] * len(texts) for value in (row.kind, row.label, list(row.verdicts))]
        expected = [score(row, text).correct for text in texts]
        assert accuracy(texts, *columns) == expected
        off = abs(3 - float(row.label or 0))
        assert expected[0] == pytest.approx(1 - off / 4)
        assert expected[3] == expected[5] == expected[6] == 0


def test_the_answers_to_learn_from_are_levels(world: Path) -> None:
    task = load_judge_task(world / "bright.yaml")
    dataset = build_dataset([task], "train", style="direct", root=world / "data", answers=True)
    for row in dataset:
        (turn,) = row["completion"]
        assert turn["content"][0]["text"] == str(round(float(row["label"]) - 1e-9))


def test_few_validation_items_cover_the_scale(world: Path) -> None:
    """Hardly two labels are equal, so it is levels that have their share."""
    task = load_judge_task(world / "bright.yaml")
    rows = load_rows(task, "test", world / "data").rows.dataset
    for seed in range(5):
        kept = choose_items(rows, 5, seed)["label"][:]
        assert sorted(round(float(label) - 1e-9) for label in kept) == [1, 2, 3, 4, 5]


def test_another_checkpoint_is_kept_only_beyond_noise(world: Path) -> None:
    """The noise of a difference in Spearman, by the draws of the leaderboard."""
    task = load_judge_task(world / "bright.yaml")
    rng = np.random.default_rng(0)
    labels = np.round(1 + 4 * rng.random(60), 2)
    ratings = np.clip(np.round(labels + rng.standard_normal(60)), 1, 5)
    records = [
        Record(str(label), f"{rating:g}") for label, rating in zip(labels, ratings, strict=True)
    ]
    clusters = [[str(number) for number in range(60)]]
    kept = KeptBest([task])
    assert kept.noise([records], clusters) is None
    kept.keep([records])
    assert kept.noise([records], clusters) == 0
    others = [
        record._replace(verdict=None if number % 3 else record.verdict)
        for number, record in enumerate(records)
    ]
    noise = kept.noise([others], clusters)
    assert noise is not None
    assert 0.02 < noise < 0.4
    assert stats.spearmanr(labels, ratings).statistic > 0.6
