"""What ``mtrl-judge train`` and ``mtrl-judge experiment`` say and read before training loads."""

from __future__ import annotations

from mtrl_judge.judge_tasks.errors import JudgeError
from mtrl_judge.rl.settings import METHODS, shipped_recipes


def training_help() -> str:
    """How to train: the methods, the shipped recipes, where the fields are listed."""
    recipes = [
        f"  {method:4}  {', '.join(path.stem for path in shipped_recipes(method))}"
        for method in METHODS
    ]
    return "\n".join(
        [
            "Usage: mtrl-judge train grpo|sft --recipe NAME|FILE [--key value …]",
            "",
            "Train one judge over many tasks. A flag goes over the recipe's field of that name.",
            "",
            "Recipes that are shipped:",
            *recipes,
            "",
            "  mtrl-judge train grpo --help                   every field, as a flag",
            "  mtrl-judge train grpo --recipe NAME --dry_run  what would be trained, and how",
            "  mtrl-judge train … --resume                    go on with a run that was broken off",
        ]
    )


def read_seeds(text: str) -> list[int]:
    """A number of seeds from 0 up, or the seeds themselves, with commas.

    >>> read_seeds("3"), read_seeds("3,"), read_seeds("0,7")
    ([0, 1, 2], [3], [0, 7])

    Raises:
        JudgeError: it is neither.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    right = "would be right: 3 (for 0, 1, 2) or 0,4,7"
    if not words or not all(word.isdecimal() for word in words):
        raise JudgeError(f"--seeds: is {text!r}; {right}")
    seeds = list(map(int, words))
    if "," not in text:
        seeds = list(range(seeds[0]))
    if not seeds or len(set(seeds)) < len(seeds):
        raise JudgeError(f"--seeds: {text!r} gives no seed, or one twice; {right}")
    return seeds
