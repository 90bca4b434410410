"""``python -m benchmarks.seeds``: does the recipe ``tiny_cpu`` work on every seed?

For each seed: the sample corpus, the tiny base model and GRPO, each drawn with this seed. All
figures are those of validation, as the runs log them: of the base model (step 0), of the best and
of the last validation. Finished steps are skipped, so an interrupted benchmark continues.

The last line of the output is a JSON object:

- ``seeds``: of each seed, ``base``, ``best`` and ``final``: the mean of the tasks' Macro-F1;
  ``facts_base`` and ``facts_final``: the mean of their ``facts_rate``.
- ``final``: mean over seeds, its standard error ``se``, ``low`` (mean minus two standard errors)
  and the minimum.
- ``best_minus_final`` and ``facts_lost``: means over seeds.

Run from the repository's root: ``python -m benchmarks.seeds [--seeds 0 1 2 3 4] [--recipe tiny_cpu]
[--out runs/seeds]``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mtrl_judge.common.files import read_json_lines
from mtrl_judge.experiments.pipeline import run_steps
from mtrl_judge.experiments.stages import (
    STEPS_FILE,
    TINY,
    base_step,
    sample_step,
    training_step,
    variables,
)
from mtrl_judge.rl.callbacks import LOG_FILE
from mtrl_judge.rl.settings import as_flags, build_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--recipe", default=TINY)
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    arguments = parser.parse_args()
    seeds = {}
    for seed in arguments.seeds:
        run = train(arguments.out.resolve() / f"seed-{seed}", seed, arguments.recipe)
        seeds[seed] = figures(run / LOG_FILE)
        print(f"seed {seed}: {seeds[seed]}", flush=True)
    print(json.dumps({"seeds": seeds, **summary([*seeds.values()])}))


def train(folder: Path, seed: int, recipe: str) -> Path:
    """Draw the corpus, pretrain the base and train it; the folder of the run."""
    data, base, run = folder / "data", folder / "base", folder / Path(recipe).stem
    values = {"recipe": recipe, "model_name_or_path": base}
    settings = build_settings("grpo", {"model_name_or_path": str(base), "dry_run": True}, recipe)
    flags = as_flags({**values, "data_root": data, "seed": seed})
    training = training_step(
        f"GRPO, seed {seed}",
        "train",
        settings,
        flags,
        run,
        evaluation=folder / "evaluation",
        environment=variables(data, settings),
        log=folder / "train.log",
    )
    steps = [sample_step(data, seed), base_step(data, base, seed), training]
    for _ in run_steps(steps, folder / STEPS_FILE):
        pass
    return run


def figures(log: Path) -> dict[str, float]:
    """What the validations of a run say."""
    lines = [line for _, line in read_json_lines(log)]
    validations = [line for line in lines if "eval_macro_f1" in line]
    scores = [line["eval_macro_f1"] for line in validations]
    return {
        "base": scores[0],
        "best": max(scores),
        "final": scores[-1],
        "facts_base": mean_of(validations[0], "facts_rate"),
        "facts_final": mean_of(validations[-1], "facts_rate"),
    }


def mean_of(validation: dict[str, Any], name: str) -> float:
    """The mean of a figure over the tasks that have it."""
    return fmean(value for key, value in validation.items() if key.endswith(f"/{name}"))


def summary(seeds: list[dict[str, float]]) -> dict[str, Any]:
    """Means over seeds and their spread."""
    final = [seed["final"] for seed in seeds]
    se = stdev(final) / len(final) ** 0.5
    mean = fmean(final)
    return {
        "final": {"mean": mean, "se": se, "low": mean - 2 * se, "min": min(final)},
        "best_minus_final": fmean(seed["best"] - seed["final"] for seed in seeds),
        "facts_lost": fmean(seed["facts_base"] - seed["facts_final"] for seed in seeds),
    }


if __name__ == "__main__":
    main()
