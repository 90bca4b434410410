"""Calls that wait at the same time are judged together.

Answers of several prompts take little longer than that of one. So while a batch is computed, in a
thread, further items gather in a queue, and an item that finds nothing to do waits a moment for
others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from mtrl_judge.common.errors import JudgeError

from .judgment import Judgment
from .single_items import Item


class QueueFullError(Exception):
    """More items wait than may wait."""


class Batcher:
    """Gathers items and gives them to a judge in batches; belongs to one event loop.

    Args:
        judge: computes a batch; an error stands in place of an item that cannot be judged.
        max_items: of a batch.
        max_wait: seconds that the first item of a batch waits for others.
        max_queue: items that may wait; None is any number.
        on_batch: called with the size of each batch.
    """

    def __init__(
        self,
        judge: Callable[[Sequence[Item]], Sequence[Judgment | JudgeError]],
        *,
        max_items: int,
        max_wait: float,
        max_queue: int | None = None,
        on_batch: Callable[[int], object] = lambda size: None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._judge, self._on_batch = judge, on_batch
        self._max_items, self._max_wait, self._max_queue = max_items, max_wait, max_queue
        self._waiting: deque[tuple[Item, asyncio.Future[Judgment]]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="judge")
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many items wait."""
        return sum(not future.done() for _, future in self._waiting)

    async def submit(self, item: Item) -> Judgment:
        """The judgment of an item; a cancelled call leaves the queue.

        Raises:
            QueueFullError: too many items wait.
            JudgeError: the item cannot be judged.
        """
        return await self.submit_all([item])[0]

    def submit_all(self, items: Sequence[Item]) -> list[asyncio.Future[Judgment]]:
        """Queue all items, or none.

        Raises:
            QueueFullError: there is no place for all.
        """
        if self._max_queue is not None and len(self) + len(items) > self._max_queue:
            raise QueueFullError
        futures = [self.loop.create_future() for _ in items]
        self._waiting.extend(zip(items, futures, strict=True))
        self._arrived.set()
        if self._task is None or self._task.done():
            self._task = self.loop.create_task(self._work())
        return futures

    def close(self) -> None:
        """Take no more batches; the one that is being computed ends by itself."""
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        """Judge batch after batch, until nothing waits."""
        while len(self):
            await self._others()
            batch = self._next_batch()
            if not batch:
                continue
            self._on_batch(len(batch))
            judged: Sequence[Judgment | Exception]
            try:
                judged = await self.loop.run_in_executor(
                    self._thread, self._judge, [item for item, _ in batch]
                )
            except Exception as error:  # noqa: BLE001  the queue goes on; callers get the error
                judged = [error] * len(batch)
            for (_, future), found in zip(batch, judged, strict=True):
                if future.done():  # nobody waits any more
                    continue
                if isinstance(found, Exception):
                    future.set_exception(found)
                else:
                    future.set_result(found)

    async def _others(self) -> None:
        """Wait until a batch is full, but not long."""
        try:
            async with asyncio.timeout(self._max_wait):
                while len(self) < self._max_items:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            pass

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Judgment]]]:
        batch: list[tuple[Item, asyncio.Future[Judgment]]] = []
        while self._waiting and len(batch) < self._max_items:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch
