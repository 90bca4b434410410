"""When methods are called and how long they take."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeAlias
from unittest.mock import patch

Spans: TypeAlias = dict[str, list[tuple[float, float]]]


@contextmanager
def timed(
    methods: Mapping[str, tuple[type, str]], synchronise: Callable[[], object] | None = None
) -> Iterator[Spans]:
    """When each call of the methods began and how many seconds it took.

    Args:
        methods: class and name of each; of a call within a call of the same name, as of a method
            that calls its parent's, the outer one counts.
        synchronise: waits for a GPU before each look at the clock.
    """
    spans: Spans = defaultdict(list)
    under_way: set[str] = set()

    def now() -> float:
        if synchronise is not None:
            synchronise()
        return time.perf_counter()

    def timing(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*arguments: Any, **named: Any) -> Any:
            if name in under_way:
                return method(*arguments, **named)
            under_way.add(name)
            started = now()
            try:
                return method(*arguments, **named)
            finally:
                under_way.discard(name)
                spans[name].append((started, now() - started))

        return call

    patches = [
        patch.object(owner, attribute, timing(name, getattr(owner, attribute)))
        for name, (owner, attribute) in methods.items()
    ]
    for each in patches:
        each.start()
    try:
        yield spans
    finally:
        for each in patches:
            each.stop()


def within(begin: float, end: float, times: list[tuple[float, float]]) -> float:
    """Seconds of the calls that began in a stretch of time."""
    return sum(seconds for started, seconds in times if begin <= started < end)
