"""A judge that sees everything must score 1.0: lmms-eval's own client, a server on loopback.

The server answers by the colors of the images it gets, so a label, an image or an order gone
astray anywhere between the data and the score shows.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.commands import call
from support.images import image_cell
from support.servers import Handler, serving
from support.tasks import write_split, write_yaml

from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE

pytestmark = pytest.mark.usefixtures("warm")


def answer(content: list[dict[str, Any]]) -> str:
    """Red is right: the slot of the red image, or whether the only image is red."""
    reds = []
    for part in content:
        if part["type"] == "image_url":
            data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            red, _, blue = Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0))
            reds.append(red > blue)
    if len(reds) == 2:
        return f"<think>One is red.</think><answer>{1 + reds.index(True)}</answer>"
    return "Final verdict: **Yes**" if reds == [True] else "It is blue.\n\nFinal verdict: no"


class Oracle(Handler):
    ending = ""

    def answer(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (message,) = request["messages"]
        text = answer(message["content"]) + self.ending
        choice = {"index": 0, "finish_reason": "stop"}
        choice["message"] = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "oracle"}
        body = json.dumps({**reply, "choices": [choice], "usage": usage}).encode()
        self.send(body)


class CutInsideACharacter(Oracle):
    ending = " \ud83d"


@pytest.fixture
def oracle() -> Iterator[str]:
    with serving(Oracle) as address:
        yield f"{address}/v1"


@pytest.mark.parametrize("orders", ["both", "hashed"])
def test_an_all_seeing_judge_scores_one(
    tmp_path: Path, oracle: str, monkeypatch: pytest.MonkeyPatch, orders: str
) -> None:
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    red, blue = image_cell("red"), image_cell("blue")
    write_yaml(tmp_path, "single")
    write_yaml(
        tmp_path,
        "pair",
        kind="pairwise",
        images="[image0, image1]",
        question="'{{ text }} 1: <image> 2: <image>'",
        label="{column: label}",
        verdicts='["1", "2"]',
        orders=orders,
    )
    n = 12
    singles = {"image": [red, blue] * 6, "text": [f"{i}" for i in range(n)], "label": [1, 0] * 6}
    write_split(tmp_path, "single", "test", singles)
    labels = [0] * 9 + [1] * 3
    pairs = {
        "image0": [blue if label else red for label in labels],
        "image1": [red if label else blue for label in labels],
        "text": [f"{i}" for i in range(n)],
        "label": labels,
    }
    write_split(tmp_path, "pair", "test", pairs)
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    results = simple_evaluate(
        model="openai",
        model_args=f"model=oracle,base_url={oracle},api_key=none",
        tasks=["single", "pair"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    single, pair = results["results"]["single"], results["results"]["pair"]
    assert single["macro_f1,none"] == pair["macro_f1,none"] == 1.0
    assert single["null_rate,none"] == 0.0
    assert len(results["samples"]["pair"]) == (24 if orders == "both" else 12)
    if orders == "both":
        assert pair["both_orders_correct,none"] == 1.0
        assert pair["flip_rate,none"] == 0.0
        assert pair["first_slot_rate,none"] == 0.5


def test_half_a_character_does_not_lose_the_samples(tmp_path: Path) -> None:
    write_yaml(tmp_path, "single")
    columns = {"image": [image_cell("red")] * 4, "text": list("abcd"), "label": [1] * 4}
    write_split(tmp_path, "single", "test", columns)
    with serving(CutInsideACharacter) as address:
        done = call(
            *("eval", "--model", "openai", "--tasks", "single", "--include_path", tmp_path),
            *("--model_args", f"model=oracle,base_url={address}/v1,api_key=none"),
            *("--data-root", tmp_path, "--output-path", tmp_path / "logs"),
        )
    assert done.exit_code == 0, done.exception
    (file,) = (tmp_path / "logs").glob("**/*_samples_single.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == ["Final verdict: **Yes** \ufffd"] * 4
    assert all(row["text"] == row["filtered_resps"] for row in rows)
