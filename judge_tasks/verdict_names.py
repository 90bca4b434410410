"""How a task's verdicts can be named in a judge's text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from .answer_text import fold

TIE = "(a tie)"
"""Stands for a tie where no verdict means one."""
OTHER = "(another answer)"
"""Stands for a choice that is none of the verdicts."""

NOUNS = (
    *("image", "picture", "photo", "option", "choice", "response", "answer", "output", "assistant"),
    *("model", "candidate", "caption", "video", "system", "result", "description", "generation"),
    *("edit", "solution", "summary", "translation", "text", "essay", "story", "completion"),
)
NOUN = rf"(?:{'|'.join(NOUNS)})"
_WORK = r"(?:version|attempt|rendering|interpretation|depiction|representation|work|reasoning)"
_MADE = r"(?:(?:edited|generated|output|candidate) )?"
_PAIRS = (("1", "2"), ("a", "b"), ("first", "second"), ("left", "right"))
_CANDIDATE = re.compile(rf"(?:{NOUN}[ _-]?)?(\d+|[a-z]|first|second|left|right)")
_TIE_VERDICT = re.compile(
    r"0|tie|tied|a tie|draw|equal|equally good|same|neither|both(?: .{1,20})?|"
    r"\w=\w(?:=.{1,20})?"
)
# What may precede a verdict without belonging to it: white space, quotes, list marks, arrows.
LEFT = r"[\s\"'()\[\]{}#|$\\:=•·▪]|-{1,8}>?\s|→"
SYMBOLS = "\u2190-\u2bff\ufe0f\U0001f000-\U0001faff"
EDGE = re.compile(rf"(?:{LEFT})*+")
_RIGHT_STRIP = " \n\"'()[]{}|$\\.,;:!"


class Mention(NamedTuple):
    value: str
    start: int
    end: int
    topical: bool  # a token or a candidate's name: a sentence may begin with it and not choose it
    token: bool  # a letter or number: also an article, a count or the mark of a list


class Names:
    """The names of the verdicts of one task.

    Attributes:
        spelled: the folded form of every verdict, and the verdict.
        candidates: where the verdicts name two candidates, the verdict for each one's token.
        degrees: where they also say how much better one is ("A>>B"), the tokens of the two.
        ratings: whether the verdicts are ratings.
        ties: the verdicts that mean a tie.
        tie: what a tie stands for: the verdict that means one, or :data:`TIE`.
    """

    def __init__(
        self, verdicts: Sequence[str], ratings: bool | None, ties: Sequence[str] | None = None
    ) -> None:
        self.spelled = _spelled(verdicts)
        forms = list(self.spelled)
        if ties is None:
            ties = [self.spelled[form] for form in forms if _TIE_VERDICT.fullmatch(form)]
        self.ties = set(ties)
        self.ratings = _are_ratings(forms) if ratings is None else ratings
        # A letter that means a tie names no candidate.
        named = {form: value for form, value in self.spelled.items() if value not in self.ties}
        self.candidates = {} if self.ratings else _candidates(named)
        self.degrees = () if self.ratings else _degrees(self.spelled)
        self.tie = next(iter(self.ties)) if len(self.ties) == 1 else TIE
        self.reads_ratings = self.ratings or not (
            self.candidates or any(form.isdecimal() for form in forms)
        )
        self._whole = dict(self.spelled)
        if self.candidates:
            for pair in _PAIRS[2:]:
                for word, value in zip(pair, self.candidates.values(), strict=True):
                    self._whole |= dict.fromkeys((word, f"the {word}", f"{word} one"), value)
        self._mention = re.compile(self._pattern(forms))

    def _pattern(self, forms: Sequence[str]) -> str:
        """Longest form first, never inside a word, a compound or a number.

        What may not precede a form is looked up after its first character: a pattern that begins
        with plain characters is searched for several times faster.
        """
        scale = max((int(form) for form in forms if form.isdecimal()), default=0)
        alternatives, phrases = [], []
        if compared := [*self.candidates] or self.degrees:
            token = "|".join(compared)
            operator = r"\s?(?:>{1,3}|<{1,3}|={1,2})\s?"
            # GenAI-Bench's prompt (arXiv 2406.04485) has two ties, [[A=B=Good]] and [[A=B=Bad]].
            quality = r"(?:\s?=\s?(?P<quality>good|bad))?"
            left, right = (
                rf"['\"]?(?:{NOUN}[ -]?)?(?P<{side}>{token})['\"]?" for side in ("left", "right")
            )
            phrases.append(
                rf"(?P<comparison>{left}{operator}{right}{quality}(?![^\W_])(?!\s?[>=<]))"
            )
        if self.candidates:
            owned = rf"(?:'s (?:\w{{1,20}} ){{0,2}}?(?:{NOUN}|{_WORK}))?"
            mark = rf"(?:[ _-]?(?:#|\(|\"|no\.? )?)(?P<token>{token})(?:\)|\")?"
            phrases += [
                rf"(?P<named>(?:the )?{_MADE}{NOUN}{mark}(?![^\W_]){owned})",
                rf"(?P<ordinal>(?:the )?(?:(?:first|second|left|right) {_MADE}(?:{NOUN}|one)"
                rf"|{NOUN} on the (?:left|right))"
                r"|the (?:first|second)(?! (?!is |wins)[^\W_]|-))",
            ]
            forms = [*forms, *(t for t in self.candidates if t not in self.spelled)]
        if phrases:
            alternatives.append(rf"(?<![^\W_])(?:{'|'.join(phrases)})")
        for form in sorted(forms, key=len, reverse=True):
            first, rest = re.escape(form[0]), re.escape(form[1:])
            before, after = rf"(?<![^\W_]{first})(?<![^\W_][-']{first})", ""
            if form.isdecimal():
                before += rf"(?<!\d[.,:/]{first})(?<![-+.$€£]{first})"
                if self.ratings and scale:
                    after = rf"(?:\.0{{1,2}}(?!\d))?(?:(?:\s?/\s?| out of ){scale}(?:\.0)?)?"
                after += r"(?![.,:/]\d)(?!\s?[%°/])(?! out of \d)"
            alternatives.append(f"{first}{before}{rest}{after}")
        return rf"(?:{'|'.join(alternatives)})(?![^\W_])(?![-'][^\W_])"

    def mentions(self, text: str) -> Iterator[Mention]:
        return (self._as_mention(match) for match in self._mention.finditer(text))

    def mention_at(self, text: str, start: int) -> Mention | None:
        match = self._mention.match(text, start)
        return self._as_mention(match) if match else None

    def _as_mention(self, match: re.Match[str]) -> Mention:
        start, end, text, kind = *match.span(), match[0], match.lastgroup
        if kind == "comparison":
            return Mention(self._preferred(match), start, end, False, False)
        if kind == "ordinal":
            one, other = self.candidates.values()
            value = one if "first" in text or "left" in text else other
            return Mention(value, start, end, True, False)
        if kind == "named":
            return Mention(self.candidates[match["token"]], start, end, True, False)
        known = self.spelled.get(text) or self.candidates.get(text)
        value = known or self.spelled[re.split(r"\D", text)[0]]  # "7.0/10"
        token = (len(text) == 1 and text.isalnum() and text.isascii()) or text[0].isdecimal()
        topical = token or (value in self.candidates.values() and ">" not in text)
        return Mention(value, start, end, topical, token)

    def _preferred(self, match: re.Match[str]) -> str:
        """What "A>B", "B<<A" or "A=B" stands for."""
        better, worse = ("right", "left") if "<" in match[0] else ("left", "right")
        if "=" in match[0]:
            return self._tie(f"{match['left']}={match['right']}", match["quality"])
        sign = ">>" if ">>" in match[0] or "<<" in match[0] else ">"
        exact = self.spelled.get(f"{match[better]}{sign}{match[worse]}")
        return exact or self.candidates.get(match[better], OTHER)

    def _tie(self, equality: str, quality: str | None) -> str:
        """What "A=B" or "A=B=Good" stands for."""
        exact = self.spelled.get(f"{equality}={quality}" if quality else equality)
        of_quality = [v for v in self.ties if quality and re.search(rf"\b{quality}\b", fold(v))]
        return exact or (of_quality[0] if len(of_quality) == 1 else self.tie)

    def whole(self, text: str) -> str | None:
        """The verdict that the text is, but for punctuation around it."""
        text = text.strip()
        if text in self._whole:
            return self._whole[text]
        edge = EDGE.match(text)
        bare = text[edge.end() if edge else 0 :].rstrip(_RIGHT_STRIP)
        if bare in self._whole:
            return self._whole[bare]
        match = self._mention.fullmatch(bare)
        return self._as_mention(match).value if match else None


def _spelled(verdicts: Sequence[str]) -> dict[str, str]:
    spelled: dict[str, str] = {}
    for verdict in verdicts:
        form = fold(verdict)
        if not form or form in spelled:
            other = f"the same text as {spelled[form]!r}" if form else "empty"
            raise ValueError(
                f"verdicts: {verdict!r} is {other} once case, emphasis and Unicode form are set "
                "aside; each verdict needs distinct letters, digits or signs"
            )
        spelled[form] = verdict
    if not spelled:
        raise ValueError("verdicts: the list is empty; a task needs at least one verdict")
    return spelled


def _are_ratings(forms: Sequence[str]) -> bool:
    """At least three consecutive integers in order."""
    if len(forms) < 3 or not all(re.fullmatch(r"[0-9]{1,9}", form) for form in forms):
        return False
    return {int(after) - int(before) for before, after in pairwise(forms)} in ({1}, {-1})


def _candidates(spelled: dict[str, str]) -> dict[str, str]:
    """The tokens of the two candidates, if the verdicts name exactly two."""
    for one, other in _PAIRS[:2]:
        first, second = f"{one}>{other}", f"{other}>{one}"
        if first in spelled and second in spelled and not any(">>" in form for form in spelled):
            return {one: spelled[first], other: spelled[second]}
    named = {m[1]: v for form, v in spelled.items() if (m := _CANDIDATE.fullmatch(form))}
    named.pop("0", None)
    for pair in _PAIRS:
        if sorted(named) == sorted(pair):
            return {token: named[token] for token in pair}
    return {}


def _degrees(spelled: dict[str, str]) -> tuple[str, ...]:
    """The tokens of two candidates that verdicts compare by degree, such as "A>>B" and "B>>A"."""
    for one, other in _PAIRS[:2]:
        if f"{one}>>{other}" in spelled and f"{other}>>{one}" in spelled:
            return (one, other)
    return ()


@lru_cache(maxsize=256)
def names_of(
    verdicts: tuple[str, ...], ratings: bool | None, ties: tuple[str, ...] | None
) -> Names:
    return Names(verdicts, ratings, ties)
