"""How fast the `mtrl_judge` backend is: compared with lmms-eval's own `qwen3_vl`, and with itself
without the work it saves.

All run in one process on the same weights, prompts, pixels, batch size and number of new tokens.
Runs alternate, and a ratio is the median over pairs of runs, so that changes of the machine's speed
affect both sides alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.models.chat.qwen3_vl import Qwen3_VL
from PIL import Image

from mtrl_judge.harness_plugin.hooks import JudgeHooks
from mtrl_judge.harness_plugin.model import MtrlJudge
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.models.token_budget import TokenBudget, token_budget
from mtrl_judge.models.transformers_judge import TransformersJudge

from .timing import alternate, median_ratio, timed

TASK, SPLIT = "benchmark", "test"
# qwen_vl_utils, which the stock backend calls, resizes to multiples of two patches of 16 pixels,
# whatever the model's own patch is: with images of other sizes the work would differ.
STOCK_FACTOR = 32
MAX_NEW_TOKENS = 256


class Item(NamedTuple):
    """A prompt: the images, then the text."""

    text: str
    images: Sequence[Image.Image]

    def messages(self) -> list[dict[str, Any]]:
        images = [{"type": "image", "url": image} for image in self.images]
        return [{"role": "user", "content": [*images, {"type": "text", "text": self.text}]}]


def backend_ratio(
    checkpoint: Path,
    items: Sequence[Item],
    batch_size: int = 8,
    *,
    new_tokens: int | None = None,
    runs: int = 5,
) -> dict[str, float]:
    """Docs/s of `mtrl_judge` over the stock `qwen3_vl` on the same items and model.

    On a CPU the stock backend computes in bfloat16 and ours in float32, so the stock backend is
    timed as it is and also with our weights and dtype.

    Args:
        checkpoint: a Qwen3-VL checkpoint.
        items: prompts; the edges of their images are multiples of 32 pixels.
        new_tokens: generate exactly this many tokens per prompt (for random weights); None stops at
            the end token.
        runs: timed runs of each, after a warm-up run.

    Returns:
        `backend_ratio`: over the stock backend as it is.
        `backend_ratio_same_dtype`: over the stock backend with our dtype.
        `docs_per_s_…`: of each, medians.
        `same_text`: share of items with the same text from ours and the stock backend of the same
        dtype.
    """
    images = [image for item in items for image in item.images]
    for image in images:
        if image.width % STOCK_FACTOR or image.height % STOCK_FACTOR:
            raise ValueError(f"image of {image.size}: expected multiples of {STOCK_FACTOR} pixels")
    pixels = [image.width * image.height for image in images]
    limits = {"min_pixels": min(pixels), "max_pixels": max(pixels)}
    backends = {
        "ours": _backend(MtrlJudge, checkpoint, batch_size, dtype="float32", **limits),
        "stock": _backend(Qwen3_VL, checkpoint, batch_size, device_map="cpu", **limits),
        "same_dtype": _backend(Qwen3_VL, checkpoint, batch_size, device_map="cpu", **limits),
    }
    backends["same_dtype"].model.float().load_state_dict(_model(backends["ours"]).state_dict())
    requests = _requests(TASK, Item.messages, [item.text for item in items], new_tokens)
    for backend in backends.values():
        backend.task_dict[TASK] = {SPLIT: list(items)}
        _model(backend).generation_config.min_new_tokens = new_tokens
    ours, stock = (
        [result.text for result in backends[name].generate_until(list(requests))]
        for name in ("ours", "same_dtype")
    )
    seconds = alternate(
        {name: partial(each.generate_until, list(requests)) for name, each in backends.items()},
        runs,
    )
    return {
        "backend_ratio": median_ratio(seconds["stock"], seconds["ours"]),
        "backend_ratio_same_dtype": median_ratio(seconds["same_dtype"], seconds["ours"]),
        **{f"docs_per_s_{n}": len(items) / statistics.median(s) for n, s in seconds.items()},
        "same_text": sum(a == b for a, b in zip(ours, stock, strict=True)) / len(items),
    }


def shared_work_ratios(
    checkpoint: Path,
    pointwise: Sequence[JudgeTask],
    pairwise: JudgeTask,
    root: Path,
    batch_size: int = 8,
    *,
    new_tokens: int,
    runs: int = 5,
) -> dict[str, float]:
    """Docs/s of the backend over the same backend without the work it saves.

    All prompts ask for the verdict alone. The calibration before a task's first item is not timed.

    Args:
        pointwise: tasks whose test splits are judged by probabilities and by generation.
        pairwise: a task whose pairs are judged by probabilities, in both orders, with and without
            image deduplication.
        root: the data root of the tasks.
        new_tokens: tokens generated for every prompt, exactly.
        runs: timed runs of each, after a warm-up run.

    Returns:
        `logprob_ratio` and `pair_vision_ratio`.
    """
    # Scoring last: the prompt style is global, and that of the backend that was built last.
    generating, scoring = (
        _backend(MtrlJudge, checkpoint, batch_size, dtype="float32", scoring=scoring)
        for scoring in ("generation", "logprob")
    )
    _model(generating).generation_config.min_new_tokens = new_tokens
    tasks = [_HostTask(task, root) for task in (*pointwise, pairwise)]
    for backend in (generating, scoring):
        backend.task_dict.update({task.name: {SPLIT: task.rows} for task in tasks})
    requests = [request for task in tasks for request in task.requests(new_tokens)]
    pairs = tasks[-1].requests(new_tokens)

    def without_deduplication() -> None:
        with patch("mtrl_judge.models.transformers_judge.deduplicate_images", nullcontext):
            scoring.generate_until(list(pairs))

    seconds = alternate(
        {
            "generation": partial(generating.generate_until, list(requests)),
            "logprob": partial(scoring.generate_until, list(requests)),
            "deduplicated": partial(scoring.generate_until, list(pairs)),
            "all": without_deduplication,
        },
        runs,
    )
    return {
        "logprob_ratio": median_ratio(seconds["generation"], seconds["logprob"]),
        "pair_vision_ratio": median_ratio(seconds["all"], seconds["deduplicated"]),
    }


def backend_variants(
    checkpoint: Path,
    task: JudgeTask,
    root: Path,
    *,
    edge: int,
    batch_size: int,
    new_tokens: int,
    batches: int,
    device: str,
) -> Iterator[tuple[str, Any]]:
    """Docs/s of the stock `qwen3_vl`, of `mtrl_judge`, and of it with other batches and caches.

    All judge the same rows by the same prompts, which ask for the verdict alone. Figures come as
    soon as they are known, as names and values.

    Args:
        checkpoint: a Qwen3-VL checkpoint; weights may be random.
        edge: pixels of the edge of the images that replace those of the task; a multiple of 32.
        new_tokens: generated for every prompt, exactly.
        batches: how many batches of `batch_size` are judged in a run.
    """
    size = {"min_pixels": edge**2, "max_pixels": edge**2}
    # Scoring last: the prompt style is global, and that of the backend that was built last.
    stock = _backend(Qwen3_VL, checkpoint, batch_size, device=device, device_map=device, **size)
    ours, scoring = (
        _backend(MtrlJudge, checkpoint, batch_size, device=device, scoring=scoring, **size)
        for scoring in ("generation", "logprob")
    )
    for backend in (stock, ours):
        _model(backend).generation_config.min_new_tokens = new_tokens
    host, draw = _HostTask(task, root), Random(0)
    rows = list(islice(cycle(host.rows), batch_size * batches))
    host.rows = [
        {**row, "images": [Image.frombytes("RGB", (edge, edge), draw.randbytes(3 * edge**2))]}
        for row in rows
    ]
    for backend in (stock, ours, scoring):
        backend.task_dict[host.name] = {SPLIT: host.rows}
    requests = host.requests(new_tokens)
    generate = ours.judge.generate

    def docs_per_s(backend: Any) -> float:
        started = time.perf_counter()
        backend.generate_until(list(requests))
        return round(len(requests) / (time.perf_counter() - started), 3)

    for backend in (stock, ours, scoring):  # warm up
        backend.generate_until(requests[:batch_size])
    synchronize = torch.cuda.synchronize if device == "cuda" else None
    runs: dict[str, list[float]] = {"stock": [], "ours": []}
    for _ in range(2):
        runs["stock"].append(docs_per_s(stock))
        with timed(
            {n: (TransformersJudge, n) for n in ("inputs", "generate")}, synchronize
        ) as spans:
            runs["ours"].append(docs_per_s(ours))
    medians = {name: statistics.median(values) for name, values in runs.items()}
    yield "docs_per_s", medians
    yield "generation_ratio", round(medians["ours"] / medians["stock"], 2)
    for name, calls in spans.items():
        yield f"{name}_s", [round(seconds, 3) for _, seconds in calls]
    scored = docs_per_s(scoring)
    yield "logprob_docs_per_s", scored
    yield "logprob_ratio", round(scored / medians["stock"], 2)
    budget = token_budget(_model(ours)) if device == "cuda" else TokenBudget(4096)
    with patch.object(ours.opened, "prompts_at_once", budget):
        yield "auto_docs_per_s", docs_per_s(ours)
    with patch.object(ours.judge, "generate", partial(generate, cache_implementation="static")):
        started = time.perf_counter()
        ours.generate_until(requests[:batch_size])
        yield "static_cache_first_batch_s", round(time.perf_counter() - started, 1)
        yield "static_cache_docs_per_s", docs_per_s(ours)


class _HostTask:
    """A judge task as lmms-eval passes it to a model."""

    def __init__(self, task: JudgeTask, root: Path) -> None:
        self.name = task.task
        self._hooks = JudgeHooks(task)
        self.config = SimpleNamespace(process_results=self._hooks.config()["process_results"])
        self.rows: list[Any] = list(load_rows(task, SPLIT, root).rows.dataset)

    def doc_to_messages(self, doc: Mapping[str, Any]) -> list[dict[str, Any]]:
        return self._hooks.doc_to_messages(doc)

    def requests(self, new_tokens: int) -> list[Instance]:
        return _requests(self.name, self.doc_to_messages, [""] * len(self.rows), new_tokens)


def _model(backend: Any) -> Any:
    return backend.judge.model if isinstance(backend, MtrlJudge) else backend.model


def _backend(kind: Any, checkpoint: Path, batch_size: int, **options: Any) -> Any:
    # The stock backend's default system prompt, for both.
    return kind(
        pretrained=str(checkpoint),
        batch_size=batch_size,
        system_prompt="You are a helpful assistant.",
        **{"device": "cpu", **options},
    )


def _requests(
    task: str, to_messages: Callable[..., Any], texts: Sequence[str], new_tokens: int | None
) -> list[Instance]:
    """A request for each text, which is what a simple model would get."""
    generation = {"max_new_tokens": new_tokens or MAX_NEW_TOKENS, "temperature": 0, "until": []}
    return [
        Instance(
            request_type="generate_until",
            arguments=(text, to_messages, dict(generation), doc_id, task, SPLIT),
            idx=0,
            metadata={"task": task, "doc_id": doc_id, "repeats": 1},
        )
        for doc_id, text in enumerate(texts)
    ]
