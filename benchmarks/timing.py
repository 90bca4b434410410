"""How long functions take, and when methods are called."""

from __future__ import annotations

import gc
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from itertools import pairwise
from typing import Any, TypeAlias
from unittest.mock import patch

Spans: TypeAlias = dict[str, list[tuple[float, float]]]
"""Name -> start and seconds of each call."""


def alternate(functions: Mapping[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of each function in alternating runs, after a warm-up run of each.

    Alternation exposes all functions to the same changes of the machine's speed. Garbage is not
    collected meanwhile.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    gc.collect()
    gc.disable()
    try:
        for run in range(runs + 1):
            for name in list(functions)[:: 1 if run % 2 else -1]:
                started = time.perf_counter()
                functions[name]()
                if run:
                    seconds[name].append(time.perf_counter() - started)
    finally:
        gc.enable()
    return seconds


def median_seconds(function: Callable[[], object], runs: int = 5) -> float:
    """Median over runs, after a warm-up run."""
    return statistics.median(alternate({"": function}, runs)[""])


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median over pairs of runs."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


@contextmanager
def timed(
    methods: Mapping[str, tuple[type, str]], synchronize: Callable[[], object] | None = None
) -> Iterator[Spans]:
    """Record the calls of methods.

    Args:
        methods: class and attribute of each. Of nested calls under the same name, such as a method
            that calls its parent's, only the outermost counts.
        synchronize: waits for a GPU before each reading of the clock.
    """
    spans: Spans = defaultdict(list)
    active: set[str] = set()

    def now() -> float:
        if synchronize is not None:
            synchronize()
        return time.perf_counter()

    def timing(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            if name in active:
                return method(*args, **kwargs)
            active.add(name)
            started = now()
            try:
                return method(*args, **kwargs)
            finally:
                active.discard(name)
                spans[name].append((started, now() - started))

        return call

    with ExitStack() as stack:
        for name, (owner, attribute) in methods.items():
            method = timing(name, getattr(owner, attribute))
            stack.enter_context(patch.object(owner, attribute, method))
        yield spans


def step_seconds(spans: Spans, warmup: int) -> list[dict[str, float]]:
    """Seconds of each method within each training step after the first ones.

    Args:
        spans: of :func:`timed`; "step" marks where a step begins. A step lasts until the next one
            begins, which makes the last one a step without end; it is left out.
        warmup: steps to leave out.
    """
    starts = [start for start, _ in spans["step"]][warmup:]
    return [
        {
            name: sum(seconds for start, seconds in calls if begin <= start < end)
            for name, calls in spans.items()
        }
        | {"step": end - begin}
        for begin, end in pairwise(starts)
    ]
