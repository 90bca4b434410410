"""Passwords, tokens and keys among command-line arguments, which are never written to disk."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NAME = r"[\w-]*(?:api_?key|access_?key|authorization|token|secret|password|passwd|credentials?)"
_OPTION = re.compile(rf"--{_NAME}", re.IGNORECASE)
# A name=value pair, or a key within a value that is JSON.
_SECRET_PAIR = re.compile(rf"(?:^|[\"'])\s*{_NAME}[\"']?\s*[=:]", re.IGNORECASE)
# Where the name gives nothing away: keys of well-known providers, and passwords in addresses.
_SECRET_VALUE = re.compile(r"\b(?:hf_|sk-|gsk_|AIza)[\w-]{16,}|://[^/@\s]+@")
_PAIRS = re.compile(r"""(?:[^,"'{\[]|"[^"]*"|'[^']*'|\{[^}]*\}|\[[^\]]*\]|["'{\[])+""")


def without_secrets(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Command-line arguments without what is secret in them.

    Returns:
        The other arguments, and the names of what was left out.

    >>> without_secrets(["--model_args", "model=m,api_key=abc,timeout=9", "--seed", "1"])
    (['--model_args', 'model=m,timeout=9', '--seed', '1'], ['api_key'])
    >>> without_secrets(["--hf_token", "abc", "--gen_kwargs", "max_new_tokens=6"])
    (['--gen_kwargs', 'max_new_tokens=6'], ['--hf_token'])
    """
    kept: list[str] = []
    removed: list[str] = []
    remaining = iter(words)
    for word in remaining:
        option, equals, value = word.partition("=")
        if _OPTION.fullmatch(option):
            removed.append(option)
            if not equals:
                next(remaining, None)
        elif option.startswith("--"):
            kept.append(f"{option}{equals}{_without_secret_pairs(value, removed)}")
        else:
            kept.append(_without_secret_pairs(word, removed))
    return kept, removed


def _without_secret_pairs(text: str, removed: list[str]) -> str:
    """``name=value,…`` without its secrets, whose names are added to ``removed``."""
    pairs = []
    for pair in _PAIRS.findall(text):
        if _SECRET_PAIR.search(pair) or _SECRET_VALUE.search(pair):
            removed.append(pair.partition("=")[0].strip())
        else:
            pairs.append(pair)
    return ",".join(pairs)
