"""Ratings of several aspects of an item in one answer, such as quality and alignment.

The verdicts of such a task are the levels of each aspect, "quality: 1" to "alignment: 5". Labels
and verdicts of rows name every aspect once: "quality: 4, alignment: 2.5".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from .answer_text import fold, read_layout, split_confidence, window
from .rating_answers import RatingScale
from .request_failures import request_failure
from .verdicts import OUTSIDE, RANGE, Verdict

ASPECT = re.compile(r"[^\W_](?:[\w -]{0,38}[^\W_])?")
"""What an aspect may be called: it has to be found in an answer."""
_NAMED = re.compile(rf"({ASPECT.pattern}): (\S+)")


def aspect_verdicts(aspects: Sequence[str], levels: Sequence[str]) -> list[str]:
    """The verdicts of a task: each level of each aspect."""
    return [f"{aspect}: {level}" for aspect in aspects for level in levels]


@lru_cache(maxsize=256)
def scales_of(verdicts: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    """The levels of each aspect; of a task without aspects, those of the one that has no name.

    >>> scales_of(("quality: 1", "quality: 2", "alignment: 1", "alignment: 2"))
    {'quality': ('1', '2'), 'alignment': ('1', '2')}
    >>> scales_of(("1", "2"))
    {'': ('1', '2')}
    """
    named = [_NAMED.fullmatch(verdict) for verdict in verdicts]
    levels: dict[str, list[str]] = {}
    for match in named:
        if match is not None:
            levels.setdefault(match[1], []).append(match[2])
    same = {tuple(of_aspect) for of_aspect in levels.values()}
    if None in named or len(levels) < 2 or len(same) > 1:
        return {"": verdicts}
    return {aspect: tuple(of_aspect) for aspect, of_aspect in levels.items()}


def write_ratings(ratings: Mapping[str, str]) -> str:
    """The rating of each aspect as a label or a verdict."""
    return ", ".join(
        f"{aspect}: {rating}" if aspect else rating for aspect, rating in ratings.items()
    )


def read_ratings(text: str, verdicts: Sequence[str]) -> dict[str, str]:
    """The rating of each aspect in a label or a verdict; see :func:`write_ratings`.

    Raises:
        ValueError: it does not name every aspect of the task, in its order.
    """
    aspects = list(scales_of(tuple(verdicts)))
    if aspects == [""]:
        return {"": text}
    ratings = dict(part.rpartition(": ")[::2] for part in text.split(", "))
    if list(ratings) != aspects:
        raise ValueError(f"{text!r} does not rate {', '.join(aspects)}")
    return ratings


def parse_aspects(text: str, aspects: Sequence[str], low: float, high: float) -> Verdict:
    """Read the ratings of all aspects in a judge's output, in time linear in its length.

    An aspect's rating follows its name, as a field of JSON, in a line or within one ("quality: 4/5,
    alignment score: 3"), and is read as the rating of a single scale is. A text that does not rate
    every aspect, or one of them differently in two places, has no verdict.

    >>> parse_aspects('{"quality": 4, "alignment": {"score": 2.5}}', ["quality", "alignment"], 1, 5)
    Verdict(value='quality: 4, alignment: 2.5', well_formed=False, reason='aspects')
    >>> parse_aspects("quality: 4", ["quality", "alignment"], 1, 5)
    Verdict(value=None, well_formed=False, reason="no rating of 'alignment'")
    """
    if not isinstance(text, str) or not text.strip():
        return Verdict(None, False, "empty text")
    if failure := request_failure(text):
        return Verdict(None, False, f"{failure.kind} request")
    layout = read_layout(split_confidence(text)[0])
    part = fold(window("\n".join(dict.fromkeys(layout.blocks)) or layout.rest))
    found: dict[str, dict[str, None]] = {aspect: {} for aspect in aspects}
    scale, names = RatingScale(low, high), {_key(aspect): aspect for aspect in aspects}
    for field in _field(tuple(names)).finditer(part):
        mention = scale.mention_at(part, field.end())
        if mention is not None:
            value = RANGE if _OR.match(part, mention.end) else mention.value
            found[names[_key(field["aspect"])]][value] = None
    for aspect, values in found.items():
        if len(values) != 1:
            what = "several ratings" if values else "no rating"
            return Verdict(None, layout.well_formed, f"{what} of {aspect!r}")
        for wrong in (OUTSIDE, RANGE):
            if wrong in values:
                return Verdict(None, layout.well_formed, f"{aspect!r} is rated {wrong}")
    rated = {aspect: next(iter(values)) for aspect, values in found.items()}
    return Verdict(write_ratings(rated), layout.well_formed, "aspects")


def _key(name: str) -> str:
    return fold(name).replace("_", " ")


# After a rating: another one that it may be instead.
_OR = re.compile(r"\s?(?:or|and/or)\b")


@lru_cache(maxsize=64)
def _field(names: tuple[str, ...]) -> re.Pattern[str]:
    """An aspect and what stands between it and its rating; the longest name first."""
    listed = "|".join(name.replace(" ", "[ _]") for name in sorted(names, key=len)[::-1])
    noun = r"(?:score|rating|grade)"
    return re.compile(
        rf"(?<![^\W_])(?P<aspect>{listed})['\"]?(?:[ _-]{noun})?['\"]?(?: ?\([^()\n]{{1,40}}\))?"
        rf"\s{{0,4}}(?:[:=|]|->?|→|\bis\b)\s{{0,4}}(?:\{{\s{{0,8}}['\"]{noun}['\"]\s?:\s?)?"
        r"[\s'\"(\[]{0,4}"
    )
