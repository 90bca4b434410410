"""Read the verdict of a judge's text. Evaluation and the training reward share this parser.

The first rule that applies decides, and ambiguity is never resolved by guessing:

1. The answer part: the `<answer>` blocks outside the reasoning; without any, what follows the last
   `</think>`; without that either, the whole text. Reasoning is never read. Text after an answer
   block can contradict it, never supply it.
2. The part as a whole is a verdict.
3. The forms of :data:`~.verdict_forms.FORMS` on the first level at which one claims something.

Two different claims are no verdict; a denied verdict ("not safe") is none and does not imply
another. Every step is linear in the text: quantifiers are bounded or possessive, Unicode is
normalized in short runs (CPython sorts combining marks by insertion, quadratic in a run), and of
a part longer than `PART_LIMIT` only the beginning and the end are read.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .answer_text import PART_LIMIT, Layout, fold, read_layout, split_confidence, window
from .request_failures import request_failure
from .verdict_forms import CONCLUSION, LEVELS, Claim, Form, echoed, without_options
from .verdict_names import OTHER, TIE, Names, names_of

__all__ = [
    "PARSER_VERSION",
    "PART_LIMIT",
    "SELF_CONTRADICTION",
    "Verdict",
    "parse_verdict",
    "read_confidence",
    "read_reasoning",
    "read_verdict",
]

PARSER_VERSION = 6
"""Increased whenever a reading changes; part of a run's identity."""

SELF_CONTRADICTION = "self-contradiction"
"""Begins the reason where a text states a verdict and concludes another."""

_SEVERAL = "several verdicts"
_MAX_BLOCKS = 32
OUTSIDE, RANGE = "(outside the scale)", "(a range)"
"""Stand for what is no rating, where verdicts are the numbers of a scale."""
_NOT_VERDICTS = {
    TIE: "a tie, which is not a verdict",
    OTHER: "an answer that is not a verdict",
    OUTSIDE: "a number that is not on the scale",
    RANGE: "a range of numbers",
}


class Verdict(NamedTuple):
    """The verdict of one text of a judge.

    Attributes:
        value: one of the task's verdicts, as the task spells it; None if there is no verdict.
        well_formed: exactly one `<think>…</think>` with reasoning in it, then exactly one
            non-empty `<answer>…</answer>`, and nothing else but white space and, at the end, one
            `<confidence>…</confidence>` with a number from 0 to 1 or a percentage.
        reason: the form that decided, a name of :data:`~.verdict_forms.FORMS`; without a verdict,
            what prevented one.
    """

    value: str | None
    well_formed: bool
    reason: str


def parse_verdict(
    text: str,
    verdicts: Sequence[str],
    ratings: bool | None = None,
    ties: Sequence[str] | None = None,
) -> Verdict:
    """Read the verdict of a judge's output, in time linear in its length.

    Anything that is not a string counts as empty text.

    Args:
        ratings: whether the verdicts are ratings, so that "Score: 4" is a verdict. None: they are
            if they are three or more consecutive integers in order.
        ties: the verdicts that mean a tie. None: those that say so, such as "tie", "A=B" and "0".

    Raises:
        ValueError: `verdicts` is empty, or two of them differ only in case, emphasis or Unicode
            form, so that no text could distinguish them. Never because of `text`.

    >>> parse_verdict("<think>A knife.</think><answer>yes.</answer>", ["Yes", "No"])
    Verdict(value='Yes', well_formed=True, reason='whole')
    """
    names = names_of(tuple(verdicts), ratings, None if ties is None else tuple(ties))
    return read_verdict(text, names)


def read_verdict(text: str, names: Names) -> Verdict:
    """Read the verdict of a judge's output, given how verdicts can be named in it."""
    if not isinstance(text, str) or not text.strip():
        return Verdict(None, False, "empty text")
    if failure := request_failure(text):
        return Verdict(None, False, f"{failure.kind} request")
    layout = read_layout(split_confidence(text)[0])
    value, reason = _answer(layout, names)
    return Verdict(value, layout.well_formed, reason)


def read_reasoning(text: str) -> str:
    """The reasoning in a judge's output, which :func:`parse_verdict` leaves aside; linear in time.

    It is what stands between the tags of reasoning. A missing opening tag is taken to stand at the
    beginning, since chat templates write it, and a missing closing tag at the end. Without tags
    there is no reasoning.

    >>> read_reasoning("<think>A knife.</think><answer>Yes</answer>")
    'A knife.'
    """
    if not isinstance(text, str) or request_failure(text):
        return ""
    return read_layout(text).reasoning


def read_confidence(text: str) -> float | None:
    """The confidence that a judge states at the end of its output, in [0, 1]; None without one.

    >>> read_confidence("<think>A knife.</think><answer>Yes</answer><confidence>0.9</confidence>")
    0.9
    """
    if not isinstance(text, str) or request_failure(text):
        return None
    return split_confidence(text)[1]


def _answer(layout: Layout, names: Names) -> tuple[str | None, str]:
    if not layout.blocks:
        if not layout.rest.strip():
            return None, "no answer after the reasoning"
        part = fold(window(layout.rest))
        return _resolve(_read_part(part, names), part, names)
    blocks = [block for block in dict.fromkeys(layout.blocks) if block.strip()]
    if len(blocks) > _MAX_BLOCKS:
        return None, f"{len(blocks)} different answer blocks"
    claims: list[Claim] = []
    folded = [fold(window(block)) for block in blocks]
    for block in folded:
        claims += _read_part(block, names) or echoed(block, names)
    if any(not claim.denied for claim in claims) and layout.rest.strip():
        claims += _read_part(fold(window(layout.rest)), names)
    return _resolve(claims, "\n".join(folded), names)


def _read_part(folded: str, names: Names) -> list[Claim]:
    """The claims of the lowest level on which there are any, and what contradicts them."""
    text = without_options(folded)
    for deciding, contradicting in LEVELS:
        if claims := _claims(deciding, text, names):
            return claims + _claims(contradicting, text, names)
    return []


def _claims(forms: Sequence[Form], text: str, names: Names) -> list[Claim]:
    return [c._replace(form=form.name) for form in forms for c in form.claims(text, names)]


def _resolve(claims: Sequence[Claim], part: str, names: Names) -> tuple[str | None, str]:
    values = {claim.value for claim in claims if not claim.denied}
    denials = {claim.value: claim.denied for claim in claims if claim.denied}
    if TIE in values and values & names.ties:
        values.discard(TIE)
    if len(values) == 1 and not values & denials.keys():
        value = values.pop()
        return (None, _NOT_VERDICTS[value]) if value in _NOT_VERDICTS else (value, claims[0].form)
    if len(values) > 1:
        stated = {c.value for c in claims if c.form != CONCLUSION and not c.denied}
        return None, _several(values, SELF_CONTRADICTION if len(stated) == 1 else _SEVERAL)
    if denials:
        return None, f"denied: {next(iter(denials.values()))}"
    mentioned = {mention.value for mention in names.mentions(part)}
    return None, _several(mentioned, _SEVERAL) if len(mentioned) > 1 else "no verdict found"


def _several(values: Iterable[str], what: str) -> str:
    return f"{what}: {', '.join(sorted(values))}"
