"""Read the order in which a judge's text puts several candidates, or only the best of them.

The answer part is found as in :mod:`.verdicts`. In it, the first form of :data:`ORDER_FORMS` that
claims an order decides. Where none does, the part may name the best candidate, in any form of
:mod:`.verdict_forms`; the others are then tied. Two different claims are no order, and neither is
one that leaves a candidate out. Every step is linear in the text, as in :mod:`.verdicts`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from mtrl_judge.metrics.rankings import Order, write_order

from .answer_text import fold, read_layout, split_confidence, window
from .request_failures import request_failure
from .verdict_names import NOUN
from .verdicts import SELF_CONTRADICTION, Verdict, parse_verdict

MAX_CANDIDATES = 26
_MAX_BLOCKS = 32
_LOOK_BACK = 80
_NOTHING = "no order found"


class _Claim(NamedTuple):
    order: Order | None  # None: what was claimed is no order of the candidates
    reason: str  # the form, or what is wrong
    best_only: bool = False


# --- names -------------------------------------------------------------------------------------

_TOKEN = r"(?:[a-z]|\d{1,2})(?![^\W_])"
_NAME = re.compile(rf"(?<![^\W_]){_TOKEN}")
# "image b", "assistant #2", "response (c)": the candidate's name alone is left.
_NAMED = re.compile(
    rf"(?<![^\W_])(?:the )?{NOUN}"
    rf"(?:[ _-]?\(({_TOKEN})\)|[ _-](?:#|no\.? )?({_TOKEN})|#?(\d{{1,2}})(?!\w))"
)
_BULLET = re.compile(rf"(?m)^[-•·▪] (?={_TOKEN}[,;]?$)")


class _Names:
    """What candidates are called: by their names and, where these are letters, by their number."""

    def __init__(self, candidates: Sequence[str]) -> None:
        own = {fold(name): name for name in candidates}
        if not 2 <= len(candidates) == len(own) <= MAX_CANDIDATES or not all(
            map(_NAME.fullmatch, own)
        ):
            raise ValueError(
                f"candidates: {list(candidates)} are not 2 to {MAX_CANDIDATES} different letters "
                "or numbers"
            )
        self.candidates = tuple(candidates)
        self.alphabets: list[Mapping[str, str]] = [own]
        if not any(name.isdecimal() for name in own):
            self.alphabets.append({str(n): name for n, name in enumerate(candidates, start=1)})

    def alphabet_of(self, tokens: Iterable[str]) -> Mapping[str, str] | None:
        """The names that the tokens may be; None if they are letters as well as numbers."""
        sorts = {token.isdecimal() for token in tokens}
        for alphabet in self.alphabets:
            if sorts == {name.isdecimal() for name in alphabet}:
                return alphabet
        return None

    def best(self, name: str, form: str) -> _Claim:
        """That a candidate is the best, which leaves the others tied."""
        others = tuple(other for other in self.candidates if other != name)
        return _Claim(((name,), others), f"best by {form}", best_only=True)


@lru_cache(maxsize=256)
def _names_of(candidates: tuple[str, ...]) -> _Names:
    return _Names(candidates)


# --- orders ------------------------------------------------------------------------------------

_SIGNS = str.maketrans("≻≺", "><")
_SIGN = r"(?:>{1,3}+|<{1,3}+|={1,2}+)"
_THEN = r"(?:and )?+(?:then|followed by) "
# Nothing that the one may match can the other begin with, so that no text is matched in two ways.
_SEPARATOR = rf"(?:(?:{_SIGN}|->|→|[,;]\n?+) ?+(?:{_THEN})?+|{_THEN})"
_ELEMENT = rf"[\[(\"'{{ ]{{0,4}}+(?<![^\W_]){_TOKEN}[\])\"'}} ]{{0,4}}+"
_LINE = rf"{_ELEMENT}[,;]?+(?=\n|\Z)"
_SEQUENCE = re.compile(
    rf"{_LINE}(?:\n{_LINE}){{1,{MAX_CANDIDATES}}}+|"
    rf"{_ELEMENT}(?:{_SEPARATOR}{_ELEMENT}){{1,{MAX_CANDIDATES}}}+"
)
# In prose, commas list candidates and do not order them.
_COMPARED = re.compile(
    rf"(?<![^\W_]){_TOKEN}(?:\s?+{_SIGN}\s?+{_TOKEN}){{1,{MAX_CANDIDATES}}}+(?!\s?[<=>])"
)
_COMPACT = re.compile(rf"[a-z](?: ?[a-z]){{1,{MAX_CANDIDATES}}}|\d(?: ?\d){{1,{MAX_CANDIDATES}}}")
_EDGES = " \n\"'.,;:!$|\\"


def _expression(text: str, names: _Names) -> tuple[Order | None, str] | None:
    """The order that an expression such as "b > a = c" or "[2, 1, 3]" is, or what is wrong.

    None if the text is no such expression.
    """
    text = text.strip(_EDGES)
    if _SEQUENCE.fullmatch(text):
        return _sequence(text, names)
    if _COMPACT.fullmatch(text):
        tokens = text.replace(" ", "")
        alphabet = names.alphabet_of(tokens)
        if alphabet and sorted(tokens) == sorted(alphabet):
            return tuple((alphabet[token],) for token in tokens), ""
    return None


def _sequence(text: str, names: _Names) -> tuple[Order | None, str] | None:
    mentions = list(_NAME.finditer(text))
    gaps = [text[one.end() : other.start()] for one, other in pairwise(mentions)]
    depths, depth, end = [], 0, 0
    for mention in mentions:
        before = text[end : mention.start()]
        depth += sum(map(before.count, "[({")) - sum(map(before.count, "])}"))
        depths.append(depth)
        end = mention.end()
    # Brackets around a part of the candidates, as in [["B"], ["A", "C"]], hold those that are tied.
    inner = [depth > min(depths) for depth in depths]
    places = [[mentions[0][0]]]
    signs = set()
    for number, gap in enumerate(gaps):
        together = inner[number] and inner[number + 1] and not set(gap) & set("])}")
        sign = next((sign for sign in "<=>" if sign in gap.replace("->", "")), ",")
        if sign == "=" or (together and sign == ","):
            places[-1].append(mentions[number + 1][0])
        else:
            signs.add(sign)
            places.append([mentions[number + 1][0]])
    if len(signs) > 1:
        return None, f"mixed signs: {' '.join(sorted(signs))}"
    return _order(reversed(places) if signs == {"<"} else places, names)


def _order(places: Iterable[Sequence[str]], names: _Names) -> tuple[Order | None, str] | None:
    """The order of places by name, if all candidates are there once."""
    places = [list(place) for place in places]
    tokens = [token for place in places for token in place]
    alphabet = names.alphabet_of(tokens)
    if alphabet is None:
        return None
    counts = Counter(tokens)
    if strange := counts.keys() - alphabet.keys():
        return None, f"not candidates: {', '.join(sorted(strange)).upper()}"
    if repeated := sorted(alphabet[token] for token, count in counts.items() if count > 1):
        return None, f"repeated candidates: {', '.join(repeated)}"
    if missing := sorted(name for token, name in alphabet.items() if token not in counts):
        return None, f"missing candidates: {', '.join(missing)}"
    return tuple(tuple(alphabet[token] for token in place) for place in places), ""


# "1. b", "2) a and c", "3rd place: d"; more text may describe the candidate.
_ITEM = re.compile(
    rf"\s{{0,3}}(?:#|rank )?(\d{{1,2}})(?:[.):]|st\b|nd\b|rd\b|th\b)(?: place)?[:.)]?\s{{0,3}}"
    rf"({_TOKEN}(?:(?: ?[=&] ?| and ){_TOKEN}){{0,{MAX_CANDIDATES}}})"
    r"(?=\s|[-:,;(.]|\Z)([^\n]{0,400}?)(?=\s(?:#|rank )?\d{1,2}(?:[.):]|st|nd|rd|th)|\n|\Z)"
)
_LIST_START = re.compile(r"(?:#|\brank )?\b1(?:[.):]|st\b)")


class _List(NamedTuple):
    places: list[list[str]]
    end: int
    described: bool


def _numbered(text: str, start: int) -> _List | None:
    """The list "1. b 2. a 3. c" at `start`; equal numbers are ties."""
    places: list[list[str]] = []
    number, count, described, end = 0, 0, False, start
    while count <= MAX_CANDIDATES and (item := _ITEM.match(text, end)):
        this = int(item[1])
        if this not in ({1} if not places else {number, number + 1, count + 1}):
            break
        tokens = _NAME.findall(item[2])
        if this == number:
            places[-1] += tokens
        else:
            places.append(tokens)
        number, count, end = this, count + len(tokens), item.end()
        described = described or any(char.isalnum() for char in item[3])
    return _List(places, end, described) if count > 1 else None


# --- forms -------------------------------------------------------------------------------------

# Words that make an order an example, a condition or what was not said.
_UNCLAIMED = re.compile(
    r"\b(?:such as|(?<!would )(?<!'d )like|e\.g|example|instance|template|format|if|unless|suppose|"
    r"assuming|instead of|not|never|according to)\b"
)
_SENTENCE_BREAK = re.compile(r"(?<=[.!?])\s|\n")
_ENDS = re.compile(r"\Z|\n|[.;:!(]|,? ?(?:because|since|as)\b|-\s")
# `[[b>a>c]]`, `[[b]], [[a]], [[c]]` as in MLLM-as-a-Judge's prompt (arXiv 2402.04788), `\boxed{}`.
_ENCLOSED = re.compile(
    rf"(?:\[\[[^\[\]\n]{{1,160}}\]\](?:\s?[,>=;]{{1,3}}\s?)?){{1,{MAX_CANDIDATES}}}|"
    r"\\f?box(?:ed)?\s?\{[^}\n]{1,160}\}"
)
_JSON_FIELD = re.compile(
    r"[\"']([a-z][\w -]{0,40})[\"']\s{0,8}:\s{0,8}"
    r"(\[[^{}]{1,240}?\]{1,2}(?=\s{0,8}(?:[,}]|\Z))|\"[^\"\n]{1,160}\"|'[^'\n]{1,160}')"
)
_RANKED = r"(?:rank(?:ings?|ed|s)?|order(?:ing)?|sequence)"
_STATED = r"(?:verdict|answer|judge?ment|decision|conclusion|result)"
_KEY = re.compile(rf"(?:(?:final|overall|my) )?(?:{_RANKED}|{_STATED})(?: (?:list|order))?")
_WAY = r"(?:from )?(?:the )?(?:best|worst) to (?:the )?(?:best|worst)|(?:best|worst) first"
_CUE = re.compile(
    rf"\b(?:rank (?:them|the [a-z]{{1,20}})(?: as follows| (?:{_WAY})| as)?|"
    rf"(?:{_RANKED}|{_STATED})(?: list| order| of the [a-z]{{1,20}})?(?:,? \(?(?:{_WAY})\)?)?"
    rf"(?: is| are| would be)?(?: as follows)?|{_WAY})(?:\s?[:=,]\s{{0,3}}|\s)"
)
_REVERSED = re.compile(r"worst to|worst first")
_REVERSED_AFTER = re.compile(r"\s?\((?:[a-z]{1,12} ){0,2}?worst (?:to|first)")


# "b is the best image", but not "b is the best lit".
_BEST = re.compile(
    rf"(?<![^\W_])({_TOKEN}) (?:is|was|wins as) (?:clearly |definitely )?the (?:clear )?"
    rf"(?:best|winner|top choice)(?: (?:{NOUN}|one|match|choice))?"
    r"(?=\s?(?:\Z|[.!,;\n]|because\b|since\b|of (?:all|the)\b|overall\b))"
)
# Beside the best, another place is given to a candidate: more is said than which is the best.
_OTHER_PLACE = re.compile(
    r"\b(?:(?:second|third|fourth|middle|next|worst|last)(?: best)?(?: place| one)?(?: is |: ?)|"
    rf"(?:followed by|then) ){_TOKEN}(?=\s?(?:[.,;\n(]|\Z|and\b))"
)


def _whole(text: str, names: _Names) -> Iterable[tuple[_Claim, int, int]]:
    listed = _numbered(text, 0)
    if listed and not text[listed.end :].strip(_EDGES):
        found = None if listed.described else _order(listed.places, names)
    else:
        found = _expression(text, names)
    if found:
        yield _Claim(*found), 0, len(text)


def _enclosed(text: str, names: _Names) -> Iterable[tuple[_Claim, int, int]]:
    for match in _ENCLOSED.finditer(text):
        content = match[0].partition("{")[2][:-1] if match[0].startswith("\\") else match[0]
        found = _expression(content, names)
        if found and not _unclaimed(text, match.start()):
            yield _Claim(*found), *match.span()


def _json(text: str, names: _Names) -> Iterable[tuple[_Claim, int, int]]:
    for match in _JSON_FIELD.finditer(text) if "{" in text else ():
        if _KEY.fullmatch(match[1].replace("_", " ")) and (found := _expression(match[2], names)):
            yield _Claim(*found), *match.span()


def _fields(text: str, names: _Names) -> Iterable[tuple[_Claim, int, int]]:
    for cue in _CUE.finditer(text):
        if _unclaimed(text, cue.start()):
            continue
        found, end = None, cue.end()
        if listed := _numbered(text, cue.end()):
            found, end = _order(listed.places, names), listed.end
        elif sequence := _SEQUENCE.match(text, cue.end()):
            end = sequence.end()
            found = _sequence(sequence[0], names) if _ENDS.match(text, end) else None
        else:
            line = text[cue.end() : cue.end() + 2 * MAX_CANDIDATES].partition("\n")[0]
            found, end = _expression(line, names), cue.end() + len(line)
        if found:
            order, wrong = found
            if order and (_REVERSED.search(cue[0]) or _REVERSED_AFTER.match(text, end)):
                signed = ">" in text[cue.end() : end].replace("->", "")
                order, wrong = (None, "worst first, with >") if signed else (order[::-1], wrong)
            yield _Claim(order, wrong), cue.start(), end


def _prose(text: str, names: _Names) -> Iterable[tuple[_Claim, int, int]]:
    """Comparisons of all candidates, and lists of nothing but names."""
    for match in _COMPARED.finditer(text):
        found = _sequence(match[0], names)
        if found and found[0] and not _unclaimed(text, match.start()):
            yield _Claim(*found), *match.span()
    end = 0
    for start in _LIST_START.finditer(text):
        listed = _numbered(text, start.start()) if start.start() >= end else None
        end = listed.end if listed else end
        if listed and not listed.described and (found := _order(listed.places, names)):
            yield _Claim(*found), start.start(), listed.end


def _unclaimed(text: str, start: int) -> bool:
    before = _SENTENCE_BREAK.split(text[max(0, start - _LOOK_BACK) : start])[-1]
    return _UNCLAIMED.search(before) is not None


class OrderForm(NamedTuple):
    """One way to state an order.

    Attributes:
        name: what `Verdict.reason` says where this form decides.
        claims: finds the claims in a folded answer part, and where they stand.
        example: a text about A, B and C, and what is read.
    """

    name: str
    claims: Callable[[str, _Names], Iterable[tuple[_Claim, int, int]]]
    example: tuple[str, str]


ORDER_FORMS = (
    OrderForm("whole", _whole, ("2, 1, 3", "B>A>C")),
    OrderForm("brackets", _enclosed, ("C is blurred: [[B>A=C]]", "B>A=C")),
    OrderForm("JSON field", _json, ('{"ranking": ["B", ["A", "C"]]}', "B>A=C")),
    OrderForm("field", _fields, ("Ranking:\n1. B: sharp\n2. A\n3. C: blurred", "B>A>C")),
    OrderForm("prose", _prose, ("All show a lamp, so Image B > Image A > Image C.", "B>A>C")),
)
"""In order of precedence."""


# --- texts -------------------------------------------------------------------------------------


def parse_order(text: str, candidates: Sequence[str]) -> Verdict:
    """Read the order in which a judge's output puts the candidates, in time linear in its length.

    Args:
        candidates: their names, letters or numbers, in the order in which they were shown.
            Candidates with letters may also be numbered in that order.

    Returns:
        The value is an order of all candidates as :func:`~mtrl_judge.metrics.rankings.write_order`
        writes it; None if the text claims none. Where the text only names the best one, the others
        are tied.

    Raises:
        ValueError: the candidates are not two or more different letters or numbers. Never because
            of `text`.

    >>> parse_order("<think>B is sharp.</think><answer>B > A = C</answer>", ["A", "B", "C"])
    Verdict(value='B>A=C', well_formed=True, reason='whole')
    >>> parse_order("Best image: B", ["A", "B", "C"]).value
    'B>A=C'
    """
    names = _names_of(tuple(candidates))
    if not isinstance(text, str) or not text.strip():
        return Verdict(None, False, "empty text")
    if failure := request_failure(text):
        return Verdict(None, False, f"{failure.kind} request")
    layout = read_layout(split_confidence(text)[0])
    blocks = [block for block in dict.fromkeys(layout.blocks) if block.strip()]
    if len(blocks) > _MAX_BLOCKS:
        value, reason = None, f"{len(blocks)} different answer blocks"
    elif not layout.blocks and not layout.rest.strip():
        value, reason = None, "no answer after the reasoning"
    else:
        claims = [
            c
            for part in (blocks if layout.blocks else [layout.rest])
            for c in _read_part(part, names)
        ]
        if blocks and any(claim.order for claim in claims):
            # What follows a block can contradict it, never supply it.
            claims += [claim for claim in _read_part(layout.rest, names) if claim.order]
        value, reason = _resolve(claims)
    return Verdict(value, layout.well_formed, reason)


def _read_part(part: str, names: _Names) -> list[_Claim]:
    """The claims of the first form that has any, and the best candidate that the rest names."""
    text = fold(window(part)).translate(_SIGNS)
    text = _BULLET.sub("", _NAMED.sub(lambda match: match[match.lastindex or 0], text))
    for form in ORDER_FORMS:
        if found := list(form.claims(text, names)):
            break
    rest, end = [], 0
    for _, start, stop in found:
        rest.append(text[end:start])
        end = max(end, stop)
    claims = [claim._replace(reason=claim.reason or form.name) for claim, _, _ in found]
    return claims + _best("\n".join([*rest, text[end:]]), names)


def _best(text: str, names: _Names) -> list[_Claim]:
    """The candidates that the text names as the best one and says no more of."""
    if _OTHER_PLACE.search(text):
        return []
    for alphabet in names.alphabets:
        best = {
            match[1]: "prose"
            for match in _BEST.finditer(text)
            if match[1] in alphabet and not _unclaimed(text, match.start())
        }
        verdict = parse_verdict(text, tuple(alphabet), ratings=False)
        if verdict.value is not None:
            best[verdict.value] = verdict.reason
        if best:
            return [names.best(alphabet[token], form) for token, form in best.items()]
    return []


def _resolve(claims: Sequence[_Claim]) -> tuple[str | None, str]:
    orders = {write_order(claim.order) for claim in claims if claim.order and not claim.best_only}
    best = {claim.order[0][0] for claim in claims if claim.order and claim.best_only}
    if len(orders) > 1:
        return None, f"several orders: {', '.join(sorted(orders))}"
    for claim in claims:
        if claim.order is None:
            return None, claim.reason
    if len(best) > 1:
        return None, f"several best candidates: {', '.join(sorted(best))}"
    for claim in claims:
        if claim.order and not best <= set(claim.order[0]):
            order = write_order(claim.order)
            return None, f"{SELF_CONTRADICTION}: {order}, and {', '.join(best)} as the best"
    first = next(iter(claims), None)
    return (write_order(first.order), first.reason) if first and first.order else (None, _NOTHING)
