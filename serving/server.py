"""Run the HTTP service of a judge until it is told to end."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from ipaddress import ip_address

import uvicorn
from starlette.applications import Starlette

from mtrl_judge.common.errors import JudgeError

KEY_VARIABLE = "MTRL_JUDGE_API_KEY"
# Longer than clients keep idle connections (httpx 5 seconds, requests for ever): a request on a
# connection that the service is closing gets no answer.
_KEEP_ALIVE = 75
_GRACE = 5  # seconds beyond the time limit of a request, which ends by itself before


def service_key() -> str | None:
    """The key that requests must carry, from MTRL_JUDGE_API_KEY; None if it is not set."""
    return os.environ.get(KEY_VARIABLE) or None


def bind(host: str, port: int, key: str | None) -> socket.socket:
    """The socket of the service; no client can connect before it runs.

    Args:
        host: a name or an address; other machines reach it only with a key.
        port: 0 is any free one.

    Raises:
        JudgeError: the address is in use or not of this machine, or others would reach the service
            without a key.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise JudgeError(f"--host: {host!r} is no address: {error.strerror}") from None
    if key is None and not ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise JudgeError(
            f"--host: {host} can be reached from other machines; set {KEY_VARIABLE} to a key that "
            "requests must carry, or serve on 127.0.0.1"
        )
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise JudgeError(f"--port: {host}:{port}: {error.strerror}; choose another") from None
    return bound


def address_of(bound: socket.socket) -> str:
    """The address that clients connect to."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: Starlette, bound: socket.socket, seconds: float, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; requests that have arrived by then are answered.

    Args:
        seconds: the time limit of a request.
        ready: called when requests are accepted.
    """

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(seconds) + _GRACE,
    )
    Server(config).run(sockets=[bound])
