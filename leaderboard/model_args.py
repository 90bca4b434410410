"""lmms-eval's ``--model_args``: the arguments of a backend, without what must not be published."""

from __future__ import annotations

import re
from collections.abc import Mapping

# `max_new_tokens` is no secret: only the end of a name counts.
_SECRET_NAME = re.compile(
    r"(?i)(^|[_-])(api_?key|key|token|secret|password|passwd|pwd|auth|authorization|credentials?"
    r"|headers?)$"
)
# Tokens of the hub and keys of APIs, and a user's name and password in an address.
_SECRET_VALUE = re.compile(r"\b(hf_|sk-)[A-Za-z0-9_-]{8,}|(?<=://)[^/@\s]+@")
# What the model is called is in the results beside the arguments.
_OF_THE_MODEL = ("pretrained", "model", "model_name", "model_version", "revision")


def arguments_of(model_args: object) -> dict[str, str]:
    """``--model_args`` as lmms-eval records them, by name.

    >>> arguments_of("pretrained=a/b,max_pixels=1024,system_prompt=Be fair, be brief")
    {'pretrained': 'a/b', 'max_pixels': '1024', 'system_prompt': 'Be fair, be brief'}
    """
    if isinstance(model_args, Mapping):
        return {str(name): str(value) for name, value in model_args.items()}
    known: dict[str, str] = {}
    for part in str(model_args or "").split(","):
        name, equals, value = part.partition("=")
        if equals:
            known[name.strip()] = value
        elif known:  # a comma within a value
            known[next(reversed(known))] += f",{part}"
    return known


def without_secrets(model_args: Mapping[str, str]) -> dict[str, str]:
    """Arguments that can be published, without those that name the model.

    >>> without_secrets({"model": "a/b", "api_key": "sk-1", "base_url": "https://me:pw@host/v1"})
    {'base_url': 'https://[redacted]@host/v1'}
    """
    return {
        name: _SECRET_VALUE.sub(_redacted, value)
        for name, value in model_args.items()
        if name not in _OF_THE_MODEL and not _SECRET_NAME.search(name)
    }


def _redacted(match: re.Match[str]) -> str:
    return "[redacted]@" if match[0].endswith("@") else "[redacted]"
