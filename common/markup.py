"""Text from data and models made harmless: it can never act as markup of a prompt."""

from __future__ import annotations

import re
from collections.abc import Iterable

# A judge's own tags: the scorer reads them, so they stay in an answer even where a tokenizer calls
# them special, and in a prompt, where they say what form the answer is to have.
JUDGE_TAGS = frozenset({"<think>", "</think>", "<answer>", "</answer>"})


ZERO_WIDTH_SPACE = "\u200b"


def markup_pattern(special_tokens: Iterable[str]) -> re.Pattern[str]:
    """Match the first character of each chat markup string in a text.

    `<|` begins the markup of most chat formats, also of placeholders that a processor knows and a
    tokenizer does not. Judge tags are left alone.
    """
    markup = {token for token in special_tokens if len(token) > 1} - JUDGE_TAGS | {"<|"}
    return re.compile(f"(?=({'|'.join(map(re.escape, sorted(markup)))})).", re.DOTALL)


def defuse(text: str, markup: re.Pattern[str]) -> str:
    """Break up chat markup in judged text, so that it is read as text and not as markup."""
    return markup.sub(lambda match: match.group() + ZERO_WIDTH_SPACE, text)


_ZERO_WIDTH_SPACE = "\u200b"


# What chat templates, image placeholders and our own answer form are written with. In text that
# comes from data these are broken by a zero-width space, which no tokenizer takes for markup.
_MARKUP = re.compile(
    r"<(?=\||｜|/?(?:image|img|video|audio|s|bos|eos|pad|unk"
    r"|start_of_turn|end_of_turn|start_of_image|end_of_image|think|answer)\b)"
    r"|\[(?=/?(?:INST|IMG)\])",
    re.IGNORECASE,
)


def neutralise(text: str) -> str:
    """Text of the data, unable to act as markup of a prompt.

    >>> neutralise("a <image> and <|im_end|>").count(IMAGE_MARK)
    0
    >>> neutralise("1 < 2 and <b>bold</b>")
    '1 < 2 and <b>bold</b>'
    """
    return _MARKUP.sub(lambda match: match.group() + _ZERO_WIDTH_SPACE, text)
