"""How fast the `mtrl_judge` backend is: beside lmms-eval's own `qwen3_vl`, and beside itself with
what it saves left out.

Same process, weights, prompts, pixels, batch size and new tokens; runs alternate, and
the ratio is the median over pairs of runs, so that a change of the machine's pace meets both alike.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

from PIL import Image

from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask

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
    requests = _requests([(item.text, _messages) for item in items], new_tokens)
    for backend in backends.values():
        backend.task_dict[TASK] = {SPLIT: list(items)}
        backend.model.generation_config.min_new_tokens = new_tokens
    texts = {
        name: [result.text for result in backend.generate_until(list(requests))]
        for name, backend in backends.items()
    }
    seconds = _seconds(
        {
            name: partial(backend.generate_until, list(requests))
            for name, backend in backends.items()
        },
        runs,
    )
    same = sum(a == b for a, b in zip(texts["ours"], texts["same_dtype"], strict=True))
    return {
        "backend_ratio": _ratio(seconds["stock"], seconds["ours"]),
        "backend_ratio_same_dtype": _ratio(seconds["same_dtype"], seconds["ours"]),
        **{f"docs_per_s_{n}": len(items) / statistics.median(s) for n, s in seconds.items()},
        "same_text": same / len(items),
    }


def shared_work_ratios(
    model_folder: Path,
    pointwise: Sequence[JudgeTask],
    pairwise: JudgeTask,
    root: Path,
    batch_size: int = 8,
    *,
    new_tokens: int,
    runs: int = 5,
) -> dict[str, float]:
    """Docs a second of what the backend saves over the same backend without it.

    All are asked for the verdict alone. The calibration before a task's first item is not counted.

    Args:
        model_folder: a checkpoint.
        pointwise: tasks whose test splits are judged by probabilities and by generation.
        pairwise: a task whose pairs, in both orders, are judged by probabilities with and without
            images shared.
        root: where the tasks' rows are.
        batch_size: prompts a batch, for all.
        new_tokens: what is generated of every prompt, exactly.
        runs: timed runs of each, after one that is not timed.

    Returns:
        `logprob_ratio`, `pair_vision_ratio`: medians over rounds of runs.
    """
    generating, scoring = (
        _ours(model_folder, batch_size, {"scoring": how}) for how in ("generation", "logprob")
    )
    generating.model.generation_config.min_new_tokens = new_tokens
    tasks = [_HostTask(task, root) for task in (*pointwise, pairwise)]
    for backend in (generating, scoring):
        backend.task_dict.update({task.name: {SPLIT: task.rows} for task in tasks})
    requests = [request for task in tasks for request in task.requests(new_tokens)]
    pairs = tasks[-1].requests(new_tokens)

    def apart() -> None:
        with patch("mtrl_judge.models.judge.deduplicate_images", nullcontext):
            scoring.generate_until(list(pairs))

    seconds = _seconds(
        {
            "generation": partial(generating.generate_until, list(requests)),
            "logprob": partial(scoring.generate_until, list(requests)),
            "shared": partial(scoring.generate_until, list(pairs)),
            "apart": apart,
        },
        runs,
    )
    return {
        "logprob_ratio": _ratio(seconds["generation"], seconds["logprob"]),
        "pair_vision_ratio": _ratio(seconds["apart"], seconds["shared"]),
    }


class _HostTask:
    """A judge task as lmms-eval hands it to a model."""

    def __init__(self, task: JudgeTask, root: Path) -> None:
        from mtrl_judge.harness_plugin.hooks import JudgeHooks

        hooks = JudgeHooks(task)
        self.name = task.task
        self.config = SimpleNamespace(process_results=hooks.config()["process_results"])
        self.rows = list(load_rows(task, SPLIT, root).rows.dataset)

    def doc_to_messages(self, doc: Mapping[str, Any]) -> list[dict[str, Any]]:
        row = JudgeRow.from_doc(doc)
        messages = render_messages(row, "direct")
        pictures = iter(row.images)
        for part in messages[0]["content"]:
            if part["type"] == "image":
                part["url"] = next(pictures)
        return messages

    def requests(self, new_tokens: int) -> list[Any]:
        return _requests([("", self.doc_to_messages)] * len(self.rows), new_tokens, self.name)


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


def _ours(model_folder: Path, batch_size: int, further: Mapping[str, Any]) -> Any:
    from mtrl_judge.harness_plugin.model import MtrlJudge

    return MtrlJudge(
        pretrained=str(model_folder),
        batch_size=batch_size,
        dtype="float32",
        device="cpu",
        system_prompt=SYSTEM_PROMPT,
        **further,
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


def _requests(
    asked: Sequence[tuple[str, Callable[..., Any]]], new_tokens: int | None, task: str = TASK
) -> list[Any]:
    """A request for each text and function that makes a document's messages."""
    from lmms_eval.api.instance import Instance

    generation = {"max_new_tokens": new_tokens or MAX_NEW_TOKENS, "temperature": 0, "until": []}
    return [
        Instance(
            request_type="generate_until",
            arguments=(text, to_messages, dict(generation), doc_id, task, SPLIT),
            idx=0,
            metadata={"task": task, "doc_id": doc_id, "repeats": 1},
        )
        for doc_id, (text, to_messages) in enumerate(asked)
    ]


def _messages(item: Item) -> list[dict[str, Any]]:
    pictures = [{"type": "image", "url": image} for image in item.images]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": item.text}]}]


def _seconds(works: Mapping[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of each in alternating runs, after one that is not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    with _quiet_garbage_collector():
        for run in range(runs + 1):
            for name in list(works)[:: 1 if run % 2 else -1]:
                started = time.perf_counter()
                works[name]()
                if run:
                    seconds[name].append(time.perf_counter() - started)
    return seconds


@contextmanager
def _quiet_garbage_collector() -> Iterator[None]:
    """Keep collection pauses out of the timed runs."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
