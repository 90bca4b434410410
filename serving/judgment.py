"""What a judge says of an item: its answer to each order of it, and the verdict of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mtrl_judge.judge_tasks.request_failures import request_failure
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.scoring import score
from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.judge_tasks.verdicts import read_confidence, read_reasoning
from mtrl_judge.metrics.order_averaging import average_orders, most_probable
from mtrl_judge.metrics.rankings import order_by, read_order, write_order
from mtrl_judge.metrics.records import State
from mtrl_judge.metrics.slots import swapped
from mtrl_judge.models.logprob import parse_answer
from mtrl_judge.models.votes import SampledAnswer, parse_votes

from .single_items import ShownRow


@dataclass(frozen=True)
class OrderAnswer:
    """The judge's answer to one order of an item, read as in an evaluation."""

    verdict: str | None
    """As the judge gave it: about the candidates in the order in which they were shown."""
    state: State
    """judged, null (an answer without a verdict), failed (no answer) or refused."""
    reason: str
    """The form that the verdict was read from; without one, why."""
    text: str
    """The whole answer; of a judge by probability, the reasoning and the verdict."""
    reasoning: str
    """Empty if the answer has none."""
    confidence: float | None
    """That the verdict is right: the probability of it, or what the judge states; else None."""
    probabilities: Mapping[str, float] | None
    """Of each verdict, with ``scoring="logprob"``."""
    calibrated: bool | None
    """Whether the probabilities are calibrated; None without any."""
    samples: tuple[SampledAnswer, ...] = ()
    """All answers that voted, where several were sampled."""
    swapped: bool = False
    """Whether a pair's candidates were exchanged."""


@dataclass(frozen=True)
class Judgment:
    """A verdict about an item."""

    task: str
    verdict: str | None
    """About the candidates as they were given. Of several orders it is that of the averaged
    probabilities; without these, the one that both orders of a pair agree on, and the order of
    mean ranks of a ranking."""
    state: State
    """As :attr:`OrderAnswer.state`; null also where the orders of a pair disagree."""
    reason: str
    confidence: float | None
    probabilities: Mapping[str, float] | None
    answers: tuple[OrderAnswer, ...]
    """One for each order in which the item was shown; the first is as it was given."""

    @property
    def text(self) -> str:
        """The whole answer to the first order."""
        return self.answers[0].text

    @property
    def reasoning(self) -> str:
        """The reasoning of the answer to the first order."""
        return self.answers[0].reasoning

    def as_json(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return {**asdict(self), "text": self.text, "reasoning": self.reasoning}


def read_answer(row: JudgeRow, text: str) -> OrderAnswer:
    """Read the answer to a row."""
    voted = parse_votes(text)
    if voted is not None:
        text = voted.text
    failure = request_failure(text)
    verdict = score(row, text).verdict
    said = {} if failure else parse_answer(text, row.verdicts)
    if voted is not None and voted.probabilities is not None:
        said = voted.fields(row.verdicts)
    probabilities = said.get("probabilities")
    confidence = read_confidence(text)
    if probabilities is not None:
        confidence = probabilities.get(verdict.value)
    state: State = "judged"
    if failure or verdict.value is None:
        state = failure.kind if failure else "null"
    return OrderAnswer(
        verdict=verdict.value,
        state=state,
        reason=failure.message if failure else verdict.reason,
        text=text.partition("\n")[2] if said and voted is None else text,
        reasoning=read_reasoning(text),
        confidence=confidence,
        probabilities=probabilities,
        calibrated=said.get("calibrated"),
        samples=() if voted is None else voted.answers,
        swapped=row.swapped,
    )


def combined(task: JudgeTask, shown: Sequence[ShownRow], texts: Sequence[str]) -> Judgment:
    """One judgment from the answers to all orders of an item.

    Args:
        shown: the rows of the item.
        texts: the answer to each.
    """
    answers = [read_answer(row, text) for (row, _), text in zip(shown, texts, strict=True)]
    lost = next((answer for answer in answers if answer.state in ("failed", "refused")), None)
    verdicts = task.judge.verdicts
    if len(answers) == 1 or lost is not None:
        only = lost or answers[0]
        verdict = _as_given(task, shown[0], only.verdict)
        probabilities = only.probabilities
        if probabilities is not None and only.swapped:
            probabilities = {str(swapped(name, verdicts)): p for name, p in probabilities.items()}
        return Judgment(
            task.task, verdict, only.state, only.reason, only.confidence, probabilities, (*answers,)
        )
    averaged, confidence = None, None
    if task.kind.compares:
        verdict, reason, averaged = _of_pair(task, *answers)
        if averaged is not None and verdict is not None:
            confidence = averaged[verdict]
    else:
        verdict, reason = _of_rotations(task, shown, answers)
    state: State = "null" if verdict is None else "judged"
    return Judgment(task.task, verdict, state, reason, confidence, averaged, (*answers,))


def _as_given(task: JudgeTask, shown: ShownRow, verdict: str | None) -> str | None:
    """A verdict about the candidates in the order in which they were given."""
    # Those of a task of pairs carry how they change; a ranking may have fewer candidates.
    verdicts = task.judge.verdicts if task.kind.compares else shown.row.verdicts
    return task.kind.presented(verdict, verdicts, -shown.order % len(verdicts))


def _of_pair(
    task: JudgeTask, straight: OrderAnswer, exchanged: OrderAnswer
) -> tuple[str | None, str, dict[str, float] | None]:
    verdicts = task.judge.verdicts
    if straight.probabilities is not None and exchanged.probabilities is not None:
        averaged = average_orders(straight.probabilities, exchanged.probabilities, verdicts)
        verdict = most_probable(averaged)
        return verdict, "both orders, averaged" if verdict else "an exact tie", averaged
    found = (straight.verdict, swapped(exchanged.verdict, verdicts))
    for answer in (straight, exchanged):
        if answer.verdict is None:
            return None, answer.reason, None
    if found[0] != found[1]:
        return None, f"the orders disagree: {found[0]} and {found[1]}", None
    return found[0], "both orders agree", None


def _of_rotations(
    task: JudgeTask, shown: Sequence[ShownRow], answers: Sequence[OrderAnswer]
) -> tuple[str | None, str]:
    """The order of the candidates' mean ranks (Borda's count)."""
    ranks: dict[str, float] = dict.fromkeys(shown[0].row.verdicts, 0.0)
    for one, answer in zip(shown, answers, strict=True):
        if answer.verdict is None:
            return None, answer.reason
        before = 0
        for tied in read_order(str(_as_given(task, one, answer.verdict))):
            for name in tied:
                ranks[name] += before + (len(tied) + 1) / 2
            before += len(tied)
    return write_order(order_by(ranks, lowest_first=True)), "mean ranks of all orders"
