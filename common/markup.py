"""Neutralize markup: text from data or models can never act as part of a prompt.

A zero-width space after the first character of a marker leaves the text readable, while no chat
template, processor or tokenizer takes what remains for a marker.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

ZERO_WIDTH_SPACE = "\u200b"

# The scorer reads these, so they stay in an answer even where a tokenizer calls them special, and
# in a prompt, where they describe the form of the answer.
JUDGE_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
OPEN_THOUGHT, CLOSED_THOUGHT, OPEN_ANSWER, CLOSED_ANSWER = JUDGE_TAGS


def markup_pattern(*markers: str, flags: int = 0) -> re.Pattern[str]:
    """Match the first character of every marker, also of markers that overlap.

    Args:
        markers: regular expressions.
        flags: of :mod:`re`.
    """
    return re.compile(f"(?=(?:{'|'.join(markers)})).", re.DOTALL | flags)


# What chat templates, image placeholders and the judge's answer are written with.
DATA_MARKUP = markup_pattern(
    r"<[|｜]",
    r"</?(?:image|img|video|audio|s|bos|eos|pad|unk"
    r"|start_of_turn|end_of_turn|start_of_image|end_of_image|think|answer)\b",
    r"\[/?(?:INST|IMG)\]",
    flags=re.IGNORECASE,
)
# Everything that the parser of answers reads as a judge tag.
ANSWER_TAGS = markup_pattern(r"[<＜]\s*/?\s*(?:think|answer)", flags=re.IGNORECASE)


def special_token_pattern(special_tokens: Iterable[str]) -> re.Pattern[str]:
    """The pattern of a tokenizer's special tokens, judge tags excepted.

    ``<|`` begins the markers of most chat formats, including image placeholders that a processor
    knows and its tokenizer does not.
    """
    markers = {token for token in special_tokens if len(token) > 1}.difference(JUDGE_TAGS)
    return markup_pattern(*map(re.escape, sorted(markers | {"<|"})))


def neutralize(text: str, markup: re.Pattern[str] = DATA_MARKUP) -> str:
    r"""Break up every marker in a text.

    >>> neutralize("an <image> and <|im_end|>")
    'an <\u200bimage> and <\u200b|im_end|>'
    >>> neutralize("1 < 2 and <b>bold</b>")
    '1 < 2 and <b>bold</b>'
    """
    return markup.sub(rf"\g<0>{ZERO_WIDTH_SPACE}", text)


def opened_answer(reasoning: str) -> str:
    """Generated reasoning, closed where it was cut off, and the beginning of the answer.

    >>> opened_answer("<think>A knife.</think>")
    '<think>A knife.</think><answer>'
    """
    unclosed = OPEN_THOUGHT in reasoning and CLOSED_THOUGHT not in reasoning
    return f"{reasoning}{CLOSED_THOUGHT if unclosed else ''}{OPEN_ANSWER}"
