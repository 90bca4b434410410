"""A tiny judge learns to put images in order, and each right pair of an order is rewarded."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from statistics import fmean

import pytest
from support.images import image_cell
from support.tasks import write_split, write_yaml
from support.training import GRPO, log_of, random_judge, run, values

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]
COLORS = ("red", "lime", "blue")  # from best to worst


def write_rankings(root: Path) -> Path:
    columns = [f"image{place}" for place in range(3)]
    write_yaml(
        root,
        "colors",
        kind="ranking",
        images=f"[{', '.join(columns)}]",
        candidates=f"[{', '.join(columns)}]",
        question="'{{ text }}?'",
        label="{column: ranks, best: lowest}",
        verdicts='["A", "B", "C"]',
        splits="{validation: {from: train, fraction: 0.25, seed: 0}}",
    )
    orders = [*permutations(range(3))] * 4
    cells = [image_cell(color, (32, 32)) for color in COLORS]
    for split in ("train", "test"):
        data = {name: [cells[o[place]] for o in orders] for place, name in enumerate(columns)}
        text = {"text": [f"{split} {n}" for n in range(len(orders))], "ranks": [*map(list, orders)]}
        write_split(root / "data", "colors", split, data | text)
    return root


def test_orders_are_learned_and_rewarded_pair_by_pair(base: Path, tmp_path: Path) -> None:
    world = write_rankings(tmp_path)
    common = {"validation_max_new_tokens": 8}
    fields = {"max_steps": 80, "eval_steps": 80, "learning_rate": 3e-3, **common}
    judge = run("sft", values(world, tmp_path / "sft", random_judge(base), "colors", **fields))
    learned = [line for line in log_of(tmp_path / "sft") if "eval_kendall" in line]
    assert learned[-1]["eval_colors/kendall"] == 1

    fields = {**GRPO, "max_steps": 4, "max_completion_length": 8, "temperature": 2.0, **common}
    run("grpo", values(world, tmp_path / "grpo", judge, "colors", **fields))
    earned = [line["colors/accuracy"] for line in log_of(tmp_path / "grpo") if "reward" in line]
    assert len(earned) == 4
    assert 0 < fmean(earned) < 1
    # Of three pairs of candidates, each counts half if it is tied; there are 8 completions a step.
    assert [round(share * 48, 6) % 1 for share in earned] == [0] * 4
