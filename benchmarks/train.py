"""``python -m benchmarks.train``: where the time of a training step goes. One JSON object last.

- ``step_s``: median seconds of a step of the recipe ``tiny_cpu``, by part. The model is taught so
  briefly that most completions take all the tokens there are.
- ``rewards_per_s``: completions a second through accuracy and format, as many at a time as one
  process of the paper's set-up scores; every text is another, nine in ten are in form.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mtrl_judge.rl import rewards
from mtrl_judge.rl.grpo_trainer import JudgeGRPOTrainer
from mtrl_judge.rl.settings import build_settings
from mtrl_judge.rl.train import train

from .harness import OUTPUTS, REASONING
from .timing import step_seconds, timed
from .tiny_judge import write_tiny_judge

STEPS, WARMUP = 11, 3
# 512 prompts x 20 completions over 16 processes: recipes/grpo/qwen3_vl_30b_a3b.yaml
COMPLETIONS, BATCHES = 640, 30
PARTS: dict[str, tuple[type, str]] = {
    "step": (JudgeGRPOTrainer, "training_step"),
    "generation": (JudgeGRPOTrainer, "_generate"),
    "rewards": (JudgeGRPOTrainer, "_calculate_rewards"),
    "logprobs": (JudgeGRPOTrainer, "_get_per_token_logps_and_entropies"),
    "backward": (Accelerator, "backward"),
}


def main() -> None:
    scored = rewards_per_s()  # first: a process that has trained collects garbage for longer
    with tempfile.TemporaryDirectory() as folder:
        root, base = write_tiny_judge(Path(folder))
        parts = step_s(root, base, Path(folder) / "run")
    figures = {
        "step_s": {name: round(value, 4) for name, value in parts.items()},
        "rewards_per_s": round(scored),
    }
    print(json.dumps(figures))


def step_s(root: Path, base: Path, run: Path) -> dict[str, float]:
    """Median seconds of a step by part; ``rest`` is the remainder of ``total``."""
    values = {
        "model_name_or_path": str(base),
        "data_root": str(root),
        "output_dir": str(run),
        "max_steps": STEPS,
        "eval_strategy": "no",
        "eval_on_start": False,
    }
    with timed(PARTS) as spans:
        train(build_settings("grpo", values, recipe="tiny_cpu"))
    steps = step_seconds(spans, WARMUP)
    parts = {name: statistics.median(step[name] for step in steps) for name in PARTS}
    total = parts.pop("step")
    return {**parts, "rest": total - sum(parts.values()), "total": total}


def rewards_per_s() -> float:
    """Completions a second through both reward functions of the paper."""
    row = {"kind": "pointwise", "label": "Yes", "verdicts": ["Yes", "No"]}
    columns: Any = {name: [value] * COMPLETIONS for name, value in row.items()}
    seconds = []
    for batch in range(BATCHES):
        texts = [_text(batch * COMPLETIONS + place) for place in range(COMPLETIONS)]
        started = time.perf_counter()
        rewards.accuracy(texts, **columns)
        rewards.format(texts, **columns)
        seconds.append(time.perf_counter() - started)
    return COMPLETIONS / statistics.median(seconds)


def _text(number: int) -> str:
    """A completion that no other equals; nine in ten are in form."""
    if number % 10:
        return f"<think>{number}. {REASONING}</think><answer>Yes</answer>"
    return f"{OUTPUTS[number // 10 % len(OUTPUTS)]} ({number})"


if __name__ == "__main__":
    main()
