"""``python -m benchmarks.interference``: how much the tasks of a run with adapters interfere.

For each pair of tasks, T_ij is the mean of Δ_j L_i(x) / Δ_i L_i(x) over items x of task i, where
Δ_j L_i(x) is by how much a step along the gradient of task j lowers the loss of x
(:mod:`mtrl_judge.metrics.interference`). The loss is that of SFT: of the task's answers, with the
reasoning of the data in the style ``reasoned``. The step has a fixed length in the space of the
trained weights, from those that the run kept as its best.

It prints the table. The last line of the output is a JSON object: ``run``, ``tasks``, ``table`` and
``negative``, the share of pairs of different tasks with T_ij below 0.

Run from the repository's root, once for each run to compare:
``python -m benchmarks.interference RUN [--items 32] [--step 0.01]``, where RUN is the folder of a
run with ``use_peft: true``, such as ``experiment/runs/mixlora/corpus-0/seed-0``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tabulate import tabulate

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.exits import exits_with_message
from mtrl_judge.common.plain_yaml import yaml_mapping
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.metrics.interference import interference, share_negative
from mtrl_judge.rl.callbacks import StopOnSignal
from mtrl_judge.rl.model import ADAPTER
from mtrl_judge.rl.run_record import RECIPE_FILE
from mtrl_judge.rl.settings import Settings, build_settings
from mtrl_judge.rl.train import build_trainer
from mtrl_judge.rl.weights import load_weights

ITEMS, STEP = 32, 0.01
# Of the run's recipe, what its model, its data and its prompts are.
_KEPT = (
    "model_name_or_path",
    "model_revision",
    "tasks",
    "data_root",
    "accept_license",
    "freeze_vision",
    "use_peft",
    "adapter",
    "mixlora_factors",
    "mixlora_router",
    "lora_r",
    "lora_alpha",
    "lora_target_modules",
    "use_cpu",
    "dtype",
    "bf16",
    "min_pixels",
    "max_pixels",
)


def sft_settings(run: Path, out: Path) -> Settings:
    """The settings of an SFT on what a run was trained on.

    Raises:
        JudgeError: it is no run with adapters.
    """
    recipe = yaml_mapping(run / RECIPE_FILE)
    if not recipe.get("use_peft"):
        raise JudgeError(f"{run}: trained without adapters; expected a run with use_peft: true")
    style = recipe.get("style") or ("reasoned" if "num_generations" in recipe else "direct")
    values = {
        **{name: recipe[name] for name in _KEPT if name in recipe},
        "style": style,
        "balance": "proportional",
        "lora_dropout": 0.0,
        "eval_strategy": "no",
        "gradient_checkpointing": False,
        "output_dir": str(out),
        "max_steps": 1,
        "disable_tqdm": True,
        **({} if style == "direct" else {"answers": "data"}),
    }
    return build_settings("sft", values)


def measure(run: Path, items: int = ITEMS, step: float = STEP) -> dict[str, Any]:
    """The interference of a run's tasks, over up to so many items of each.

    Args:
        step: the length of a step, in the space of the trained weights.
    """
    with tempfile.TemporaryDirectory() as out:
        settings = sft_settings(run, Path(out))
        loaded = [load_rows(task, "train", settings.data_root) for task in settings.tasks]
        trainer = build_trainer(settings, loaded, StopOnSignal())
        load_weights(trainer.model, run / ADAPTER)
        model = trainer.model.eval()
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        batches = _batches(trainer, [task.task for task in settings.tasks], items)
        before = _losses(model, batches)
        after = []
        for of_task in batches:
            kept = [weight.detach().clone() for weight in weights]
            _step(model, weights, of_task, step)
            after.append(_losses(model, batches))
            with torch.no_grad():
                for weight, value in zip(weights, kept, strict=True):
                    weight.copy_(value)
    table = interference(before, after)
    return {
        "run": str(run),
        "tasks": [task.task for task in settings.tasks],
        "table": [[None if np.isnan(x) else round(float(x), 4) for x in row] for row in table],
        "negative": share_negative(table),
    }


def _batches(trainer: Any, tasks: Sequence[str], items: int) -> list[list[dict[str, Any]]]:
    """The inputs of each task's first items; the training set is shuffled by the seed."""
    names = trainer.train_dataset.with_format(None)["task"][:]
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(names):
        if len(rows[name]) < items:
            rows[name].append(number)
    return [
        [
            trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[number]]))
            for number in rows[task]
        ]
        for task in tasks
    ]


@torch.no_grad()
def _losses(model: Any, batches: Sequence[Sequence[dict[str, Any]]]) -> list[NDArray[np.float64]]:
    """The loss of each item, by task."""
    return [
        np.array([float(model(**inputs).loss) for inputs in of_task], dtype=np.float64)
        for of_task in batches
    ]


def _step(
    model: Any, weights: Sequence[torch.Tensor], batch: Sequence[dict[str, Any]], length: float
) -> None:
    """A step of so much length down the gradient of a task's mean loss."""
    model.zero_grad()
    for inputs in batch:
        (model(**inputs).loss / len(batch)).backward()
    gradients = [weight.grad for weight in weights]
    known = [gradient for gradient in gradients if gradient is not None]
    norm = torch.stack([gradient.norm() for gradient in known]).norm()
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                weight.sub_(gradient * (length / norm.clamp(min=1e-12)))
    model.zero_grad()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--step", type=float, default=STEP)
    given = parser.parse_args(arguments)
    with exits_with_message():
        found = measure(given.run, given.items, given.step)
    rows = [[task, *row] for task, row in zip(found["tasks"], found["table"], strict=True)]
    print("loss of \\ step on")
    print(tabulate(rows, headers=["", *found["tasks"]], floatfmt=".2f"))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
