"""`mtrl-judge serve` as a process on loopback: its answers, its refusals and its end."""

from __future__ import annotations

import base64
import io
import json
import re
import signal
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from openai import OpenAI
from PIL import Image
from support.commands import fails
from support.images import encode, random_image
from support.servers import Handler, serving
from support.services import Service, service

from mtrl_judge import Item, Judge

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

KEY = "0123456789abcdef"
TOKENS = 8
TASK, PAIRS = "mtrl_judge_seetrue", "mtrl_judge_mjbench_safety"


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


IMAGE, OTHER = (encode(random_image(seed)) for seed in (1, 2))
GOOD = {"task": TASK, "images": [data_url(IMAGE)], "texts": ["a red star"]}


@pytest.fixture(scope="module")
def judge(random_judge: Path) -> Judge:
    return Judge.load(random_judge, max_new_tokens=TOKENS)


@pytest.fixture(scope="module")
def client(random_judge: Path) -> Iterator[httpx.Client]:
    """Of a service with a tiny model and small limits."""
    limits = ("--max-request", 1, "--max-items", 16, "--max-pixels", 0.25)
    model = ("--model", random_judge, "--name", "tiny", "--max-new-tokens", TOKENS)
    tasks = ("--task", TASK, "--task", PAIRS)
    with service(*model, *limits, *tasks, MTRL_JUDGE_API_KEY=KEY) as (_, address):
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=address, headers=headers, timeout=120) as connected:
            yield connected


def test_judgments_are_those_of_the_judge(client: httpx.Client, judge: Judge) -> None:
    single = client.post("/judge", json=GOOD)
    expected = judge.score(TASK, [IMAGE], ["a red star"])
    assert single.json() == json.loads(json.dumps(expected.as_json()))
    pairs = [{"images": [data_url(IMAGE), data_url(OTHER)], "texts": [f"thing {n}"]} for n in "abc"]
    several = client.post("/judge", json={"task": PAIRS, "items": pairs}).json()["judgments"]
    items = [Item(PAIRS, [IMAGE, OTHER], [f"thing {n}"]) for n in "abc"]
    assert several == json.loads(json.dumps([j.as_json() for j in judge.score_batch(items)]))
    question = {"question": "Is it red?", "verdicts": ["Yes", "No"], "images": [data_url(IMAGE)]}
    asked = judge.score("Is it red?", [IMAGE], verdicts=["Yes", "No"])
    assert client.post("/judge", json=question).json()["text"] == asked.text
    by_name = {"task": TASK, "context": {"image": data_url(IMAGE), "text": "a red star"}}
    assert client.post("/judge", json=by_name).json() == single.json()


def test_many_clients_get_their_own_answers(client: httpx.Client, judge: Judge) -> None:
    images = [encode(random_image(seed)) for seed in range(24)]

    def ask(image: bytes) -> str:
        body = {**GOOD, "images": [data_url(image)]}
        found: str = client.post("/judge", json=body).json()["text"]
        return found

    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(ask, images))
    expected = judge.score_batch([Item(TASK, [image], ["a red star"]) for image in images])
    assert found == [judgment.text for judgment in expected]
    assert len(set(found)) > 6, "answers tell clients apart"
    counted = client.get("/metrics").text
    assert 'mtrl_judge_requests_total{path="/judge",status="200"}' in counted
    sizes = dict(re.findall(r"^mtrl_judge_batch_items_(count|sum) (\S+)$", counted, re.MULTILINE))
    assert float(sizes["count"]) < float(sizes["sum"]), "some were judged together"


def test_clients_of_openai(client: httpx.Client, judge: Judge) -> None:
    openai = OpenAI(api_key=KEY, base_url=f"{client.base_url}/v1", max_retries=0)
    assert [model.id for model in openai.models.list()] == ["tiny", TASK, PAIRS]
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": data_url(IMAGE)}}]
    parts.append({"type": "text", "text": "a red star"})
    messages: list[Any] = [{"role": "user", "content": parts}]
    expected = judge.score(TASK, [IMAGE], ["a red star"])
    for model, extra in ((TASK, {}), ("tiny", {"task": TASK})):
        answer = openai.chat.completions.create(
            model=model, messages=messages, extra_body=extra, temperature=0.5
        )
        message = answer.choices[0].message
        assert message.content == expected.verdict
        assert message.to_dict()["judgment"] == json.loads(json.dumps(expected.as_json()))
    chat = {"model": "tiny", "messages": messages, "verdicts": ["Yes", "No"]}
    asked = judge.score("a red star", [IMAGE], verdicts=["Yes", "No"])
    found = client.post("/v1/chat/completions", json=chat).json()
    assert found["choices"][0]["message"]["judgment"]["text"] == asked.text


