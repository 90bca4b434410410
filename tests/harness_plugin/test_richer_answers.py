"""Pairs with degrees that are right together, and aspects, through the stock lmms-eval."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.images import image_cell
from support.servers import Handler, serving
from support.tasks import PAIR, write_split, write_yaml

from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE

SHADES = (10, 90, 170, 250)
PAIRS = [(a, b) for a in SHADES for b in SHADES if a != b]
DEGREES = ["A>>B", "A>B", "A=B", "B>A", "B>>A"]


class Oracle(Handler):
    """Compares how bright two images are, and rates how bright and how dark one is."""

    def answer(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (message,) = request["messages"]
        shades = []
        for part in message["content"]:
            if part["type"] == "image_url":
                data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                shades.append(Image.open(io.BytesIO(data)).convert("L").getpixel((0, 0)))
        answer = self.compared(*shades) if len(shades) == 2 else self.rated(*shades)
        message = {"role": "assistant", "content": f"<think>Gray.</think><answer>{answer}</answer>"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "oracle"}
        self.send(json.dumps({**reply, "choices": [choice], "usage": usage}).encode())

    def compared(self, first: Any, second: Any) -> str:
        return degree(first - second)

    def rated(self, shade: Any) -> str:
        return f"bright: {ratings(shade)[0]}\ndark: {ratings(shade)[1]}"


class Hesitant(Oracle):
    """Never says that a difference is large, and always rates the darkness the same."""

    def compared(self, first: Any, second: Any) -> str:
        return super().compared(first, second).replace(">>", ">")

    def rated(self, shade: Any) -> str:
        return f'{{"bright": {ratings(shade)[0]}, "dark": 3}}'


def degree(difference: int) -> str:
    if difference == 0:
        return "A=B"
    sign = ">>" if abs(difference) > 100 else ">"
    return f"A{sign}B" if difference > 0 else f"B{sign}A"


def ratings(shade: int) -> tuple[float, float]:
    bright = round(1 + 4 * shade / 255, 2)
    return bright, round(6 - bright, 2)


@pytest.mark.slow
def test_degrees_and_aspects_from_a_yaml_to_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    verdicts = json.dumps(DEGREES)
    write_yaml(
        tmp_path,
        "brighter",
        **{
            **PAIR,
            "verdicts": verdicts,
            "swap": '{"A>>B": "B>>A", "A>B": "B>A"}',
            "label": f"{{column: degree, map: {{{', '.join(f'{v!r}: {v!r}' for v in DEGREES)}}}}}",
            "joint_by": "one",
        },
    )
    write_yaml(
        tmp_path,
        "shades",
        kind="score",
        question="'{{ text }}?'",
        aspects="[bright, dark]",
        scale="{min: 1, max: 5}",
        label="{column: [brightness, darkness]}",
        verdicts="null",
    )
    cells = {shade: image_cell(f"#{shade:02x}{shade:02x}{shade:02x}") for shade in SHADES}
    data: dict[str, Any] = {
        "image0": [cells[a] for a, _ in PAIRS],
        "image1": [cells[b] for _, b in PAIRS],
        "text": [str(number) for number in range(len(PAIRS))],
        "one": [str(a) for a, _ in PAIRS],
        "degree": [degree(a - b) for a, b in PAIRS],
    }
    write_split(tmp_path, "brighter", "test", data)
    rated: dict[str, Any] = {"image": [cells[shade] for shade in SHADES], "text": list("abcd")}
    for place, name in enumerate(("brightness", "darkness")):
        rated[name] = [ratings(shade)[place] for shade in SHADES]
    write_split(tmp_path, "shades", "test", rated)
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    found = {}
    for judge in (Oracle, Hesitant):
        with serving(judge) as address:
            results = simple_evaluate(
                model="openai",
                model_args=f"model=oracle,base_url={address}/v1,api_key=none",
                tasks=["brighter", "shades"],
                task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
                bootstrap_iters=0,
            )
        found[judge] = results["results"]
        assert len(results["samples"]["brighter"]) == 24
    right, hesitant = (found[judge]["brighter"] for judge in (Oracle, Hesitant))
    assert right["accuracy,none"] == right["joint_accuracy,none"] == 1
    assert hesitant["accuracy_side,none"] == 1
    # Six of the twelve pairs differ by more than 100, some of each image.
    large = [(a, b) for a, b in PAIRS if abs(a - b) > 100]
    assert hesitant["accuracy,none"] == pytest.approx(1 - len(large) / len(PAIRS))
    assert hesitant["joint_accuracy,none"] == 1 - len({a for a, _ in large}) / len(SHADES)
    assert (hesitant["flip_rate,none"], hesitant["first_slot_rate,none"]) == (0, 0.5)
    right, hesitant = (found[judge]["shades"] for judge in (Oracle, Hesitant))
    assert right["spearman,none"] == right["spearman_dark,none"] == 1
    assert hesitant["spearman_bright,none"] == 1
    errors = [abs(3 - ratings(shade)[1]) for shade in SHADES]
    assert hesitant["mae_dark,none"] == pytest.approx(sum(errors) / 4)
    assert hesitant["mae,none"] == pytest.approx(sum(errors) / 8)
