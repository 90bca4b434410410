"""``samples=K``: several answers to an item, and one verdict of them.

The votes:

- ``majority``: each answer's verdict counts alike; ratings are averaged, and an order is that of
  the majority of each pair of candidates.
- ``mean``: the probability of each verdict after the reasoning of an answer, averaged over answers.
- ``verified``: as majority, but an answer counts as much as its verdict is probable after its own
  reasoning, and where the item has facts, as its reasoning agrees with these.

The backend answers with a text, as every backend does, so that lmms-eval's cache and the one parser
of answers read it: a line of JSON with all answers, and then the answer that stands for them. It is
one of them with the verdict of the vote, or where none has it, the verdict after the reasoning of
the answer that counts most::

    {"vote": "majority", "probabilities": null, "answers": [{"text": …, "verdict": "Yes", …}, …]}
    <think>A knife.</think><answer>Yes</answer>
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast, get_args

import numpy as np

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.markup import (
    ANSWER_TAGS,
    CLOSED_ANSWER,
    OPEN_ANSWER,
    neutralize,
    opened_answer,
)
from mtrl_judge.judge_tasks.facts import Fact, check_facts
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.request_failures import request_failure
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.spec import JudgeTask, Style
from mtrl_judge.judge_tasks.verdicts import read_reasoning

if TYPE_CHECKING:
    from .base_judge import Answer, BaseJudge, Batch

ARGUMENTS = ("samples", "vote", "temperature")
Vote: TypeAlias = Literal["majority", "mean", "verified"]
_BEGINNING = '{"vote": '


class Sampling(NamedTuple):
    """How several answers to an item are sampled and made one; see :func:`sampling`."""

    samples: int
    vote: Vote
    temperature: float | None
    """None leaves it to the task: its own where it samples, else 1."""
    seed: int

    def applied(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of :meth:`.BaseJudge.generate` with which answers are sampled."""
        temperature = self.temperature or settings.get("temperature") or 1.0
        defaults = {"top_p": 1.0, "top_k": 0}  # as in `generation_settings`
        return {**defaults, **settings, "do_sample": True, "temperature": temperature}

    @property
    def record(self) -> dict[str, Any]:
        """What results say about it beside the settings of generation."""
        return {"samples": self.samples, "vote": self.vote, "seed": self.seed}


def sampling(
    samples: int | str | None,
    vote: str | None,
    temperature: float | str | None,
    seed: int,
    scoring: str,
) -> Sampling | None:
    """The arguments of a backend; None where each item is answered once.

    Raises:
        JudgeError: an argument has no possible value, or is for several samples.
    """
    from .engines import positive

    number = 1 if samples is None else positive("samples", samples)
    if number == 1:
        for name, value in (("vote", vote), ("temperature", temperature)):
            if value is not None:
                raise JudgeError(f"{name}: only with samples, such as samples=8")
        return None
    if scoring != "generation":
        raise JudgeError(
            f"samples: not with scoring={scoring}, which has one answer; vote=mean averages the "
            "probabilities of verdicts"
        )
    known = get_args(Vote)
    if vote is not None and vote not in known:
        raise JudgeError(f"vote: unknown vote {vote!r}; {did_you_mean(vote, known)}")
    return Sampling(number, cast(Vote, vote or "majority"), _temperature(temperature), seed)


def _temperature(value: float | str | None) -> float | None:
    if value is None:
        return None
    try:
        temperature = float(value)
    except ValueError:
        temperature = float("nan")
    if not 0 <= temperature < float("inf"):
        raise JudgeError(f"temperature: found {value!r}; expected a positive number")
    if temperature == 0:
        raise JudgeError(
            "temperature: found 0, at which all samples are identical copies; expected a positive "
            "number, or leave samples out"
        )
    return temperature


@dataclass(frozen=True)
class SampledAnswer:
    """One of the answers to an item."""

    text: str
    verdict: str | None
    weight: float
    """How much it counts in the vote."""
    probabilities: tuple[float, ...] | None
    """Of each verdict after its reasoning; None of the vote majority, and where nothing is known of
    them."""


