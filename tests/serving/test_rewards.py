"""The reward functions of docs/serving.md, in stock TRL and as verl and EasyR1 call them."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.images import encode, random_image
from support.services import service

from mtrl_judge import Judge

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
TASK = "mtrl_judge_seetrue"
TEXTS = ["a red star", "a cat", "two dogs"]


@pytest.fixture(scope="module")
def examples(random_judge: Path) -> Iterator[list[dict[str, Any]]]:
    """The names that each Python example of the page defines."""
    probable = ("--scoring", "logprob", "--calibration", "none", "--task", TASK)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    assert len([line for line in blocks[0].splitlines() if line]) <= 10
    with service("--model", random_judge, *probable) as (_, address):
        found: list[dict[str, Any]] = [{"URL": address} for _ in blocks]
        for block, names in zip(blocks, found, strict=True):
            exec(block, names)
        yield found


@pytest.fixture(scope="module")
def expected(random_judge: Path) -> list[float]:
    judge = Judge.load(random_judge, scoring="logprob", calibration="none")
    judged = [judge.score(TASK, [random_image(1)], [text]) for text in TEXTS]
    return [judgment.probabilities["Yes"] for judgment in judged if judgment.probabilities]


def test_stock_trl_trains_with_a_judge(
    examples: list[dict[str, Any]], expected: list[float], random_judge: Path, tmp_path: Path
) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    matches = examples[0]["matches"]
    completions = [[{"role": "assistant", "content": text}] for text in TEXTS]
    found = matches(completions, [[random_image(1)]] * 3, prompts=[], trainer_state=None)
    assert found == pytest.approx(expected, abs=1e-5)
    prompt = [{"role": "user", "content": "What do you see?"}]
    rows = {"prompt": [prompt] * 2, "images": [[random_image(1)], [random_image(2)]]}
    config = GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=4,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
    )
    data = Dataset.from_dict(rows)
    trainer = GRPOTrainer(
        str(random_judge), reward_funcs=[matches], args=config, train_dataset=data
    )
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    logged = [entry["rewards/matches/mean"] for entry in steps]
    assert len(logged) == 1
    assert 0 < logged[0] < 1


def test_verl_and_easyr1_get_what_they_expect(
    examples: list[dict[str, Any]], expected: list[float]
) -> None:
    """As verl's reward managers and EasyR1's BatchFunctionRewardManager call them."""
    image = base64.b64encode(encode(random_image(1))).decode()
    of_verl = [
        examples[1]["compute_score"](
            data_source="captions",
            solution_str=text,
            ground_truth="",
            extra_info={"image": image, "num_turns": 1},
        )
        for text in TEXTS
    ]
    assert [found["score"] for found in of_verl] == pytest.approx(expected, abs=1e-5)
    assert [found["judged"] for found in of_verl] == [True] * 3
    inputs = [
        {"response": text, "response_length": len(text), "ground_truth": image} for text in TEXTS
    ]
    of_easyr1 = examples[2]["compute_score"](inputs)
    assert [found["overall"] for found in of_easyr1] == pytest.approx(expected, abs=1e-5)
