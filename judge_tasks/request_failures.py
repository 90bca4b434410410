"""Texts that stand in a judge's place because its request failed or was refused.

lmms-eval 0.7.3 hands a failed request to the scorer as text (`models/{chat,simple}/openai.py`,
`models/{chat,simple}/gemini.py`, `models/chat/async_openai.py`, and the backends derived from
these). Such a text says nothing about the judge, and the error in it may contain a verdict.

Other backends (`models/simple/{reka,gpt4v,qwen_vl_api,srt_api}.py`) return empty text after an
error, which cannot be distinguished from a judge that answers nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mtrl_judge.metrics.records import FailureKind

_FAILED = re.compile(r"\[LMMS_EVAL_REQUEST_FAILED after \d+ retries\](.*)", re.DOTALL)
_BUDGET = "[LMMS_EVAL_BUDGET_EXCEEDED]"
# Gemini's backend writes this for every response without text, so also for one that spent its
# tokens on reasoning; that one is an answer without a verdict.
_BLOCKED = re.compile(r"\[SAFETY_BLOCKED:(.*)\]", re.DOTALL)
_NOT_BLOCKED = re.compile(r"finish_reason=(?:FinishReason\.)?(?:MAX_TOKENS|STOP)\b")
# What content filters call themselves. lmms-eval keeps 200 characters of a message, so Azure's is
# known by its first sentence: its code comes later. Whole phrases or codes, since a server may
# quote the prompt, and an outage taken for a refusal would count against the judge.
_REFUSED = re.compile(
    "|".join(
        [
            r"\bcontent_filter\b",  # Azure OpenAI, Moonshot
            r"Azure OpenAI's content management policy",
            r"\bResponsibleAIPolicyViolation\b",
            r"\bcontent_policy_violation\b",  # OpenAI
            r"\bmoderation_blocked\b",
            r"rejected (?:as a result of|by) (?:our|the) safety system",
            r"your prompt was flagged as potentially violating",
            r"blocked by content filtering policy",  # Anthropic
            r"requires moderation .{0,40}your input was flagged",  # OpenRouter
            r"\bdata_?inspection_?failed\b",  # Alibaba DashScope
            r"Content Exists Risk",  # DeepSeek
            r"finish_?reason\W{1,4}(?:FinishReason\.)?(?:IMAGE_)?SAFETY\b",  # Gemini
            r"block_?reason\W{1,4}(?!None|null)[A-Z]",
            r"\bPROHIBITED_CONTENT\b",
        ]
    ),
    re.IGNORECASE,
)
# What differs between equal errors: times, ids, and numbers other than an HTTP status.
_TIME = r"\d{4}-\d\d-\d\d(?:[T ][\d:.,]*(?:Z|[+-]\d\d:?\d\d)?)?"
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_ID = r"(?:req|request|chatcmpl|cmpl|msg|org|proj|resp|trace|run)[-_](?=\w{0,40}\d)\w{4,}"
_HEXADECIMAL = r"(?=[0-9a-f]{0,40}\d)[0-9a-f]{12,}"
_NUMBER = r"(?![45]\d\d(?![\d.]))\d(?:[\d.,]*\d)?(?:ms|s)?"
_VARIABLE = re.compile(
    rf"(?<![\w-])(?:{_TIME}|{_UUID}|{_ID}|{_HEXADECIMAL})(?![\w-])"
    rf"|(?<![\w.:/-]){_NUMBER}(?![\w:/-])",
    re.IGNORECASE,
)
_READ = 1_000  # characters; a file from elsewhere may claim any message
_LENGTH = 120
"""Characters of a message. lmms-eval keeps 200, whose end depends on the length of the ids."""


class RequestFailure(NamedTuple):
    """Why there is no answer."""

    kind: FailureKind
    """`refused` if a content filter refused to answer, else `failed`."""
    message: str
    """The error on one line, without ids, times and counts, so that equal errors are equal."""


def request_failure(text: object) -> RequestFailure | None:
    """The failure that a text reports; None if it is an answer.

    Only a text that begins with the mark counts: a judge may quote one.

    >>> request_failure("[LMMS_EVAL_REQUEST_FAILED after 5 retries] Error code: 401 - No key")
    RequestFailure(kind='failed', message='Error code: 401 - No key')
    >>> request_failure("The log says [LMMS_EVAL_BUDGET_EXCEEDED], so: unsafe")
    """
    if not isinstance(text, str) or not text.startswith("["):
        return None
    if text == _BUDGET:
        return RequestFailure("failed", "lmms-eval's token budget was exceeded")
    if failed := _FAILED.fullmatch(text):
        message = failed[1][:_READ]
        kind: FailureKind = "refused" if _REFUSED.search(message) else "failed"
        return RequestFailure(kind, _normal(message) or "no message")
    blocked = _BLOCKED.fullmatch(text)
    if blocked and not _NOT_BLOCKED.match(blocked[1]):
        return RequestFailure("refused", f"blocked: {_normal(blocked[1][:_READ])}")
    return None


def _normal(message: str) -> str:
    return " ".join(_VARIABLE.sub("…", message).split())[:_LENGTH].rstrip()


def by_message(failures: Iterable[RequestFailure | None], kind: FailureKind) -> dict[str, int]:
    """How many failures of a kind have each message, the most frequent first."""
    counts = Counter(failure.message for failure in failures if failure and failure.kind == kind)
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def message_lines(messages: Mapping[str, int]) -> list[str]:
    """A line for each message with its number, to print below a title.

    >>> message_lines({"Error code: 401 - No key": 12})
    ['      12  Error code: 401 - No key']
    """
    return [f"{n:8,d}  {message}" for message, n in messages.items()]
