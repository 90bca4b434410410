"""Yes or no, as flags, environment variables and `--model_args` say it."""

from __future__ import annotations

from .errors import JudgeError

_WORDS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def boolean(name: str, value: object) -> bool:
    """The boolean that a value means, in any case.

    Args:
        name: of the flag or variable, for the message.

    Raises:
        JudgeError: it means neither.

    >>> boolean("trust_remote_code", "no"), boolean("trust_remote_code", 1)
    (False, True)
    """
    word = str(value).strip().casefold()
    if word not in _WORDS:
        raise JudgeError(f"{name}: found {value!r}; expected true or false")
    return _WORDS[word]
