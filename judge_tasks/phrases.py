"""The phrases with which judges state, deny and qualify a verdict, as regular expressions.

All of them match case-folded text (:func:`~.answer_text.fold`). Quantifiers are bounded or
possessive, so that a search is linear in the text.
"""

from __future__ import annotations

import re

# Names of the two images of a pair: a token and an ordinal each.
SLOTS = ((("1", "first"), ("2", "second")), (("a", "first"), ("b", "second")))
SLOT_NOUNS = ["image", "picture", "photo", "option", "choice", "response", "answer", "output"]
SLOT_FORM = re.compile(rf"(?:(?:{'|'.join(SLOT_NOUNS)}) )?(\d+|[a-z])")
TOKEN = re.compile(r"[a-z]|\d+|(?:the )?(?:first|second|left|right)")
# What may precede a verdict without belonging to it: white space, quotes, list marks, arrows.
_LEFT = r"[\s\"'()\[\]{}#|$\\:=•·▪]|-{1,8}>?\s|→"
_SYMBOLS = "\u2190-\u2bff\ufe0f\U0001f000-\U0001faff"
EDGE = re.compile(rf"(?:{_LEFT})*+")
RIGHT_STRIP = " \n\"'()[]{}|$\\.,;:!"
TRAILING_SYMBOLS = re.compile(rf"\s?[{_SYMBOLS}]{{1,4}}$")
# Words that open a statement and do not change it.
_OPENER = (
    r"(?:so|thus|hence|therefore|overall|then|well|ok|okay|sure|certainly|actually|finally|"
    r"ultimately|conclusion|in (?:conclusion|summary|short)|to conclude|"
    r"clearly|definitely|simply|probably|likely|a (?:clear|definite|firm|resounding)|option|choice|"
    r"i(?:'d| would)? (?:say|answer))[\s,:]+"
)
LEAD = re.compile(rf"(?:{_LEFT}|[{_SYMBOLS}])*+(?:{_OPENER}){{0,2}}(?:{_LEFT}|[{_SYMBOLS}])*+")
SENTENCE_START = re.compile(rf"(?:^|[\n.!])(?:{_LEFT})*+(?:{_OPENER}){{0,2}}(?:{_LEFT})*+$")
# Where a verdict may stand alone within a line.
LOOSE_START = re.compile(
    r"(?:^|[\n.!?,;:(-]|\b(?:but|so|and|or|actually|rather|maybe|then|wait))[\s\"'(\[{]{0,4}$"
)
# "not safe": a verdict that is denied.
DENIAL = re.compile(
    r"(?:not|never|isn't|aren't|is not|are not|hardly|neither|no|non|cannot be|can't be|far from)"
    r"[\s-](?:(?:a|an|the|really|quite|entirely|very|completely|clearly|exactly) ){0,2}"
)
# Symbols and closing quotes right after a verdict.
AFTER = re.compile(rf"(?:[ \"')\]}}|$\\]|[{_SYMBOLS}])*+")
# An explanation may follow a verdict without changing it.
BECAUSE = re.compile(
    r"(?:because|since|as|due to|over|rather than|instead of|"
    r"to (?:the )?(?:image|picture|photo|option|response|other|first|second))\b"
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


ENDS = {(marked, no): _ends(marked, no) for marked in (False, True) for no in (False, True)}
# A token or an image's name can begin a sentence without being chosen, so more must end with it.
_EDGES = r"[ \"'()\[\]{}|$\\.,;:!]"
ENDS_TOPIC = re.compile(
    rf"\Z|\n|,.(?:{BECAUSE.pattern})|[.!;](?:{_EDGES}{{7}}|{_EDGES}{{0,6}}(?:\n|\Z))", re.DOTALL
)
# Nouns that announce a verdict.
_STATING = (
    r"verdict|answer|judge?ment|decision|choice|conclusion|preference|classification|prediction|"
    r"winner|ruling|antwort|réponse|respuesta|resposta|risposta|ответ|"
    r"(?:better|best|preferred|winning|chosen|selected) (?:image|picture|option|choice|one)"
)
# The same and words for ratings.
_FIELD = rf"{_STATING}|label|rating|score|grade|result|assessment"
_ASIDE = r"(?: ?\([^()\n]{1,40}\))?(?: (?:to|for|of|on|about) [^\n.,:;]{1,60}?)?"
# "Final verdict: ", "I choose ", "答案是": what introduces a verdict.
CUE = re.compile(
    rf"(?:(?:{_FIELD}){_ASIDE}(?: ?(?:[:=→]|-+>)| -+ )"
    rf"|(?:{_STATING}){_ASIDE} (?:is|was|would be|should be|must be|will be|remains)(?: ?:| )"
    rf"|i(?:'d| would|'ll| will)? (?:prefer|choose|pick|select|go with|opt for|vote for|say) "
    rf"|(?:答案|结论|判断)(?:是:?|:))\s{{0,8}}"
)
# A heading on a line of its own.
HEADER = re.compile(rf"(?:{_FIELD})\s{{0,2}}\n\s{{0,8}}")
HEADER_START = re.compile(r"(?:^|\n)[#\s]{0,6}(?:(?:my|the|final|overall) ){0,2}$")
# Where a cue may begin: plain characters first, so that most text is passed over fast.
CUE_START = re.compile(
    r"verdict|answer|judg|decision|choice|conclusion|preferred|preference|classification|"
    r"prediction|winn|ruling|antwort|réponse|resp|risposta|ответ|best|better|chosen|selected|"
    r"label|rating|score|grade|result|assessment|答案|结论|判断|"
    r"i(?='d |'ll | would | will | prefer| choose| pick| select| go with| opt for| vote for| say)"
)
# `[[A]]`, as MT-Bench's prompts ask for (arXiv 2306.05685, appendix).
BRACKETED = re.compile(r"\[\[([^\[\]\n]{1,80})\]\]")
BOXED = re.compile(r"\\f?box(?:ed)?\s?\{([^}\n]{1,80})\}")
# Keys of a JSON object that hold a verdict.
_KEY = (
    r"(?:final|overall|my)?[ _-]?(?:verdict|answer|label|choice|judge?ment|decision|prediction|"
    r"preference|preferred|winner|classification|rating|score|result|better|preferred|best)"
    r"(?:[ _-](?:image|option|answer|verdict|choice))?"
)
JSON_KEY = re.compile(_KEY)
JSON_FIELD = re.compile(
    rf"[\"']{_KEY}\\?[\"']\s{{0,8}}:\s{{0,8}}"
    r"(?:\\?\"([^\"\\\n]{0,240})|\\?'([^'\\\n]{0,240})|([\w.+-]{1,40}))"
)
CONDITION = re.compile(r"\b(?:if|unless|otherwise|suppose|supposing|assuming)\b")
# Words before a cue that deny it or make it uncertain.
NEGATED = re.compile(
    r"\b(?:not|never|no way|cannot|neither|nor|whether|doubt|unlikely|hardly|might|may|could|"
    r"nobody|no one|wrong to)\b|n't\b|"
    r"\b(?:wrong|incorrect|false|worse|worst|other|alternative|possible|previous|initial|first) $"
)
SENTENCE_BREAK = re.compile(r"[.!?\n](?:(?<=\n)|\s)")
CLAUSE_BREAK = re.compile(r"[,;:(]|\b(?:so|thus|therefore|hence|and|because|but)\b")
# "the image is clearly ": the parts of a statement in prose.
_SUBJECT = (
    r"(?:(?:this|the|that) )?(?:(?:given|generated|provided|displayed|ai-generated) )?"
    r"(?:image|picture|photo|photograph|content|scene|illustration|artwork|caption|pair|it|this)"
)
_COPULA = (
    r"(?:'s| is| are| looks| appears| seems| should be| must be| can be)"
    r"(?: (?:to be|considered|classified as|rated|rated as|judged|deemed|labell?ed|labell?ed as))?"
)
_DEGREE = r"(?: (?:a|an|clearly|definitely|completely|fully|overall|therefore|thus|quite|very))"
_PREAMBLE = (
    r"(?:(?:so|thus|hence|therefore|overall|finally|ultimately|clearly|yes|no|and|because|"
    r"in (?:conclusion|summary|short)|which means|that|"
    r"(?:i|we)(?:'d| would)? (?:think|believe|conclude|say|judge|find|feel|prefer)),? )*+"
)
STATEMENT = re.compile(rf"{_PREAMBLE}{_SUBJECT}{_COPULA}{_DEGREE}{{0,2}} ")
PREAMBLE_ONLY = re.compile(rf"[\s\"'(]*+{_PREAMBLE}(?:that )?")
# "Image 2 is better": what follows the name of the preferred image.
BETTER = re.compile(
    r" (?:(?:is|was|looks|appears|seems|would be) )?"
    r"(?:(?:the|clearly|much|far|slightly|definitely|significantly|generally|overall|a) ){0,3}"
    r"(?:wins\b|winner\b|superior\b|preferred\b|preferable\b|"
    r"better (?:match|reflect|follow|fit|align|represent|satisf|captur|adher|depict|illustrat)\w*|"
    r"(?:better|best)\b(?=$|[.!,;\n]| (?:overall|than|because|since|choice|image|option|picture|"
    r"one|of)\b))"
)
LIMITED = re.compile(r"\b(?:but|however|though|although|except|while|if|unless|only|or)\b|\?")
UNDECIDED = re.compile(
    r"\b(?:if|unless|whether|suppose|assuming|would|could|might|may|some|although|though|while)\b"
)
