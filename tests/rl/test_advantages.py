"""How much the form of an answer weighs beside its correctness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.shared import random_judge
from support.training import GRPO, small_world, values
from transformers import AutoModelForImageTextToText, AutoProcessor

from mtrl_judge.rl.dataset import build_dataset
from mtrl_judge.rl.fields import read_recipe
from mtrl_judge.rl.grpo_trainer import JudgeGRPOTrainer
from mtrl_judge.rl.recipes import shipped_recipes
from mtrl_judge.rl.rewards import reward_functions
from mtrl_judge.rl.settings import build_settings

pytestmark = pytest.mark.usefixtures("one_thread")

GENERATIONS, GROUPS = 8, 4
FIELDS = ("alpha", "scale_rewards", "multi_objective_aggregation")


def shares_of_form(base: Path, out: Path, **fields: Any) -> tuple[float, float]:
    """The largest advantage that form alone gives, as a share of a half-right group's: in the same
    batch, and in a batch where there is nothing but form to learn.

    In each group one of eight answers is malformed and all are wrong, but in the second step there
    is one well-formed group, half of which is right.
    """
    fields = {**GRPO, "num_generations": GENERATIONS, "max_steps": 2, **fields}
    fields |= {"per_device_train_batch_size": GENERATIONS * GROUPS, "save_strategy": "no"}
    given = values(small_world(base), out, random_judge(base), eval_strategy="no", **fields)
    settings = build_settings("grpo", given)
    form: list[float] = []
    half_right: list[float] = []

    def is_half_right(index: int, trainer_state: Any) -> bool:
        return bool(trainer_state.global_step == 1 and index // GENERATIONS == 2)

    def accuracy(completions: list[Any], trainer_state: Any, **_: Any) -> list[float]:
        known = [is_half_right(n, trainer_state) for n in range(len(completions))]
        return [float(half and n % 2 == 0) for n, half in enumerate(known)]

    def well_formed(completions: list[Any], trainer_state: Any, **_: Any) -> list[float]:
        known = [is_half_right(n, trainer_state) for n in range(len(completions))]
        return [float(half or n % GENERATIONS > 0) for n, half in enumerate(known)]

    class Watched(JudgeGRPOTrainer):
        def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
            for advantages_G in inputs["advantages"].reshape(-1, GENERATIONS).abs():
                alike = bool((advantages_G - advantages_G[0]).abs().max() < 1e-5)
                (half_right if alike else form).append(float(advantages_G.max()))
            return super().compute_loss(model, inputs, *rest, **named)

    settings.trainer.reward_weights = reward_functions(settings.judge)[1]
    Watched(
        model=AutoModelForImageTextToText.from_pretrained(random_judge(base)),
        args=settings.trainer,
        train_dataset=build_dataset(settings.tasks, style="direct", root=settings.data_root),
        processing_class=AutoProcessor.from_pretrained(random_judge(base)),
        reward_funcs=[accuracy, well_formed],
    ).train()
    assert (len(form), len(half_right)) == (2 * GROUPS - 1, 1)
    return max(form[GROUPS:]) / half_right[0], max(form[:GROUPS]) / half_right[0]


def test_alpha_bounds_the_influence_of_form_in_every_recipe(base: Path, tmp_path: Path) -> None:
    chosen = set()
    for recipe in shipped_recipes("grpo"):
        given, _ = read_recipe(recipe)
        chosen.add(tuple((name, given[name]) for name in FIELDS if name in given))
    for number, fields in enumerate(chosen):
        shares = shares_of_form(base, tmp_path / str(number), **dict(fields))
        assert shares == pytest.approx((0.19, 0.19), rel=0.03)  # 0.0875 / 0.45


@pytest.mark.parametrize(
    ("fields", "beside", "alone"),
    [
        ({}, 2.65, 2.65),
        ({"scale_rewards": "batch"}, 0.19, 1.77),
        ({"multi_objective_aggregation": "normalize_then_sum"}, 0.29, 1.35),
    ],
    ids=["group", "batch", "gdpo"],
)
def test_other_ways_to_scale_do_not_bound_it_in_every_batch(
    fields: dict[str, Any], beside: float, alone: float, base: Path, tmp_path: Path
) -> None:
    """The figures of docs/training.md."""
    found = shares_of_form(base, tmp_path, alpha=0.1, **fields)
    assert found == (pytest.approx(beside, rel=0.03), pytest.approx(alone, rel=0.03))
