"""lmms-eval's ``--model_args``: the arguments of a backend, without what must not be published."""

from __future__ import annotations

from collections.abc import Mapping

from mtrl_judge.common.secrets import is_secret_name, redact

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
        name: redact(value)
        for name, value in model_args.items()
        if name not in _OF_THE_MODEL and not is_secret_name(name)
    }
