"""Kind score: reading ratings, scales and labels in a YAML, gold answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.images import image_cells
from support.tasks import write_split, write_task, write_yaml

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.prompts import gold_answer, render_text
from mtrl_judge.judge_tasks.rating_answers import parse_rating
from mtrl_judge.judge_tasks.row_checks import revealed_labels
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.scoring import score
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE, find_source, load_raw, load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.judge_tasks.validate import validate
from mtrl_judge.judge_tasks.verdicts import PART_LIMIT

TEN, FIVE = tuple(map(str, range(1, 11))), tuple(map(str, range(1, 6)))
NAMED = ("bad", "poor", "fair", "good", "excellent")
KIND = KINDS["score"]


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("7", "7"),
        ("7.0", "7"),
        ("７．５", "7.5"),
        ("**7.5**", "7.5"),
        ("7/10", "7"),
        ("8.5 / 10.0", "8.5"),
        ("7 out of 10", "7"),
        ("8 points", "8"),
        ("Score: 7 (good)", "7"),
        ("Score (1-10): 6", "6"),
        ("Score: 7 on a scale of 1 to 10", "7"),
        ("Rating: [[7]]", "7"),
        ("Final rating: [[7.5/10]]", "7.5"),
        ("Feedback: the hand has six fingers. [RESULT] 4", "4"),
        ("\\boxed{8}", "8"),
        ('{"score": 7, "reasoning": "It has 3 dogs."}', "7"),
        ('```json\n{"rating": "7.5"}\n```', "7.5"),
        ('{"score": [7]}', "7"),
        ("I would rate this image 7 out of 10.", "7"),
        ("The image shows 3 dogs. Overall, I would give it an 8/10.", "8"),
        ("On a scale of 1 to 10, I would rate this a 7.", "7"),
        ("<think>Score: 3. No, 4.</think><answer>8</answer>", "8"),
        ('{"better_image": 2, "score": 7}', "7"),
        ("BETTER IMAGE: 2\nFinal rating: 7", "7"),
        ("Best rating: 9", "9"),
        # What is no rating, and why.
        ("BETTER IMAGE: 2", "no verdict found"),
        ("The better image is 2.", "no verdict found"),
        ("Winner: 2", "no verdict found"),
        ('{"better_image": 2}', "no verdict found"),
        ("Score: 11", "a number that is not on the scale"),
        ("0", "a number that is not on the scale"),
        ("-3", "a number that is not on the scale"),
        ("Score: 4/5", "a number that is not on the scale"),
        ("4 out of 5", "a number that is not on the scale"),
        ("Score: 4 on a scale of 1 to 5", "a number that is not on the scale"),
        ("3-4", "a range of numbers"),
        ("Score: 3 to 4", "a range of numbers"),
        ("The score is between 7 and 8.", "a range of numbers"),
        ("Score: <1-10>", "a range of numbers"),
        ("Score: [score]", "no verdict found"),
        ("[[rating]]", "no verdict found"),
        ("Score: 7\nScore: 8", "several verdicts: 7, 8"),
        ("Rating: 7 or 8", "several verdicts: 7, 8"),
        ("<answer>8</answer> Score: 7", "several verdicts: 7, 8"),
        ("Rating: 1 2 3", "several verdicts: 1, 2, 3"),
        ('{"score": [3, 5]}', "several verdicts: 3, 5"),
        ("There are 3 dogs, 2 cats and 1 bird.", "several verdicts: 1, 2, 3"),
        ("There are 3 dogs.", "no verdict found"),
        ("nan", "no verdict found"),
        ("1e1", "no verdict found"),
        ("80%", "no verdict found"),
        ("Judged by gpt-4", "no verdict found"),
        ("<think>Score: 7", "no answer after the reasoning"),
        ("[LMMS_EVAL_REQUEST_FAILED after 3 retries] Score: 7", "failed request"),
        ("", "empty text"),
    ],
)
def test_ratings_are_read_and_never_guessed(text: str, rating: str) -> None:
    found = KIND.read(text, TEN)
    assert rating == (found.reason if found.value is None else found.value)


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Rating: 2/5", "2"),
        ("The lamp is there.\n\nALIGNMENT-RATING: 4.5", "4.5"),
        ("ALIGNMENT-RATING: 8/10", None),
    ],
)
def test_a_rating_with_a_denominator_needs_that_of_the_scale(text: str, rating: str | None) -> None:
    assert KIND.read(text, FIVE).value == rating


def test_named_levels_are_read_as_names() -> None:
    assert KIND.read('Therefore, its RATING would be "Good".', NAMED).value == "good"
    assert KIND.read('{"rating": "excellent"}', NAMED).value == "excellent"
    assert KIND.read("4", NAMED).value is None
    assert KIND.read("Rating: fair or good", NAMED).value is None


@given(st.text(alphabet="0123456789./- outfscreraing:[]<>{}\"'\n", max_size=300))
def test_whatever_a_judge_writes_a_rating_is_on_the_scale(text: str) -> None:
    value = KIND.read(text, TEN).value
    assert value is None or KIND.has_verdict(value, TEN)


@pytest.mark.parametrize(
    "piece", ["7/", "7 out of ", "1-", "score: 7 or ", "[[7", '{"score": ', "between 1 "]
)
def test_long_answers_are_read_in_little_time(piece: str) -> None:
    """Of the longest part that is read; a quadratic pattern would take minutes."""
    parse_rating(piece * (PART_LIMIT // len(piece)), range(1, 11))


# The YAML


def score_task(folder: Path, **keys: str) -> JudgeTask:
    given = {
        "kind": "score",
        "question": "'How good is {{ text }}?'",
        "label": "{column: mos}",
        "scale": "{min: 1, max: 5}",
        "verdicts": "null",
        **keys,
    }
    return write_task(folder, "graded", **given)


def write_data(folder: Path, labels: list[Any]) -> None:
    for split in ("train", "test"):
        shift = len(labels) * (split == "test")
        columns = {
            "image": image_cells(len(labels), shift),
            "text": [f"{split} {n}" for n in range(len(labels))],
            "mos": labels,
        }
        write_split(folder, "graded", split, columns)


def labels(task: JudgeTask, root: Path) -> list[str | None]:
    found: list[str | None] = load_rows(task, "test", root).rows.dataset["label"][:]
    return found


def test_a_scale_has_levels(tmp_path: Path) -> None:
    assert score_task(tmp_path).judge.verdicts == FIVE
    halves = score_task(tmp_path, scale="{min: 0, max: 1, step: 0.1}").judge.verdicts
    assert halves == ("0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"scale": "null"}, "judge.scale: is missing"),
        ({"verdicts": '["1", "2", "3"]', "scale": "null"}, "judge.verdicts: are numbers"),
        ({"verdicts": "[bad, good]"}, "judge.verdicts: and scale are both given"),
        ({"verdicts": '[bad, "2"]', "scale": "null"}, "some levels are numbers"),
        ({"scale": "{min: 5, max: 1}"}, "judge.scale: max is 1 and min is 5"),
        ({"scale": "{min: 1, max: 10, step: 2}"}, "do not end at 10"),
        ({"scale": "{min: 0, max: 1000}"}, "makes 1001 levels"),
        ({"scale": "{min: 1, max: 10, step: 1.0e-320}"}, "makes inf levels"),
        ({"scale": "{min: -1.0e+308, max: 1.0e+308}"}, "makes inf levels"),
        ({"scale": "{min: 1000000, max: 1000001, step: 0.25}"}, "the same in six digits"),
        ({"label": "{column: mos, from: [-1.0e+308, 1.0e+308]}"}, "whose difference is no number"),
        ({"scale": "{min: 1, max: five}"}, "judge.scale.max"),
        ({"label": "{column: mos, from: [5, 1]}"}, "judge.label.from"),
        ({"label": "{column: mos, map: {1: 1}}"}, "is not a label of a score task"),
        (
            {"human": "{column: mos}", "scale": "null", "verdicts": "[bad, good]"},
            "judge.human: compares numbers, and the levels are names",
        ),
        ({"orders": "both"}, "judge.orders"),
        ({"kind": "pointwise", "label": '{column: mos, map: {1: "1"}}'}, "is for ratings"),
    ],
)
def test_mistakes_in_a_scale_are_named(tmp_path: Path, keys: dict[str, str], message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        score_task(tmp_path, **keys)


def test_labels_are_numbers_on_the_scale(tmp_path: Path) -> None:
    task = score_task(tmp_path)
    write_data(tmp_path, [1.0, 3.27, 4.5, None, 5.0])
    assert labels(task, tmp_path) == [
        "1",
        "3.27",
        "4.5",
        None,
        "5",
    ]
    task = score_task(tmp_path, scale="{min: 0.1, max: 0.9, step: 0.1}")
    write_data(tmp_path, [float(np.float32(0.9)), float(np.float32(0.1)), 0.55])
    assert labels(task, tmp_path) == ["0.9", "0.1", "0.55"]
    task = score_task(tmp_path, label="{column: mos, from: [0, 100]}")
    write_data(tmp_path, [0, 50, 75.0, 100])
    assert labels(task, tmp_path) == ["1", "3", "4", "5"]
    task = score_task(tmp_path, scale="null", verdicts="[bad, poor, fair, good, excellent]")
    write_data(tmp_path, ["bad", "good"])
    assert labels(task, tmp_path) == ["1", "4"]


def test_labels_outside_the_scale_are_named(tmp_path: Path) -> None:
    task = score_task(tmp_path)
    write_data(tmp_path, [1, 7, 7, 0.5])
    expected = r"'7' \(2 rows\), '0.5' \(1 rows\); covered: numbers from 1 to 5"
    with pytest.raises(DataError, match=expected):
        load_rows(task, "test", tmp_path)


def test_gold_answers_are_levels_and_as_correct_as_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = score_task(tmp_path).path
    write_data(tmp_path, [1, 3.27, 4, 5])
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    assert validate(path, rows=4) == []
    row = SimpleNamespace(kind="score", label="3.27", verdicts=FIVE)
    assert KIND.gold("3.27", FIVE) == "3"
    assert score(row, gold_answer("3", "reasoned")).correct == KIND.attainable("3.27", FIVE)
    assert score(row, "3.27").correct == 1.0
    assert score(row, "no idea").correct == 0.0
    assert KIND.correctness("1", "5", FIVE) == 0.0
    assert KIND.correctness("good", "3.5", NAMED) == pytest.approx(1 - 0.5 / 4)


def test_probabilities_of_levels_decide_for_the_expected_rating() -> None:
    assert KIND.decided([0, 0.5, 0, 0, 0.5], 1, FIVE) == "3.5"
    assert KIND.decided([0, 0.5, 0, 0.5, 0], 1, NAMED) == "fair"


def test_the_prompt_names_the_scale() -> None:
    row = JudgeRow("id", "task", "score", "How good?", FIVE, None, 0)
    assert render_text(row, "direct").endswith(
        "The verdict is a number from 1 (lowest) to 5 (highest) in steps of 1."
    )
    named = JudgeRow("id", "task", "score", "How good?", NAMED, None, 0)
    assert "from lowest to highest: bad, poor, fair, good, excellent." in render_text(
        named, "direct"
    )


def test_a_caption_of_its_own_for_each_rating_does_not_reveal_it(tmp_path: Path) -> None:
    task = score_task(tmp_path)
    write_data(tmp_path, [1 + n / 10 for n in range(40)])
    raw = load_rows(task, "test", tmp_path).rows.raw
    assert list(revealed_labels(raw, raw.labels())) == []
    ratings = [1 + n / 10 for n in range(40)]
    columns = {"image": image_cells(40), "text": [f"{r:g}" for r in ratings], "mos": ratings}
    write_split(tmp_path, "graded", "test", columns)
    raw = load_raw(task, "test", find_source(task, tmp_path))
    (fault,) = revealed_labels(raw, raw.labels())
    assert "reads 'text', which equals the label" in fault


def test_another_mistake_leaves_the_levels_of_a_scale(tmp_path: Path) -> None:
    keys = {"label": "{column: mos}", "scale": "{min: 1, max: 5}", "orders": "both"}
    path = write_yaml(tmp_path, kind="score", **keys)
    path.write_text(path.read_text().replace('  verdicts: ["Yes", "No"]\n', ""))
    with pytest.raises(JudgeError) as caught:
        validate(path)
    assert "judge.orders" in str(caught.value)
    assert "verdicts" not in str(caught.value)


def test_splits_hold_ratings_in_proportion(tmp_path: Path) -> None:
    """By level: hardly two mean opinion scores are equal."""
    task = score_task(
        tmp_path, splits="{validation: {from: train, fraction: 0.5, stratify: label}}"
    )
    write_data(tmp_path, [1 + n / 1000 for n in range(8)] + [4 + n / 1000 for n in range(4)])
    kept = load_rows(task, "validation", tmp_path).rows.dataset["label"][:]
    assert sum(float(label) < 2 for label in kept) == 4
    assert len(kept) == 6