class Voted(NamedTuple):
    """The answers to an item and what stands for them."""

    vote: Vote
    probabilities: tuple[float, ...] | None
    """Of each verdict, the mean over the answers."""
    answers: tuple[SampledAnswer, ...]
    """All that did not fail."""
    text: str

    def fields(self, verdicts: Sequence[str]) -> dict[str, Any]:
        """Its fields in a sample of an evaluation.

        Args:
            verdicts: the task's, in the order of the probabilities.
        """

        def named(probabilities: Sequence[float] | None) -> dict[str, float] | None:
            if probabilities is None:
                return None
            return dict(zip(verdicts, probabilities, strict=True))

        fields: dict[str, Any] = {
            "vote": self.vote,
            "samples": [
                {**asdict(answer), "probabilities": named(answer.probabilities)}
                for answer in self.answers
            ],
        }
        if self.probabilities is not None:
            fields |= {"probabilities": named(self.probabilities), "calibrated": False}
        return fields


def format_votes(voted: Voted) -> str:
    """The backend's answer."""
    fields = json.dumps(
        {
            "vote": voted.vote,
            "probabilities": voted.probabilities,
            "answers": [asdict(answer) for answer in voted.answers],
        }
    )
    # Who reads tags anywhere in a text finds those of the answer below only.
    line = fields.replace("<", "\\u003c")
    return f"{line}\n{voted.text}"


def parse_votes(text: str) -> Voted | None:
    """What :func:`format_votes` has written; None for any other text."""
    if not isinstance(text, str) or not text.startswith(_BEGINNING):
        return None
    line, _, answer = text.partition("\n")
    try:
        known = json.loads(line)
        answers = tuple(
            SampledAnswer(
                **{**each, "probabilities": each["probabilities"] and tuple(each["probabilities"])}
            )
            for each in known["answers"]
        )
        mean = known["probabilities"]
        return Voted(known["vote"], mean and tuple(mean), answers, answer)
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def check_vote(task: JudgeTask, vote: Vote, style: Style) -> None:
    """
    Raises:
        JudgeError: the vote is not possible for the task, or for the style of its prompts.
    """
    if vote == "majority":
        return
    verdicts = task.judge.verdicts
    if not all(task.kind.has_verdict(verdict, verdicts) for verdict in verdicts):
        raise JudgeError(
            f"vote: {vote} needs the probability of each verdict, and those of {task.task} "
            f"({task.kind.name}) are too many; expected vote=majority, or --tasks without it"
        )
    if style == "direct":
        raise JudgeError(
            f"vote: {vote} goes by the probability of a verdict after the reasoning of each "
            f"answer, and {task.task} is judged without reasoning; expected vote=majority, "
            "scoring=logprob instead of samples, or another style"
        )


class Voter:
    """Answers prompts by the vote of several samples.

    Args:
        rows: what the prompts ask, by the index of each in :meth:`.BaseJudge.batches`: its
            verdicts as the judge sees them, and its facts.
        style: of the prompts.
        generation: settings of :meth:`.BaseJudge.generate`.
    """

    def __init__(
        self,
        judge: BaseJudge,
        sampling: Sampling,
        rows: Sequence[JudgeRow],
        *,
        style: Style,
        generation: Mapping[str, Any],
    ) -> None:
        self._judge, self._sampling, self._rows, self._style = judge, sampling, rows, style
        self._generation = generation

    def answer(self, batch: Batch) -> list[Answer]:
        """The answers to B prompts; one of which all requests failed is the first failure."""
        samples, seed = self._sampling.samples, self._sampling.seed
        answers_B_K = self._judge.sample(batch, samples, seed, **self._generation)
        probabilities_B_K = self._probabilities(batch, answers_B_K)
        answered = []
        for index, answers_K, probabilities_K in zip(
            batch.indices, answers_B_K, probabilities_B_K, strict=True
        ):
            known = [k for k, each in enumerate(answers_K) if not request_failure(each.text)]
            if not known:
                answered.append(answers_K[0])
                continue
            texts = [answers_K[k].text for k in known]
            row = self._rows[index]
            voted = vote_of(
                row, texts, [probabilities_K[k] for k in known], self._sampling.vote, self._style
            )
            tokens = sum(answers_K[k].output_tokens for k in known)
            first = answers_K[known[0]]
            answered.append(first._replace(text=format_votes(voted), output_tokens=tokens))
        return answered

    def _probabilities(
        self, batch: Batch, answers_B_K: Sequence[Sequence[Answer]]
    ) -> list[list[tuple[float, ...] | None]]:
        """Of each verdict after the reasoning of each answer, B × K × V; None where unknown."""
        samples = self._sampling.samples
        found: list[list[tuple[float, ...] | None]] = [[None] * samples for _ in answers_B_K]
        if self._sampling.vote == "majority":
            return found
        verdicts = self._rows[batch.indices[0]].verdicts
        # A sample of each prompt at a time: a batch of the prompts is what fits.
        for k in range(samples):
            texts_B = [answers_K[k].text for answers_K in answers_B_K]
            kept = [b for b, text in enumerate(texts_B) if not request_failure(text)]
            if not kept:
                continue
            asked = replace(
                batch,
                indices=[batch.indices[b] for b in kept],
                prompts=[batch.prompts[b] for b in kept],
            )
            begun = [opened_answer(texts_B[b].split(OPEN_ANSWER, 1)[0]) for b in kept]
            scored = self._judge.verdict_logps(
                self._judge.continued(asked, begun), verdicts, CLOSED_ANSWER
            )
            for place, b in enumerate(kept):
                failed = scored.failures_B is not None and scored.failures_B[place] is not None
                bounds = scored.upper_bounds_B_V
                if not failed and (bounds is None or not bool(bounds[place].all())):
                    logps_V = scored.logps_B_V[place].double()
                    found[b][k] = tuple(logps_V.softmax(dim=0).tolist())
        return found


