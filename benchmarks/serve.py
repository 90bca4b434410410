"""``python -m benchmarks.serve``: many clients of one judge. Prints one JSON object last.

Starts ``mtrl-judge serve`` on loopback and asks it from 64 clients, each of which sends its next
request when it has its answer. In between, the same judge in this process answers the same
requests one at a time (``Judge.score``), each in one of the rounds. Model, service and clients
share the machine's cores.

- ``requests_per_s``, ``one_at_a_time_per_s``: medians over the rounds; ``ratio``: the median of the
  ratios of a round.
- ``p50_s``, ``p99_s``: from a request to its answer, all rounds together.
- ``lost``: requests without an answer; ``mixed_up``: answers that are not what the judge says to
  the request alone; ``distinct``: different answers among them.
- ``mean_batch``: items judged together.
- ``rss_start_mib``, ``rss_end_mib``: memory of the service after the warm-up round and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from mtrl_judge import Item, Judge
from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.judge_tasks.sources import find_source, load_raw

from .timing import median_ratio
from .tiny_judge import write_tiny_judge

TASK, CLIENTS, MAX_NEW_TOKENS, SECONDS = "mtrl_judge_seetrue", 64, 48, 240


@dataclass
class Round:
    """What the clients saw."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict)
    """By the number of the request; a request without an answer is missing."""
    errors: Counter[str] = field(default_factory=Counter)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, help="default: a briefly pretrained tiny model")
    parser.add_argument("--data_root", type=Path, help="default: a small sample corpus")
    parser.add_argument("--requests", type=int, default=256, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, checkpoint = given.data_root, given.checkpoint
        if root is None or checkpoint is None:
            root, checkpoint = write_tiny_judge(Path(folder))
        print(json.dumps(compare(checkpoint, root, given.requests, given.rounds)))


def compare(checkpoint: Path, root: Path, requests: int, rounds: int) -> dict[str, Any]:
    """The figures of the module's docstring."""
    items = [*islice(_items(root), requests)]
    judge = Judge.load(checkpoint, max_new_tokens=MAX_NEW_TOKENS)
    with _service(checkpoint) as address:
        asyncio.run(_asked(address, items))  # warm-up
        start = _metric(address, "process_resident_memory_bytes")
        asked, alone_rates, alone = [], [], {}
        for turn in range(rounds):
            began = time.perf_counter()
            share = range(turn, requests, rounds)
            for number in share:
                item = items[number]
                alone[number] = judge.score(item.task, item.images, item.texts).text
            alone_rates.append(len(share) / (time.perf_counter() - began))
            asked.append(asyncio.run(_asked(address, items)))
        end = _metric(address, "process_resident_memory_bytes")
        batches = [_metric(address, f"mtrl_judge_batch_items_{name}") for name in ("sum", "count")]
    for each in asked:
        if each.errors:
            print(dict(each.errors), file=sys.stderr)
    latencies = sorted(second for each in asked for second in each.latencies)
    texts = [(number, text) for each in asked for number, text in each.texts.items()]
    rates = [len(each.texts) / each.seconds for each in asked]
    return {
        "clients": CLIENTS,
        "requests": requests * rounds,
        "lost": requests * rounds - len(texts),
        "mixed_up": sum(text != alone[number] for number, text in texts),
        "distinct": len({text for _, text in texts}),
        "requests_per_s": statistics.median(rates),
        "one_at_a_time_per_s": statistics.median(alone_rates),
        "ratio": median_ratio(rates, alone_rates),
        "p50_s": latencies[len(latencies) // 2],
        "p99_s": latencies[int(len(latencies) * 0.99)],
        "mean_batch": batches[0] / batches[1],
        "rss_start_mib": start / 2**20,
        "rss_end_mib": end / 2**20,
    }


def _items(root: Path) -> Iterator[Item]:
    """Texts about images, so that each request has another text or image."""
    task = find_task(TASK)
    raw = load_raw(task, task.evaluation_split, find_source(task, root))
    texts = raw.column("text")
    for shift in range(len(raw)):
        for index in range(len(raw)):
            yield Item(TASK, raw.image_bytes(index), [texts[(index + shift) % len(raw)]])


@contextmanager
def _service(checkpoint: Path) -> Iterator[str]:
    """The address of a service."""
    words = [sys.executable, "-m", "mtrl_judge", "serve", "--port", "0", "--task", TASK]
    words += ["--model", str(checkpoint), "--max-new-tokens", str(MAX_NEW_TOKENS)]
    words += ["--batch-size", str(CLIENTS), "--timeout", str(SECONDS)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"at (http://\S+)", process.stdout.readline())
        if found is None:
            raise SystemExit("the service did not start")
        try:
            yield found[1]
        finally:
            process.terminate()
            process.wait(timeout=60)


async def _asked(address: str, items: Sequence[Item]) -> Round:
    """Ask everything once, with as many clients at a time."""
    bodies = enumerate(json.dumps(_body(item)).encode() for item in items)
    found = Round()
    headers = {"Content-Type": "application/json"}

    async def client(connection: httpx.AsyncClient) -> None:
        for number, body in bodies:
            began = time.perf_counter()
            try:
                answer = await connection.post("/judge", content=body, headers=headers)
            except httpx.TransportError as error:
                found.errors[repr(error)] += 1
                continue
            found.latencies.append(time.perf_counter() - began)
            if answer.status_code == 200:
                found.texts[number] = answer.json()["text"]
            else:
                found.errors[answer.text] += 1

    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=address, timeout=SECONDS, limits=limits) as connection:
        began = time.perf_counter()
        await asyncio.gather(*(client(connection) for _ in range(CLIENTS)))
        found.seconds = time.perf_counter() - began
    return found


def _body(item: Item) -> dict[str, Any]:
    images = [
        f"data:image/png;base64,{base64.b64encode(image).decode()}"
        for image in item.images
        if isinstance(image, bytes)
    ]
    return {"task": item.task, "images": images, "texts": item.texts}


def _metric(address: str, name: str) -> float:
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.split()[0] == name)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the service
    import torch

    torch.set_num_threads(1)
    main()
