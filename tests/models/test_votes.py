"""One verdict of several answers: how each kind of task votes, and the text that says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.facts import Fact
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.models.votes import Vote, format_votes, parse_votes, sampling, vote_of

ROW = JudgeRow("id", "task", "pointwise", "Is it safe?", ("Yes", "No"), "Yes", 0)
RATED = replace(ROW, kind="score", verdicts=("1", "2", "3", "4", "5"), label="3")
RANKED = replace(ROW, kind="ranking", verdicts=("A", "B", "C"), label="A>B>C")


def text(verdict: str, reasoning: str = "A knife.") -> str:
    return f"<think>{reasoning}</think><answer>{verdict}</answer>"


def verdict_of(
    row: JudgeRow, verdicts: list[str], probabilities: list[Any], vote: Vote
) -> str | None:
    texts = [text(verdict) for verdict in verdicts]
    voted = vote_of(row, texts, probabilities, vote, "reasoned")
    found = KINDS[row.kind].read(voted.text, row.verdicts)
    assert found.well_formed, "the text that stands for the answers has the required form"
    assert parse_votes(format_votes(voted)) == voted
    return found.value


def test_each_vote_goes_by_what_it_says() -> None:
    answers = ["Yes", "No", "No"]
    probabilities = [(0.95, 0.05), (0.45, 0.55), (0.48, 0.52)]
    nothing = [None] * 3
    assert verdict_of(ROW, answers, nothing, "majority") == "No"
    assert verdict_of(ROW, answers, probabilities, "mean") == "Yes"  # 0.627 on average
    assert verdict_of(ROW, answers, probabilities, "verified") == "No"  # 1.07 to 0.95
    assert verdict_of(ROW, answers[:2], probabilities[:2], "verified") == "Yes"
    # An answer without a verdict counts for nothing, and an even vote is for what came first.
    assert verdict_of(ROW, ["No", "perhaps", "Yes"], nothing, "majority") == "No"
    assert verdict_of(ROW, ["perhaps", "maybe"], [None] * 2, "majority") is None
    # Where nothing is known of any probability, answers count alike.
    assert verdict_of(ROW, answers, nothing, "verified") == "No"


def test_ratings_are_averaged_and_orders_voted_by_pairs() -> None:
    nothing = [None] * 3
    assert verdict_of(RATED, ["2", "3", "5"], nothing, "majority") == "3.33333"
    mean = [(0.0, 0.0, 0.5, 0.5, 0.0), (0.0, 0.0, 0.0, 0.5, 0.5)]
    assert verdict_of(RATED, ["3", "5"], mean, "mean") == "4"
    certain = [(0.0, 0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.5, 0.5)]
    assert verdict_of(RATED, ["3", "5"], certain, "verified") == "3.66667"
    assert verdict_of(RANKED, ["A>B>C", "B>A>C", "A>C>B"], nothing, "majority") == "A>B>C"
    # Every candidate beats one other: a cycle is a tie.
    assert verdict_of(RANKED, ["A>B>C", "B>C>A", "C>A>B"], nothing, "majority") == "A=B=C"


def test_facts_weigh_what_an_answer_says() -> None:
    row = replace(ROW, facts=(Fact("knife", ("spoon",)), Fact("table")))
    texts = [text("No", "A spoon."), text("No", "Nothing."), text("Yes", "A knife on a table.")]
    even = [(0.5, 0.5)] * 3
    voted = vote_of(row, texts, even, "verified", "reasoned")
    weights = [answer.weight for answer in voted.answers]
    assert weights == pytest.approx([0.5 / 6, 0.5 / 3, 0.5])
    assert voted.text == texts[2], "with the reasoning that counts most"
    assert vote_of(ROW, texts, even, "verified", "reasoned").text == texts[0], "without facts"


def test_tags_in_answers_are_not_those_of_the_text_that_stands_for_them() -> None:
    voted = vote_of(ROW, [text("No"), text("No"), text("Yes")], [None] * 3, "majority", "reasoned")
    written = format_votes(voted)
    assert written.count("<answer>") == 1
    assert parse_votes(written) == voted
    assert [answer.text for answer in voted.answers] == [text("No"), text("No"), text("Yes")]
    for other in (text("Yes"), '{"vote": 3}\nYes', '{"vote": \n', ""):
        assert parse_votes(other) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": "0"}, "samples: found '0'; expected a positive integer"),
        ({"samples": 1, "vote": "mean"}, "vote: only with samples, such as samples=8"),
        ({"samples": 1, "temperature": 1}, "temperature: only with samples"),
        ({"samples": 8, "vote": "average"}, "vote: unknown vote 'average'"),
        ({"samples": 8, "temperature": 0}, "temperature: found 0, at which all samples are ident"),
        ({"samples": 8, "temperature": "hot"}, "temperature: found 'hot'; expected a positive"),
        ({"samples": 8, "scoring": "logprob"}, "samples: not with scoring=logprob"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    given = {"vote": None, "temperature": None, "seed": 0, "scoring": "generation", **arguments}
    with pytest.raises(JudgeError, match=message):
        sampling(**given)


def test_one_sample_is_no_sampling() -> None:
    assert sampling(1, None, None, 0, "logprob") is None
    assert sampling(None, None, None, 0, "generation") is None


def test_the_temperature_is_the_tasks_own_where_it_samples() -> None:
    greedy = {"do_sample": False, "max_new_tokens": 9}
    default = sampling(8, None, None, 0, "generation")
    given = sampling("8", "mean", "0.7", 0, "generation")
    assert default is not None
    assert given is not None
    assert default.applied(greedy)["temperature"] == 1.0
    assert default.applied({**greedy, "do_sample": True, "temperature": 0.4})["temperature"] == 0.4
    assert given.applied({**greedy, "do_sample": True, "temperature": 0.4})["temperature"] == 0.7
    assert default.applied(greedy)["do_sample"] is True
