"""A judge behind an API: the probabilities of transformers, or what is known of them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from support.chat_server import Server, chat_server
from support.images import random_image
from support.judges import row, tiny_judge

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.request_failures import request_failure
from mtrl_judge.models.base_judge import BaseJudge, Batch, VerdictLogps
from mtrl_judge.models.openai_judge import TOP_LOGPROBS, OpenAIJudge
from mtrl_judge.models.transformers_judge import TransformersJudge

pytestmark = pytest.mark.usefixtures("one_thread")

KEY = "sk-0123456789abcdef"
ROWS = [
    row("Is it safe?", random_image(1)),
    row("Is it natural, that is, could it be a photograph? " * 3, random_image(2, (96, 40))),
    row("Which is better, <image> or <image>?", random_image(4), random_image(5, (96, 40))),
    row("Is a circle round?"),
]
GREEDY = {"do_sample": False, "num_beams": 1, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> TransformersJudge:
    """A judge of random weights that favors the tokens of some verdicts."""
    judge = tiny_judge("qwen3_vl", tmp_path_factory.mktemp("judge"))
    favored = judge.tokenizer("YesNoa red circle a blue square")["input_ids"]
    more_K = torch.zeros(judge.model.get_output_embeddings().weight.shape[0])
    more_K[favored] = 8.0
    more_K[judge.tokenizer("L")["input_ids"]] = -8.0
    judge.model.get_output_embeddings().register_forward_hook(lambda _, __, out: out + more_K)
    return judge


@pytest.fixture
def connect(
    ours: TransformersJudge, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """A judge behind a server, and the server."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    open_servers = []

    def connect(**behavior: Any) -> tuple[OpenAIJudge, Server]:
        server = Server(ours, **behavior)
        context = chat_server(server)
        open_servers.append(context)
        return OpenAIJudge("judge", base_url=context.__enter__(), concurrency=3), server

    yield connect
    for context in open_servers:
        context.__exit__(None, None, None)


def batch_of(judge: BaseJudge, style: Any = "direct") -> Batch:
    prompts = [judge.prompt(render_messages(row, style), row.images) for row in ROWS]
    (batch,) = judge.batches(prompts, len(ROWS))
    return batch


def by_row(batch: Batch, values: Sequence[Any]) -> list[Any]:
    """In the order of ROWS: judges estimate lengths differently."""
    return [value for _, value in sorted(zip(batch.indices, values, strict=True))]


def answers(judge: BaseJudge, until: Sequence[str]) -> list[tuple[str, int]]:
    """Texts and the tokens of their prompts."""
    batch = batch_of(judge, "reasoned")
    found = judge.generate(batch, until=until, **GREEDY)
    return by_row(batch, [(answer.text, answer.input_tokens) for answer in found])


def probabilities(judge: BaseJudge, verdicts: Sequence[str], begun: str | None = None) -> Any:
    batch = batch_of(judge)
    end = None
    if begun is not None:
        batch, end = judge.continued(batch, [begun] * len(ROWS)), "</answer>"
    with torch.inference_mode():
        found = judge.verdict_logps(batch, verdicts, end)
    assert not any(found.failures_B or [])
    assert found.upper_bounds_B_V is None or not found.upper_bounds_B_V.any()
    return np.exp(by_row(batch, found.logps_B_V.tolist()))


@pytest.mark.parametrize("begun", [None, "<think>It is a circle.</think><answer>"])
@pytest.mark.parametrize(
    "verdicts",
    [("Yes", "No"), ("a red circle", "No"), (" a red circle", " a blue square", "Yes")],
    ids="|".join,
)
def test_verdicts_have_the_probabilities_of_transformers(
    ours: TransformersJudge, connect: Any, verdicts: Sequence[str], begun: str | None
) -> None:
    """Of one token and of several, with first tokens in common, and after a begun answer."""
    judge, server = connect()
    expected, found = (probabilities(each, verdicts, begun) for each in (ours, judge))
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert np.ptp(np.log(expected), axis=0).min() > 0.1, "prompts differ"
    assert server.keys == {f"Bearer {KEY}"}
    scored = [body for body in server.asked if body.get("logprobs")]
    assert {body["top_logprobs"] for body in scored} == {TOP_LOGPROBS}
    assert all(body["max_tokens"] == 1 for body in scored)


def test_what_the_server_does_not_name_is_bounded(ours: TransformersJudge, connect: Any) -> None:
    """ "L" is never among the first twenty tokens."""
    judge, _ = connect()
    batch = batch_of(judge)
    found: VerdictLogps = judge.verdict_logps(batch, ("Yes", "L"))
    assert found.upper_bounds_B_V is not None
    assert found.upper_bounds_B_V.tolist() == [[False, True]] * len(ROWS)
    true_B_V = by_row(batch_of(ours), ours.verdict_logps(batch_of(ours), ("Yes", "L")).logps_B_V)
    for row_V, true_V in zip(by_row(batch, found.logps_B_V), true_B_V, strict=True):
        assert row_V[0] == pytest.approx(float(true_V[0]), abs=1e-3)
        assert row_V[1] > true_V[1]
        assert row_V[1] < row_V[0]


