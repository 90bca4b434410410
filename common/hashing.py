"""Hashes that are the same on every machine and in every run, unlike Python's ``hash``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def stable_hash(*parts: object) -> int:
    """A 64-bit integer from the text of the parts.

    >>> stable_hash("item", 1) == stable_hash("item", "1") != stable_hash("item1")
    True
    """
    return int(digest(str(part).encode() for part in parts)[:16], 16)


def digest(chunks: Iterable[bytes]) -> str:
    """32 hexadecimal digits over byte strings; the boundaries between them count."""
    state = hashlib.blake2b(digest_size=16)
    for chunk in chunks:
        state.update(len(chunk).to_bytes(8, "little"))
        state.update(chunk)
    return state.hexdigest()
