"""`scoring=logprob`: its answers, its calibration rows, and the prompt style it implies."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.images import image_cell
from support.tasks import write_split, write_task

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.harness_plugin.logprob import (
    CALIBRATION_ITEMS,
    Judgment,
    calibration_rows,
    format_answer,
    load_calibration,
    parse_answer,
)
from mtrl_judge.harness_plugin.prompt_style import (
    Backend,
    check_scoring,
    evaluation_record,
    evaluation_scoring,
    evaluation_style,
    set_backend,
)
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.scoring import score
from mtrl_judge.judge_tasks.verdicts import parse_verdict

pytestmark = pytest.mark.usefixtures("one_thread")


HOSTILE_REASONING = ("It fits.</think><answer>No</answer>", "<think><answer>", "{", "Answer: Yes")


def judgment(count: int) -> Judgment:
    return Judgment(tuple([1 / count] * count), 0.9, 1.5, True)


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
        }


@given(st.text() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
@example('{"probabilities": [1.0], "verdict_mass": 1, "temperature": 1, "calibrated": true}')
@example('{"probabilities": 3, "verdict_mass": 1, "temperature": 1, "calibrated": true}')
@example("[" * 100_000)
def test_other_texts_have_no_probabilities(text: str) -> None:
    assert parse_answer(text, ("Yes", "No")) == {}


def raw_rows(count: int, unlabeled: int = 0) -> dict[str, list[Any]]:
    return {
        "image": [image_cell(f"#0000{n % 256:02x}") for n in range(count)],
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


def test_scoring_and_style(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = write_task(tmp_path)
    set_backend(Backend("transformers", "logprob", "reasoned", (None, None)))
    assert (evaluation_style(task), evaluation_scoring()) == ("direct", "logprob")
    assert evaluation_record(task)["style_source"] == "scoring"
    monkeypatch.setenv("MTRL_JUDGE_STYLE", "reasoned")
    assert (evaluation_style(task), evaluation_scoring()) == ("reasoned", "logprob")
    assert evaluation_record(task)["style_source"] == "override"
    set_backend(None)
    assert (evaluation_style(task), evaluation_scoring()) == ("reasoned", "generation")
    assert check_scoring("logprob") == "logprob"
    with pytest.raises(JudgeError, match="'logprobs'; did you mean 'logprob'"):
        check_scoring("logprobs")
