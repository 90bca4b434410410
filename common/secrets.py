"""Passwords, tokens and keys, which must not appear in anything that is printed or saved."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .files import expanded

REDACTED = "[redacted]"
_NAME = r"[\w-]*(?:api_?key|access_?key|authorization|token|secret|password|passwd|credentials?)"
_WHOLE_NAME = re.compile(rf"{_NAME}|(?:[\w-]+[_-])?(?:key|pwd|auth|headers?)", re.IGNORECASE)
_OPTION = re.compile(rf"--{_NAME}", re.IGNORECASE)
# A name=value pair, or a key within a value that is JSON.
_SECRET_PAIR = re.compile(rf"(?:^|[\"'])\s*{_NAME}[\"']?\s*[=:]\s*[\"']?", re.IGNORECASE)
# Where the name gives nothing away: keys of well-known providers, and passwords in addresses.
_KEY = r"\b(?:hf_|sk-|gsk_|AIza|gh[opsru]_|github_pat_)[\w-]{16,}"
_LOGIN = r"(?<=://)[^/@\s]+(?=@)"
_SECRET_VALUE = re.compile(f"{_KEY}|{_LOGIN}")
_PAIRS = re.compile(r"""(?:[^,"'{\[]|"[^"]*"|'[^']*'|\{[^}]*\}|\[[^\]]*\]|["'{\[])+""")
# A shorter value may be a word that occurs anywhere.
_MIN_LENGTH = 8


def without_secrets(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Command-line arguments without what is secret in them.

    Returns:
        The other arguments, and the names of what was left out.

    >>> without_secrets(["--model_args", "model=m,api_key=abc,timeout=9", "--seed", "1"])
    (['--model_args', 'model=m,timeout=9', '--seed', '1'], ['api_key'])
    >>> without_secrets(["--hf_token", "abc", "--gen_kwargs", "max_new_tokens=6"])
    (['--gen_kwargs', 'max_new_tokens=6'], ['--hf_token'])
    """
    kept, removed = _separated(words)
    return kept, [name for name, _ in removed]


def is_secret_name(name: str) -> bool:
    """Whether a variable or an argument of this name holds a secret.

    >>> [is_secret_name(name) for name in ("HF_TOKEN", "api_key", "max_new_tokens", "monkey")]
    [True, True, False, False]
    """
    return _WHOLE_NAME.fullmatch(name) is not None


class Redactor:
    """Replaces secrets in texts: those of the environment and of `arguments`, and known forms.

    Args:
        arguments: of a command line.
    """

    def __init__(
        self, arguments: Sequence[str] = (), environment: Mapping[str, str] = os.environ
    ) -> None:
        values = [value for name, value in environment.items() if is_secret_name(name)]
        values += [_stored_token(environment), *(value for _, value in _separated(arguments)[1])]
        # The longest first: one secret may be the beginning of another.
        escaped = map(re.escape, sorted(_literals(values), key=len, reverse=True))
        self._pattern = re.compile("|".join((*escaped, _KEY, _LOGIN)))

    def __call__(self, text: str) -> str:
        return self._pattern.sub(REDACTED, text)


def redact(text: str) -> str:
    """The text without the secrets of this process's environment.

    >>> redact("token=hf_abcdefghijklmnopqrstuvwxyz")
    'token=[redacted]'
    """
    return Redactor()(text)


def _separated(words: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Arguments without secrets, and the name and value of each secret."""
    kept: list[str] = []
    removed: list[tuple[str, str]] = []
    remaining = iter(words)
    for word in remaining:
        option, equals, value = word.partition("=")
        if _OPTION.fullmatch(option):
            removed.append((option, value if equals else next(remaining, "")))
        elif option.startswith("--"):
            kept.append(f"{option}{equals}{_without_secret_pairs(value, removed)}")
        else:
            kept.append(_without_secret_pairs(word, removed))
    return kept, removed


def _without_secret_pairs(text: str, removed: list[tuple[str, str]]) -> str:
    """``name=value,…`` without its secrets, which are added to ``removed``."""
    pairs = []
    for pair in _PAIRS.findall(text):
        if _SECRET_PAIR.search(pair) or _SECRET_VALUE.search(pair):
            name, _, value = pair.partition("=")
            removed.append((name.strip(), value))
        else:
            pairs.append(pair)
    return ",".join(pairs)


def _literals(values: Iterable[str]) -> set[str]:
    stripped = {value.strip() for value in values}
    return {s for s in stripped if len(s) >= _MIN_LENGTH and not _is_path(s)}


def _is_path(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long, or with a null character
        return False


def _stored_token(environment: Mapping[str, str]) -> str:
    """The token of ``hf auth login``, where huggingface_hub keeps it; empty if there is none."""
    cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    home = environment.get("HF_HOME") or f"{cache}/huggingface"
    file = Path(environment.get("HF_TOKEN_PATH") or f"{home}/token")
    try:
        return expanded(file).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
