"""From a row's question to the messages that a judge reads: reasoning first, or the verdict only.

The paper demands reasoning and then the verdict from RL, the verdict alone from SFT (MT-RL-Judge,
arXiv 2603.11665, section on training); its prompt texts could not be read, these are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from mtrl_judge.common.errors import DataError
from mtrl_judge.common.markup import neutralize

from .kinds import KINDS
from .spec import Style
from .templates import IMAGE_MARK, RENDER_ERRORS, render

REASONED_INSTRUCTION = (
    "Think first, then judge. Write your reasoning between <think> and </think>: "
    "describe what you see and how it relates to the question. "
    "Then write your verdict between <answer> and </answer>, and nothing after it. "
    "{verdict_form}"
)
CONFIDENCE_INSTRUCTION = (
    "Think first, then judge. Write your reasoning between <think> and </think>: "
    "describe what you see and how it relates to the question. "
    "Then write your verdict between <answer> and </answer>, and then, between <confidence> and "
    "</confidence>, the probability from 0 to 1 that it is correct; write nothing after that. "
    "{verdict_form}"
)
DIRECT_INSTRUCTION = "Reply with only the verdict and nothing else. {verdict_form}"


_INSTRUCTIONS: Mapping[Style, str] = {
    "reasoned": REASONED_INSTRUCTION,
    "direct": DIRECT_INSTRUCTION,
    "confidence": CONFIDENCE_INSTRUCTION,
}


class Judgeable(Protocol):
    """What a prompt is made from: a :class:`~.rows.JudgeRow` or anything shaped like one."""

    @property
    def kind(self) -> str: ...
    @property
    def question(self) -> str: ...
    @property
    def verdicts(self) -> Sequence[str]: ...
    @property
    def n_images(self) -> int: ...
    @property
    def demonstrations(self) -> Sequence[Any]: ...


class Rendered(NamedTuple):
    """A row's question and its images."""

    text: str
    """With :data:`IMAGE_MARK` where an image stands; without any, all stand before it."""
    images: list[int]
    """Which of the row's images are shown, in order."""


def render_question(
    question: str,
    values: Mapping[str, Any],
    n_images: int | None,
    field: str = "judge.question",
    placed: list[int] | None = None,
) -> Rendered:
    """The question for one row.

    Args:
        n_images: the images of the row; None: as many as the template places.
        field: where the YAML has the template, for a message.
        placed: that of the :class:`~.templates.Place` objects among the values, if the template
            reads images as values; else they are in their own order.

    Raises:
        DataError: a name is not defined, the template fails, or not each image is placed once.
    """
    try:
        text = render(question, values).strip()
    except RENDER_ERRORS as error:
        # As jinja says it of a text where a template expects keys.
        in_text = str(error).startswith("'str object' has no attribute")
        hint = "; a column whose texts are JSON belongs in judge.json_columns" if in_text else ""
        raise DataError(f"{field}: {error}{hint}") from None
    marks = text.count(IMAGE_MARK)
    if placed is not None:
        if marks != len(placed):
            raise DataError(
                f"{field}: places images both by {IMAGE_MARK} and as values; write all of them as "
                "values, such as {{ image }}"
            )
        if n_images is not None and sorted(placed) != list(range(n_images)):
            raise DataError(
                f"{field}: places {len(placed)} images, {len(set(placed))} of the row's "
                f"{n_images}; expected each image of judge.images once"
            )
        return Rendered(text, placed)
    if marks not in (0, n_images):
        raise DataError(f"{field}: {marks} {IMAGE_MARK} placed for {n_images} images")
    return Rendered(text, list(range(n_images or 0)))


def instruction(kind: str, verdicts: Sequence[str], style: Style) -> str:
    """How the judge is to answer."""
    return _INSTRUCTIONS[style].format(verdict_form=KINDS[kind].verdict_form(verdicts))


def render_messages(row: Judgeable, style: Style) -> list[dict[str, Any]]:
    """The chat messages for a row: text parts, and ``{"type": "image"}`` where an image stands.

    Each of its demonstrations comes first, as a turn of the user and the answer of a judge that is
    right. Hosts fill the image places in order with the row's ``prompt_images``.
    """
    messages: list[dict[str, Any]] = []
    for shown in row.demonstrations:
        answer = {"type": "text", "text": demonstrated_answer(shown, style)}
        messages += [_asked(shown, style), {"role": "assistant", "content": [answer]}]
    return [*messages, _asked(row, style)]


def _asked(row: Judgeable, style: Style) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    pieces = row.question.split(IMAGE_MARK)
    if len(pieces) == 1:
        parts += [{"type": "image"} for _ in range(row.n_images)]
    for index, piece in enumerate(pieces):
        if index:
            parts.append({"type": "image"})
        if index == len(pieces) - 1:
            piece = f"{piece.rstrip()}\n\n{instruction(row.kind, row.verdicts, style)}"
        if piece.strip():
            parts.append({"type": "text", "text": piece if index else piece.lstrip()})
    return {"role": "user", "content": parts}


def demonstrated_answer(row: Any, style: Style) -> str:
    """The answer to a labeled row, as a prompt shows it; what the data says cannot act as part of
    the conversation."""
    verdict = KINDS[row.kind].gold(str(row.label), row.verdicts)
    return gold_answer(verdict, style, neutralize(row.reasoning or ""))


def render_text(row: Judgeable, style: Style) -> str:
    """The same prompt for models that take their images apart from the text, in order."""
    texts, first = [], 1
    for shown in row.demonstrations:
        texts += [_text(shown, style, first), demonstrated_answer(shown, style)]
        first += shown.n_images
    return "\n\n".join([*texts, _text(row, style, first)])


def _text(row: Judgeable, style: Style, first: int) -> str:
    """The question of one row; its images are numbered from ``first``."""
    text = row.question
    for number in range(first, first + row.n_images):
        text = text.replace(IMAGE_MARK, f"[image {number}]", 1)
    return f"{text}\n\n{instruction(row.kind, row.verdicts, style)}"


def gold_answer(verdict: str, style: Style, reasoning: str = "The image shows it.") -> str:
    """What a perfect judge would write for a verdict."""
    if style == "direct":
        return verdict
    answer = f"<think>{reasoning}</think><answer>{verdict}</answer>"
    return f"{answer}<confidence>1.0</confidence>" if style == "confidence" else answer
