"""``prompts: mixed``: each row is asked in one of the wordings of its task, in each epoch anew."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.shared import random_judge
from support.tasks import PAIR, pairs, write_split, write_task, write_yaml
from support.training import GRPO, run, small_world, values

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.rl.dataset import build_dataset
from mtrl_judge.rl.dry_run import dry_run
from mtrl_judge.rl.image_cache import DecodedOnce
from mtrl_judge.rl.mixed_prompts import MixedPrompts
from mtrl_judge.rl.settings import build_settings

WORDINGS = ("Is it {{ text }}?", "Does it show {{ text }}?", "{{ text }}: do you see it?")
PARAPHRASES = json.dumps(WORDINGS[1:])


def questions(dataset: Any) -> list[str]:
    """The question of each row, without the instruction after it."""
    rows = dataset.__getitems__([*range(len(dataset))])
    contents = [row["prompt"][-1]["content"] for row in rows]
    texts = ["".join(part.get("text") or "" for part in content) for content in contents]
    return [text.partition("\n")[0] for text in texts]


def test_a_wording_depends_on_seed_epoch_and_item_alone(tmp_path: Path) -> None:
    columns = {"question": "'{{ text }}: {{ image0 }} or {{ image1 }}?'", "orders": "both"}
    swapped = """['{{ image1 }} or {{ image0 }}, {{ text }}?']"""
    task = write_task(tmp_path, "my_task", **{**PAIR, **columns, "paraphrases": swapped})
    write_split(tmp_path, "my_task", "train", {**pairs(20), "label": ["a", "b"] * 10})
    prompts = MixedPrompts(seed=0)
    dataset = build_dataset([task], root=tmp_path, keep_pairs=True, prompts=prompts)
    plain = build_dataset([task], root=tmp_path, keep_pairs=True)
    once = DecodedOnce(dataset, prompts)
    seen = []
    for epoch in (0, 1):
        prompts.epoch = epoch
        asked = questions(dataset)
        again = MixedPrompts(seed=0)
        again.epoch = epoch
        other = build_dataset([task], root=tmp_path, keep_pairs=True, prompts=again)
        assert questions(other) == asked
        assert questions(once) == asked
        seen.append(["," in text for text in asked])
        # Both orders of a pair; and each image stands where the wording places it.
        assert seen[-1][::2] == seen[-1][1::2]
        for row, rephrased in enumerate(seen[-1]):
            sizes, usual = ([i.size for i in d[row]["images"]] for d in (dataset, plain))
            assert sizes == (usual[::-1] if rephrased else usual)
    assert Counter(seen[0]).keys() == {True, False}
    assert seen[0] != seen[1]
    assert dataset.with_format(None)["label"] == plain.with_format(None)["label"]


def test_mixed_prompts_need_other_wordings(base: Path, tmp_path: Path) -> None:
    given = values(small_world(base), tmp_path, random_judge(base), prompts="mixed")
    with pytest.raises(
        JudgeError, match=r"prompts: is mixed, and no task lists judge\.paraphrases"
    ):
        build_settings("grpo", {**given, **GRPO})


def test_a_dry_run_tells_the_wordings(base: Path, tmp_path: Path) -> None:
    report = dry_run(build_settings("grpo", {**mixed(base, tmp_path), "dry_run": True}))
    assert "prompts" in report
    lines = [line.split() for line in report.splitlines() if line.startswith("red")]
    assert lines[0][-1] == "3"


def mixed(base: Path, folder: Path, **fields: Any) -> dict[str, Any]:
    path = write_yaml(
        folder,
        "red",
        question=f"'{WORDINGS[0]}'",
        paraphrases=PARAPHRASES,
        splits="{validation: {from: train, fraction: 0.25, seed: 0}}",
    )
    given = {
        **GRPO,
        "tasks": [str(path)],
        "prompts": "mixed",
        "eval_strategy": "no",
        "save_strategy": "no",
        "num_train_epochs": 2,
        "user_rewards": {"support.training:by_wording": 1.0, "support.training:interrupted": 0.0},
        **fields,
    }
    return values(small_world(base), folder / "run", random_judge(base), **given)


@pytest.mark.slow
def test_all_completions_of_a_group_have_one_wording_and_a_resumed_run_the_same_ones(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def witnessed(name: str) -> list[list[str]]:
        return [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]

    monkeypatch.setenv("WITNESS", str(tmp_path / "unbroken.jsonl"))
    (tmp_path / "unbroken").mkdir()
    run("grpo", mixed(base, tmp_path / "unbroken"))
    unbroken = witnessed("unbroken.jsonl")
    groups = [unbroken[first : first + 4] for first in range(0, len(unbroken), 4)]
    assert all(group == [group[0]] * 4 for group in groups)

    task = load_judge_task(tmp_path / "unbroken" / "red.yaml")
    prompts = MixedPrompts(seed=42)  # the trainer's default
    dataset = build_dataset(
        [task], style="direct", root=small_world(base) / "data", prompts=prompts
    )
    expected = []
    for prompts.epoch in (0, 1):
        expected += sorted(zip(dataset["item_id"][:], questions(dataset), strict=True))
    half = len(groups) // 2
    asked = [tuple(group[0]) for group in groups]
    assert [*sorted(asked[:half]), *sorted(asked[half:])] == expected
    assert sorted(asked[:half]) != sorted(asked[half:])

    monkeypatch.setenv("WITNESS", str(tmp_path / "resumed.jsonl"))
    monkeypatch.setenv("SIGNAL", f"{int(signal.SIGTERM)}@{half // 2 + 2}")  # in the second epoch
    (tmp_path / "resumed").mkdir()
    saving = {"save_strategy": "steps", "save_steps": 100}
    with pytest.raises(SystemExit):
        run("grpo", mixed(base, tmp_path / "resumed", **saving))
    assert len(witnessed("resumed.jsonl")) < len(unbroken)
    monkeypatch.delenv("SIGNAL")
    changed = mixed(base, tmp_path / "resumed", **saving, resume=True)
    other = tmp_path / "resumed" / "red.yaml"
    text = other.read_text()
    other.write_text(text.replace("do you see it", "is it there"))
    with pytest.raises(JudgeError, match="data: red: its paraphrases were others"):
        run("grpo", changed)
    other.write_text(text)
    run("grpo", changed)
    assert witnessed("resumed.jsonl") == unbroken
