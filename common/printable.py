"""Text from data and models that is safe to print: it can neither control nor mislead a reader."""

from __future__ import annotations

import re
import unicodedata

REPLACEMENT = "\ufffd"
# Control characters (with ANSI codes), unpaired surrogates, unassigned characters, and the two
# separators that some programs take for the end of a line.
_CATEGORIES = ("Cc", "Cs", "Cn", "Zl", "Zp")
_BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])?")


def printable(text: str) -> str:
    r"""The text without ANSI codes, and with U+FFFD for control and bidirectional characters.

    Newlines and tabs stay.

    >>> printable("a\x1b[31mred\x1b[0m b\x00\u202ec\nd")
    'ared b��c\nd'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(char) for char in _ANSI.sub("", text))


def printable_line(text: str) -> str:
    r"""The same on one line.

    >>> printable_line(" a\r\nb\u2028c ")
    'a b c'
    """
    return printable(" ".join(text.split()))


def _shown(char: str) -> str:
    if char in "\n\t" or (char.isascii() and char.isprintable()):
        return char
    unsafe = unicodedata.category(char) in _CATEGORIES or char in _BIDIRECTIONAL
    return REPLACEMENT if unsafe else char
