"""What a service accepts, and how long it works on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Of one service; beyond them a request is refused with the HTTP status given here."""

    request_bytes: int = 32 * 2**20
    """Of a request's body: 413."""
    image_pixels: int = 7680 * 4320
    """Width × height of an image as it is sent: 413. A small file may decode to gigabytes."""
    items: int = 64
    """Items in one request: 413. Also the most that are judged together."""
    queue: int = 256
    """Items that wait: 429, with Retry-After."""
    seconds: float = 120.0
    """From a request's arrival to its answer: 504; what waits by then is not judged."""
    wait: float = 0.005
    """Seconds that an item waits for others to be judged with."""
