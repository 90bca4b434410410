"""``python -m benchmarks.gpu``: the recipe for one GPU on random weights. One JSON object last.

Trains some steps of ``qwen3_vl_4b_lora_1gpu`` on the sample corpus, with generation by
transformers instead of vLLM, with prompts shared and as in TRL. Everything else is the recipe's,
but for fewer and shorter completions. Images have as many tokens as the recipe allows. ``--tiny``
runs the same on a CPU with a tiny model, to test it.

- ``self_check``: log-probabilities against TRL's own, in nats, and what rounding does. A run that
  an error stops is reported as ``stopped``.
- ``seconds``: medians of a step by part, and ``peak_gib`` of memory, of both.
- ``logprob_ratio``: log-probabilities, forward and backward, TRL's ÷ shared.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3VLForConditionalGeneration

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.demo.corpus import SMALL, write_sample
from mtrl_judge.demo.tiny_model import IMAGE, VIDEO, build_model, build_processor, build_tokenizer
from mtrl_judge.rl import self_check
from mtrl_judge.rl.memory import architecture
from mtrl_judge.rl.settings import build_settings
from mtrl_judge.rl.train import train

from .timing import step_seconds, timed
from .train import PARTS

RECIPE, MODEL = "qwen3_vl_4b_lora_1gpu", "Qwen/Qwen3-VL-4B-Instruct"
PATCH = 16  # of the model's images
STEPS, WARMUP = 4, 1
GIB = 2**30


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    tiny = parser.parse_args(arguments).tiny
    with tempfile.TemporaryDirectory() as folder:
        root, base = Path(folder) / "data", Path(folder) / "base"
        write_sample(root, sizes=SMALL)
        write_base(base, tiny=tiny)
        figures: dict[str, Any] = {
            "device": "cpu" if tiny else torch.cuda.get_device_name(),
            "recipe": RECIPE,
        }
        for name, share in (("shared", True), ("stock", False)):
            figures[name] = run(root, base, Path(folder) / name, share=share, tiny=tiny)
            gc.collect()
    if "seconds" in figures["shared"]:
        logprobs = [
            figures[name]["seconds"]["logprobs"] + figures[name]["seconds"]["backward"]
            for name in ("stock", "shared")
        ]
        figures["logprob_ratio"] = round(logprobs[0] / logprobs[1], 2)
    print(json.dumps(figures))


def write_base(folder: Path, *, tiny: bool) -> None:
    """A checkpoint with random weights: the recipe's architecture, or the tiny model's."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer([])
    processor, model = build_processor(tokenizer), build_model(tokenizer)
    if not tiny:
        found = architecture(MODEL)
        assert found is not None
        config = found[0]
        for name in ("image_token_id", "video_token_id", "vision_start_token_id"):
            setattr(config, name, getattr(model.config, name))
        config.text_config.update({"pad_token_id": tokenizer.pad_token_id})
        with torch.device("cuda"):
            large = Qwen3VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
        large.generation_config = model.generation_config
        model = large
        processor.image_processor.patch_size = PATCH
        edge = 28 * 2 * PATCH  # 784 tokens an image, as the recipe's `max_pixels`
        processor.image_processor.size = {"shortest_edge": edge**2, "longest_edge": edge**2}
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def run(root: Path, base: Path, out: Path, *, share: bool, tiny: bool) -> dict[str, Any]:
    """Median seconds of a step by part, peak memory, and what the self-check found."""
    tokenizer = build_tokenizer([])
    tokens = 16 if tiny else 256
    values: dict[str, Any] = {
        "model_name_or_path": str(base),
        "data_root": str(root),
        "output_dir": str(out),
        "use_vllm": False,
        "vllm_enable_sleep_mode": False,
        "share_prompt": share,
        "max_steps": STEPS,
        "gradient_accumulation_steps": 2,
        "max_completion_length": tokens,
        # A sampled image token would have no image.
        "generation_kwargs": {
            "min_new_tokens": tokens,
            "suppress_tokens": [tokenizer.convert_tokens_to_ids(name) for name in (IMAGE, VIDEO)],
        },
        "eval_strategy": "no",
        "patience": 0,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": tiny,
    }
    settings = build_settings("grpo", values, recipe=RECIPE)
    checked = Checked()
    logger = logging.getLogger(self_check.__name__)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(checked)
    if not tiny:
        torch.cuda.reset_peak_memory_stats()
    try:
        with timed(PARTS, None if tiny else torch.cuda.synchronize) as spans:
            train(settings)
    except JudgeError as error:
        return {"stopped": str(error)}
    finally:
        logger.removeHandler(checked)
        logger.setLevel(level)
    steps = step_seconds(spans, WARMUP)
    figures: dict[str, Any] = {
        "self_check": checked.found,
        "seconds": {
            name: round(statistics.median(step[name] for step in steps), 3) for name in PARTS
        },
    }
    if not tiny:
        figures["peak_gib"] = round(torch.cuda.max_memory_allocated() / GIB, 1)
    return figures


class Checked(logging.Handler):
    """Keeps the figures of the self-check's messages."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, dict[str, float]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == self_check.AGREE and isinstance(record.args, tuple):
            where, *figures = record.args
            names = ("mean", "row", "rounding_mean", "rounding_row")
            self.found[str(where)] = dict(zip(names, figures, strict=True))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
