"""The forms in which judges state a verdict: one table, in order of precedence.

A form finds claims in the folded answer part (:func:`~.answer_text.fold`). Quantifiers are bounded
or possessive, so that every search is linear in the text. `docs/verdicts.md` explains the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from .verdict_names import LEFT, NOUN, NOUNS, OTHER, SYMBOLS, Mention, Names

Claims = Iterable["Claim"]
_LINE_LIMIT = 240
_LOOK_BACK = 160


class Claim(NamedTuple):
    value: str
    denied: str | None = None  # the phrase that denies the value
    form: str = ""


# --- where a verdict begins and ends -----------------------------------------------------------

_THEREFORE = (
    r"so|thus|hence|therefore|overall|finally|ultimately|in (?:conclusion|summary|short|the end)|"
    r"to (?:conclude|sum up)"
)
# Words that open a statement and do not change it.
_OPENER = (
    rf"(?:{_THEREFORE}|sure|actually|conclusion|a (?:clear|definite|firm|resounding)|option|choice|"
    r"i(?:'d| would)? (?:say|answer))[\s,:]+"
)
_LEAD = re.compile(rf"(?:{LEFT}|[{SYMBOLS}])*+(?:{_OPENER}){{0,2}}(?:{LEFT}|[{SYMBOLS}])*+")
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
    r"(?:[a-z-]{1,12} ){0,2}?(?:analysis|explanation|reason|rationale|feedback|confidence|"
    r"(?:image|rating|score)[ -]?[12ab]?)[^.:\n]{0,24}:"
)
_DOUBT = r"[\s\"'(-]{0,4}(?:or|and/or|if|unless|maybe|perhaps|either|depending)\b"
_REVERSED = r"[\s\"'(-]{0,4}(?:no|not|false|none|n/a)[\s\"')]{0,4}(?:$|[.,;:!\n])"
# What ends a statement after its verdict: the line, a sentence, or an aside without doubt. A colon
# may follow only a verdict that an explicit marker precedes.
_ENDS = {
    marked: re.compile(
        rf"\Z|\n|[.!;](?![^\W_])|,(?!{_DOUBT})|"
        rf"(?:[({'[:' if marked else ''}]|(?:(?<=\s)-|-(?=\s))(?! ?\d))(?!{_DOUBT})(?!{_REVERSED})"
    )
    for marked in (False, True)
}
# A token or a candidate's name can begin a sentence without being chosen: more must end with it.
_ENDS_TOPIC = re.compile(
    rf"\Z|\n|,.(?:{_BECAUSE.pattern})|[.!;][ \"'()\[\]{{}}|$\\.,;:!]{{0,6}}(?:\n|\Z)", re.DOTALL
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
    ends = _ENDS_TOPIC if mention.topical and not marked else _ENDS[marked]
    return ends.match(text, end) is not None


def _leading(text: str, names: Names, marked: bool = False) -> list[Claim]:
    """The verdict with which the text begins, and any other that stands alone in its line."""
    lead = _LEAD.match(text)
    start = lead.end() if lead else 0
    mention = names.mention_at(text, start)
    if mention and _closes(text, mention, marked):
        line = _clip(text, mention.end, _LINE_LIMIT * 8)
        return [Claim(mention.value), *_set_apart(line, names)]
    return [] if mention else _denied_at(text, start, names)


def _set_apart(line: str, names: Names) -> list[Claim]:
    """Verdicts that stand alone between punctuation in the line ("…, wait, no.")."""
    return [
        Claim(mention.value)
        for mention in names.mentions(line)
        if _LOOSE_START.search(line, max(0, mention.start - 16), mention.start)
        and _closes(line, mention, marked=mention.token)
    ]


def _denied_at(text: str, start: int, names: Names) -> list[Claim]:
    denial = _DENIAL.match(text, start)
    mention = names.mention_at(text, denial.end()) if denial else None
    if not mention or mention.topical:
        return []
    return [Claim(mention.value, denied=text[start : mention.end][:40])]


def _clip(text: str, start: int, limit: int = _LINE_LIMIT) -> str:
    """The line that begins at `start`, cut at a blank where it is longer than `limit`."""
    line = text[start : start + limit + 1].partition("\n")[0]
    return line if len(line) <= limit else line.rpartition(" ")[0]


_BETWEEN_OPTIONS = re.compile(
    r"[\s\"'()\[\]]{0,4}(?:or|and|vs\.?|[,/|;&])[\s\"'()\[\]]{0,4}(?:[a-z ]{1,20}: ?)?"
)


def echoed(text: str, names: Names) -> list[Claim]:
    """The options, repeated where an answer should stand ("Yes or No"); a sentence is no list."""
    mentions = list(names.mentions(text))
    listed = any(
        one.value != other.value and _BETWEEN_OPTIONS.fullmatch(text, one.end, other.start)
        for one, other in pairwise(mentions)
    )
    return [Claim(mention.value) for mention in mentions] if listed else []


def _content(content: str, names: Names, same_line: bool = True) -> list[Claim]:
    """What the content of a marker claims."""
    if whole := names.whole(content):
        return [Claim(whole)]
    if (names.candidates or names.degrees) and _TIE_CONTENT.match(content):
        return [Claim(names.tie)]
    claims = _leading(content, names, marked=same_line) or _prose(content, names)
    return claims or (echoed(content, names) if names.mention_at(content, 0) else [])


# --- explicit markers --------------------------------------------------------------------------

# `[[A]]`, as MT-Bench's prompts ask for (arXiv 2306.05685, appendix), and `\boxed{A}`.
_ENCLOSED = re.compile(r"\[\[([^\[\]\n]{1,80})\]\]|\\f?box(?:ed)?\s?\{([^}\n]{1,80})\}")
# "[[A]] if assistant A is better": an instruction, repeated.
_IF = re.compile(r"[\s\"'.,]{0,3}(?:if|when|unless|otherwise)\b")
_AROUND_OPERATOR = re.compile(r" ?([<=>]) ?")
_TIE_CONTENT = re.compile(
    rf"(?:{LEFT}){{0,4}}+(?:0|a tie|tie|draw|none|neither|both|equal|equally good|tied|"
    rf"no preference)(?: (?:{NOUN})s?| of them)?[\"')\]]{{0,3}}(?:\Z|\n|[.,:;]| ?\(| analysis\b)"
)
# The names of fields. Each alternative begins with plain characters.
_BETTER = r"better|best|preferred|winning|chosen|selected|superior|stronger|recommended"
_JUDGED = (
    r"verdict|answer|judg(?:e)?ment|decision|choice|conclusion|preference|classification|"
    r"prediction|winner|ruling|selection|pick|recommendation|label|vote"
)
_RATED = r"rating|score|grade|result"
_BETTER_ONE = (
    rf"(?:(?:{_BETTER})(?:[ -]aligned)?|(?:more|most) (?:accurate|faithful|aligned|suitable))"
    rf"[ _-](?:(?:edited|generated) )?(?:{NOUN}|one|match)(?: number)?|"
    rf"{NOUN} (?:that|which) (?:better|best|more closely|more accurately) [^\n.,:;]{{1,60}}?"
)
_STATING = rf"{_JUDGED}|{_RATED}|{_BETTER_ONE}"
_FIELD = rf"{_STATING}|{_BETTER}|assessment"
_ASIDE = r"(?: ?[(\[][^()\[\]\n]{1,40}[)\]])?(?: (?:to|for|of|on|about) [^\n.,:;]{1,60}?)?"
_IS = r" (?:is|was|would be|should be|must be|will be|remains|goes to)(?: for)?(?: ?:| )"
_CHOOSE = r"prefer|favou?r|choose|pick|select|go with|lean towards?|opt for|vote for|say"
# What introduces a verdict: "Final verdict: ", "the answer is ", "I choose ", "答案是". A field's
# name may also be a line of its own. `[RESULT] 4` is Prometheus's form (arXiv 2310.08491).
_CUE = re.compile(
    rf"(?:(?:{_FIELD}){_ASIDE}(?: ?(?:[:=→]|-+>)| -+ )|(?:{_STATING}){_ASIDE}{_IS}|"
    rf"\[(?:{_FIELD})\] ?:?|i(?:'d| would|'ll| will)? (?:{_CHOOSE}) (?:is )?|"
    r"(?:答案|结论|判断|判决|裁决|选择)(?:是:?|:)|"
    rf"(?P<header>(?:{_FIELD})\s{{0,2}}\n)|"
    r"(?P<rating>i(?:'d| would|'ll| will)? (?:rate|grade|score|give) [^\n.:]{0,60}?"
    r"(?:(?:as|at) (?:an? )?|an? (?=[\"'\d])|(?<=\s)(?=\d))|rated? (?:as|at) (?:an? )?|"
    r"(?:rating|score|grade) of (?:an? )?|(?:评分|得分|分数):))\s{0,8}"
)
_RATING = re.compile(rf"(?:[a-z]{{1,20}} )?(?:{_RATED})\b")
# "Better image: 2": a field that names one of several candidates, and never a rating.
_CHOICE = re.compile(rf"(?:{_BETTER_ONE}|better|best|preferred|winning|winner|preference)\b")
_HEADER_START = re.compile(r"(?:^|\n)[#\s]{0,6}(?:(?:my|the|final|overall) ){0,2}$")
# Where a cue may begin: plain characters first, so that most text is passed over fast.
_CUE_START = re.compile(
    "|".join(word.partition("(")[0] for word in f"{_JUDGED}|{_BETTER}|{_RATED}".split("|"))
    + rf"|more |most |assessment|rated?|\[|{'|'.join(f'{n}(?= that| which)' for n in NOUNS)}"
    + rf"|i(?=(?:'d| would|'ll| will)? (?:{_CHOOSE}|rate|grade|score|give))"
    + r"|答案|结论|判断|判决|裁决|选择|评分|得分|分数"
)
# What makes "choice:" another field: "analysis of choice", "second choice", "worse image".
_OTHER_FIELD = re.compile(
    r"\b(?:of|of (?:the|my|your|this)|second|next|wrong|incorrect|worse|worst|less|least|other|"
    r"alternative|possible|previous|first|reference|maximum|minimum|not|non)[ -]$|"
    r"\b[ab12]'s (?:own |final )?$"
)
# Words before a statement in its sentence that make it conditional, and in its clause that deny it
# or leave it to others.
_CONDITION = re.compile(
    r"\b(?:if|unless|otherwise|suppose|supposing|assuming|whether|according to)\b"
)
_UNSURE = re.compile(
    r"\b(?:not|never|cannot|neither|nor|doubt|unlikely|hardly|might|may|could|some|told|no one|"
    r"says|claims|concludes|argues)\b|"
    r"n't\b"
)
_SENTENCE_BREAK = re.compile(r"(?<=[.!?])\s|\n")
_CLAUSE_BREAK = re.compile(r"[,;:(]|\b(?:so|thus|therefore|hence|and|because|but)\b")
# A judge of answers may first answer the question itself, and its options can be called A and B.
_SOLVED = re.compile(r"answer|choice|\\f?box")
_RESPONSES = re.compile(
    r"\b(?:assistant|model|response|output|candidate|solution|completion)[ _-]?\(?[ab12]\b"
)


# The fields of a JSON object, which need not be valid: one value, or a list of one.
_JSON_FIELD = re.compile(
    r"[\"']([a-z][\w -]{0,40})\\?[\"']\s{0,8}:\s{0,8}(\[\s{0,8})?"
    r"(?:\\?\"([^\"\\\n]{0,240})|\\?'([^'\\\n]{0,240})|([\w.+-]{1,40}))"
    r"(?(2)\\?[\"']?\s{0,8}\])"
)
_JSON_KEY = re.compile(
    rf"(?:(?:final|overall|my) )?(?:{_FIELD})(?: (?:{NOUN}|verdict))?|"
    rf"[a-z]{{1,20}} (?:winner|{_RATED})"
)


def _whole(text: str, names: Names) -> Claims:
    whole = names.whole(text)
    return [Claim(whole)] if whole else []


def _enclosed(text: str, names: Names) -> Claims:
    for match in _ENCLOSED.finditer(text):
        before = text[max(0, match.start() - _LOOK_BACK) : match.start()]
        if _IF.match(text, match.end()) or _CONDITION.search(_last_sentence(before)):
            continue
        if match[1] == "c" and "a" in names.candidates:  # a tie in MT-Bench's prompt
            yield Claim(names.tie)
        elif not _is_solution(match[0], match[2] or "", text, names):
            yield from _content(_AROUND_OPERATOR.sub(r"\1", match[1] or match[2]), names)


def _json(text: str, names: Names) -> Claims:
    for match in _JSON_FIELD.finditer(text) if "{" in text else ():
        key = match[1].replace("_", " ").strip()
        if names.ratings and _CHOICE.match(key):
            continue
        if _JSON_KEY.fullmatch(key) and (names.reads_ratings or not _RATING.match(key)):
            yield from _content(match[3] or match[4] or match[5] or "", names)


def _fields(text: str, names: Names) -> Claims:
    contents: dict[tuple[str, bool, bool], None] = {}
    for begin in _CUE_START.finditer(text):
        start = begin.start()
        before = text[max(0, start - _LOOK_BACK) : start]
        if before and before[-1].isalnum() and before[-1].isascii():
            continue
        cue = _CUE.match(text, start)
        if not cue or _OTHER_FIELD.search(before[-24:]):
            continue
        if not names.reads_ratings and (cue["rating"] or _RATING.match(cue[0])):
            continue
        if names.ratings and _CHOICE.match(cue[0]):
            continue
        if cue["header"] and not _HEADER_START.search(before[-24:]):
            continue
        content = _clip(text, cue.end())
        if not _is_doubted(before) and not _is_solution(cue[0], content, text, names, before):
            chosen = ":" in cue[0] and re.match(_BETTER_ONE, cue[0]) is not None
            contents[content, "\n" not in cue[0], chosen] = None
    for content, same_line, chosen in contents:
        claims = _content(content, names, same_line)
        yield from claims
        if chosen and content and not claims and names.candidates:  # "Better image: 3"
            yield Claim(OTHER)


def _last_sentence(text: str) -> str:
    return _SENTENCE_BREAK.split(text)[-1]


def _is_doubted(before: str) -> bool:
    """Whether the words before a statement deny it or make it conditional ("if so, ")."""
    sentence = _last_sentence(before)
    return bool(_CONDITION.search(sentence) or _UNSURE.search(_CLAUSE_BREAK.split(sentence)[-1]))


def _is_solution(marker: str, content: str, text: str, names: Names, before: str = "") -> bool:
    """Whether a marker may hold the answer to the judged question instead of a verdict."""
    if not names.candidates or not _SOLVED.match(marker):
        return False
    if ":" in marker and not before.endswith("correct "):
        return False
    mention = next(names.mentions(content[:16]), None)
    return mention is not None and mention.token and _compares_responses(text)


@lru_cache(maxsize=1)  # asked for every marker of one text
def _compares_responses(text: str) -> bool:
    return _RESPONSES.search(text) is not None


# A list of options, copied from the prompt: numbered lines that end in different brackets.
_OPTIONS = re.compile(
    r"(?m)(?:^(?:\(?\w[.):]|[-•]) [^\n\[]{0,160}\[\[[^\[\]\n]{1,40}\]\][.;,]?(?:\n++|\Z)){2,}+"
)
_OPTION_CUT_OFF = re.compile(r"[^\n\[\]]{0,80}\]\]\n")


def without_options(text: str) -> str:
    """The text without lists of options that were copied from the prompt."""
    cut_off = _OPTION_CUT_OFF.match(text)
    return _OPTIONS.sub(
        lambda options: "\n" if len(set(_ENCLOSED.findall(options[0]))) > 1 else options[0],
        text[cut_off.end() if cut_off else 0 :],
    ).strip()


# --- first and last words ----------------------------------------------------------------------


def _last_line(text: str, names: Names) -> Claims:
    line = text.rpartition("\n")[2]
    if claims := _leading(line, names):
        return claims
    last = re.split(r"[.!] ", line[-_LOOK_BACK:])[-1]
    plain_words = names.reads_ratings and not names.ratings
    value = names.whole(_LEAD.sub("", last, count=1)) if plain_words else None
    return [Claim(value)] if value else []


def _lone_lines(text: str, names: Names) -> Claims:
    lines = dict.fromkeys(text.split("\n"))
    return [Claim(value) for line in lines if (value := names.whole(line))]


# --- statements in prose -----------------------------------------------------------------------

# "the image is clearly ": the parts of a statement in prose.
_SUBJECT = (
    r"(?:(?:this|the|that) )?(?:(?:given|generated|provided|displayed|ai-generated) )?"
    r"(?:image|picture|photo|photograph|content|scene|illustration|artwork|caption|pair|it|this)"
)
_PREAMBLE = (
    rf"(?:(?:{_THEREFORE}|yes|no|and|but|because|however|that|in (?:general|my opinion)|"
    r"(?:i|we)(?:'d| would)? (?:think|believe|conclude|say|judge|find|feel|prefer)),? )*+"
)
_JUDGE_AS = r"consider(?:ed)?|classif(?:y|ied)|rated?|judged?|deem(?:ed)?|label(?:l?ed)?"
_STATEMENT = re.compile(
    rf"{_PREAMBLE}(?:i(?:'d| would)? (?:{_JUDGE_AS}) {_SUBJECT}(?: as| to be)?|{_SUBJECT}"
    r"(?:'s| is| are| looks| appears| seems| should be| must be| can be)"
    rf"(?: to be| (?:{_JUDGE_AS})(?: as)?)?)"
    r"(?: (?:a|an|clearly|definitely|completely|fully|overall|therefore|thus|quite|very)){0,2} "
)
# What may precede the preferred candidate in its clause: "based on this, I would say that ".
_LEADS_IN = re.compile(
    rf"[\s\"'({{\[]*+{_PREAMBLE}(?:that )?[\s\"'(\[]*+|"
    r"(?:.{0,80} )?(?:(?:i|we) (?:\w{1,12} ){0,2}(?:think|believe|conclude|say|find|feel)|"
    r"it (?:is|can be) (?:\w{1,12} )?(?:clear|evident|concluded|said)) (?:that )?"
)
_MUCH = (
    r"(?:(?:the|an?|much|far|slightly|clearly|significantly|marginally|definitely|somewhat|still|"
    r"also|overall|ultimately|more) ){0,3}"
)
_CLOSER = r"(?:better|more (?:closely|accurately|faithfully|effectively|strongly|precisely))"
# "better overall", "better than Image 1", but not "better lit" or "better than before".
_AS_A_WHOLE = (
    rf"\b(?=$|[.!,;\n]| (?:overall|because|since|as|due|suited|at|{NOUN}|one|match|fit|"
    r"representation|of|"
    r"than(?! (?:expected|average|usual|nothing|before|most|i|it)\b))\b)"
)
# "Image 2 is better": what follows the name of the preferred candidate.
_IS_BETTER = (
    r"wins\b(?! an?\b)|(?:winner|superior|preferred|preferable|favored|edges out|outperforms)\b|"
    r"surpasses\b|(?:has|gets) (?:the|an?) (?:slight |clear )?edge(?=$|[.,;]| over\b)|"
    r"(?:clear|obvious|preferred|stronger|superior|best|my) (?:choice|winner|pick|preference)\b|"
    rf"(?:better|best){_AS_A_WHOLE}|"
    rf"(?:stronger|closer) (?:{NOUN}|match|fit)\b|"
    r"(?:rated|ranked|scored) higher\b|(?:performs|performed|did|does|fares) better\b|"
    rf"(?:does|did) a {_MUCH}better job\b|"
    rf"(?:provide|give|offer)[sd]? (?:a|the) {_MUCH}(?:better|accurate) "
    rf"(?:{NOUN}|depiction|representation){_AS_A_WHOLE}|"
    r"(?:chosen|selected|picked|considered|judged|deemed) (?:as |to be )?(?:the )?"
    rf"(?:(?:better|best){_AS_A_WHOLE}|(?:superior|preferred|winner)\b)"
)
_PROMPT = (
    r"(?: (?:to|with))?(?: (?:the|this|its|given) (?:\w{1,12} ){0,2}"
    r"(?:prompt|caption|text|description|instructions?|request|query|question|scene|image))?"
)
_FITS_BETTER = (
    rf"(?:align|match|adhere|follow|fit|correspond|conform|represent|capture|depict|reflect|"
    rf"describe)(?:e?s)?{_PROMPT} {_CLOSER}\b|"
    rf"{_CLOSER} (?!unless)(?:[a-z]{{4,16}}s|aligned with)\b|"
    r"more (?:closely |strongly )?(?:(?:aligned|consistent) with|faithful to|accurate\b)"
)
_PREFERRED = {
    overall: re.compile(
        rf"[\"')\]]{{0,3}} (?:(?:is|was|looks|appears|seems|would be|to be) )?{_MUCH}"
        rf"(?:{_IS_BETTER}{'' if overall else '|' + _FITS_BETTER})(?!(?: {NOUN})? ?:)"
    )
    for overall in (False, True)
}
# "a better match": the article, not the candidate.
_ARTICLE = re.compile(r"a (?!is\b|was\b|wins\b)")
# "…, making it the better one": the subject is the one candidate that the sentence names.
_MAKING = re.compile(
    r"\b(?:(?:making|makes) (it|this|[a-z-]{1,12}[ -]?\w{1,6})|"
    r"(?:so it|so this|and) (?:is|appears to be)(?: therefore)?(?: considered)?) "
    rf"{_MUCH}(?:better|best|superior|preferred|winner){_AS_A_WHOLE}"
)
_LIMITED = re.compile(
    r"\b(?:but|however|though|although|except|while|if|unless|only|or|"
    r"in (?:some|certain|terms))\b|\?"
)
_TIE_WORDS = re.compile(
    rf"\b(?:both|two|they|them|{NOUN}s?|{NOUN} [2b]) (?:are|were|seem) "
    r"(?:both )?(?:equally (?:good|bad|poor|strong|well)|equal\b|tied\b|"
    r"(?:of )?(?:equal|the same) quality|the same(?=[.!]?$))|"
    r"\bi (?:cannot|can't|can not|could not|couldn't|am unable to) (?:choose|decide|pick)\b|"
    r"\b(?:it is|it's|is|this is|result is|call it) a (?:tie|draw)\b|"
    r"\bneither (?:\w+ )?is better\b|\bno clear winner(?=[.!]?$)"
)
_CONCLUSION = re.compile(rf"(?:[a-z ]{{1,30}}: )?(?:{_THEREFORE})\b")


def _prose(text: str, names: Names) -> list[Claim]:
    """Claims of all statements, if the first or the last sentence is one."""
    sentences = [s for s in map(str.strip, _SENTENCE_BREAK.split(text)) if s]
    if not any(_stated(sentence, names) for sentence in [*sentences[:1], *sentences[-1:]]):
        return []
    return [claim for sentence in sentences for claim in _stated(sentence, names)]


def _conclusion(text: str, names: Names) -> Claims:
    """What the last sentence says about the candidates as a whole."""
    last = _last_sentence(text[-2 * _LINE_LIMIT :].rstrip())
    return _preferences(last, names, overall=not _CONCLUSION.match(last))


def _stated(sentence: str, names: Names) -> list[Claim]:
    claims = _preferences(sentence, names)
    if len(sentence) > 2 * _LINE_LIMIT:
        return claims
    starts = [0, *(match.end() for match in re.finditer(r"[,;] (?:so |thus |hence )?", sentence))]
    for start in starts:
        statement = _STATEMENT.match(sentence, start)
        if not statement or _CONDITION.search(sentence[:start]):
            continue
        mention = names.mention_at(sentence, statement.end())
        if mention and not mention.topical:
            goes_on = sentence.startswith(" and ", mention.end) and not echoed(sentence, names)
            if goes_on or _closes(sentence, mention, marked=False):
                claims.append(Claim(mention.value))
        elif not mention:
            claims += _denied_at(sentence, statement.end(), names)
    return claims


def _preferences(sentence: str, names: Names, overall: bool = False) -> list[Claim]:
    """Claims about which of two candidates is better.

    Args:
        overall: only as a whole, not for how well it fits.
    """
    if not names.candidates or len(sentence) > 2 * _LINE_LIMIT:
        return []
    mentions = [
        m
        for m in names.mentions(sentence)
        if m.topical and not (m.token and _ARTICLE.match(sentence, m.start))
    ]
    preferred = [
        (mention, better.end())
        for mention in mentions
        if (better := _PREFERRED[overall].match(sentence, mention.end))
    ]
    claims = [
        Claim(mention.value)
        for mention, end in preferred
        if len({other.value for other, _ in preferred}) > 1  # each better in one respect
        or (not _is_limited(sentence[end:]) and _leads_in(sentence[: mention.start]))
    ]
    if making := _MAKING.search(sentence):
        made = [m.value for m in mentions if making.start(1) <= m.start < making.end()]
        if making[1] in (None, "it", "this"):
            made = [m.value for m in mentions if m.end <= making.start()]
        if len(set(made)) == 1:
            claims.append(Claim(made[0]))
    if (tie := _TIE_WORDS.search(sentence)) and not _LIMITED.search(sentence, tie.end()):
        claims.append(Claim(names.tie))
    return claims


def _is_limited(after: str) -> bool:
    """Whether a preference is limited: "…, but only in light". What follows a reason explains."""
    return _LIMITED.search(re.split(r"\b(?:because|since)\b", after)[0]) is not None


def _leads_in(before: str) -> bool:
    clause = _CLAUSE_BREAK.split(before)[-1]
    return not _is_doubted(before) and _LEADS_IN.fullmatch(clause) is not None


# --- the table ---------------------------------------------------------------------------------


class Form(NamedTuple):
    """One way to state a verdict.

    Attributes:
        name: what `Verdict.reason` says where this form decides.
        level: the lowest level on which a form claims something decides; 0 never decides.
        contradicts: levels whose decision this form can contradict, though it is on another.
        claims: finds the claims in a folded answer part without copied options.
        example: a text, the task's verdicts, and what is read.
    """

    name: str
    level: int
    contradicts: tuple[int, ...]
    claims: Callable[[str, Names], Claims]
    example: tuple[str, tuple[str, ...], str | None]


CONCLUSION = "conclusion"
_PAIR = ("1", "2")
_AB = ("A", "B")
_YES_NO = ("Yes", "No")
_FIVE = ("1", "2", "3", "4", "5")

FORMS = (
    Form("whole", 1, (), _whole, ("**B.**", _AB, "B")),
    Form("brackets", 2, (), _enclosed, ("B is sharper: [[B>A]]", _AB, "B")),
    Form("JSON field", 2, (), _json, ('{"better_image": 2, "score": 1}', _PAIR, "2")),
    Form("field", 3, (), _fields, ("Rating: 4/5\nThe lamp is there.", _FIVE, "4")),
    Form("first words", 4, (2, 3), _leading, ("Yes, because of the knife.", _YES_NO, "Yes")),
    Form("last line", 4, (2, 3), _last_line, ("A dog sits on a sofa.\nYes", _YES_NO, "Yes")),
    Form("prose", 4, (), _prose, ("Both are sharp. Image 2 is better.", _PAIR, "2")),
    Form("lone line", 0, (4,), _lone_lines, ("Yes\nNo\nThis is hard.", _YES_NO, None)),
    Form(CONCLUSION, 0, (2, 3), _conclusion, ("Better image: 1\nImage 2 wins.", _PAIR, None)),
)
LEVELS = tuple(
    (
        tuple(form for form in FORMS if form.level == level),
        tuple(form for form in FORMS if level in form.contradicts),
    )
    for level in sorted({form.level for form in FORMS} - {0})
)
"""For each level, the forms that decide on it and those that can contradict them."""
