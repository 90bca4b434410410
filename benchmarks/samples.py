"""``python -m benchmarks.samples``: K samples of a prompt. Prints one JSON object last.

In one process, on a model of random weights, K answers of a fixed length to the same prompts are
sampled by ``TransformersJudge.sample``, which reads each prompt once and decodes all of its answers
together, and by as many separate generations of ``TransformersJudge.generate``, as K evaluations
with other seeds would. ``ratio`` is the median over alternating rounds of the seconds of the latter
over those of the former. Both begin with the prompts as text and images.
"""

from __future__ import annotations

import argparse
import json
import statistics
from random import Random
from typing import Any

import torch
from PIL import Image
from transformers import GenerationConfig

from mtrl_judge.models.base_judge import Batch
from mtrl_judge.models.transformers_judge import TransformersJudge

from .random_models import RUBRIC, SEED, random_model, random_processor
from .timing import alternate, median_ratio

EDGE = 128  # pixels of each square image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=8, help="K")
    parser.add_argument("--prompts", type=int, default=2, help="of a batch")
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    processor = random_processor("tiny", EDGE)
    model = random_model("tiny", processor.tokenizer).eval()
    model.generation_config = GenerationConfig()
    judge = TransformersJudge(model, processor)
    judge.eos_ids = [len(judge.tokenizer) + 1]  # no answer ends before its last token
    draw = Random(SEED)
    prompts = [
        judge.prompt(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}],
            [Image.frombytes("RGB", (EDGE, EDGE), draw.randbytes(3 * EDGE**2))],
        )
        for text in (f"{number} {RUBRIC}" for number in range(given.prompts))
    ]
    settings: dict[str, Any] = {
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "max_new_tokens": given.tokens,
    }

    def batch() -> Batch:
        return Batch(range(len(prompts)), prompts, judge.inputs(prompts))

    def together() -> None:
        with torch.inference_mode():
            judge.sample(batch(), given.samples, 0, **settings)

    def separately() -> None:
        with torch.inference_mode():
            for seed in range(given.samples):
                torch.manual_seed(seed)
                judge.generate(batch(), **settings)

    seconds = alternate({"together": together, "separately": separately}, given.rounds)
    result = {
        **vars(given),
        "prompt_tokens": int(batch().inputs["attention_mask"].sum(dim=1)[0]),
        "threads": torch.get_num_threads(),
        "together_seconds": statistics.median(seconds["together"]),
        "separately_seconds": statistics.median(seconds["separately"]),
        "ratio": median_ratio(seconds["separately"], seconds["together"]),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