def vote_of(
    row: JudgeRow,
    texts: Sequence[str],
    probabilities: Sequence[Sequence[float] | None],
    vote: Vote,
    style: Style,
) -> Voted:
    """The vote of one or more answers to a row.

    Args:
        texts: the answers.
        probabilities: of each verdict after each answer's reasoning; None where unknown, so that an
            answer does not count in the votes by probability.
    """
    kind, verdicts = KINDS[row.kind], row.verdicts
    votes = [kind.read(text, verdicts).value for text in texts]
    given = zip(texts, votes, probabilities, strict=True)
    weights = [1.0 if vote == "majority" else _weight(row, *each, vote) for each in given]
    if not any(weights):  # nothing is known of any verdict's probability
        weights = [1.0] * len(texts)
    known = [p for p in probabilities if p is not None]
    mean = tuple(map(fmean, zip(*known, strict=True))) if known else None
    if vote == "mean":
        verdict = None
        if mean is not None:
            verdict = kind.decided(mean, int(np.argmax(mean)), verdicts)
    else:
        verdict = kind.voted(votes, weights, verdicts)
    answers = tuple(
        SampledAnswer(text, own, weight, None if p is None else tuple(p))
        for text, own, weight, p in zip(texts, votes, weights, probabilities, strict=True)
    )
    return Voted(vote, mean, answers, _representative(answers, verdict, style))


def _weight(
    row: JudgeRow,
    text: str,
    verdict: str | None,
    probabilities: Sequence[float] | None,
    vote: Vote,
) -> float:
    """How much an answer counts among the votes by probability: nothing without probabilities.

    Of the mean all others count alike. Verified, an answer counts as its verdict is probable.
    """
    if probabilities is None or verdict is None:
        return 0.0
    if vote == "mean":
        return 1.0
    kind = KINDS[row.kind]
    probability = probabilities[row.verdicts.index(kind.label_class(verdict, row.verdicts))]
    return probability * agreement_with_facts(text, row.facts)


def agreement_with_facts(text: str, facts: Sequence[Fact]) -> float:
    """How far the reasoning of an answer agrees with the facts of its item, in (0, 1]; 1 without
    facts.

    It grows with the share of facts that it states, and falls with each that it contradicts; an
    answer that states none still counts.

    >>> agreement_with_facts("<think>a car</think><answer>Yes</answer>", [Fact("car"), Fact("sky")])
    0.6666666666666666
    """
    check = check_facts(read_reasoning(text), facts)
    return (1 + len(check.stated)) / (1 + check.total) / (1 + len(check.contradicted))


def _representative(answers: Sequence[SampledAnswer], verdict: str | None, style: Style) -> str:
    """The text that stands for the answers, with the verdict of their vote."""
    agreeing = [answer for answer in answers if answer.verdict == verdict]
    if agreeing:
        return max(agreeing, key=lambda answer: answer.weight).text
    safe = neutralize(verdict or "", ANSWER_TAGS)
    answer = f"<answer>{safe}</answer>"
    if style == "direct":
        return answer
    strongest = max(answers, key=lambda each: each.weight)
    reasoning = neutralize(read_reasoning(strongest.text), ANSWER_TAGS)
    return f"<think>{reasoning}</think>{answer}"
