"""What an item shows, as facts to look for in a judge's reasoning.

A fact is a phrase. It is *stated* where the reasoning mentions it, and *contradicted* where the
reasoning mentions one of the phrases that would be said ``instead`` if the judge saw something
else. Facts are never part of a prompt; they change what is measured and rewarded, not what is
asked. They come from a column of the data or from a file beside it (:data:`FACTS_FILE`).

Mentions are found in time linear in the text: as sequences of whole words, whatever their case,
markup and white space (:func:`~.answer_text.fold`); a hyphen within a word counts as a space. A
mention right after "no", "not", "without", "never" or a verb with "n't", with at most an article in
between, counts as none. Other negation ("neither", "no house or tree"), synonyms and inflections
are not understood, nor are languages that do not separate words.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from mtrl_judge.common.errors import DataError, shortened
from mtrl_judge.common.files import read_json_lines
from mtrl_judge.metrics.records import FactCounts

from .answer_text import fold, window

FACTS_FILE = "facts.jsonl"
"""The file in a task's folder of the data root: a line ``{"id": …, "facts": […]}`` for each item
that has facts, of any split."""
MAX_FACTS = 64
"""Facts of an item."""
MAX_INSTEAD = 100
"""Phrases that contradict a fact."""
MAX_PHRASE = 200
"""Characters of a phrase."""
MAX_PHRASE_WORDS = 20
"""Words and punctuation marks of a phrase."""

_EXPECTED = 'a phrase, or {"fact": a phrase, "instead": [phrases that contradict it]}'
_HYPHEN = re.compile(r"(?<=\w)-(?=\w)")
# Numbers and contractions are whole: "3" is not mentioned in "3.5", and "isn't" denies.
_WORD = re.compile(r"\d+(?:[.,]\d+)++|\w+n't\b|\w+|[^\w\s]")
_ARTICLES = frozenset({"a", "an", "the", "any"})
_DENIALS = frozenset({"no", "not", "without", "never", "cannot"})

Words: TypeAlias = tuple[str, ...]


class Fact(NamedTuple):
    """Something that an item shows."""

    phrase: str
    instead: tuple[str, ...] = ()
    """Phrases that contradict it; those that the prompt itself mentions are left out."""
    in_question: bool = False
    """Whether the prompt itself mentions the phrase, so that copying it states the fact. Such a
    fact does not count; it can still be contradicted."""


class FactCheck(NamedTuple):
    """What a judge's reasoning says about the facts of an item."""

    stated: tuple[str, ...]
    """Of the facts that count, those mentioned and not contradicted."""
    contradicted: tuple[str, ...]
    """The facts that something said instead contradicts, whether they count or not."""
    total: int
    """The number of facts that count; 0 where the item has none."""
    contradictable: int
    """The number of facts that something could be said against, whether they count or not."""

    @property
    def counts(self) -> FactCounts:
        """For a :class:`~mtrl_judge.metrics.records.Record`."""
        return FactCounts(len(self.stated), len(self.contradicted), self.total, self.contradictable)

    @property
    def rate(self) -> float | None:
        """The share of facts that are stated; None without facts."""
        return len(self.stated) / self.total if self.total else None


def check_facts(reasoning: str, facts: Sequence[Fact]) -> FactCheck:
    """Which facts a reasoning states and which it contradicts, in time linear in the reasoning.

    Args:
        reasoning: of an answer, from :func:`~.verdicts.read_reasoning`. Of a text longer than
            :data:`~.answer_text.PART_LIMIT` only the beginning and the end are read.
        facts: of a row.

    >>> facts = [Fact("house", ("car", "tree")), Fact("two pigs"), Fact("sky")]
    >>> check_facts("There is no car, but a *House* and a sky-blue\\nbird.", facts)
    FactCheck(stated=('house', 'sky'), contradicted=(), total=3, contradictable=1)
    >>> check_facts("A house or a car.", facts)
    FactCheck(stated=(), contradicted=('house',), total=3, contradictable=1)
    """
    if not facts:
        return FactCheck((), (), 0, 0)
    phrases = {phrase for fact in facts for phrase in (fact.phrase, *fact.instead)}
    found = mentioned(reasoning, phrases)
    wrong = [fact for fact in facts if any(phrase in found for phrase in fact.instead)]
    counting = [fact for fact in facts if not fact.in_question]
    return FactCheck(
        tuple(fact.phrase for fact in counting if fact.phrase in found and fact not in wrong),
        tuple(fact.phrase for fact in wrong),
        len(counting),
        sum(bool(fact.instead) for fact in facts),
    )


def mentioned(text: str, phrases: Collection[str], denied: bool = False) -> set[str]:
    """The phrases that a text mentions.

    Args:
        denied: whether a mention that the text denies ("no knife") is one, too.
    """
    words = _words(window(text))
    by_words: defaultdict[Words, set[str]] = defaultdict(set)
    for phrase in phrases:
        by_words[_sought(phrase)].add(phrase)
    found: set[str] = set()
    for length in {len(sought) for sought in by_words}:
        for start in range(len(words) - length + 1):
            spelled = by_words.get(words[start : start + length])
            if spelled and (denied or not _is_denied(words, start)):
                found |= spelled
    return found


def _words(text: str) -> Words:
    return tuple(_WORD.findall(_HYPHEN.sub(" ", fold(text))))


# The phrases of a task are few, and they are looked for in every answer.
_sought = lru_cache(maxsize=16_384)(_words)


def _is_denied(words: Words, start: int) -> bool:
    before = start - 1
    if before >= 0 and words[before] in _ARTICLES:
        before -= 1
    return before >= 0 and (words[before] in _DENIALS or words[before].endswith("n't"))


