"""How fast the `mtrl_judge` backend is beside lmms-eval's own `qwen3_vl`, doing the same work.

Same process, weights, prompts, pixels, batch size and new tokens; runs alternate, and
the ratio is the median over pairs of runs, so that a change of the machine's pace meets both alike.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

TASK, SPLIT = "benchmark", "test"
SYSTEM_PROMPT = "You are a helpful assistant."  # the stock backend's default
# qwen_vl_utils, which the stock backend calls, resizes to multiples of two patches of 16 pixels,
# whatever the model's own patch is: pictures of other sizes would not be the same work.
STOCK_FACTOR = 32
MAX_NEW_TOKENS = 256


class Item(NamedTuple):
    """What is put before the judge: the pictures, then the text."""

    text: str
    images: Sequence[Image.Image]


def backend_ratio(
    model_folder: Path,
    items: Sequence[Item],
    batch_size: int = 8,
    *,
    new_tokens: int | None = None,
    runs: int = 5,
) -> dict[str, float]:
    """Docs a second of `mtrl_judge` over the stock `qwen3_vl` on the same items and model.

    Args:
        model_folder: a Qwen3-VL checkpoint.
        items: prompts whose pictures have sides that are multiples of 32 pixels.
        batch_size: prompts a batch, for both.
        new_tokens: both write exactly so many tokens a prompt (for random weights); None lets both
            stop at the end token.
        runs: timed runs of each, after one that is not timed.

    Returns:
        `backend_ratio` (median over pairs of runs), `docs_per_s` and `stock_docs_per_s` (medians),
        and `same_text`, the share of items on which both wrote the same.
    """
    for item in items:
        for image in item.images:
            if image.width % STOCK_FACTOR or image.height % STOCK_FACTOR:
                raise ValueError(f"picture of {image.size}: sides must be multiples of 32 pixels")
    pixels = [image.width * image.height for item in items for image in item.images]
    limits = {"min_pixels": min(pixels), "max_pixels": max(pixels)}
    ours, stock = (make(model_folder, batch_size, limits) for make in (_ours, _stock))
    # The stock backend loads bfloat16 on every device, which a CPU may compute more slowly.
    stock.model.float().load_state_dict(ours.model.state_dict())
    backends = [ours, stock]
    requests = _requests(items, new_tokens)
    for backend in backends:
        backend.task_dict[TASK] = {SPLIT: list(items)}
        backend.model.generation_config.min_new_tokens = new_tokens
    seconds: dict[Any, list[float]] = {backend: [] for backend in backends}
    with _quiet_garbage_collector():
        texts = [[result.text for result in b.generate_until(requests)] for b in backends]
        for run in range(runs):
            for backend in backends[:: 1 if run % 2 else -1]:
                seconds[backend].append(_seconds(backend, requests))
    ratios = [b / a for a, b in zip(seconds[ours], seconds[stock], strict=True)]
    same = sum(a == b for a, b in zip(*texts, strict=True)) / len(items)
    return {
        "backend_ratio": statistics.median(ratios),
        "docs_per_s": len(items) / statistics.median(seconds[ours]),
        "stock_docs_per_s": len(items) / statistics.median(seconds[stock]),
        "same_text": same,
    }


def _ours(model_folder: Path, batch_size: int, limits: dict[str, int]) -> Any:
    from mtrl_judge.harness_plugin.model import MtrlJudge

    return MtrlJudge(
        pretrained=str(model_folder),
        batch_size=batch_size,
        dtype="float32",
        device="cpu",
        system_prompt=SYSTEM_PROMPT,
        **limits,
    )


def _stock(model_folder: Path, batch_size: int, limits: dict[str, int]) -> Any:
    from lmms_eval.models.chat.qwen3_vl import Qwen3_VL

    return Qwen3_VL(
        pretrained=str(model_folder),
        batch_size=batch_size,
        device="cpu",
        device_map="cpu",
        system_prompt=SYSTEM_PROMPT,
        **limits,
    )


def _requests(items: Sequence[Item], new_tokens: int | None) -> list[Any]:
    from lmms_eval.api.instance import Instance

    generation = {"max_new_tokens": new_tokens or MAX_NEW_TOKENS, "temperature": 0, "until": []}
    return [
        Instance(
            request_type="generate_until",
            arguments=(item.text, _messages, dict(generation), doc_id, TASK, SPLIT),
            idx=0,
            metadata={"task": TASK, "doc_id": doc_id, "repeats": 1},
        )
        for doc_id, item in enumerate(items)
    ]


def _messages(item: Item) -> list[dict[str, Any]]:
    pictures = [{"type": "image", "url": image} for image in item.images]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": item.text}]}]


def _seconds(backend: Any, requests: Sequence[Any]) -> float:
    started = time.perf_counter()
    backend.generate_until(list(requests))
    return time.perf_counter() - started


@contextmanager
def _quiet_garbage_collector() -> Iterator[None]:
    """Keep collection pauses out of the timed runs."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