def test_several_samples_vote(random_judge: Path) -> None:
    given: dict[str, Any] = {"samples": 3, "vote": "mean", "temperature": 0.7}
    flags = [word for name, value in given.items() for word in (f"--{name}", value)]
    options = ("--task", TASK, "--max-new-tokens", TOKENS, *flags)
    with service("--model", random_judge, *options) as (_, address):
        found = httpx.post(f"{address}/judge", json=GOOD, timeout=120).json()
    judge = Judge.load(random_judge, max_new_tokens=TOKENS, **given)
    expected = judge.score(TASK, [IMAGE], ["a red star"])
    assert found == json.loads(json.dumps(expected.as_json()))
    assert len({each.text for each in expected.answers[0].samples}) == 3


def bomb() -> bytes:
    """A PNG of 16 gigapixels in few bytes."""
    header = b"IHDR" + (2**17).to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    chunk = (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    data = b"IDAT" + zlib.compress(bytes(10_000))
    rest = (len(data) - 4).to_bytes(4, "big") + data + zlib.crc32(data).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk + rest


def large() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (512, 513)).save(file, "PNG")
    return file.getvalue()


ON_DISK = {"image": {"path": "/etc/passwd", "bytes": None}, "text": "a"}
CHAT = {"model": TASK, "messages": [{"role": "user", "content": "a"}]}


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/judge", "{", 400, "the body is not JSON"),
        ("/judge", "[" * 100_000, 400, "nested too deeply"),
        ("/judge", b'{"task": "\xff"}', 400, "not JSON"),
        ("/judge", '{"context": {"a": NaN}}', 400, "NaN is not JSON"),
        ("/judge", "[]", 400, "body: Input should be"),
        ("/judge", {**GOOD, "txt": 1}, 400, "txt: Extra inputs"),
        ("/judge", {**GOOD, "texts": [1]}, 400, "texts.0: Input should be a valid string"),
        ("/judge", {}, 400, "task, question: expected one of the two"),
        ("/judge", {**GOOD, "task": "mtrl_judge_seetru"}, 400, "this judge serves mtrl_judge_see"),
        ("/judge", {**GOOD, "task": "/etc/task.yaml"}, 400, "this judge serves"),
        ("/judge", {**GOOD, "task": "mtrl_judge_unsafebench"}, 400, "this judge serves"),
        ("/judge", {"task": TASK}, 400, "missing 'image', 'text'; expected 1 image (image)"),
        ("/judge", {**GOOD, "verdicts": ["a"]}, 400, "those of a task are in its YAML"),
        ("/judge", {"question": "Red?"}, 400, "verdicts: missing"),
        ("/judge", {"question": "Red?", "verdicts": ["a", "a"]}, 400, "can be told apart"),
        ("/judge", {"task": TASK, "items": []}, 400, "items"),
        ("/judge", {**GOOD, "items": [{}]}, 400, "stand in each item"),
        ("/judge", {"task": TASK, "items": [{}] * 17}, 413, "at most 16 in a request"),
        ("/judge", {**GOOD, "images": ["http://127.0.0.1/x"]}, 400, "web address"),
        ("/judge", {**GOOD, "images": ["/etc/passwd"]}, 400, "expected a data URL or base64"),
        ("/judge", {"task": TASK, "context": ON_DISK}, 400, "only the path '/etc/passwd'"),
        (
            "/judge",
            {**GOOD, "images": [data_url(b"no image")]},
            400,
            "not an image of a known format",
        ),
        ("/judge", {**GOOD, "images": [data_url(IMAGE[:-40])]}, 400, "cannot be shown to a judge"),
        ("/judge", {**GOOD, "images": [data_url(bomb())]}, 413, "expected at most 250,000 pixels"),
        ("/judge", {**GOOD, "images": [data_url(large())]}, 413, "512 × 513 pixels"),
        ("/judge", {**GOOD, "texts": ["a" * 2**20]}, 413, "more than 1,048,576 bytes"),
        ("/judge", {**GOOD, "texts": ["\ud800"]}, 400, "surrogates not allowed"),
        ("/v1/chat/completions", {**CHAT, "stream": True}, 400, "stream: not supported"),
        ("/v1/chat/completions", {**CHAT, "n": 2}, 400, "n: found 2"),
        ("/v1/chat/completions", {**CHAT, "model": "gpt"}, 404, "known: tiny, mtrl_judge_seetrue"),
        ("/v1/chat/completions", {**CHAT, "model": "tiny"}, 400, "task: missing"),
        ("/v1/chat/completions", {**CHAT, "messages": []}, 400, "one message of the user"),
        ("/nothing", {}, 404, "POST /nothing: Not Found"),
        ("/health", {}, 405, "Method Not Allowed"),
    ],
)
def test_what_is_wrong_is_refused(
    client: httpx.Client, path: str, body: Any, status: int, message: str
) -> None:
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert message in answer.text
    assert answer.json()["error"]["code"] == status


