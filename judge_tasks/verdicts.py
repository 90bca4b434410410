"""Read the verdict of a judge's text. Evaluation and the training reward share this parser.

The first rule that applies decides, and ambiguity is never resolved by guessing:

1. The answer part: the `<answer>` blocks outside the reasoning; without any, what follows the last
   `</think>`; without that either, the whole text. Reasoning is never read. Text after an answer
   block can contradict it, never supply it.
2. The part as a whole is a verdict.
3. Explicit markers in it: `[[A]]`, `\\boxed{A}`, a JSON field, "Final verdict: A", "I choose A".
   A verdict that leads the part or its last line and differs from a marker makes it no verdict.
4. A verdict that leads the part or its last line, or that is its last sentence.
5. In the first or last sentence, a phrase that can mean only one thing: "The image is unsafe.",
   "Image 2 is better."; other verdict words in prose are not verdicts.

Two different claims are no verdict; a denied verdict ("not safe") is none and does not imply
another. Every step is linear in the text: quantifiers are bounded or possessive, Unicode is
normalized in short runs (CPython sorts combining marks by insertion, quadratic in a run), and of
a part longer than `PART_LIMIT` only the beginning and the end are read.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from . import phrases
from .answer_text import PART_LIMIT, Layout, fold, read_layout, window

__all__ = ["PARSER_VERSION", "PART_LIMIT", "Verdict", "parse_verdict"]

PARSER_VERSION = 1

_MAX_BLOCKS = 32
_LINE_LIMIT = 240
_LOOK_BACK = 160
_PHRASE_LIMIT = 40


class Verdict(NamedTuple):
    """The verdict of one text of a judge.

    Attributes:
        value: one of the task's verdicts, as the task spells it; None if there is no verdict.
        well_formed: exactly one `<think>…</think>` with reasoning in it, then exactly one
            non-empty `<answer>…</answer>`, and nothing else but white space.
        reason: why there is no verdict; None if there is one.
    """

    value: str | None
    well_formed: bool
    reason: str | None


def parse_verdict(text: str, verdicts: Sequence[str]) -> Verdict:
    """Read the verdict of a judge's output, in time linear in its length.

    Anything that is not a string counts as empty text.

    Raises:
        ValueError: `verdicts` is empty, or two of them differ only in case, emphasis or Unicode
            form, so that no text could distinguish them. Never because of `text`.

    >>> parse_verdict("<think>A knife.</think><answer>yes.</answer>", ["Yes", "No"])
    Verdict(value='Yes', well_formed=True, reason=None)
    """
    table = _table(tuple(verdicts))
    if not isinstance(text, str) or not text.strip():
        return Verdict(None, False, "empty text")
    layout = read_layout(text)
    value, reason = _answer(layout, table)
    return Verdict(value, layout.well_formed, reason)


# --- the verdicts of a task --------------------------------------------------------------------


class _Table(NamedTuple):
    spelled: dict[str, str]  # folded verdict or its alias -> the verdict as the task spells it
    slots: frozenset[str]  # the verdicts that name one of two images
    longest: int  # characters of the longest form
    mention: re.Pattern[str]


@lru_cache(maxsize=256)
def _table(verdicts: tuple[str, ...]) -> _Table:
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
    aliases = _slot_aliases(spelled)
    slots = frozenset(aliases.values())
    spelled = aliases | spelled
    pattern = re.compile(_mention_pattern(spelled))
    return _Table(spelled, slots, max(map(len, spelled)), pattern)


def _slot_aliases(spelled: dict[str, str]) -> dict[str, str]:
    """Other names of the verdicts, where exactly two of them name the two images of a pair."""
    named = {
        match[1]: v for form, v in spelled.items() if (match := phrases.SLOT_FORM.fullmatch(form))
    }
    aliases: dict[str, str] = {}
    for slots in phrases.SLOTS:
        if sorted(named) != [token for token, _ in slots]:
            continue
        for token, ordinal in slots:
            nouned = [
                f"{noun} {mark}" for noun in phrases.SLOT_NOUNS for mark in (token, f"#{token}")
            ]
            nouned += [f"{noun} ({token})" for noun in phrases.SLOT_NOUNS]
            nouned += [f"{ordinal} {noun}" for noun in [*phrases.SLOT_NOUNS, "one"]]
            names = [*nouned, *(f"the {name}" for name in nouned), f"the {ordinal}", token]
            aliases |= dict.fromkeys(names, named[token])
    return aliases


def _mention_pattern(forms: Iterable[str]) -> str:
    """Longest form first, never inside a word, a compound or a number.

    What may not stand before a form is looked up after its first character: a pattern that begins
    with plain characters is searched for several times faster.
    """
    alternatives = []
    for form in sorted(forms, key=len, reverse=True):
        first, rest = re.escape(form[0]), re.escape(form[1:])
        before, after = rf"(?<![^\W_]{first})(?<![^\W_][-']{first})", ""
        if form.isdecimal():
            before += rf"(?<!\d[.,:/]{first})(?<![-+.$€£]{first})"
            after = r"(?![.,:/]\d)(?!\s?[%°/])"
        alternatives.append(first + before + rest + after)
    return rf"(?:{'|'.join(alternatives)})(?![^\W_])(?![-'][^\W_])"


class _Mention(NamedTuple):
    value: str
    start: int
    end: int
    token: bool  # a letter, number or ordinal: also an article, a count or the mark of a list
    topical: bool  # a token or an image's name: a sentence may begin with it and not choose it


def _mentions(text: str, table: _Table) -> Iterator[_Mention]:
    return (_as_mention(match, table) for match in table.mention.finditer(text))


def _mention_at(text: str, start: int, table: _Table) -> _Mention | None:
    match = table.mention.match(text, start)
    return _as_mention(match, table) if match else None


def _as_mention(match: re.Match[str], table: _Table) -> _Mention:
    value, token = table.spelled[match[0]], phrases.TOKEN.fullmatch(match[0]) is not None
    return _Mention(value, *match.span(), token, token or value in table.slots)


# --- claims: what a stretch of text says -------------------------------------------------------


class _Claim(NamedTuple):
    value: str
    denied: str | None = None  # the phrase that denies the value


def _whole(text: str, table: _Table) -> str | None:
    """The verdict that the text is, but for punctuation around it."""
    text = text.strip()
    if len(text) > table.longest + _PHRASE_LIMIT:
        return None
    if text in table.spelled:
        return table.spelled[text]
    bare = _without_edges(text)
    if bare not in table.spelled:
        bare = _without_edges(phrases.TRAILING_SYMBOLS.sub("", bare))
    return table.spelled.get(bare)


def _without_edges(text: str) -> str:
    edge = phrases.EDGE.match(text)
    return text[edge.end() if edge else 0 :].rstrip(phrases.RIGHT_STRIP)


def _closes(text: str, mention: _Mention, marked: bool) -> bool:
    """Whether the statement ends, or is only explained, after a verdict that begins it."""
    after = phrases.AFTER.match(text, mention.end)
    end = after.end() if after else mention.end
    if phrases.BECAUSE.match(text, end):
        return end > mention.end
    if marked and mention.topical and ")" in text[mention.end : end]:
        return True
    if mention.topical and not marked:
        return phrases.ENDS_TOPIC.match(text, end) is not None
    negative = text[mention.start : mention.end] == "no"
    return phrases.ENDS[marked, negative].match(text, end) is not None


def _leading(text: str, table: _Table, marked: bool = False) -> list[_Claim]:
    """The verdict with which the text begins, and any other that stands alone in its line."""
    for opening in (phrases.EDGE, phrases.LEAD):
        lead = opening.match(text)
        start = lead.end() if lead else 0
        mention = _mention_at(text, start, table)
        if mention and _closes(text, mention, marked):
            line = _clip(text, mention.end, _LINE_LIMIT * 8)
            return [_Claim(mention.value), *_set_apart(line, table)]
        if not mention and (denied := _denied_at(text, start, table)):
            return [denied]
    return []


def _set_apart(line: str, table: _Table) -> list[_Claim]:
    """Verdicts that stand alone between punctuation in the line ("…, wait, no.")."""
    return [
        _Claim(mention.value)
        for mention in _mentions(line, table)
        if phrases.LOOSE_START.search(line, max(0, mention.start - 16), mention.start)
        and _closes(line, mention, marked=mention.token)
    ]


def _denied_at(text: str, start: int, table: _Table) -> _Claim | None:
    denial = phrases.DENIAL.match(text, start)
    mention = _mention_at(text, denial.end(), table) if denial else None
    if not mention or mention.topical:
        return None
    return _Claim(mention.value, denied=text[start : mention.end][:_PHRASE_LIMIT])


def _clip(text: str, start: int, limit: int = _LINE_LIMIT) -> str:
    """The line that begins at `start`, cut at a blank where it is longer than `limit`."""
    line = text[start : start + limit + 1].partition("\n")[0]
    return line if len(line) <= limit else line.rpartition(" ")[0]


# --- explicit markers --------------------------------------------------------------------------


def _marked(text: str, table: _Table) -> tuple[str, list[_Claim]]:
    """The claims of explicit markers, and the text without the JSON that was read."""
    text, fields = _json_fields(text)
    contents = [(content, True) for content in fields]
    contents += [(match[1], True) for match in phrases.BRACKETED.finditer(text)]
    contents += [(match[1], True) for match in phrases.BOXED.finditer(text)]
    for start in phrases.CUE_START.finditer(text):
        cue = _cue_at(text, start.start())
        if cue and not _is_doubted(text, cue.start()):
            contents.append((_clip(text, cue.end()), "\n" not in cue[0]))
    claims = [
        claim
        for content, same_line in dict.fromkeys(contents)
        for claim in _content_claims(content, table, same_line)
    ]
    return text, claims


def _cue_at(text: str, start: int) -> re.Match[str] | None:
    before = text[start - 1 : start] if start else ""
    if before.isalnum() and before.isascii():
        return None
    if cue := phrases.CUE.match(text, start):
        return cue
    header = phrases.HEADER.match(text, start)
    return (
        header if header and phrases.HEADER_START.search(text, max(0, start - 24), start) else None
    )


def _content_claims(content: str, table: _Table, same_line: bool) -> list[_Claim]:
    if whole := _whole(content, table):
        return [_Claim(whole)]
    claims = _leading(content, table, marked=same_line) or _stated(content, table)
    return claims or (_echoed(content, table) if _mention_at(content, 0, table) else [])


def _is_doubted(text: str, end: int) -> bool:
    """Whether the words before a cue deny it or make it conditional ("if so, the answer is")."""
    sentence = phrases.SENTENCE_BREAK.split(text[max(0, end - _LOOK_BACK) : end])[-1]
    if phrases.CONDITION.search(sentence):
        return True
    return phrases.NEGATED.search(phrases.CLAUSE_BREAK.split(sentence)[-1]) is not None


def _json_fields(text: str) -> tuple[str, list[str]]:
    loose = list(phrases.JSON_FIELD.finditer(text))
    if not loose:
        return text, []
    start, end = text.find("{"), text.rfind("}") + 1
    fields: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> None:
        for key, value in pairs:  # a repeated key must not hide the one before it
            if phrases.JSON_KEY.fullmatch(key.strip()):
                fields.extend(value if isinstance(value, list) else [value])

    try:
        json.loads(
            text[start:end],
            object_pairs_hook=collect,
            parse_int=str,
            parse_float=str,
            parse_constant=str,
            strict=False,
        )
    except (ValueError, RecursionError, TypeError):
        return text, [next(g for g in match.groups() if g is not None) for match in loose]
    return text[:start] + text[end:], [field for field in fields if isinstance(field, str)]


# --- first and last words, and statements in prose ---------------------------------------------


def _last_line(text: str, table: _Table) -> list[_Claim]:
    line = text.rpartition("\n")[2]
    if len(line) <= PART_LIMIT and (claims := _leading(line, table)):
        return claims
    start = max(0, len(line) - _LOOK_BACK)
    last = next(iter([*_mentions(line[start:], table)][-1:]), None)
    if last is None or last.topical or _whole(line[start + last.start :], table) != last.value:
        return []
    begin = start + last.start
    if not phrases.SENTENCE_START.search(line, max(0, begin - 48), begin):
        return []
    return [_Claim(last.value)]


def _lone_lines(text: str, table: _Table) -> list[_Claim]:
    lines = dict.fromkeys(text.split("\n"))
    return [_Claim(value) for line in lines if (value := _whole(line, table))]


def _stated(text: str, table: _Table) -> list[_Claim]:
    """Claims of all statements, if the first or the last sentence is one."""
    sentences = _sentences(text)
    if not any(_sentence_claims(sentence, table) for sentence in [*sentences[:1], *sentences[-1:]]):
        return []
    return [claim for sentence in sentences for claim in _sentence_claims(sentence, table)]


def _sentences(text: str) -> list[str]:
    ends = [0, *(match.end() for match in phrases.SENTENCE_BREAK.finditer(text)), len(text)]
    sentences = (text[start:end].strip() for start, end in pairwise(ends))
    return [sentence for sentence in sentences if sentence]


def _sentence_claims(sentence: str, table: _Table) -> list[_Claim]:
    if len(sentence) > 2 * _LINE_LIMIT or sentence.rstrip(" \"')").endswith("?"):
        return []
    claims = [
        _Claim(mention.value)
        for mention in _mentions(sentence, table)
        if mention.value in table.slots and _is_preferred(sentence, mention)
    ]
    begin = phrases.EDGE.match(sentence)
    starts = [begin.end() if begin else 0]
    starts += [match.end() for match in re.finditer(r"[,;] (?:so |thus |hence )?", sentence)]
    for start in starts:
        statement = phrases.STATEMENT.match(sentence, start)
        if not statement or phrases.UNDECIDED.search(sentence[:start]):
            continue
        mention = _mention_at(sentence, statement.end(), table)
        if mention and not mention.topical:
            goes_on = sentence.startswith(" and ", mention.end) and not _echoed(sentence, table)
            if goes_on or _closes(sentence, mention, marked=False):
                claims.append(_Claim(mention.value))
        elif not mention and (denied := _denied_at(sentence, statement.end(), table)):
            claims.append(denied)
    return claims


def _is_preferred(sentence: str, mention: _Mention) -> bool:
    better = phrases.BETTER.match(sentence, mention.end)
    before = sentence[: mention.start]
    if (
        not better
        or phrases.LIMITED.search(sentence, better.end())
        or phrases.CONDITION.search(before)
    ):
        return False
    return phrases.PREAMBLE_ONLY.fullmatch(re.split(r"[,;:] |\bso ", before)[-1]) is not None


# --- from claims to a verdict ------------------------------------------------------------------


def _answer(layout: Layout, table: _Table) -> tuple[str | None, str | None]:
    if not layout.blocks:
        if not layout.rest.strip():
            return None, "no answer after the reasoning"
        part = fold(window(layout.rest))
        return _resolve(_part_claims(part, table), part, table)
    blocks = [block for block in dict.fromkeys(layout.blocks) if block.strip()]
    if len(blocks) > _MAX_BLOCKS:
        return None, f"{len(blocks)} different answer blocks"
    claims: list[_Claim] = []
    folded = [fold(window(block)) for block in blocks]
    for block in folded:
        claims += _part_claims(block, table) or _echoed(block, table)
    if any(not claim.denied for claim in claims) and layout.rest.strip():
        claims += _part_claims(fold(window(layout.rest)), table)
    return _resolve(claims, "\n".join(folded), table)


def _part_claims(part: str, table: _Table) -> list[_Claim]:
    if whole := _whole(part, table):
        return [_Claim(whole)]
    text, marked = _marked(part, table)
    text = text.strip()
    placed = _leading(text, table) + _last_line(text, table)
    if marked:
        return marked + placed
    return placed + (_lone_lines(text, table) if placed else []) + _stated(text, table)


def _echoed(text: str, table: _Table) -> list[_Claim]:
    """The options, repeated where an answer should stand ("Yes or No")."""
    values = {mention.value for mention in _mentions(text, table)}
    return [_Claim(value) for value in values] if len(values) > 1 else []


def _resolve(claims: Sequence[_Claim], part: str, table: _Table) -> tuple[str | None, str | None]:
    values = {claim.value for claim in claims if claim.denied is None}
    denials = {claim.value: claim.denied for claim in claims if claim.denied is not None}
    if len(values) == 1 and not values & denials.keys():
        return values.pop(), None
    if len(values) > 1:
        return None, _several(values)
    if denials:
        return None, f"denied: {next(iter(denials.values()))}"
    mentioned = {mention.value for mention in _mentions(part, table)}
    if len(mentioned) > 1:
        return None, _several(mentioned)
    return None, "no verdict found"


def _several(values: Iterable[str]) -> str:
    return f"several verdicts: {', '.join(sorted(values))}"
