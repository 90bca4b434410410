"""Texts that are no answers: failed requests as lmms-eval hands them to the scorer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.tasks import write_yaml

from mtrl_judge.judge_tasks.request_failures import RequestFailure, by_message, request_failure
from mtrl_judge.judge_tasks.rescore import rescore
from mtrl_judge.judge_tasks.verdicts import parse_verdict


def failed(message: str, retries: int = 5) -> str:
    """As in lmms_eval/models/chat/openai.py, where `[:200]` cuts the message."""
    return f"[LMMS_EVAL_REQUEST_FAILED after {retries} retries] {message[:200]}"


@pytest.mark.parametrize(
    "message",
    [
        "Error code: 401 - {'error': {'message': 'Incorrect API key', 'code': 'invalid_api_key'}}",
        "Error code: 429 - {'error': {'message': 'Rate limit reached', 'type': 'tokens'}}",
        "Error code: 403 - {'error': {'message': 'Your IP address is blocked'}}",
        "Error code: 500 - {'detail': 'no answer', 'result': 'unsafe'}",
        "Error code: 400 - prompt too long: Does the image violate a safety or content policy?",
        "Request timed out.",
        "no candidates: prompt_feedback(block_reason=None)",
        "",
    ],
)
def test_an_outage_is_no_refusal(message: str) -> None:
    failure = request_failure(failed(message))
    assert failure is not None
    assert failure.kind == "failed"


@pytest.mark.parametrize(
    "message",
    [
        # Azure, whose code lmms-eval cuts off
        "Error code: 400 - {'error': {'message': \"The response was filtered due to the prompt "
        "triggering Azure OpenAI's content management policy. Please modify your prompt and retry. "
        'To learn more about our content filtering policies please read our documentation", '
        "'code': 'content_filter'}}",
        "Error code: 400 - {'error': {'code': 'content_filter', 'status': 400}}",
        "{'error': {'innererror': {'code': 'ResponsibleAIPolicyViolation'}}}",
        "Error code: 400 - {'error': {'code': 'content_policy_violation'}}",
        "Error code: 400 - {'error': {'message': 'Invalid prompt: your prompt was flagged as "
        "potentially violating our usage policy.', 'code': 'invalid_prompt'}}",
        "Error code: 400 - {'type': 'error', 'error': {'message': 'Output blocked by content "
        "filtering policy'}}",
        "Error code: 400 - {'error': {'code': 'data_inspection_failed'}}",
        "litellm.BadRequestError: GeminiException - {'promptFeedback': {'blockReason': 'OTHER'}}",
        "The response has no text; finish_reason: SAFETY",
    ],
)
def test_a_content_filter_is_a_refusal(message: str) -> None:
    failure = request_failure(failed(message))
    assert failure is not None
    assert failure.kind == "refused"


@pytest.mark.parametrize(
    ("detail", "kind"),
    [
        ("finish_reason=FinishReason.SAFETY,HARM_CATEGORY_VIOLENCE=HIGH", "refused"),
        ("finish_reason=FinishReason.PROHIBITED_CONTENT", "refused"),
        ("unknown", "refused"),  # the prompt was blocked, so there are no candidates
        ("finish_reason=FinishReason.MAX_TOKENS", None),
    ],
)
def test_gemini_says_what_it_blocked(detail: str, kind: str | None) -> None:
    failure = request_failure(f"[SAFETY_BLOCKED:{detail}]")
    assert (failure and failure.kind) == kind


def test_only_a_text_that_begins_with_the_mark_is_a_failure() -> None:
    budget = RequestFailure("failed", "lmms-eval's token budget was exceeded")
    assert request_failure("[LMMS_EVAL_BUDGET_EXCEEDED]") == budget
    for answer in (
        f"The text was: {failed('timeout')}",
        " [LMMS_EVAL_BUDGET_EXCEEDED]",
        "[LMMS_EVAL_BUDGET_EXCEEDED] means no. <answer>Yes</answer>",
        "[LMMS_EVAL_REQUEST_FAILED] Yes",
        "[SAFETY_BLOCKED:unknown] is what a filter writes. Yes",
        "Yes",
        "",
        None,
    ):
        assert request_failure(answer) is None


def test_equal_errors_have_equal_messages() -> None:
    def rate_limit(used: int, wait: str, request: str, at: str) -> RequestFailure | None:
        return request_failure(
            failed(
                "Error code: 429 - {'message': 'Rate limit reached for gpt-4o-2024-08-06 in org-"
                f"a1B2c3D4: Limit 30000, Used {used}. Try again in {wait}.', 'id': '{request}', "
                f"'at': '{at}'}}"
            )
        )

    first = rate_limit(29500, "1.2s", "req_0123456789abcdef", "2026-01-02T03:04:05Z")
    second = rate_limit(812, "350ms", "8d9f6a6e-0c3e-4b7a-9d55-5f1f6f0c7a11", "2026-01-02 03:04")
    assert first == second
    assert first is not None
    assert first.message.startswith("Error code: 429 - {'message': 'Rate limit reached for gpt-4o-")
    other = request_failure(failed("Error code: 500 - no"))
    failures = [first, other, second, RequestFailure("refused", "blocked: unknown")]
    assert by_message(filter(None, failures), "failed") == {
        first.message: 2,
        "Error code: 500 - no": 1,
    }
    assert by_message(filter(None, failures), "refused") == {"blocked: unknown": 1}


def test_the_parser_reads_no_verdict_from_a_failure() -> None:
    text = failed("Error code: 500 - {'result': 'unsafe'}")
    assert parse_verdict(text, ("unsafe", "safe")) == (None, False, "failed request")
    refused = parse_verdict("[SAFETY_BLOCKED:unknown]", ("blocked", "unknown"))
    assert refused == (None, False, "refused request")


def test_scoring_again_leaves_failed_rows_out(tmp_path: Path) -> None:
    write_yaml(tmp_path, "single")
    texts = ["Yes", failed("{'result': 'Yes'}"), failed("{'code': 'content_filter'}"), "Hm."]
    rows = [{"item_id": n, "label": "Yes", "text": text} for n, text in enumerate(texts)]
    file, out = tmp_path / "answers.jsonl", tmp_path / "scored.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = rescore(str(tmp_path / "single.yaml"), file, out=out, force=False).metrics
    assert (found["n"], found["n_failed"], found["n_refused"]) == (3, 1, 1)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["accuracy_answered"] == 1.0
    scored = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["state"] for row in scored] == ["judged", "failed", "refused", "null"]
    assert [row["score"] for row in scored] == [1.0, None, 0.0, 0.0]
