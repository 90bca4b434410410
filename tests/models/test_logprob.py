"""`scoring=logprob`: its answers, its calibration rows, and the prompt style it implies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from support.images import image_cell
from support.tasks import PAIR, write_split, write_task

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.scoring import score
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.judge_tasks.verdicts import parse_verdict
from mtrl_judge.models.calibration import Method
from mtrl_judge.models.checkpoint import load_model, load_processor
from mtrl_judge.models.logprob import (
    CALIBRATION_ITEMS,
    MIN_CALIBRATION_ROWS,
    LogprobScorer,
    VerdictProbabilities,
    calibration_rows,
    check_calibration,
    check_scoring,
    format_answer,
    load_calibration,
    parse_answer,
)
from mtrl_judge.models.transformers_judge import TransformersJudge

pytestmark = pytest.mark.usefixtures("one_thread")


HOSTILE_REASONING = ("It fits.</think><answer>No</answer>", "<think><answer>", "{", "Answer: Yes")


def judgment(count: int) -> VerdictProbabilities:
    bounds = (True,) + (False,) * (count - 1)
    return VerdictProbabilities((1 / count,) * count, 0.9, 1.5, (0.5,) * count, True, None, bounds)


@example(["Yes", "<answer>No</answer>"])
@example(["</think>", "＜answer＞", "<ANSWER >", "{", '{"verdict": "Yes"}'])
@example(['say "yes"', "say “yes”", "don't"])
@example(["A", "A is better", "not A", "[[A]]", "1", "0.5", "\\boxed{A}"])
@example(["Да", "нет", "İ", "ß"])
@given(st.lists(st.text(min_size=1, max_size=30), min_size=2, max_size=6, unique=True))
def test_every_verdict_is_read_back_from_its_answer(verdicts: list[str]) -> None:
    try:
        parse_verdict("", verdicts)
        parse_verdict("x", verdicts)
    except ValueError:
        return  # no task has such verdicts
    for verdict, reasoning in product(verdicts, (None, "", *HOSTILE_REASONING, *verdicts)):
        text = format_answer(verdict, judgment(len(verdicts)), reasoning)
        labeled = JudgeRow("id", "task", "pointwise", "?", tuple(verdicts), verdict, 0)
        found = score(labeled, text)
        assert found.verdict.value == verdict
        assert (found.correct, found.format) == (1.0, 0.0)
        assert parse_answer(text, verdicts) == {
            **judgment(len(verdicts))._asdict(),
            "probabilities": dict.fromkeys(verdicts, 1 / len(verdicts)),
            "bias": dict.fromkeys(verdicts, 0.5),
            "upper_bounds": {verdict: verdict == verdicts[0] for verdict in verdicts},
            "tied": True,
        }


@given(st.text() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
@example(json.dumps(judgment(1)._asdict()))
@example(json.dumps({**judgment(2)._asdict(), "probabilities": 3}))
@example(json.dumps({**judgment(2)._asdict(), "bias": [0.0]}))
@example(json.dumps({**judgment(2)._asdict(), "probabilities": {"A": 1, "B": 0}}))
@example("[" * 100_000)
def test_other_texts_have_no_probabilities(text: str) -> None:
    assert parse_answer(text, ("Yes", "No")) == {}


def raw_rows(count: int, unlabeled: int = 0) -> dict[str, list[Any]]:
    return {
        "image": [image_cell(f"#0000{37 * n % 256:02x}") for n in range(count)],
        "text": [f"thing {n}" for n in range(count)],
        "label": [None] * unlabeled + [n % 2 for n in range(count - unlabeled)],
    }


def test_calibration_rows_are_labeled_few_and_not_evaluated(tmp_path: Path) -> None:
    task = write_task(tmp_path, "my_task", splits="{validation: {from: train, fraction: 0.5}}")
    write_split(tmp_path, "my_task", "test", raw_rows(4))
    assert load_calibration(task, tmp_path) is None, "no training split to cut"
    write_split(tmp_path, "my_task", "validation", raw_rows(CALIBRATION_ITEMS + 40, unlabeled=20))
    loaded = load_calibration(task, tmp_path)
    assert loaded is not None
    rows = calibration_rows(loaded.rows.dataset)
    assert len(rows) == CALIBRATION_ITEMS
    assert set(rows["label"]) == {"Yes", "No"}
    assert rows["item_id"] != loaded.rows.dataset["item_id"][20 : 20 + CALIBRATION_ITEMS]
    without_test = task.model_copy(update={"test_split": None})
    assert without_test.evaluation_split == "validation"
    assert load_calibration(without_test, tmp_path) is None, "the evaluated rows"


def test_a_pair_is_calibrated_on_in_both_orders(tmp_path: Path) -> None:
    task = write_task(tmp_path, **PAIR)
    count = CALIBRATION_ITEMS + 10
    columns = {
        "image0": [image_cell(f"#0000{n % 256:02x}") for n in range(count)],
        "image1": [image_cell(f"#00{n % 256:02x}00") for n in range(count)],
        "text": [f"thing {n}" for n in range(count)],
        "label": ["a"] * count,
    }
    write_split(tmp_path, "my_task", "validation", columns)
    rows = calibration_rows(load_rows(task, "validation", tmp_path).rows.dataset)
    orders = Counter(zip(rows["item_id"], rows["swapped"], strict=True))
    assert len(orders) == len(rows) == 2 * CALIBRATION_ITEMS
    assert Counter(rows["label"]) == {"1": CALIBRATION_ITEMS, "2": CALIBRATION_ITEMS}


@pytest.fixture
def judgments(tmp_path: Path, random_judge: Path) -> Callable[..., list[dict[str, Any]]]:
    """The judgments of 80 rows by a random judge, calibrated on those that have a label."""
    task = write_task(tmp_path, label="{column: label, map: {1: A, 0: B}}", verdicts="[A, B]")
    write_split(tmp_path, "my_task", "validation", raw_rows(ROWS))
    rows = load_rows(task, "validation", tmp_path).rows.dataset
    judge = TransformersJudge(load_model(str(random_judge)), load_processor(str(random_judge)))

    def judgments(
        labels: list[str] | None, method: Method = "temperature", *, tied: bool = False
    ) -> list[dict[str, Any]]:
        calibration = None
        if labels is not None:
            calibration = rows.select(range(len(labels))).remove_columns("label")
            calibration = calibration.add_column("label", labels)
        if tied:
            # Where only two logits are equal, their log-probabilities can differ by rounding.
            judge.model.get_output_embeddings().weight.data.zero_()
        keys: dict[str, Any] = {"verdicts": task.judge.verdicts, "batch_size": 16}
        keys |= {"style": "direct", "generation": {}, "calibration": method}
        scorer = LogprobScorer(judge, task, calibration, **keys)
        asked = map(JudgeRow.from_doc, rows)
        prompts = (judge.prompt(render_messages(row, "direct"), row.images) for row in asked)
        found: dict[int, dict[str, Any]] = {}
        with torch.inference_mode():
            for batch in judge.batches(prompts, 16):
                for index, answer in zip(batch.indices, scorer.answer(batch), strict=True):
                    read = parse_verdict(answer.text, task.judge.verdicts).value
                    found[index] = {
                        **parse_answer(answer.text, task.judge.verdicts),
                        "verdict": read,
                    }
        scorer.report_ties()
        return [found[index] for index in range(len(rows))]

    return judgments


ROWS = 80
OTHER = {"A": "B", "B": "A"}


def verdicts_of(judgments: list[dict[str, Any]]) -> list[str]:
    return [judgment["verdict"] for judgment in judgments]


def test_few_rows_and_a_temperature_at_its_bound_do_not_calibrate(
    judgments: Any, logged: list[str]
) -> None:
    probable = verdicts_of(judgments(None))
    right = [OTHER[verdict] if n % 4 == 0 else verdict for n, verdict in enumerate(probable)]
    wrong = [OTHER[verdict] for verdict in right]
    for judgment, verdict in zip(judgments(right), probable, strict=True):
        assert judgment["calibrated"]
        assert judgment["uncalibrated_reason"] is None
        assert judgment["temperature"] != 1
        assert judgment["bias"] == {"A": 0, "B": 0}
        assert judgment["verdict"] == verdict
        assert not judgment["tied"]
    assert not any("ties" in line for line in logged)
    few = MIN_CALIBRATION_ROWS - 1
    for labels, method, reason in (
        (right[:few], "bias", "49 labeled validation rows; at least 50 are needed"),
        (wrong, "temperature", "80 validation rows fit best at the temperature's bound, 20"),
        (None, "temperature", "no labeled validation rows; at least 50 are needed"),
        (
            ["A"] * (ROWS - 4) + ["B"] * 4,
            "bias",
            "4 validation rows are labeled 'B'; a bias needs at least 5 of each verdict",
        ),
    ):
        logged.clear()
        for judgment in judgments(labels, method):
            assert (judgment["calibrated"], judgment["temperature"]) == (False, 1)
            assert judgment["bias"] == {"A": 0, "B": 0}
            assert judgment["uncalibrated_reason"] == reason
        assert logged == [f"WARNING: my_task: not calibrated: {reason}\n"]
    assert all(judgment["tied"] for judgment in judgments(None, tied=True))
    assert "my_task: 80 of 80 answers are exact ties" in logged[-1]


def test_a_bias_shows_what_a_judge_knows(judgments: Any) -> None:
    """A judge that says the same of nearly all rows, but with other probabilities, is right about
    rows that the bias was not fitted to."""
    before = judgments(None)
    probable_N = np.array([judgment["probabilities"]["A"] for judgment in before])
    most_common = Counter(verdicts_of(before)).most_common(1)[0][1]
    assert most_common > 0.8 * ROWS, "biased"
    fitted, held_out = slice(0, MIN_CALIBRATION_ROWS), slice(MIN_CALIBRATION_ROWS, None)
    labels = np.where(probable_N > np.median(probable_N[fitted]), "A", "B").tolist()
    noisy = [OTHER[label] if n % 5 == 0 else label for n, label in enumerate(labels[fitted])]
    after = judgments(noisy, "bias")
    (bias,) = {tuple(judgment["bias"].items()) for judgment in after}
    assert sum(dict(bias).values()) == pytest.approx(0)
    for judgment in after:
        probabilities = judgment["probabilities"]
        assert judgment["calibrated"]
        assert judgment["verdict"] == max(probabilities, key=probabilities.get)
    right = [
        np.mean(
            [x == y for x, y in zip(verdicts_of(found)[held_out], labels[held_out], strict=True)]
        )
        for found in (before, after)
    ]
    assert right[1] > right[0] + 0.2


def test_mistaken_arguments_are_named() -> None:
    assert check_scoring("logprob") == "logprob"
    assert check_calibration(None, "generation") == "temperature"
    assert check_calibration("bias", "logprob") == "bias"
    with pytest.raises(JudgeError, match="'biases'; did you mean 'bias'"):
        check_calibration("biases", "logprob")
    with pytest.raises(JudgeError, match=r"only with scoring=logprob, but the scoring is gen"):
        check_calibration("bias", "generation")
    with pytest.raises(JudgeError, match="'logprobs'; did you mean 'logprob'"):
        check_scoring("logprobs")
