"""Lone surrogates, which Python strings can hold and UTF-8 cannot represent."""

from __future__ import annotations

import re

_SURROGATE = re.compile("[\ud800-\udfff]")


def replace_surrogates(text: str) -> str:
    r"""The text with U+FFFD, the replacement character, for each lone surrogate.

    They occur in JSON whose escapes were cut inside a character, such as a server's reply.

    >>> replace_surrogates("caf\u00e9 \ud83d")
    'café �'
    """
    return _SURROGATE.sub("\ufffd", text)
