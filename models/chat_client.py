"""A model behind an OpenAI-compatible API."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtrl_judge.common.errors import JudgeError

if TYPE_CHECKING:
    from openai import APIStatusError

KEY_VARIABLE = "OPENAI_API_KEY"
MAX_RETRIES = 5
# What a server may refuse, and the name that it wants in place of the first: OpenAI's reasoning
# models do not take max_tokens and sample at their own temperature.
_LIMIT, _NEW_LIMIT = "max_tokens", "max_completion_tokens"
_REFUSABLE = re.compile(rf"\b({_LIMIT}|temperature|seed)\b")
_REFUSAL = re.compile(r"(?i)unsupported|not support|deprecated|unrecognized|unknown|not permitted")

logger = logging.getLogger(__name__)


class ChatClient:
    """Asks a model, with retries, and without the settings that its server refuses.

    The key is that of OPENAI_API_KEY and appears in no message.

    Args:
        model: its name on the server.
        base_url: the address of the API; None is that of the client.
        user: what needs the client, for messages.
        field: where the address stands, for messages.

    Raises:
        JudgeError: there is no key, or the address contains one.
    """

    def __init__(self, model: str, base_url: str | None, user: str, field: str) -> None:
        from openai import OpenAI

        key = os.environ.get(KEY_VARIABLE, "")
        if not key:
            raise JudgeError(
                f"{KEY_VARIABLE}: not set; {user} reads the API key from it (any text will do for "
                "a server without keys)"
            )
        if base_url and "@" in base_url:
            raise JudgeError(
                f"{field}: has user name or password, which results would record; {KEY_VARIABLE} "
                "is for keys"
            )
        self.api = OpenAI(api_key=key, base_url=base_url, max_retries=MAX_RETRIES)
        self.refused: set[str] = set()
        self._model, self._user = model, user

    def create(
        self,
        messages: Sequence[Mapping[str, Any]],
        extra: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Any:
        """A completion.

        Args:
            extra: fields of the request that the API does not have.
            settings: of the API; those that the server refuses are left out from then on.

        Raises:
            openai.OpenAIError: the request failed in spite of retries.
            ValueError: the answer is not JSON.
        """
        import openai

        refused = frozenset(self.refused)
        if _LIMIT in refused and _LIMIT in settings:
            settings[_NEW_LIMIT] = settings.pop(_LIMIT)
        try:
            return self.api.chat.completions.create(
                model=self._model,
                messages=list(messages),  # type: ignore[arg-type]
                extra_body=dict(extra or {}) or None,
                **{name: value for name, value in settings.items() if name not in refused},
            )
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            name = _refused_setting(error)
            if name is None or name in refused or name not in settings:
                raise
        if name == "temperature" and name not in self.refused:
            logger.warning(
                "%s: %s takes no temperature, so its answers are samples at the server's own, and "
                "differ from run to run",
                self._user,
                self._model,
            )
        self.refused.add(name)
        return self.create(messages, extra, **settings)

    def message(self, error: Exception) -> str:
        """An error on one line of lmms-eval's length, without the key, which a server may quote."""
        text, key = " ".join(str(error).split()) or type(error).__name__, self.api.api_key
        return text.replace(key, "…")[:200] if len(key) > 8 else text[:200]


def _refused_setting(error: APIStatusError) -> str | None:
    """Which setting made a server refuse a request, as far as it says so."""
    text = f"{error.param or ''} {error}"  # OpenAI names it apart, others within the message
    named = _REFUSABLE.search(text) if _REFUSAL.search(text) else None
    return named[0] if named else None
