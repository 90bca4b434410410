"""The HTTP service of a judge, as an ASGI application."""

from __future__ import annotations

import asyncio
import hmac
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mtrl_judge import __version__
from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.spec import JudgeTask

from .batcher import Batcher, QueueFullError
from .judge import Judge
from .judgment import Judgment
from .limits import Limits
from .requests import ChatBody, JudgeBody, RequestError, item_of_chat, items_of_judge, parse
from .single_items import Item

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 429: "rate_limit_error"}
_RETRY_AFTER = 1  # seconds; a batch of a large model takes a few
_DISCONNECTED = 499  # nginx's status for a client that went away; nobody reads it


class JudgeService:
    """Answers requests with one judge.

    Args:
        judge: computes the judgments.
        name: by which requests know the judge.
        tasks: those that requests may name.
        key: that requests must carry; None is any request.
    """

    def __init__(
        self,
        judge: Judge,
        *,
        name: str,
        tasks: Mapping[str, JudgeTask],
        limits: Limits,
        key: str | None,
    ) -> None:
        self._judge, self._name, self._tasks = judge, name, tasks
        self._limits, self._key = limits, key
        self._batcher: Batcher | None = None
        self._metrics = _Metrics(lambda: len(self._batcher or ()))

    def app(self) -> Starlette:
        """The application."""
        routes = [
            ("/judge", self._on_judge, "POST"),
            ("/v1/chat/completions", self._on_chat, "POST"),
            ("/v1/models", self._on_models, "GET"),
            ("/metrics", self._on_metrics, "GET"),
        ]
        return Starlette(
            routes=[
                Route("/health", self._on_health),
                *(
                    Route(path, self._guarded(path, endpoint), methods=[method])
                    for path, endpoint, method in routes
                ),
            ],
            exception_handlers={HTTPException: _unknown_path},
            lifespan=self._running,
        )

    @asynccontextmanager
    async def _running(self, _: Starlette) -> AsyncIterator[None]:
        self._batcher = Batcher(
            self._judge.judge,
            max_items=self._limits.items,
            max_wait=self._limits.wait,
            max_queue=self._limits.queue,
            on_batch=self._metrics.batches.observe,
        )
        yield
        self._batcher.close()

    def _guarded(self, path: str, endpoint: Endpoint) -> Endpoint:
        """The endpoint with the key, the time limit, error messages and metrics."""

        async def guarded(request: Request) -> Response:
            started = time.perf_counter()
            response = await self._response(request, endpoint)
            self._metrics.requests.labels(path, response.status_code).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)
            return response

        return guarded

    async def _response(self, request: Request, endpoint: Endpoint) -> Response:
        try:
            self._check_key(request)
            async with asyncio.timeout(self._limits.seconds):
                return await endpoint(request)
        except RequestError as error:
            return _error(error.status, str(error))
        except JudgeError as error:
            return _error(400, str(error))
        except QueueFullError:
            message = f"{self._limits.queue} items are waiting; try again later"
            return _error(429, message, {"Retry-After": str(_RETRY_AFTER)})
        except TimeoutError:
            return _error(504, f"not judged within {self._limits.seconds:g} seconds")
        except ClientDisconnect:
            return Response(status_code=_DISCONNECTED)
        except Exception:  # noqa: BLE001  the service goes on
            from loguru import logger

            logger.exception(f"{request.url.path} failed")
            return _error(500, "a fault of the service, whose log says more")

    def _check_key(self, request: Request) -> None:
        if self._key is None:
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(
            given.encode(), self._key.encode()
        ):
            raise RequestError(401, "Authorization: expected Bearer and the key of this service")

    async def _on_judge(self, request: Request) -> Response:
        body = parse(await self._body(request), JudgeBody)
        items = items_of_judge(body, self._tasks, self._limits)
        judged = await self._judged(request, items)
        if body.items is None:
            return JSONResponse(judged[0].as_json())
        return JSONResponse({"judgments": [each.as_json() for each in judged]})

    async def _on_chat(self, request: Request) -> Response:
        body = parse(await self._body(request), ChatBody)
        item = item_of_chat(body, self._name, self._tasks, self._limits)
        judgment = (await self._judged(request, [item]))[0]
        message = {
            "role": "assistant",
            "content": judgment.verdict,
            "reasoning_content": judgment.reasoning or None,
            "judgment": judgment.as_json(),
        }
        return JSONResponse(
            {
                "id": f"chatcmpl-{uuid.uuid4().hex}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": body.model,
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            }
        )

    async def _on_models(self, request: Request) -> Response:
        models = [self._name, *self._tasks]
        about = {"object": "model", "created": 0, "owned_by": "mtrl-judge"}
        return JSONResponse({"object": "list", "data": [{"id": id_, **about} for id_ in models]})

    async def _on_health(self, request: Request) -> Response:
        waiting = len(self._batcher or ())
        about = {"judge": self._name, "version": __version__, "waiting": waiting}
        return JSONResponse({"status": "ok", **about})

    async def _on_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _body(self, request: Request) -> bytes:
        """A request's JSON.

        Raises:
            RequestError: 413, it is too large; 415, it says that it is something else. A page in a
                browser cannot send JSON to another site without being allowed to.
            QueueFullError: nothing can be judged now, so that nothing is read.
        """
        if len(self._batcher or ()) >= self._limits.queue:
            raise QueueFullError
        if request.headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
            raise RequestError(415, "Content-Type: expected application/json")
        limit, body = self._limits.request_bytes, bytearray()
        too_large = RequestError(413, f"the body has more than {limit:,} bytes")
        if int(request.headers.get("Content-Length", 0)) > limit:
            raise too_large
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise too_large
        return bytes(body)

    async def _judged(self, request: Request, items: list[Item]) -> list[Judgment]:
        """The judgments of all items; a client that goes away takes its items from the queue."""
        assert self._batcher is not None
        futures = self._batcher.submit_all(items)
        answered = asyncio.ensure_future(asyncio.wait(futures))
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait([answered, gone], return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise ClientDisconnect
        finally:
            gone.cancel()
            answered.cancel()
            for future in futures:
                future.cancel()
        judged = []
        for number, future in enumerate(futures):
            try:
                judged.append(future.result())
            except JudgeError as error:
                raise JudgeError(f"items.{number}: {error}" if len(items) > 1 else error) from None
            self._metrics.items.labels(judged[-1].state).inc()
        return judged


class _Metrics:
    """What a service counts, for Prometheus."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "mtrl_judge_requests",
            "Requests by path and status.",
            ["path", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "mtrl_judge_request_seconds",
            "From a request to its answer.",
            ["path"],
            registry=registry,
        )
        self.items = Counter(
            "mtrl_judge_items",
            "Items by the state of their judgment.",
            ["state"],
            registry=registry,
        )
        self.batches = Histogram(
            "mtrl_judge_batch_items",
            "Items judged together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        Gauge("mtrl_judge_waiting_items", "Items in the queue.", registry=registry).set_function(
            waiting
        )

    def text(self) -> bytes:
        return generate_latest(self._registry)


async def _disconnected(request: Request) -> None:
    """Wait until the client has gone away; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _unknown_path(request: Request, error: Exception) -> Response:
    """Of a path or a method that does not exist."""
    assert isinstance(error, HTTPException)
    return _error(error.status_code, f"{request.method} {request.url.path}: {error.detail}")


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """As the API of OpenAI reports errors."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    content: dict[str, Any] = {"error": {"message": message, "type": kind, "code": status}}
    return JSONResponse(content, status, headers=headers)
