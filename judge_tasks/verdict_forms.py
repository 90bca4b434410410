"""The forms in which judges state a verdict: one table, in order of precedence.

A form finds claims in the folded answer part (:func:`~.answer_text.fold`). Quantifiers are bounded
or possessive, so that every search is linear in the text. `docs/verdicts.md` explains the table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, NamedTuple

from .verdict_names import EDGE, LEFT, NOUN, OTHER, SYMBOLS, Mention, Names

Claims = Iterable["Claim"]
_LINE_LIMIT = 240
_LOOK_BACK = 160


class Part(NamedTuple):
    """An answer part, folded and prepared for the forms.

    Attributes:
        folded: the whole part.
        text: the part without copied options and without the JSON that was read.
        fields: the contents of the JSON's fields that hold a verdict.
    """

    folded: str
    text: str
    fields: list[str]


class Claim(NamedTuple):
    value: str
    denied: str | None = None  # the phrase that denies the value


# --- where a verdict begins and ends -----------------------------------------------------------

_THEREFORE = (
    r"so|thus|hence|therefore|overall|finally|ultimately|in (?:conclusion|summary|short|the end)|"
    r"to (?:conclude|sum up)"
)
# Words that open a statement and do not change it.
_OPENER = (
    rf"(?:{_THEREFORE}|then|well|ok|okay|sure|certainly|actually|conclusion|"
    r"clearly|definitely|simply|probably|likely|a (?:clear|definite|firm|resounding)|option|choice|"
    r"i(?:'d| would)? (?:say|answer))[\s,:]+"
)
_LEAD = re.compile(rf"(?:{LEFT}|[{SYMBOLS}])*+(?:{_OPENER}){{0,2}}(?:{LEFT}|[{SYMBOLS}])*+")
_SENTENCE_START = re.compile(rf"(?:^|[\n.!])(?:{LEFT})*+(?:{_OPENER}){{0,2}}(?:{LEFT})*+$")
# Where a verdict may stand alone within a line.
_LOOSE_START = re.compile(
    r"(?:^|[\n.!?,;:(-]|\b(?:but|so|and|or|actually|rather|maybe|then|wait))[\s\"'(\[{]{0,4}$"
)
# "not safe": a verdict that is denied.
_DENIAL = re.compile(
    r"(?:not|never|isn't|aren't|is not|are not|hardly|neither|no|non|cannot be|can't be|far from)"
    r"[\s-](?:(?:a|an|the|really|quite|entirely|very|completely|clearly|exactly) ){0,2}"
)
# Symbols and closing quotes right after a verdict.
_AFTER = re.compile(rf"(?:[ \"')\]}}|$\\]|[{SYMBOLS}])*+")
# An explanation may follow a verdict without changing it.
_BECAUSE = re.compile(
    r"(?:because|since|as|due to|over|rather than|instead of|"
    rf"to (?:the )?(?:{NOUN}|other|first|second))\b"
)
# The next field of a line in which the fields run together.
_NEXT_FIELD = re.compile(
    r"(?:[a-z-]{1,12} ){0,2}?(?:analysis|explanation|reason(?:ing|s)?|rationale|justification|"
    r"feedback|comments?|confidence|(?:image|rating|score)[ -]?[12ab]?)\b[^.:\n]{0,24}:"
)
_DOUBT = r"[\s\"'(-]{0,4}(?:or|and/or|if|unless|maybe|perhaps|either|depending)\b"
_REVERSED = r"[\s\"'(-]{0,4}(?:no|not|false|none|n/a)[\s\"')]{0,4}(?:$|[.,;:!\n])"


def _ends(marked: bool, negative: bool) -> re.Pattern[str]:
    """What ends a statement after its verdict: the line, a sentence, or an aside without doubt.

    Args:
        marked: an explicit marker precedes the verdict; a colon may then follow it.
        negative: the verdict is "no", which a second negation does not reverse.
    """
    reversal = "" if negative else rf"(?!{_REVERSED})"
    aside = rf"(?:[({':' if marked else ''}]|(?<=\s)-|-(?=\s))"
    return re.compile(rf"\Z|\n|[.!;](?![^\W_])|,(?!{_DOUBT})|{aside}(?!{_DOUBT}){reversal}")


_ENDS = {(marked, no): _ends(marked, no) for marked in (False, True) for no in (False, True)}
# A token or a candidate's name can begin a sentence without being chosen: more must end with it.
_EDGES = r"[ \"'()\[\]{}|$\\.,;:!]"
_ENDS_TOPIC = re.compile(
    rf"\Z|\n|,.(?:{_BECAUSE.pattern})|[.!;](?:{_EDGES}{{7}}|{_EDGES}{{0,6}}(?:\n|\Z))", re.DOTALL
)


def _closes(text: str, mention: Mention, marked: bool) -> bool:
    """Whether the statement ends, or is only explained, after a verdict that begins it."""
    after = _AFTER.match(text, mention.end)
    end = after.end() if after else mention.end
    if end > mention.end and (
        _BECAUSE.match(text, end) or (marked and _NEXT_FIELD.match(text, end))
    ):
        return True
    if marked and mention.topical and ")" in text[mention.end : end]:
        return True
    if mention.topical and not marked:
        return _ENDS_TOPIC.match(text, end) is not None
    negative = text[mention.start : mention.end] == "no"
    return _ENDS[marked, negative].match(text, end) is not None


def _leading(text: str, names: Names, marked: bool = False) -> list[Claim]:
    """The verdict with which the text begins, and any other that stands alone in its line."""
    for opening in (EDGE, _LEAD):
        lead = opening.match(text)
        start = lead.end() if lead else 0
        mention = names.mention_at(text, start)
        if mention and _closes(text, mention, marked):
            line = _clip(text, mention.end, _LINE_LIMIT * 8)
            return [Claim(mention.value), *_set_apart(line, names)]
        if not mention and (denied := _denied_at(text, start, names)):
            return [denied]
    return []


def _set_apart(line: str, names: Names) -> list[Claim]:
    """Verdicts that stand alone between punctuation in the line ("…, wait, no.")."""
    return [
        Claim(mention.value)
        for mention in names.mentions(line)
        if _LOOSE_START.search(line, max(0, mention.start - 16), mention.start)
        and _closes(line, mention, marked=mention.token)
    ]


def _denied_at(text: str, start: int, names: Names) -> Claim | None:
    denial = _DENIAL.match(text, start)
    mention = names.mention_at(text, denial.end()) if denial else None
    if not mention or mention.topical:
        return None
    return Claim(mention.value, denied=text[start : mention.end][:40])


def _clip(text: str, start: int, limit: int = _LINE_LIMIT) -> str:
    """The line that begins at `start`, cut at a blank where it is longer than `limit`."""
    line = text[start : start + limit + 1].partition("\n")[0]
    return line if len(line) <= limit else line.rpartition(" ")[0]


_BETWEEN_OPTIONS = re.compile(
    r"[\s\"'()\[\]]{0,4}(?:or|and|and/or|vs\.?|versus|[,/|;&])[\s\"'()\[\]]{0,4}"
    r"(?:[a-z ]{1,20}: ?)?"
)


def echoed(text: str, names: Names) -> list[Claim]:
    """The options, repeated where an answer should stand ("Yes or No"); a sentence is no list."""
    mentions = list(names.mentions(text))
    values = {mention.value for mention in mentions}
    listed = any(
        one.value != other.value and _BETWEEN_OPTIONS.fullmatch(text, one.end, other.start)
        for one, other in pairwise(mentions)
    )
    return [Claim(value) for value in values] if listed else []


def _content(content: str, names: Names, same_line: bool = True) -> list[Claim]:
    """What the content of a marker claims."""
    if whole := names.whole(content):
        return [Claim(whole)]
    if names.candidates and _TIE_CONTENT.match(content):
        return [Claim(names.tie)]
    claims = _leading(content, names, marked=same_line) or _prose(content, names)
    return claims or (echoed(content, names) if names.mention_at(content, 0) else [])


# --- explicit markers --------------------------------------------------------------------------

# `[[A]]`, as MT-Bench's prompts ask for (arXiv 2306.05685, appendix).
_BRACKETED = re.compile(r"\[\[([^\[\]\n]{1,80})\]\]")
# "[[A]] if assistant A is better": an instruction, repeated.
_IF = re.compile(r"[\s\"'.,]{0,3}(?:if|when|unless)\b")
_COMPARISON = re.compile(r"[<=>≪≫]")
_BOXED = re.compile(r"\\f?box(?:ed)?\s?\{([^}\n]{1,80})\}")
# `[RESULT] 4`, as Prometheus writes it (arXiv 2310.08491).
_RESULT = re.compile(r"\[(?:result|verdict|answer|final answer|choice)\]\s{0,4}:?\s{0,4}")
_TIE_CONTENT = re.compile(
    rf"(?:{LEFT}){{0,4}}+(?:0|a tie|tie|draw|none|neither|both|equal|equally good|tied)"
    rf"(?: (?:{NOUN})s?| of them)?[\"')\]]{{0,3}}(?:\Z|\n|[.,:;]| ?\(| analysis\b)"
)
# "Better image: 3": the judge answered, but chose none of the candidates.
_NO_CHOICE = re.compile(
    rf"(?:{LEFT}){{0,4}}+(?:-?\d|n/a|not (?:applicable|clear|sure)|unclear|unknown|undecided|"
    rf"(?:i )?(?:cannot|can't|could not|am unable)\b|no {NOUN}\b|neither\b|none\b)"
)
_JUDGED = (
    r"verdict|answer|judge?ment|decision|choice|conclusion|preference|classification|prediction|"
    r"winner|ruling|antwort|réponse|respuesta|resposta|risposta|ответ"
)
_BETTER_ONE = (
    r"(?:better|best|preferred|winning|chosen|selected|superior) "
    rf"(?:(?:edited|generated) )?(?:{NOUN}|one)"
)
_STATING = rf"{_JUDGED}|{_BETTER_ONE}"
_CHOICE_FIELD = rf"{_STATING}|better|best|preferred|winning|chosen|selected|label|assessment"
_RATING_FIELD = r"rating|score|grade|result"
_ASIDE = r"(?: ?\([^()\n]{1,40}\))?(?: (?:to|for|of|on|about) [^\n.,:;]{1,60}?)?"
_IS = r" (?:is|was|would be|should be|must be|will be|remains)(?: for)?(?: ?:| )"
_CHOOSE = r"(?:prefer|choose|pick|select|go with|opt for|vote for|say)"


def _cue(fields: str, stating: str, more: str) -> re.Pattern[str]:
    """What introduces a verdict: "Final verdict: ", "the answer is ", "I choose ", "答案是"."""
    return re.compile(
        rf"(?:(?:{fields}){_ASIDE}(?: ?(?:[:=→]|-+>)| -+ )"
        rf"|(?:{stating}){_ASIDE}{_IS}"
        rf"|i(?:'d| would|'ll| will)? {_CHOOSE} {more}"
        rf"|(?:答案|结论|判断)(?:是:?|:))\s{{0,8}}"
    )


_RATE = (
    r"|i(?:'d| would|'ll| will)? (?:rate|grade|score|give) [^\n.:]{0,60}?"
    r"(?:(?:as|at) (?:an? )?|an? (?=[\"'\d])|(?<=\s)(?=\d))|rated? (?:as|at) (?:an? )?|"
    r"(?:rating|score|grade) of (?:an? )?"
)
_FIELDS = {False: _CHOICE_FIELD, True: rf"{_CHOICE_FIELD}|{_RATING_FIELD}"}
_CUE = {
    False: _cue(_FIELDS[False], _STATING, ""),
    True: _cue(_FIELDS[True], rf"{_STATING}|{_RATING_FIELD}", _RATE),
}
_HEADER = {k: re.compile(rf"(?:{fields})\s{{0,2}}\n\s{{0,8}}") for k, fields in _FIELDS.items()}
_HEADER_START = re.compile(r"(?:^|\n)[#\s]{0,6}(?:(?:my|the|final|overall) ){0,2}$")
# Where a cue may begin: plain characters first, so that most text is passed over fast.
_CUE_START = re.compile(
    r"verdict|answer|judg|decision|choice|conclusion|preferred|preference|classification|superior|"
    r"prediction|winn|ruling|antwort|réponse|resp|risposta|ответ|best|better|chosen|selected|"
    r"label|rating|score|grade|result|assessment|答案|结论|判断|rated|"
    r"i(?='d |'ll | would | will | prefer| choose| pick| select| go with| opt for| vote for| say"
    r"| rate| grade| score| give)"
)
# What makes "choice:" another field: "analysis of choice", "second choice", "worse image".
_OTHER_FIELD = re.compile(
    r"\b(?:of|of (?:the|my|your|this)|second|third|next|runner-up|wrong|incorrect|false|"
    r"worse|worst|less|least|other|alternative|possible|previous|initial|first|reference|not|non)"
    r"[ -]$"
)
_CONDITION = re.compile(r"\b(?:if|unless|otherwise|suppose|supposing|assuming)\b")
# Words before a cue that deny it or make it uncertain.
_NEGATED = re.compile(
    r"\b(?:not|never|no way|cannot|neither|nor|whether|doubt|unlikely|hardly|might|may|could|"
    r"nobody|no one|wrong to)\b|n't\b"
)
_SENTENCE_BREAK = re.compile(r"[.!?\n](?:(?<=\n)|\s)")
_CLAUSE_BREAK = re.compile(r"[,;:(]|\b(?:so|thus|therefore|hence|and|because|but)\b")


def _whole(part: Part, names: Names) -> Claims:
    if whole := names.whole(part.folded):
        yield Claim(whole)


def _json(part: Part, names: Names) -> Claims:
    for field in part.fields:
        yield from _content(field, names)


def _compared(part: Part, names: Names) -> Claims:
    if "[[" in part.text:
        for match in _BRACKETED.finditer(part.text):
            if _IF.match(part.text, match.end()):
                continue
            if match[1] == "c" and "a" in names.candidates:  # a tie in MT-Bench's prompt
                yield Claim(names.tie)
            elif _COMPARISON.search(match[1]) and (value := names.whole(match[1])):
                yield Claim(value)


def _enclosed(pattern: re.Pattern[str], needs: str) -> Callable[[Part, Names], Claims]:
    """Claims of what a pattern encloses, or else of the line that follows it."""

    def claims(part: Part, names: Names) -> Claims:
        if needs in part.text:
            for match in pattern.finditer(part.text):
                if _IF.match(part.text, match.end()):
                    continue
                content = match[1] if pattern.groups else _clip(part.text, match.end())
                yield from _content(content, names)

    return claims


def _fields(part: Part, names: Names) -> Claims:
    text = part.text
    contents: dict[tuple[str, bool, bool], None] = {}
    rates = names.reads_ratings
    pattern, header = _CUE[rates], _HEADER[rates]
    for begin in _CUE_START.finditer(text):
        start = begin.start()
        before = text[max(0, start - 24) : start]
        if before and before[-1].isalnum() and before[-1].isascii():
            continue
        cue = pattern.match(text, start)
        if not cue and _HEADER_START.search(before):
            cue = header.match(text, start)
        if cue and not _OTHER_FIELD.search(before) and not _is_doubted(text, start):
            better = cue[0].startswith(("better", "best", "preferred", "chosen", "selected"))
            contents[_clip(text, cue.end()), "\n" not in cue[0], better] = None
    for content, same_line, better in contents:
        claims = _content(content, names, same_line)
        yield from claims
        if better and not claims and names.candidates and _NO_CHOICE.match(content):
            yield Claim(OTHER)


def _is_doubted(text: str, end: int) -> bool:
    """Whether the words before a cue deny it or make it conditional ("if so, the answer is")."""
    sentence = _SENTENCE_BREAK.split(text[max(0, end - _LOOK_BACK) : end])[-1]
    if _CONDITION.search(sentence):
        return True
    return _NEGATED.search(_CLAUSE_BREAK.split(sentence)[-1]) is not None


# Keys of a JSON object that hold a verdict.
_MY = r"(?:final|overall|my)?[ _-]?"
_OF_WHAT = rf"(?:[ _-](?:{NOUN}|verdict))?"
_CHOICE_KEY = (
    rf"{_MY}(?:verdict|answer|label|choice|chosen|judge?ment|decision|prediction|preference|"
    rf"preferred|winner|winning|classification|better|best|selected){_OF_WHAT}"
)
_KEYS = {
    False: _CHOICE_KEY,
    True: rf"{_CHOICE_KEY}|(?:[a-z]{{1,20}}[ _-])?(?:rating|score|grade|result)",
}
_JSON_KEY = {k: re.compile(keys) for k, keys in _KEYS.items()}
_JSON_FIELD = {
    k: re.compile(
        rf"[\"'](?:{keys})\\?[\"']\s{{0,8}}:\s{{0,8}}"
        r"(?:\\?\"([^\"\\\n]{0,240})|\\?'([^'\\\n]{0,240})|([\w.+-]{1,40}))"
    )
    for k, keys in _KEYS.items()
}


def _json_fields(text: str, names: Names) -> tuple[str, list[str]]:
    """The text without the JSON that was read, and the contents of the fields of a verdict."""
    key = _JSON_KEY[names.reads_ratings]
    if '":' not in text and "':" not in text and '" :' not in text and "' :" not in text:
        return text, []
    start, end = text.find("{"), text.rfind("}") + 1
    fields: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> None:
        for name, value in pairs:  # a repeated key must not hide the one before it
            if key.fullmatch(name.strip()):
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
        loose = _JSON_FIELD[names.reads_ratings].finditer(text)
        return text, [next(g for g in match.groups() if g is not None) for match in loose]
    if not fields:
        return text, []
    return text[:start] + text[end:], [field for field in fields if isinstance(field, str)]


# A list of options, copied from the prompt: numbered lines that end in different brackets.
_OPTION = re.compile(r"(?:\(?\w[.):]|[-•]) [^\n\[]{0,160}\[\[([^\[\]\n]{1,40})\]\][.;,]?")


def _without_options(text: str) -> str:
    """The text without lists of options that were copied from the prompt."""
    if text.count("]]") < 2:
        return text
    kept: list[str] = []
    run: list[str] = []
    contents: set[str] = set()
    for line in [*text.split("\n"), "end"]:
        option = _OPTION.fullmatch(line)
        if option:
            run.append(line)
            contents.add(option[1])
        elif line or not run:
            if len(contents) > 1:  # a fragment of an option may precede the others
                while kept and not kept[-1]:
                    kept.pop()
                if kept and kept[-1].endswith("]]") and "[[" not in kept[-1]:
                    kept.pop()
            else:
                kept += run
            run, contents = [], set()
            kept.append(line)
    return "\n".join(kept[:-1])


def prepare(folded: str, names: Names) -> Part:
    text, fields = _json_fields(_without_options(folded), names)
    return Part(folded, text.strip(), fields)


# --- first and last words ----------------------------------------------------------------------


def _first_words(part: Part, names: Names) -> Claims:
    return _leading(part.text, names)


def _last_line(part: Part, names: Names) -> Claims:
    line = part.text.rpartition("\n")[2]
    if claims := _leading(line, names):
        return claims
    start = max(0, len(line) - _LOOK_BACK)
    last = next(iter([*names.mentions(line[start:])][-1:]), None)
    if last is None or last.topical or names.whole(line[start + last.start :]) != last.value:
        return []
    begin = start + last.start
    if not _SENTENCE_START.search(line, max(0, begin - 48), begin):
        return []
    return [Claim(last.value)]


def _lone_lines(part: Part, names: Names) -> Claims:
    lines = dict.fromkeys(part.text.split("\n"))
    return [Claim(value) for line in lines if (value := names.whole(line))]


# --- statements in prose -----------------------------------------------------------------------

# "the image is clearly ": the parts of a statement in prose.
_SUBJECT = (
    r"(?:(?:this|the|that) )?(?:(?:given|generated|provided|displayed|ai-generated) )?"
    r"(?:image|picture|photo|photograph|content|scene|illustration|artwork|caption|pair|it|this)"
)
_COPULA = (
    r"(?:'s| is| are| looks| appears| seems| should be| must be| can be)"
    r"(?: (?:to be|considered|classified as|rated(?: as)?|judged|deemed|labell?ed(?: as)?))?"
)
_DEGREE = r"(?: (?:a|an|clearly|definitely|completely|fully|overall|therefore|thus|quite|very))"
_PREAMBLE = (
    rf"(?:(?:{_THEREFORE}|clearly|yes|no|and|but|because|however|yet|in (?:general|my opinion)|"
    r"which means|that|as a result|consequently|"
    r"(?:i|we)(?:'d| would)? (?:think|believe|conclude|say|judge|find|feel|prefer)),? )*+"
)
_STATEMENT = re.compile(rf"{_PREAMBLE}{_SUBJECT}{_COPULA}{_DEGREE}{{0,2}} ")
_PREAMBLE_ONLY = re.compile(rf"[\s\"'(\[]*+{_PREAMBLE}(?:that )?[\s\"'(\[]*+")
# "it can be concluded that ", "based on this, I would say that ".
_BELIEVED = re.compile(
    r"(?:.{0,80} )?(?:(?:i|we) (?:\w{1,12} ){0,2}(?:think|believe|conclude|say|find|feel|judge)|"
    r"(?:it|this) (?:is|can be|seems) (?:\w{1,12} )?(?:clear|evident|apparent|concluded|said))"
    r" (?:that )?"
)
_MUCH = (
    r"(?:(?:the|clearly|much|far|slightly|definitely|significantly|generally|overall|a|still|"
    r"somewhat|considerably|marginally|also|ultimately|therefore|more|likely|indeed) ){0,3}"
)
_THING = rf"(?:{NOUN}|one|match|fit|representation|depiction|illustration|pick|of)"
_ANYTHING = r"(?:expected|average|usual|nothing|before|most|i)\b"
# "Image 2 is better": what follows the name of the preferred candidate.
_BETTER = re.compile(
    rf"[\"')\]]{{0,3}} (?:(?:is|was|looks|appears|seems|would be|to be) )?{_MUCH}"
    r"(?:wins\b|winner\b|superior\b|preferred\b|preferable\b|favored\b|"
    r"better (?:match|reflect|follow|fit|align|represent|satisf|captur|adher|depict|illustrat|meet|"
    r"convey|show)\w*|"
    r"(?:clear|obvious|preferred|stronger|superior|right|best) (?:choice|winner|pick)\b|"
    r"(?:better|best)\b(?=$|[.!,;\n]|"
    rf" (?:overall|because|since|as|for|due|suited|at|{_THING}|than(?! {_ANYTHING}))\b)|"
    r"(?:rated|ranked|scored) higher\b|"
    r"(?:performs|performed|did|does|fares) better\b|edges out\b|outperforms\b|surpasses\b|"
    r"(?:does|did) a (?:much |slightly |significantly )?better job\b|"
    r"(?:chosen|selected|picked|considered|judged|deemed) (?:as |to be )?(?:the )?"
    rf"(?:better|best|superior|preferred|winner|more)\b|"
    r"(?:aligns|matches|adheres|follows|fits|corresponds|conforms|represents|captures|depicts|"
    r"reflects) (?:much |slightly |significantly )?(?:more (?:closely|accurately|faithfully|"
    r"effectively|strongly|precisely)|better)\b|"
    r"more (?:closely|accurately|faithfully|effectively|precisely) [a-z]{1,16}s\b|"
    r"(?:is |was )?more (?:closely |strongly )?(?:(?:aligned|consistent) with|faithful to|"
    r"accurate\b))"
)
# "a better match": the article, not the candidate.
_ARTICLE = re.compile(r"a (?!is\b|was\b|wins\b)")
# "…, making it the better one": the subject is the one candidate that the sentence names.
_MAKING = re.compile(
    rf"\b(?:making|makes) (it|this|[a-z-]{{1,12}}[ -]?\w{{1,6}}) {_MUCH}"
    r"(?:better|best|superior|preferred|winner)\b"
)
_LIMITED = re.compile(r"\b(?:but|however|though|although|except|while|if|unless|only|or)\b|\?")
_UNDECIDED = re.compile(
    r"\b(?:if|unless|whether|suppose|assuming|would|could|might|may|some|although|though|while)\b"
)
_TIE_WORDS = re.compile(
    rf"\b(?:both|the two|the) (?:(?:of them|{NOUN}s?|{NOUN} 1 and {NOUN} 2) )?(?:are |were |seem )"
    r"(?:about |roughly |almost )?(?:equally|equal\b|tied\b|the same\b|of (?:equal|the same))|"
    r"\bi (?:cannot|can't|can not|could not|couldn't|am unable to) (?:choose|decide|pick)\b|"
    r"\b(?:it is|it's|is|result is) a (?:tie|draw)\b|\bneither (?:\w+ )?is better\b|"
    r"\bare (?:both )?(?:about |roughly |almost )?equally (?:good|bad|poor|strong|well)\b"
)
# The conclusion of a text, which contradicts any other choice.
_CONCLUSION = re.compile(rf"(?:{_THEREFORE})\b")


def _prose(text: str, names: Names) -> list[Claim]:
    """Claims of all statements, if the first or the last sentence is one."""
    sentences = _sentences(text)
    if not any(_sentence_claims(sentence, names) for sentence in [*sentences[:1], *sentences[-1:]]):
        return []
    return [claim for sentence in sentences for claim in _sentence_claims(sentence, names)]


def _conclusion(part: Part, names: Names) -> Claims:
    """What the last sentence concludes about the candidates."""
    last = _SENTENCE_BREAK.split(part.text[-2 * _LINE_LIMIT :].rstrip())[-1]
    return _preferences(last, names) if _CONCLUSION.match(last) else []


def _statements(part: Part, names: Names) -> Claims:
    return _prose(part.text, names)


def _sentences(text: str) -> list[str]:
    ends = [0, *(match.end() for match in _SENTENCE_BREAK.finditer(text)), len(text)]
    sentences = (text[start:end].strip() for start, end in pairwise(ends))
    return [sentence for sentence in sentences if sentence]


def _preferences(sentence: str, names: Names) -> list[Claim]:
    """Claims about which of two candidates is better."""
    if not names.candidates or len(sentence) > 2 * _LINE_LIMIT or _is_question(sentence):
        return []
    mentions = [
        m
        for m in names.mentions(sentence)
        if m.topical and not (m.token and _ARTICLE.match(sentence, m.start))
    ]
    claims = [Claim(mention.value) for mention in mentions if _is_preferred(sentence, mention)]
    if (making := _MAKING.search(sentence)) and not _LIMITED.search(sentence, making.end()):
        made = [m.value for m in mentions if making.start(1) <= m.start < making.end()]
        if making[1] in ("it", "this"):
            made = [m.value for m in mentions if m.end <= making.start()]
        if len(set(made)) == 1:
            claims.append(Claim(made[0]))
    if _TIE_WORDS.search(sentence):
        claims.append(Claim(names.tie))
    return claims


def _is_question(sentence: str) -> bool:
    return sentence.rstrip(" \"')").endswith("?")


def _sentence_claims(sentence: str, names: Names) -> list[Claim]:
    if len(sentence) > 2 * _LINE_LIMIT or _is_question(sentence):
        return []
    claims = _preferences(sentence, names)
    begin = EDGE.match(sentence)
    starts = [begin.end() if begin else 0]
    starts += [match.end() for match in re.finditer(r"[,;] (?:so |thus |hence )?", sentence)]
    for start in starts:
        statement = _STATEMENT.match(sentence, start)
        if not statement or _UNDECIDED.search(sentence[:start]):
            continue
        mention = names.mention_at(sentence, statement.end())
        if mention and not mention.topical:
            goes_on = sentence.startswith(" and ", mention.end) and not echoed(sentence, names)
            if goes_on or _closes(sentence, mention, marked=False):
                claims.append(Claim(mention.value))
        elif not mention and (denied := _denied_at(sentence, statement.end(), names)):
            claims.append(denied)
    return claims


def _is_preferred(sentence: str, mention: Mention) -> bool:
    better = _BETTER.match(sentence, mention.end)
    before = sentence[: mention.start]
    if not better or _LIMITED.search(sentence, better.end()) or _CONDITION.search(before):
        return False
    clause = re.split(r"[,;:] |\bso ", before)[-1]
    if _PREAMBLE_ONLY.fullmatch(clause):
        return True
    doubted = _NEGATED.search(before) or _UNDECIDED.search(clause.replace("would", ""))
    return _BELIEVED.fullmatch(clause) is not None and not doubted


# --- the table ---------------------------------------------------------------------------------


class Form(NamedTuple):
    """One way to state a verdict.

    Attributes:
        name: what `Verdict.reason` says where this form decides.
        level: the lowest level on which a form claims something decides; 0 never decides.
        contradicts: levels whose decision this form can contradict, though it is on another.
        claims: finds the claims in a part.
        example: a text, the task's verdicts, and what is read.
    """

    name: str
    level: int
    contradicts: tuple[int, ...]
    claims: Callable[[Part, Names], Claims]
    example: tuple[str, tuple[str, ...], str | None]


_PAIR = ("1", "2")
_AB = ("A", "B")
_YES_NO = ("Yes", "No")
_FIVE = ("1", "2", "3", "4", "5")

FORMS = (
    Form("whole", 1, (), _whole, ("**B.**", _AB, "B")),
    Form("comparison in brackets", 2, (), _compared, ("B is sharper: [[B>A]]", _AB, "B")),
    Form("JSON field", 3, (), _json, ('{"better_image": 2, "score": 1}', _PAIR, "2")),
    Form(
        "double brackets", 3, (), _enclosed(_BRACKETED, "[["), ("The hat differs: [[B]].", _AB, "B")
    ),
    Form("box", 3, (), _enclosed(_BOXED, "box"), (r"Thus \boxed{2}.", _PAIR, "2")),
    Form("result mark", 3, (), _enclosed(_RESULT, "["), ("It is sharp. [RESULT] 4", _FIVE, "4")),
    Form("field", 3, (), _fields, ("Rating: 4/5\nThe lamp is there.", _FIVE, "4")),
    Form(
        "first words", 4, (3,), _first_words, ("Yes, because a knife is visible.", _YES_NO, "Yes")
    ),
    Form("last line", 4, (3,), _last_line, ("A dog sits on a sofa.\nYes", _YES_NO, "Yes")),
    Form("prose", 4, (), _statements, ("Both are sharp. Image 2 is better.", _PAIR, "2")),
    Form("lone line", 0, (4,), _lone_lines, ("Yes\nNo\nThis is hard.", _YES_NO, None)),
    Form(
        "conclusion",
        0,
        (2, 3),
        _conclusion,
        ("Better image: 1\nOverall, image 2 is better.", _PAIR, None),
    ),
)
LEVELS = tuple(
    (
        tuple(form for form in FORMS if form.level == level),
        tuple(form for form in FORMS if level in form.contradicts),
    )
    for level in sorted({form.level for form in FORMS} - {0})
)
"""For each level, the forms that decide on it and those that can contradict them."""
