"""Paraphrases of a question are checked with the YAML, and do not change the rows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.images import image_cell
from support.tasks import raw_dataset, write_task, write_yaml

from mtrl_judge.common.errors import JudgeError, JudgeTaskError
from mtrl_judge.judge_tasks.loading import load_shipped_tasks
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.rows import to_rows
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.judge_tasks.templates import question_columns
from mtrl_judge.judge_tasks.validate import validate

SHIPPED = load_shipped_tasks()
FORMS = {
    2: r"\AYour task is to ",
    3: r"^- ",
    5: r"\AYou ",
    6: r" in two steps\b",
    8: r"\A(Property|Rating|Comparison|Ranking): ",
    9: r"\ASuppose ",
}
"""What a paraphrase with a number looks like in every shipped task, where a pattern can tell."""


def test_every_fault_of_paraphrases_is_reported(tmp_path: Path) -> None:
    texts = ["{{ text", "<image> or <image>?", "Is it {{ text }}?", "{% include 'x' %}", "Well?"]
    with pytest.raises(JudgeTaskError) as caught:
        write_task(tmp_path, paraphrases=json.dumps([*texts, "Well?"]))
    faults = {fault.field: fault.found for fault in caught.value.faults}
    assert set(faults) == {f"judge.paraphrases.{n}" for n in (0, 1, 2, 3, 5)}
    assert "line 1 of the template" in faults["judge.paraphrases.0"]
    assert "2 <image> for 1" in faults["judge.paraphrases.1"]
    for index in (2, 5):
        assert faults[f"judge.paraphrases.{index}"] == "repeats an earlier text"
    path = write_yaml(
        tmp_path,
        paraphrases="['{{ text | length | first }}', '{{ text | float | join }}', "
        "'{{ text.key[0] }}']",
    )
    assert [fault.partition(": ")[2].partition(": ")[0] for fault in validate(path)] == [
        "judge.paraphrases.0",
        "judge.paraphrases.1",
    ]
    task = write_task(tmp_path, paraphrases="['{{ txt }}?']")
    with pytest.raises(JudgeError, match=r"judge.paraphrases.0: no column 'txt'"):
        to_rows(
            RawSplit(task, raw_dataset({"image": [image_cell("red")], "text": ["a"], "label": [1]}))
        )


@pytest.mark.parametrize("task", SHIPPED, ids=lambda task: task.task)
def test_shipped_paraphrases_do_not_change_the_rows(task: JudgeTask, data_root: Path) -> None:
    assert len(task.judge.paraphrases) == 9
    bare = task.model_copy(update={"judge": task.judge.model_copy(update={"paraphrases": ()})})
    with_them, without = (load_rows(each, "test", data_root) for each in (task, bare))
    assert with_them.record == without.record
    ids = (split.rows.dataset["item_id"][:] for split in (with_them, without))
    assert next(ids) == next(ids)
    slots = {text.count("<image>") for text in task.questions.values()}
    assert len(slots) == 1
    columns = {frozenset(question_columns(text)) for text in task.questions.values()}
    assert len(columns) == 1


@pytest.mark.parametrize("task", SHIPPED, ids=lambda task: task.task)
def test_a_number_stands_for_the_same_form_in_every_shipped_task(task: JudgeTask) -> None:
    for number, form in FORMS.items():
        text = task.judge.paraphrases[number - 1]
        # A template may ask one of several questions.
        for asked in filter(None, map(str.strip, re.split(r"\{% (?:if|else|endif)\b.*?%\}", text))):
            assert re.search(form, asked, re.MULTILINE), f"paraphrase_{number}: {asked}"
