"""A judge's text to its answer part and to a normal form."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

PART_LIMIT = 32_768
"""Characters of an answer part that are read: about 8,000 tokens, more than an answer needs."""
_HEAD = 1_024
# (?a: Unicode's other i's and s's, which IGNORECASE takes for these, make no tag.
_TAG_FORM = r"{}\s{{0,4}}(/?)\s{{0,4}}((?a:think|answer))\s{{0,4}}[>＞]"
# A pattern that begins with one plain character is searched for several times faster.
_TAG = re.compile(_TAG_FORM.format("<"), re.IGNORECASE)
_WIDE_TAG = re.compile(_TAG_FORM.format("[<＜]"), re.IGNORECASE)
_CONFIDENCE_LIMIT = 200  # characters at the end of an answer
_CONFIDENCE = re.compile(
    r"<confidence>\s{0,4}(\d{1,3}(?:\.\d{1,6})?|\.\d{1,6})\s{0,4}(%?)\s{0,4}</confidence>\s*+\Z",
    re.IGNORECASE | re.ASCII,
)
_WELL_FORMED_TAGS = ["<think>", "</think>", "<answer>", "</answer>"]


class Layout(NamedTuple):
    blocks: list[str]  # contents of the answer blocks outside the reasoning
    rest: str  # what follows the first block; without blocks, the answer part itself
    reasoning: str  # what is in the tags of reasoning, also where one of them is missing
    well_formed: bool


def read_layout(text: str) -> Layout:
    blocks: list[str] = []
    rest: list[str] = []
    thoughts: list[str] = []
    state, begin, reasoned = "outside", 0, False
    tags = list((_WIDE_TAG if "＜" in text else _TAG).finditer(text))
    marks = [(*tag.span(), bool(tag[1]), tag[2].lower()) for tag in tags]
    for start, end, closing, name in [*marks, (len(text), len(text), False, "end of text")]:
        if state == "think" and not (closing and name == "think"):
            continue
        if state == "think":
            thoughts.append(text[begin:start])
        elif state == "answer" or (closing and name == "answer"):
            if not blocks:
                rest.clear()
            blocks.append(text[begin:start])
        elif state == "outside":
            rest.append(text[begin:start])
        if closing and name == "think":
            if not reasoned:  # the chat template had opened the reasoning
                thoughts = [text[:start]]
                blocks.clear()
            elif state == "outside" and not blocks:
                thoughts.append(text[begin:start])
            if not blocks:
                rest.clear()
        reasoned = reasoned or name == "think"
        state, begin = "outside" if closing else name, end
    if state == "think":
        thoughts.append(text[begin:])
    return Layout(blocks, "\n".join(rest), "\n".join(thoughts), _is_well_formed(text, tags))


def split_confidence(text: str) -> tuple[str, float | None]:
    """An answer without the one stated confidence at its end, and that confidence, in [0, 1].

    Without one, with several, or if it is no such number, the text stays as it is.

    >>> split_confidence("<answer>Yes</answer><confidence>85%</confidence>")
    ('<answer>Yes</answer>', 0.85)
    """
    tail = text[-_CONFIDENCE_LIMIT:]
    found = _CONFIDENCE.search(tail)
    if found is None:
        return text, None
    value = float(found[1]) / (100 if found[2] else 1)
    rest = text[: len(text) - len(tail) + found.start()]
    if value > 1 or "<confidence" in rest.casefold():
        return text, None
    return rest, value


def _is_well_formed(text: str, tags: Sequence[re.Match[str]]) -> bool:
    if len(tags) != len(_WELL_FORMED_TAGS) or [tag[0] for tag in tags] != _WELL_FORMED_TAGS:
        return False
    think, end_think, answer, end_answer = (tag.span() for tag in tags)
    outside = text[: think[0]] + text[end_think[1] : answer[0]] + text[end_answer[1] :]
    inside = text[think[1] : end_think[0]], text[answer[1] : end_answer[0]]
    return not outside.strip() and not any(map(_BLANK.fullmatch, inside))


_INVISIBLE: dict[int, str | None] = dict.fromkeys(
    map(ord, "\xad\u034f\u061c\u180e\ufeff")
) | dict.fromkeys(
    code
    for first, last in [(0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0xFE00, 0xFE0F)]
    for code in range(first, last + 1)
)
_BLANK = re.compile(rf"[\s{''.join(map(chr, _INVISIBLE))}]*+")
_PLAIN: dict[int, str | None] = _INVISIBLE | {
    ord(char): plain
    for chars, plain in [
        ("‘’‚‛ʼ′´", "'"),
        ("“”„‟«»‹›「」『』″", '"'),
        ("‐‑‒–—―−﹣", "-"),
        ("。｡", "."),
        ("、，", ","),
        ("【〔", "["),
        ("】〕", "]"),
        ("≫", ">>"),
        ("≪", "<<"),
        ("\u2028\u2029\x85", "\n"),
        ("ıİ", "i"),
    ]
    for char in chars
}


# ASCII never composes with what stands before it, so cutting before an ASCII character is exact.
_NON_ASCII_RUN = re.compile(r"[\x00-\x7f]?[^\x00-\x7f]{1,256}")
_UNDERLINE = re.compile(r"_++(?![^\W_])|(?<![^\W_])_++")
_MARKUP = re.compile(
    r"<\|\w{1,40}\|>|</?(?:b|i|u|s|em|strong|p|br|span|div|code|pre|bos|eos|end_of_turn)\s?/?>"
)
# `<choice>A</choice>` becomes a field.
_ELEMENT = re.compile(r"<([a-z_]{3,20})>\s{0,8}([^<>]{1,80})</\1>")
_ANGLED = re.compile(r"<([^<>\n]{1,40})>")
_LATEX_FONT = re.compile(r"\\(?:text|textbf|textit|texttt|mathrm|mathbf|mathit|emph)\s?\{")


def fold(text: str) -> str:
    """Compatibility form, case-folded, without invisible characters and without markup.

    Turkish has a dotless ı, whose capital is I, and a capital İ. `str.casefold` knows neither pair
    (they are the rows T of Unicode's CaseFolding.txt), so all four letters become i.
    """
    if not text.isascii():
        text = _NON_ASCII_RUN.sub(lambda run: unicodedata.normalize("NFKC", run[0]), text)
        text = text.translate(_PLAIN).replace("i\u0307", "i")  # what İ is in lower case
    text = text.casefold().replace("\r", "\n")
    text = text.replace("*", "").replace("`", "").replace("~~", "")
    if "_" in text:
        text = _UNDERLINE.sub("", text)
    if "<" in text:
        text = _ELEMENT.sub(r"\n\1: \2\n", _MARKUP.sub(" ", text))
        text = _ANGLED.sub(r"\1", text)
    if "\\" in text:
        text = _LATEX_FONT.sub("{", text)
    return "\n".join(" ".join(line.split()) for line in text.split("\n")).strip()


def window(part: str) -> str:
    """The part, or the beginning and the end of a long one, cut where a sentence ends."""
    if len(part) <= PART_LIMIT:
        return part
    head = part[:_HEAD].rpartition(" ")[0]
    tail = part[_HEAD - PART_LIMIT :]
    cut = re.search(r"\n|[.!?]\s", tail)
    return f"{head}\n{tail[cut.end() :] if cut else ''}"
