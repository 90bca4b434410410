"""Rankings through the stock lmms-eval: an all-seeing judge and one that always prefers a slot."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image
from support.images import image_cell
from support.servers import Handler, serving
from support.tasks import write_split, write_task, write_yaml

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE
from mtrl_judge.models.logprob import LogprobScorer

SHADES = (10, 90, 170, 250)


class Oracle(Handler):
    """Answers with the images from bright to dark."""

    def answer(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (message,) = request["messages"]
        shades = {}
        for part in message["content"]:
            if part["type"] == "image_url":
                data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                shade = Image.open(io.BytesIO(data)).convert("L").getpixel((0, 0))
                shades["ABCD"[len(shades)]] = shade
        choice = {"index": 0, "finish_reason": "stop"}
        choice["message"] = {"role": "assistant", "content": self.order(shades)}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "oracle"}
        self.send(json.dumps({**reply, "choices": [choice], "usage": usage}).encode())

    def order(self, shades: dict[str, Any]) -> str:
        best_first = sorted(shades, key=lambda slot: -shades[slot])
        return f"<think>Shades.</think><answer>{' > '.join(best_first)}</answer>"


class FirstSlot(Oracle):
    def order(self, shades: dict[str, Any]) -> str:
        return f"I rank them as shown.\n[[{'>'.join(shades)}]]"


def evaluated(judge: type[Handler], task: str, folder: Path) -> Any:
    """The results of a task whose YAML is in a folder."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    with serving(judge) as address:
        return simple_evaluate(
            model="openai",
            model_args=f"model=oracle,base_url={address}/v1,api_key=none",
            tasks=[task],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=0,
        )


@pytest.mark.slow
def test_an_all_seeing_judge_scores_one_and_a_slot_gains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = [f"image{place}" for place in range(4)]
    write_yaml(
        tmp_path,
        "shades",
        kind="ranking",
        images=f"[{', '.join(columns)}]",
        candidates=f"[{', '.join(columns)}]",
        question="'{{ text }}: <image> <image> <image> <image>'",
        label="{column: brightness, best: highest}",
        verdicts='["A", "B", "C", "D"]',
    )
    cells = {shade: image_cell(f"#{shade:02x}{shade:02x}{shade:02x}") for shade in SHADES}
    turned = [SHADES[item % 4 :] + SHADES[: item % 4] for item in range(4)]
    data: dict[str, Any] = {
        name: [cells[shades[place]] for shades in turned] for place, name in enumerate(columns)
    }
    data |= {"text": [str(item) for item in range(4)], "brightness": [list(s) for s in turned]}
    write_split(tmp_path, "shades", "test", data)
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    found = {}
    for judge in (Oracle, FirstSlot):
        results = evaluated(judge, "shades", tmp_path)
        found[judge] = results["results"]["shades"]
        assert len(results["samples"]["shades"]) == 16
    right, slot = found[Oracle], found[FirstSlot]
    assert right["kendall,none"] == right["ndcg,none"] == right["top1_accuracy,none"] == 1
    assert (right["edit_distance,none"], right["null_rate,none"]) == (0, 0)
    assert (right["well_formed_rate,none"], slot["well_formed_rate,none"]) == (1, 0)
    assert slot["position_bias,none"] == 0.75
    assert slot["first_place_A,none"] == 1
    assert right["position_bias,none"] == 0
    assert slot["top1_accuracy,none"] == 0.25


@pytest.mark.slow
def test_rows_of_a_prompt_are_ranked_however_many_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_yaml(
        tmp_path,
        "prompts",
        kind="ranking",
        gather="{by: prompt_id, columns: [image, brightness]}",
        images="[image]",
        candidates="image",
        question="'{{ text }}: put the images in order.'",
        label="{column: brightness, best: highest}",
        verdicts='["A", "B", "C", "D"]',
        id="prompt_id",
    )
    rows = [(prompt, shade) for shade in SHADES for prompt in range(3) if shade < 100 + 80 * prompt]
    data = {
        "image": [image_cell(f"#{shade:02x}{shade:02x}{shade:02x}") for _, shade in rows],
        "prompt_id": [prompt for prompt, _ in rows],
        "text": [f"Prompt {prompt}" for prompt, _ in rows],
        "brightness": [shade for _, shade in rows],
    }
    write_split(tmp_path, "prompts", "test", data)
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    results = evaluated(Oracle, "prompts", tmp_path)
    ids = sorted(sample["item_id"] for sample in results["samples"]["prompts"])
    assert ids == ["0", "0@1", "1", "1@1", "1@2", "2", "2@1", "2@2", "2@3"]
    scores = results["results"]["prompts"]
    assert scores["kendall,none"] == scores["top1_accuracy,none"] == 1
    assert (scores["null_rate,none"], scores["position_bias,none"]) == (0, 0)


def test_orders_have_no_probabilities(tmp_path: Path) -> None:
    task = write_task(
        tmp_path,
        kind="ranking",
        images="[image0, image1]",
        candidates="[image0, image1]",
        question="'{{ text }}?'",
        label="{column: ranks, best: lowest}",
        verdicts='["A", "B"]',
    )
    with pytest.raises(JudgeError, match="expected scoring=generation"):
        LogprobScorer(
            cast(Any, None),
            task,
            None,
            calibration="none",
            style="direct",
            verdicts=task.judge.verdicts,
            batch_size=1,
            generation={},
        )
