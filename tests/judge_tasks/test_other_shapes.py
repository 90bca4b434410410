"""Shapes in which datasets of judgments are published, from raw rows to what a judge is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from support.images import image_cell
from support.tasks import write_task

from mtrl_judge.common.errors import DataError, JudgeTaskError
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.rows import JudgeRow, to_rows

RED, LIME = image_cell("red"), image_cell("lime")
PAIR = {"kind": "pairwise", "verdicts": '["A", "B"]'}


def judged(task: Any, *rows: dict[str, Any]) -> list[tuple[str, str | None]]:
    """The question and the label of each row."""
    dataset = to_rows(RawSplit(task, Dataset.from_list(list(rows)))).dataset
    found = (JudgeRow.from_doc(dataset[index]) for index in range(len(dataset)))
    return [(row.question, row.label) for row in found]


def critique(asked: str, answer: str) -> dict[str, Any]:
    """A row of LLaVA-Critic: a judge's prompt and its answer are a conversation."""
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
    return {"image": RED, "conversations": turns}


CONVERSATION = {"label": "{answer: 'conversations[1].value'}"}


@pytest.mark.parametrize(
    ("keys", "answers", "labels"),
    [
        (
            {"verdicts": "[Response 1, Response 2]"},
            ["Response 1 is better.", "It is exact, so Response 2 is better.", "Who knows?", None],
            ["Response 1", "Response 2", None, None],
        ),
        (
            {"kind": "score", "verdicts": "", "scale": "{min: 0, max: 100}"},
            ["Score: 80\nTwo of its 3 claims are true.", "[RESULT] 35"],
            ["80", "35"],
        ),
        ({"kind": "score", "verdicts": "[bad, good]"}, ["It is good."], ["2"]),
        (
            {"kind": "ranking", "verdicts": "[A, B, C]", "candidates": "[one, two, three]"},
            ["[[B>C>A]]"],
            ["B>C>A", "A>B>C", "C>A>B"],
        ),
    ],
    ids=["verdict", "rating", "named level", "order"],
)
def test_labels_are_read_from_answers(
    tmp_path: Path, keys: dict[str, str], answers: list[str | None], labels: list[str | None]
) -> None:
    asked = "{{ conversations[0].value | interleave(image) }}"
    if "candidates" in keys:
        asked += "{{ one }}{{ two }}{{ three }}"
    task = write_task(tmp_path, **CONVERSATION | keys, question=f"'{asked}'")
    others = {"one": "x", "two": "y", "three": "z"}
    rows = judged(task, *(critique(f"<image>\n{a}?", a) | others for a in answers))
    assert [label for _, label in rows] == labels
    assert all(question.startswith("<image>\n") for question, _ in rows)


def test_an_answer_without_any_verdict_is_no_label(tmp_path: Path) -> None:
    task = write_task(tmp_path, **CONVERSATION, question="'{{ conversations[0].value }}'")
    with pytest.raises(DataError, match=r"no text in column 'conversations\[1\].value' has a"):
        judged(task, critique("Is it?", "Who knows?"))


@pytest.mark.parametrize(
    "question",
    [
        "{{ conversations[1].value }}",
        "{{ conversations[-1]['value'] }}",
        "{% for turn in conversations %}{{ turn.value }}{% endfor %}",
    ],
)
def test_the_part_of_a_column_that_has_the_label_is_not_shown(
    tmp_path: Path, question: str
) -> None:
    with pytest.raises(JudgeTaskError, match=r"reads the column 'conversations\[1\].value', the l"):
        write_task(tmp_path, **CONVERSATION, question=f'"{question}"')