def test_who_may_ask_and_how(client: httpx.Client) -> None:
    assert client.get("/health", headers={"Authorization": ""}).json()["judge"] == "tiny"
    for wrong in ("", "Bearer", f"Basic {KEY}", f"Bearer {KEY}x"):
        for path in ("/judge", "/v1/chat/completions"):
            answer = client.post(path, json=GOOD, headers={"Authorization": wrong})
            assert answer.status_code == 401
        assert client.get("/metrics", headers={"Authorization": wrong}).status_code == 401
    typed = {"Content-Type": "text/plain"}
    assert client.post("/judge", content=json.dumps(GOOD), headers=typed).status_code == 415
    endless = (b" " * 2**16 for _ in range(64))  # without a length
    json_type = {"Content-Type": "application/json"}
    assert client.post("/judge", content=endless, headers=json_type).status_code == 413


class Gate:
    """A model's server that answers when it is let to.

    Attributes:
        asked: the prompts so far.
    """

    def __init__(self) -> None:
        self.open, self.asked = Event(), list[str]()

    def handler(self) -> type[Handler]:
        gate = self

        class Answers(Handler):
            def answer(self) -> None:
                prompt = self.rfile.read(int(self.headers["Content-Length"])).decode()
                if "water" not in prompt:  # the question that connects
                    gate.asked.append(prompt)
                    gate.open.wait()
                message = {"role": "assistant", "content": "Yes"}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
                self.send(json.dumps({**reply, "choices": [choice]}).encode())

        return Answers


@pytest.fixture(scope="module")
def gated() -> Iterator[tuple[Gate, Service]]:
    """A service for few requests at a time, whose model waits behind a gate."""
    gate = Gate()
    with serving(gate.handler()) as url:
        model = ("--model", "m", "--backend", "openai", "--model-args", f"base_url={url}/v1")
        few = ("--batch-size", 1, "--max-items", 1, "--max-queue", 2, "--timeout", 4)
        with service(*model, *few, OPENAI_API_KEY="none") as started:
            yield gate, started
            gate.open.set()


def ask(address: str, text: str) -> httpx.Response:
    question = {"question": text, "verdicts": ["Yes", "No"]}
    return httpx.post(f"{address}/judge", json=question, timeout=60)


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_queue_is_bounded_and_nobody_waits_in_vain(gated: tuple[Gate, Service]) -> None:
    gate, (_, address) = gated

    def waiting() -> int:
        found: int = httpx.get(f"{address}/health").json()["waiting"]
        return found

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask, address, "alpha?")
        wait_until(lambda: len(gate.asked) == 1)
        second = pool.submit(ask, address, "beta?")
        wait_until(lambda: waiting() == 1)
        body = json.dumps({"question": "gamma?", "verdicts": ["Yes", "No"]}).encode()
        host, port = address.removeprefix("http://").split(":")
        head = f"POST /judge HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        with socket.create_connection((host, int(port))) as gone:
            gone.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_until(lambda: waiting() == 2)
            full = ask(address, "too many?")
            assert (full.status_code, full.headers["Retry-After"]) == (429, "1")
        wait_until(lambda: waiting() == 1)  # who has gone away leaves the queue
        assert [first.result().status_code, second.result().status_code] == [504, 504]
        assert "not judged within 4 seconds" in first.result().json()["error"]["message"]
        assert waiting() == 0
        gate.open.set()
        assert ask(address, "delta?").json()["verdict"] == "Yes"
    names = ("alpha", "beta", "gamma", "delta")
    asked = [name for prompt in gate.asked for name in names if name in prompt]
    assert asked == ["alpha", "delta"], "what nobody waits for is not judged"


def test_sigterm_lets_what_has_begun_end(gated: tuple[Gate, Service]) -> None:
    gate, (process, address) = gated
    gate.open.clear()
    before = len(gate.asked)

    def refused() -> bool:
        try:
            httpx.get(f"{address}/health", timeout=5)
        except httpx.TransportError:
            return True
        return False

    with ThreadPoolExecutor(1) as pool:
        last = pool.submit(ask, address, "omega?")
        wait_until(lambda: len(gate.asked) > before)
        process.send_signal(signal.SIGTERM)
        wait_until(refused)
        gate.open.set()
        assert last.result().json()["verdict"] == "Yes"
    assert process.wait(timeout=30) == 143


def test_mistakes_at_the_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, random_judge: Path
) -> None:
    model = ("serve", "--model", str(random_judge))
    found = fails(capsys, monkeypatch, *model, "--host", "0.0.0.0")
    assert "can be reached from other machines; set MTRL_JUDGE_API_KEY" in found
    assert "is no address" in fails(capsys, monkeypatch, *model, "--host", "no.such.invalid")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "choose another" in fails(capsys, monkeypatch, *model, "--port", port)
    found = fails(capsys, monkeypatch, *model, "--task", "mtrl_judge_seetru")
    assert "did you mean 'mtrl_judge_seetrue'" in found
    found = fails(capsys, monkeypatch, *model, "--model-args", "dtype")
    assert "expected key=value" in found
    found = fails(capsys, monkeypatch, *model, "--port", "0", "--model-args", "dtyp=float32")
    assert "did you mean 'dtype'" in found
    found = fails(capsys, monkeypatch, *model, "--max-queue", "1", "--max-items", "2")
    assert "never be judged" in found
