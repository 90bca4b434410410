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

    The stock backend computes in bfloat16 on every device, ours in float32 on a CPU; so the stock
    one is timed as it comes and with the same weights and type as ours.

    Args:
        model_folder: a Qwen3-VL checkpoint.
        items: prompts whose pictures have sides that are multiples of 32 pixels.
        batch_size: prompts a batch, for all.
        new_tokens: all write exactly so many tokens a prompt (for random weights); None lets them
            stop at the end token.
        runs: timed runs of each, after one that is not timed.

    Returns:
        `backend_ratio` over the stock one as it comes, `backend_ratio_same_dtype` (medians over
        rounds of runs), `docs_per_s` of each (medians), and `same_text`, the share of items on
        which ours and the stock one of the same type wrote the same.
    """
    for item in items:
        for image in item.images:
            if image.width % STOCK_FACTOR or image.height % STOCK_FACTOR:
                raise ValueError(f"picture of {image.size}: sides must be multiples of 32 pixels")
    pixels = [image.width * image.height for item in items for image in item.images]
    limits = {"min_pixels": min(pixels), "max_pixels": max(pixels)}
    backends = {
        "ours": _ours(model_folder, batch_size, limits),
        "stock": _stock(model_folder, batch_size, limits),
        "same_dtype": _stock(model_folder, batch_size, limits),
    }
    backends["same_dtype"].model.float().load_state_dict(backends["ours"].model.state_dict())
    requests = _requests(items, new_tokens)
    for backend in backends.values():
        backend.task_dict[TASK] = {SPLIT: list(items)}
        backend.model.generation_config.min_new_tokens = new_tokens
    seconds: dict[str, list[float]] = {name: [] for name in backends}
    with _quiet_garbage_collector():
        texts = {
            name: [result.text for result in backend.generate_until(list(requests))]
            for name, backend in backends.items()
        }
        for run in range(runs):
            for name in list(backends)[:: 1 if run % 2 else -1]:
                seconds[name].append(_seconds(backends[name], requests))
    same = sum(a == b for a, b in zip(texts["ours"], texts["same_dtype"], strict=True))
    return {
        "backend_ratio": _ratio(seconds["stock"], seconds["ours"]),
        "backend_ratio_same_dtype": _ratio(seconds["same_dtype"], seconds["ours"]),
        **{f"docs_per_s_{n}": len(items) / statistics.median(s) for n, s in seconds.items()},
        "same_text": same / len(items),
    }


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


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