def compared_with_prompt(facts: Sequence[Fact], prompt: str) -> tuple[Fact, ...]:
    """The facts with what the prompt mentions marked (``in_question``) or left out (``instead``).

    A judge that quotes the prompt neither sees a fact nor says anything untrue.
    """
    phrases = {phrase for fact in facts for phrase in (fact.phrase, *fact.instead)}
    # A long prompt is searched whole: a fact in its middle can be copied as well.
    found: set[str] = set()
    for part in _parts(prompt):
        found |= mentioned(part, phrases, denied=True)
    return tuple(
        Fact(
            fact.phrase,
            tuple(phrase for phrase in fact.instead if phrase not in found),
            fact.phrase in found,
        )
        for fact in facts
    )


_PART, _OVERLAP = 16_384, 1_024


def _parts(text: str) -> Iterable[str]:
    """Parts that are short enough to be read whole; each begins with the end of the last."""
    return (text[max(0, start - _OVERLAP) : start + _PART] for start in range(0, len(text), _PART))


# From data


def as_facts(value: object, where: str) -> tuple[Fact, ...]:
    """The facts in a cell of a column or in a line of a file; a repeated phrase counts once.

    Args:
        value: a list whose entries are phrases or mappings with ``fact`` and ``instead``; None for
            an item without facts.
        where: the place of the value, for a message.

    Raises:
        DataError: the value is something else or too large, a phrase has no word in it, or a
            phrase that contradicts a fact occurs in a fact of the same item.
    """
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise _fault(where, value, f"a list; each entry is {_EXPECTED}")
    if len(value) > MAX_FACTS:
        raise DataError(f"{where}: {len(value):,} facts; expected at most {MAX_FACTS}")
    facts: dict[Words, Fact] = {}
    for entry in value:
        fact = _as_fact(entry, where)
        facts.setdefault(_sought(fact.phrase), fact)
    listed = tuple(facts.values())
    _refuse_contradictions(listed, where)
    return listed


def _as_fact(value: object, where: str) -> Fact:
    if not isinstance(value, Mapping):
        return Fact(_phrase(value, where))
    if "fact" not in value or value.keys() - {"fact", "instead"}:
        raise _fault(where, dict(value), _EXPECTED)
    instead = value.get("instead")
    instead = [instead] if isinstance(instead, str) else instead or []
    if not isinstance(instead, list | tuple):
        raise _fault(where, instead, "a list of phrases for instead")
    if len(instead) > MAX_INSTEAD:
        raise DataError(f"{where}: {len(instead):,} phrases in instead; expected {MAX_INSTEAD}")
    phrases = dict.fromkeys(_phrase(phrase, where) for phrase in instead)
    return Fact(_phrase(value["fact"], where), tuple(phrases))


def _phrase(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _fault(where, value, _EXPECTED)
    if len(value) > MAX_PHRASE:
        raise DataError(
            f"{where}: a phrase of {len(value):,} characters ({value[:30]!r}…); expected at most "
            f"{MAX_PHRASE}"
        )
    phrase = " ".join(value.split())
    words = _sought(phrase)
    if not any(word[0].isalnum() for word in words) or len(words) > MAX_PHRASE_WORDS:
        raise _fault(where, value, f"a phrase of 1 to {MAX_PHRASE_WORDS} words")
    return phrase


def _refuse_contradictions(facts: Sequence[Fact], where: str) -> None:
    wrong = {phrase for fact in facts for phrase in fact.instead}
    if not wrong:
        return
    for fact in facts:
        for phrase in sorted(mentioned(fact.phrase, wrong, denied=True)):
            raise DataError(
                f"{where}: {phrase!r} is listed as the contrary of a fact but occurs in the fact "
                f"{fact.phrase!r}; expected phrases that no true sentence has"
            )


def _fault(where: str, found: object, expected: str) -> DataError:
    return DataError(f"{where}: found {shortened(repr(found), 60)}; expected {expected}")


def read_facts(file: Path) -> dict[str, tuple[Fact, ...]]:
    """The facts of each item in a :data:`FACTS_FILE`, by the item's id.

    Raises:
        DataError: the file cannot be read, a line is malformed, or an item is in two lines.
    """
    facts: dict[str, tuple[Fact, ...]] = {}
    for where, line in read_json_lines(file):
        item = line.get("id")
        if line.keys() != {"id", "facts"} or not isinstance(item, str):
            raise _fault(where, line, '{"id": the id of an item, "facts": [its facts]}')
        if item in facts:
            raise DataError(f"{where}: a second line for item {shortened(item, 60)!r}; keep one")
        facts[item] = as_facts(line["facts"], where)
    return facts


def fact_counts(value: object, where: str) -> FactCounts | None:
    """The field ``facts`` of a sample; None where it has none.

    Raises:
        DataError: it is something else than the counts.
    """
    if value is None:
        return None
    names = FactCounts._fields
    counts = [value.get(name) for name in names] if isinstance(value, Mapping) else [None]
    if any(type(count) is not int or count < 0 for count in counts):
        raise _fault(where, value, f"facts with the counts {', '.join(names)}")
    return FactCounts(*counts)


def from_cells(cells: Iterable[Mapping[str, Any]]) -> tuple[Fact, ...]:
    """The facts in the column ``facts`` of a row; :func:`to_cells` is the way there."""
    return tuple(Fact(c["phrase"], tuple(c["instead"]), c["in_question"]) for c in cells)


def to_cells(facts: Iterable[Fact]) -> list[dict[str, Any]]:
    return [fact._asdict() | {"instead": list(fact.instead)} for fact in facts]
