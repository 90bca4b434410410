"""``python -m benchmarks.shared_prompt``: stock TRL and ours. Prints one JSON object last.

Both run the same GRPO steps in one process, with the same weights, prompts, seed and number of
tokens, and therefore the same completions (``same_completions`` is the share that is equal).
``cpu.G16`` and so on contain medians over steps and, as stock ÷ ours:

- ``preprocess_ratio``: reading rows, decoding images, and the part of a rollout that is neither
  generation nor rewards
- ``generation_ratio``
- ``logprob_ratio``: log-probabilities, forward and backward
- ``step_ratio``: from the start of a step to the start of the next
- ``memory_ratio``: peak memory that loss and backward allocate

``python -m benchmarks.gpu`` is for GPUs.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from random import Random
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from PIL import Image
from torch.profiler import ProfilerActivity, profile
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer

from mtrl_judge.demo.tiny_model import build_model, build_processor, build_tokenizer
from mtrl_judge.rl.grpo_trainer import JudgeGRPOTrainer

from .random_models import as_dataset
from .timing import median_ratio, step_seconds, timed

WARMUP = 2
SEED = 0
TRAINERS: dict[str, type] = {"stock": GRPOTrainer, "ours": JudgeGRPOTrainer}
RUBRIC = (
    "Judge how well the image matches the text. Look at every thing that the text names, at its "
    "color, its number and its place, and say whether the image shows it as it is described. "
)


@dataclass(frozen=True)
class Setting:
    """The work of one comparison."""

    group: int
    completion: int  # tokens, exactly
    text: int  # characters, each a token of the benchmark's tokenizer
    edge: int  # pixels of the square image's edge
    prompts: int = 2
    steps: int = 7
    rounds: int = 3


CPU = [Setting(group, completion=24, text=268, edge=64) for group in (4, 8, 16, 20)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--groups", type=int, nargs="*", help="only these G on the CPU")
    groups = parser.parse_args().groups
    cpu = {f"G{s.group}": compare(s) for s in CPU if not groups or s.group in groups}
    print(json.dumps({"cpu": cpu}))


def compare(setting: Setting) -> dict[str, Any]:
    """Medians and ratios of one setting; the runs of both alternate."""
    parts: dict[str, list[dict[str, float]]] = {name: [] for name in TRAINERS}
    texts: dict[str, list[str]] = {}
    memory: dict[str, int] = {}
    for run in range(setting.rounds):
        for name in list(TRAINERS)[:: 1 if run % 2 else -1]:
            with _trainer(TRAINERS[name], setting) as trainer:
                parts[name].append(_step_parts(trainer))
                texts[name] = list(trainer._logs["completion"])
                if run == 0:
                    memory[name] = _peak_bytes(trainer)
    medians = {
        name: {part: statistics.median(run[part] for run in runs) for part in runs[0]}
        for name, runs in parts.items()
    }
    ratios = {
        f"{part}_ratio": median_ratio(*([run[part] for run in parts[n]] for n in ("stock", "ours")))
        for part in ("preprocess", "generation", "logprob", "step")
    }
    same = [a == b for a, b in zip(texts["stock"], texts["ours"], strict=True)]
    return {
        **{name: round(value, 2) for name, value in ratios.items()},
        "memory_ratio": round(memory["stock"] / memory["ours"], 2),
        "same_completions": round(sum(same) / len(same), 3),
        "prompt_tokens": _prompt_tokens(setting),
        **{k: v for k, v in asdict(setting).items() if k in ("completion", "prompts")},
        "seconds": {
            name: {part: round(value, 4) for part, value in seconds.items()}
            for name, seconds in medians.items()
        },
        "peak_mib": {name: round(value / 2**20, 1) for name, value in memory.items()},
    }


@contextmanager
def _trainer(kind: type, setting: Setting) -> Iterator[Any]:
    """A trainer to run, with a learning rate of 0; kept until its last batch has been used."""
    processor = _processor(setting.edge)
    tokenizer = processor.tokenizer
    images = [tokenizer.convert_tokens_to_ids(t) for t in ("<|image_pad|>", "<|video_pad|>")]
    with tempfile.TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            learning_rate=0.0,
            max_steps=setting.steps,
            per_device_train_batch_size=setting.prompts * setting.group,
            num_generations=setting.group,
            max_completion_length=setting.completion,
            # A sampled image token would have no image: TRL stops at it.
            generation_kwargs={
                "min_new_tokens": setting.completion,
                "suppress_tokens": images,
            },
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_steps=1000,
            disable_tqdm=True,
            seed=SEED,
        )
        trainer = kind(
            model=_model(tokenizer),
            args=arguments,
            train_dataset=_rows(setting),
            processing_class=processor,
            reward_funcs=[_distinct],
        )
        yield trainer
    del trainer
    gc.collect()


def _distinct(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [len(set(ids)) / len(ids) for ids in completion_ids]


@cache
def _processor(edge: int) -> Any:
    processor = build_processor(build_tokenizer([]))
    size = {"shortest_edge": edge * edge, "longest_edge": edge * edge}
    processor.image_processor.size = size
    return processor


def _model(tokenizer: Any) -> Any:
    torch.manual_seed(SEED)
    return build_model(tokenizer)


def _rows(setting: Setting) -> Dataset:
    draw = Random(SEED)
    size = (setting.edge, setting.edge)
    number = setting.prompts * setting.steps
    rows: dict[str, list[Any]] = {
        "prompt": [
            [{"role": "user", "content": f"{index:03} {(RUBRIC * 9)[: setting.text]}"}]
            for index in range(number)
        ],
        "images": [
            [Image.frombytes("RGB", size, draw.randbytes(3 * setting.edge**2))]
            for _ in range(number)
        ],
    }
    return as_dataset(rows, number)


def _prompt_tokens(setting: Setting) -> int:
    processor, row = _processor(setting.edge), _rows(replace(setting, steps=1))[0]
    content = [{"type": "image"}, {"type": "text", "text": row["prompt"][0]["content"]}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return len(processor(text=[text], images=[row["images"]])["input_ids"][0])


def _step_parts(trainer: Any) -> dict[str, float]:
    """Median seconds of a step, by part."""
    kind = type(trainer)
    methods: dict[str, tuple[type, str]] = {
        "rows": (Trainer, "get_batch_samples"),
        "step": (kind, "training_step"),
        "rollout": (kind, "_generate_and_score_completions"),
        "generation": (kind, "_generate_single_turn"),
        "rewards": (kind, "_calculate_rewards"),
        "logprob": (kind, "_get_per_token_logps_and_entropies"),
        "backward": (Accelerator, "backward"),
    }
    with timed(methods) as spans:
        trainer.train()
    parts = [
        {
            "preprocess": step["rows"] + step["rollout"] - step["generation"] - step["rewards"],
            "generation": step["generation"],
            "logprob": step["logprob"] + step["backward"],
            "step": step["step"],
        }
        for step in step_seconds(spans, WARMUP)
    ]
    return {part: statistics.median(step[part] for step in parts) for part in parts[0]}


def _peak_bytes(trainer: Any) -> int:
    """Peak memory that loss and backward of the last batch allocate."""
    inputs = trainer._buffered_inputs[-1]

    def loss_and_backward() -> None:
        trainer._compute_loss(trainer.model, inputs).backward()
        trainer.model.zero_grad(set_to_none=True)

    loss_and_backward()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss_and_backward()
    allocated = peak = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


if __name__ == "__main__":
    main()