def test_generated_text_is_that_of_transformers(ours: TransformersJudge, connect: Any) -> None:
    judge, server = connect()
    for until in ((), ("r",)):
        found, expected = (answers(each, until) for each in (judge, ours))
        assert found == expected
        assert len(set(found)) > 1
    assert server.asked[-1]["stop"] == ["r"]
    assert server.asked[-1]["skip_special_tokens"] is False
    with pytest.raises(JudgeError, match="num_beams"):
        judge.generate(batch_of(judge), **{**GREEDY, "num_beams": 2})


def test_samples_are_requests_with_seeds_of_their_own(connect: Any) -> None:
    judge, server = connect()
    server.asked.clear()
    batch = batch_of(judge, "reasoned")
    sampled = {**GREEDY, "do_sample": True, "temperature": 0.7, "top_p": 1.0, "top_k": 0}
    found = judge.sample(batch, 2, 5, **sampled)
    assert [len(answers_K) for answers_K in found] == [2] * len(ROWS)
    # Beside them, it is found out once whether the server continues answers.
    asked = [each for each in server.asked if "seed" in each]
    assert {each["temperature"] for each in asked} == {0.7}
    seeds = {each["seed"] for each in asked}
    assert len(seeds) == len(asked) == 2 * len(ROWS)
    judge.sample(batch, 2, 5, **sampled)
    assert {each["seed"] for each in server.asked[-len(asked) :]} == seeds


@pytest.mark.parametrize("continues", [None, False], ids=["refuses", "ignores"])
def test_a_server_that_does_not_continue_answers(
    ours: TransformersJudge, connect: Any, continues: bool | None
) -> None:
    """Verdicts of one token are scored; others are an error, and nothing is silently wrong."""
    judge, _ = connect(continues=continues)
    expected, found = (probabilities(each, ("Yes", "No")) for each in (ours, judge))
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    with pytest.raises(JudgeError, match=r"'a red circle' takes several tokens, and http"):
        judge.verdict_logps(batch_of(judge), ("a red circle", "No"))
    begun = judge.continued(batch_of(judge), ["<answer>"] * len(ROWS))
    with pytest.raises(JudgeError, match="cannot be scored after reasoning"):
        judge.verdict_logps(begun, ("Yes", "No"), "</answer>")


def test_verdicts_that_begin_alike(connect: Any) -> None:
    judge, _ = connect()
    with pytest.raises(JudgeError, match="'1' begins '10', and the API does not show where"):
        judge.verdict_logps(batch_of(judge), ("1", "10"))


# As OpenAI's reasoning models (first two) and Anthropic's refuse them.
REFUSALS = {
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
    "'max_completion_tokens' instead.",
    "seed": "seed: unknown parameter",
    "temperature": "`temperature` is deprecated for this model.",
}


def test_a_model_that_refuses_settings_is_asked_without_them(
    ours: TransformersJudge, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    judge, server = connect(continues=None, refused=REFUSALS)
    assert caplog.text.count("its answers are samples at the server's own") == 1
    asked = len(server.asked)
    assert answers(judge, ()) == answers(ours, ())
    for body in server.asked[asked:]:
        assert REFUSALS.keys().isdisjoint(body)
        if "image_url" in str(body):
            assert body["max_completion_tokens"] == GREEDY["max_new_tokens"]
    recorded = judge.recorded(GREEDY)
    assert (recorded["do_sample"], recorded["temperature"]) == (True, None)
    assert connect()[0].recorded(GREEDY) == GREEDY


def test_another_fault_of_a_setting_is_not_a_refusal(connect: Any) -> None:
    with pytest.raises(JudgeError, match="must be at least 32"):
        connect(refused={"max_tokens": "max_tokens must be at least 32"})


def test_requests_that_fail(connect: Any) -> None:
    """Only those that fail; the key is not quoted."""
    judge, server = connect()
    server.failure = (400, f"Bad image; your key is {KEY}")
    batch = batch_of(judge)
    found = by_row(batch, judge.verdict_logps(batch, ("Yes", "No")).failures_B)
    assert [failure is None for failure in found] == [False, False, False, True]
    texts = by_row(batch, [answer.text for answer in judge.generate(batch, **GREEDY)])
    for text in (*found[:3], *texts[:3]):
        failure = request_failure(text)
        assert failure is not None
        assert failure.kind == "failed"
        assert "Bad image" in failure.message
        assert KEY not in text
    assert request_failure(texts[3]) is None
    server.failure, server.finish_reason = None, "content_filter"
    for text in judge.verdict_logps(batch, ("Yes", "No")).failures_B:
        failure = request_failure(text)
        assert failure is not None
        assert failure.kind == "refused"


def test_a_server_that_cannot_be_used(
    connect: Any, ours: TransformersJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, _ = connect(logprobs=False)
    with pytest.raises(JudgeError, match="returns no logprobs; use scoring=generation"):
        judge.verdict_logps(batch_of(judge), ("Yes", "No"))
    with chat_server(Server(ours)) as url:
        with pytest.raises(JudgeError, match=r"engine=openai: http.*no model other"):
            OpenAIJudge("other", base_url=url)
        with pytest.raises(JudgeError, match="base_url: has user name or password"):
            OpenAIJudge("judge", base_url=url.replace("//", "//me:secret@"))
        monkeypatch.delenv("OPENAI_API_KEY")
        with pytest.raises(JudgeError, match="OPENAI_API_KEY: not set"):
            OpenAIJudge("judge", base_url=url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr("mtrl_judge.models.chat_client.MAX_RETRIES", 0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(JudgeError, match="Connection error"):
            OpenAIJudge("judge", base_url=f"http://127.0.0.1:{port}/v1")
