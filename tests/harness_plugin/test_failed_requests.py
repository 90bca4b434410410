"""The stock lmms-eval against servers that fail: an outage is no wrong judgment."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.images import image_cell
from support.servers import Handler, serving
from support.tasks import write_split, write_yaml

from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE

pytestmark = pytest.mark.slow
N = 8
AZURE = (
    "The response was filtered due to the prompt triggering Azure OpenAI's content management "
    "policy. Please modify your prompt and retry."
)


class Faulty(Handler):
    """Always right, except for the requests that :meth:`error` answers."""

    requests: ClassVar[Any] = count()

    def error(self, prompt: str) -> tuple[int, dict[str, str]] | None:
        raise NotImplementedError

    def answer(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        parts = request["messages"][0]["content"]
        prompt = " ".join(part["text"] for part in parts if part["type"] == "text")
        if error := self.error(prompt):
            status, content = error
            self.send(json.dumps({"error": content}).encode(), status=status)
            return
        text = f"<think>It is.</think><answer>{'Yes' if 'even' in prompt else 'No'}</answer>"
        choice = {"index": 0, "finish_reason": "stop"}
        choice["message"] = {"role": "assistant", "content": text}
        reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "judge"}
        self.send(json.dumps({**reply, "choices": [choice]}).encode())


class NoKey(Faulty):
    def error(self, prompt: str) -> tuple[int, dict[str, str]]:
        # The error of each request has an id of its own, and a verdict in it.
        return 401, {"message": f"no key (request id: req_{next(self.requests):08d}x), answer: Yes"}


class Filter(Faulty):
    """Refuses two items of the class Yes."""

    def error(self, prompt: str) -> tuple[int, dict[str, str]] | None:
        refused = "even 0" in prompt or "even 2" in prompt
        return (400, {"message": AZURE, "code": "content_filter"}) if refused else None


class OneOfN(Faulty):
    def error(self, prompt: str) -> tuple[int, dict[str, str]] | None:
        return (500, {"message": "overloaded"}) if "even 4" in prompt else None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_yaml(tmp_path, "parity")
    numbers = [f"{'odd' if number % 2 else 'even'} {number}" for number in range(N)]
    labels = [1 - number % 2 for number in range(N)]
    columns = {"image": [image_cell("red")] * N, "text": numbers, "label": labels}
    write_split(tmp_path, "parity", "test", columns)
    return tmp_path


def evaluate(root: Path, server: type[Faulty], model: str = "openai") -> tuple[Any, Any]:
    """The reported metrics and the samples."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    with serving(server) as address:
        results = simple_evaluate(
            model=model,
            model_args=f"model=judge,base_url={address}/v1,api_key=none,max_retries=1,"
            "retry_backoff_s=0",
            tasks=["parity"],
            task_manager=TaskManager(include_path=str(root), include_defaults=False),
            bootstrap_iters=0,
        )
    return results["results"]["parity"], results["samples"]["parity"]


@pytest.fixture(autouse=True)
def _data(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(root))
    import lmms_eval.evaluator  # noqa: F401  its import removes loguru's sinks, `logged` too


@pytest.mark.parametrize("model", ["openai", "async_openai"])
def test_an_outage_has_no_score(root: Path, logged: list[str], model: str) -> None:
    metrics, samples = evaluate(root, NoKey, model)
    assert metrics["macro_f1,none"] != metrics["macro_f1,none"]  # nan
    assert metrics["null_rate,none"] is None
    (message,) = {sample["failure"] for sample in samples}
    assert "401" in message
    assert "no key (request id: …), answer: Yes" in message
    for sample in samples:
        assert sample["text"].startswith("[LMMS_EVAL_REQUEST_FAILED after 1 retries] ")
        assert (sample["state"], sample["verdict"]) == ("failed", None)
        assert (sample["null"], sample["correct"]) == (False, None)
    warning = f"parity: {N} of {N} requests failed; no rate counts their rows:\n"
    assert any(f"{warning}{N:8}  {message}" in line for line in logged)


def test_a_refusal_counts_as_no_verdict_in_the_headline(root: Path, logged: list[str]) -> None:
    metrics, samples = evaluate(root, Filter)
    states = [sample["state"] for sample in samples]
    assert states == ["refused", "judged", "refused", *["judged"] * (N - 3)]
    assert [sample["null"] for sample in samples] == [state == "refused" for state in states]
    assert metrics["recall_Yes,none"] == (N / 2 - 2) / (N / 2)
    assert metrics["null_rate,none"] == 2 / N
    assert metrics["macro_f1_answered,none"] == metrics["accuracy_answered,none"] == 1.0
    assert any(f"2 of {N} requests were refused by a content filter" in line for line in logged)


def test_one_failure_leaves_the_rates_of_the_others(root: Path) -> None:
    metrics, samples = evaluate(root, OneOfN)
    assert [sample["state"] for sample in samples].count("failed") == 1
    assert metrics["macro_f1,none"] == metrics["accuracy,none"] == 1.0
    assert metrics["null_rate,none"] == 0.0
