"""Read a rating on a scale of numbers from a judge's text.

The forms, levels and contradictions are those of :mod:`.verdicts`; only what a verdict looks like
differs: any number of the scale, decimals included, with its denominator ("7/10", "7 out of 10")
or without. A number outside the scale, one with another denominator and a range ("3-4") are read as
what they are, which is no rating, and are never cut to fit. `docs/verdicts.md` has examples.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from .verdict_names import Mention, Names
from .verdicts import OUTSIDE, RANGE, Verdict, read_verdict

_NUMBER = r"[-+]?(?:\d{1,9}(?:\.\d{1,9})?|\.\d{1,9})"
# Not within a word, a compound ("gpt-4"), another number or an amount of money.
_BEFORE = r"(?<![^\W_])(?<![^\W_][-'])(?<!\d[.,:/-])(?<![.$€£])"
_AFTER = r"(?![.,:/]\d)(?!\s?[%°/])(?! out of )(?![^\W_])(?![-'][^\W_])"
_MENTION = re.compile(
    rf"{_BEFORE}(?:"
    rf"(?P<range>(?:between {_NUMBER} and|{_NUMBER}\s?(?:-|~|to)) ?{_NUMBER}(?: ?/ ?{_NUMBER})?)"
    rf"|(?P<rating>{_NUMBER})(?:(?:\s?/\s?| out of (?:a (?:possible|maximum) )?)(?P<of>{_NUMBER})"
    rf"| (?:points?|stars?)(?: out of (?P<stars>{_NUMBER}))?)?"
    rf"(?: on (?:a|the) (?:scale (?:of|from) )?{_NUMBER} ?(?:-|to) ?(?P<top>{_NUMBER})"
    rf"(?: scale)?)?)(?:{_AFTER})"
)


class RatingScale(Names):
    """The numbers of a scale as names of verdicts."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self.spelled, self.candidates, self.ties, self.tie = {}, {}, set(), ""
        self.degrees = ()
        self.ratings = self.reads_ratings = True
        self._whole: dict[str, str] = {}
        self._mention = _MENTION

    def _as_mention(self, match: re.Match[str]) -> Mention:
        return Mention(self._value(match), *match.span(), topical=True, token=True)

    def _value(self, match: re.Match[str]) -> str:
        if match["range"]:
            return RANGE
        rating = float(match["rating"])
        tops = {float(top) for top in match.group("of", "stars", "top") if top is not None}
        if not self.low <= rating <= self.high or tops - {self.high}:
            return OUTSIDE
        return number_text(rating)


def number_text(number: float) -> str:
    """A rating as it is written everywhere, with up to six digits.

    >>> number_text(7.0), number_text(3.2699999809)
    ('7', '3.27')
    """
    return f"{number:.6g}"


def parse_rating(text: str, levels: Sequence[float]) -> Verdict:
    """Read the rating of a judge's output, in time linear in its length.

    Args:
        levels: of the scale, ascending; any number between its ends is a rating.

    >>> parse_rating("<think>Sharp.</think><answer>7.5</answer>", range(1, 11))
    Verdict(value='7.5', well_formed=True, reason='whole')
    >>> parse_rating("Score: 4/5", range(1, 11))
    Verdict(value=None, well_formed=False, reason='a number that is not on the scale')
    """
    return read_verdict(text, _scale(float(levels[0]), float(levels[-1])))


@lru_cache(maxsize=256)
def _scale(low: float, high: float) -> RatingScale:
    return RatingScale(low, high)
