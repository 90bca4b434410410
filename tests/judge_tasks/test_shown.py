"""What a question must not show, and what it must: by the YAML alone, and by the rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.commands import call
from support.images import image_cells
from support.tasks import PAIR, write_split, write_task, write_yaml

from mtrl_judge.common.errors import DataError, JudgeError, JudgeTaskError
from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.judge_tasks.validate import validate

TEXTS = {"images": "[image]", "candidates": "[answer_a, answer_b]"}


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"question": "'Is it {{ label }}?'"}, "judge.question: reads the column 'label', the lab"),
        (
            {"question": "'Is it {% if label == 1 %}so{% endif %}?'"},
            "judge.question: reads the column 'label', the label",
        ),
        (
            {"paraphrases": "['Is it {{ text }}, {{ label | string }}?']"},
            "judge.paraphrases.0: reads the column 'label', the label",
        ),
        (
            {"question": "'{{ text }} {{ why }}'", "reasoning": "why"},
            "judge.question: reads the column 'why', the reasoning of a good answer",
        ),
        (
            {"question": "'{{ text }} {{ shows }}'", "facts": "{column: shows}"},
            "judge.question: reads the column 'shows', the facts that a judge is to see itself",
        ),
        (
            {"question": "'{{ text }}, {{ stars }} stars?'", "human": "{column: stars}"},
            "judge.question: reads the column 'stars', people's ratings",
        ),
        (
            {**PAIR, **TEXTS, "question": "'{{ text }}: 1 or 2?'"},
            "judge.question: never shows 'answer_a' and 'answer_b', which judge.candidates comp",
        ),
        (
            {**PAIR, **TEXTS, "question": "'A: {{ answer_a }}. A or B?'"},
            "judge.question: never shows 'answer_b', which judge.candidates compares",
        ),
        (
            {**PAIR, "question": "'{{ caption0 }}: <image> {{ caption1 }}: <image>'"},
            "judge.question: shows 'caption0' and 'caption1', which by their names belong to the "
            "candidates 'image0' and 'image1' but do not change places",
        ),
        (
            {**PAIR, "question": "'{{ prompt_a }} or {{ prompt_b }}?'"},
            "judge.question: shows 'prompt_a' and 'prompt_b'",
        ),
        (
            {
                **PAIR,
                "images": "[chosen_image, rejected_image, chosen_mask, rejected_mask]",
                "candidates": "[chosen_image, rejected_image]",
                "question": "'{{ text }}?'",
            },
            "judge.question: shows 'chosen_mask' and 'rejected_mask'",
        ),
        (
            {
                **PAIR,
                **TEXTS,
                "question": "'{{ answer_a }} {{ modelA }} or {{ answer_b }} {{ modelB }}?'",
            },
            "judge.question: shows 'modelA' and 'modelB'",
        ),
    ],
)
def test_a_question_that_shows_too_much_or_too_little_is_refused(
    tmp_path: Path, keys: dict[str, str], fault: str
) -> None:
    path = write_yaml(tmp_path, **keys)
    with pytest.raises(JudgeTaskError) as caught:
        load_judge_task(path)
    (message,) = str(caught.value).splitlines()
    assert fault in message


@pytest.mark.parametrize(
    "keys",
    [
        {**PAIR, "question": "'{{ caption }}, {{ caption2 }}: <image> or <image>?'"},
        # Images beside two texts need not belong to them.
        {
            **PAIR,
            **TEXTS,
            "images": "[image_1, image_2]",
            "question": "'{{ answer_a }} or {{ answer_b }}?'",
        },
    ],
)
def test_columns_that_belong_to_no_candidate_may_be_shown(
    tmp_path: Path, keys: dict[str, str]
) -> None:
    assert validate(write_yaml(tmp_path, **keys)) == []


def refused(root: Path, keys: dict[str, str], columns: dict[str, Sequence[Any]]) -> str:
    """What both loading and `validate --rows` say against the rows of a task."""
    task = write_task(root, **keys)
    write_split(root, task.task, "test", columns)
    write_split(root, task.task, "train", columns)
    with pytest.raises(DataError) as caught:
        load_rows(task, "test", root)
    message = str(caught.value).removeprefix(f"{task.path}: ")
    done = call("validate", task.path, "--rows", 99, "--data-root", root)
    assert isinstance(done.exception, JudgeError)
    assert f"{task.path}: test: {message}" in done.output
    return message


@pytest.mark.parametrize(
    ("column", "n", "how"),
    [
        (lambda label: label, 6, "equals the label in all 6"),
        (lambda label: ["No", "Yes"][label], 6, "equals the label in all 6"),
        (lambda label: {"gold": label, "n": 3}, 6, "equals the label in all 6"),
        (lambda label: ["bad", "good"][label], 24, "has one value for each label in all 24"),
    ],
    ids=["the label", "the verdict", "an entry", "an alias"],
)
def test_a_question_that_reads_the_label_by_another_name_is_refused(
    tmp_path: Path, column: Any, n: int, how: str
) -> None:
    labels = [number % 3 % 2 for number in range(n)]
    gold = [column(label) for label in labels]
    named = "info.gold" if isinstance(gold[0], dict) else "info"
    keys = {"question": f"'{{{{ text }}}} {{{{ {named} }}}}?'"}
    columns: dict[str, Sequence[Any]] = {
        "image": image_cells(n),
        "text": [f"thing {number}" for number in range(n)],
        "info": gold,
        "label": labels,
    }
    message = refused(tmp_path, keys, columns)
    assert message.startswith(f"judge.question: reads '{named}', which {how} labeled rows")
    # The same column may be there, as long as the question does not read it.
    load_rows(write_task(tmp_path, question="'{{ text }}?'"), "test", tmp_path)


@pytest.mark.parametrize("orders", ["both", "hashed"])
@pytest.mark.parametrize("kind", ["images", "texts", "hidden texts"])
def test_pairs_that_look_the_same_in_both_orders_are_refused(
    tmp_path: Path, kind: str, orders: str
) -> None:
    n = 10
    cells = image_cells(n)
    columns: dict[str, Sequence[Any]] = {"label": ["a", "b"] * 5, "text": ["t"] * n}
    keys = {**PAIR, "orders": orders}
    if kind == "images":
        columns |= {"image0": cells, "image1": [cells[0], *image_cells(n - 1, 20)]}
    else:
        keys |= {**TEXTS, "question": "'{{ answer_a }} or {{ answer_b }}?'"}
        answers = [f"answer {number}" for number in range(n)]
        columns |= {"image": cells, "answer_a": answers, "answer_b": [answers[0], *"bcdefghij"]}
    if kind == "hidden texts":
        columns["show"] = [0] + [1] * (n - 1)
        keys["question"] = (
            "'{% if show == 1 %}{{ answer_a }} or {{ answer_b }}{% else %}One or two{% endif %}?'"
        )
        columns["answer_b"] = list("abcdefghij")
    message = refused(tmp_path, keys, columns)
    assert message.startswith(
        "judge.candidates: 1 of 10 pairs look the same in both orders but have opposite labels ("
    )
    # A tie is right in both orders.
    tied = {**columns, "label": ["t", *columns["label"][1:]]}
    write_split(tmp_path, "my_task", "test", tied)
    load_rows(write_task(tmp_path, **keys), "test", tmp_path)


def test_a_few_pairs_that_look_the_same_are_recorded(tmp_path: Path) -> None:
    n = 100
    task = write_task(
        tmp_path, **{**PAIR, **TEXTS, "question": "'{{ answer_a }} or {{ answer_b }}?'"}
    )
    columns = {
        "image": image_cells(1) * n,
        "answer_a": [f"answer {number}" for number in range(n)],
        "answer_b": ["answer 0"] * n,
        "label": ["a"] * n,
    }
    write_split(tmp_path, task.task, "test", columns)
    loaded = load_rows(task, "test", tmp_path)
    assert loaded.record["identical_pairs"] == [loaded.rows.dataset["item_id"][0]]
    assert "1 identical pairs" in call("data", "status", task.path, "--data-root", tmp_path).stdout


def test_validate_reports_duplicates_and_contradictions(tmp_path: Path) -> None:
    task = write_task(tmp_path, id="[name]")
    cells = image_cells(3)
    columns = {"image": [*cells, cells[0], cells[1]], "text": list("abcab"), "name": list("vwxyz")}
    write_split(tmp_path, task.task, "train", {**columns, "label": [1, 0, 1, 1, 1]})
    write_split(tmp_path, task.task, "test", {**columns, "label": [1, 0, 1, None, 0]})
    done = call("validate", task.path, "--rows", 2, "--data-root", tmp_path)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[1:] == [
        f"{task.path}: train: 2 rows show a judge the same as an earlier row",
        f"{task.path}: train: 2 rows show the same but differ in their labels, as w, z",
        f"{task.path}: test: 2 rows show a judge the same as an earlier row",
    ]
    status = call("data", "status", task.path, "--data-root", tmp_path)
    assert "2 duplicates; 2 contradictory" in status.stdout
