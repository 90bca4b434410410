"""Answers as they may be written to files."""

from __future__ import annotations

import sys

from mtrl_judge.common.secrets import Redactor
from mtrl_judge.common.surrogates import replace_surrogates
from mtrl_judge.judge_tasks.request_failures import request_failure


def clean(answer: str) -> str:
    """An answer without lone surrogates, and the message of a failed request without secrets: a
    server may quote a wrong key, which can be one of lmms-eval's arguments."""
    text = replace_surrogates(answer)
    return text if request_failure(text) is None else Redactor(sys.argv)(text)


def is_failed_request(answer: object) -> bool:
    """Whether a request failed; what a content filter refused is an answer."""
    failure = request_failure(answer)
    return failure is not None and failure.kind == "failed"
