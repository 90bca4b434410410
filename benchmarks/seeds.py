"""``python -m benchmarks.seeds``: does the demo's training work on every seed?

For each seed, the whole demo runs: the sample corpus, the tiny base model, GRPO with the recipe
``tiny_cpu`` and the evaluations, all drawn with this seed. Finished steps are skipped, so an
interrupted benchmark continues, and several processes may share the seeds.

It prints the demo's tables as means over seeds with their standard deviation. The last line of the
output is a JSON object:

- ``seeds``: of each seed, from the validations that its run logs: ``base``, ``best`` and ``final``,
  the mean of the tasks' Macro-F1 before training, at its best and at the end; ``facts_base`` and
  ``facts_final``, the share of facts that the reasoning states.
- ``final``: mean over seeds, its standard error ``se``, ``low`` (mean minus two standard errors)
  and the minimum.
- ``best_minus_final`` and ``facts_lost``: means over seeds.

Run from the repository's root: ``python -m benchmarks.seeds [--seeds 0 1 2 3 4]
[--out runs/seeds]``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from tabulate import tabulate

from mtrl_judge.common.files import read_json_lines
from mtrl_judge.experiments.demo import run_demo
from mtrl_judge.leaderboard.tables import Table
from mtrl_judge.rl.callbacks import LOG_FILE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # pretraining in this process rounds by the number of threads
    demos = [run_demo(arguments.out, seed=seed) for seed in arguments.seeds]
    print(test_scores([demo.table for demo in demos]))
    print(test_scores([demo.further for demo in demos]))
    validations = [of_validation(demo.learning_curve.parent / LOG_FILE) for demo in demos]
    seeds = dict(zip(arguments.seeds, validations, strict=True))
    print(json.dumps({"seeds": seeds, **summary(validations)}))


def test_scores(tables: Sequence[Table]) -> str:
    """A table of the demo, each figure as its mean and standard deviation over seeds."""
    rows = []
    for same in zip(*(table.rows for table in tables), strict=True):
        row = {"task": same[0].title}
        for column, cell in same[0].cells.items():
            values = [one.cells[column].number for one in same]
            known = [value for value in values if value is not None]
            if cell.kind == "rate":
                row[column] = spread(known, of=len(values)) if known else "–"
        rows.append(row)
    return tabulate(rows, headers="keys", disable_numparse=True)


def spread(values: Sequence[float], of: int) -> str:
    """The mean and, of several values, the standard deviation; their number if some are missing."""
    text = f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")
    return text if len(values) == of else f"{text} ({len(values)} seeds)"


def of_validation(log: Path) -> dict[str, float]:
    """The figures of a run's validations, means over tasks."""
    validations = [line for _, line in read_json_lines(log) if "eval_macro_f1" in line]
    scores = [line["eval_macro_f1"] for line in validations]
    return {
        "base": scores[0],
        "best": max(scores),
        "final": scores[-1],
        "facts_base": over_tasks(validations[0], "facts_rate"),
        "facts_final": over_tasks(validations[-1], "facts_rate"),
    }


def over_tasks(validation: dict[str, Any], name: str) -> float:
    """The mean of a figure over the tasks that have it."""
    return fmean(
        value for key, value in validation.items() if key.endswith(f"/{name}") and value is not None
    )


def summary(seeds: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Means over seeds, of the final score also how sure the mean is."""
    final = [seed["final"] for seed in seeds]
    mean, figures = fmean(final), {"min": min(final)}
    if len(final) > 1:
        se = stdev(final) / len(final) ** 0.5
        figures |= {"se": se, "low": mean - 2 * se}
    return {
        "final": {"mean": mean, **figures},
        "best_minus_final": fmean(seed["best"] - seed["final"] for seed in seeds),
        "facts_lost": fmean(seed["facts_base"] - seed["facts_final"] for seed in seeds),
    }


if __name__ == "__main__":
    main()
