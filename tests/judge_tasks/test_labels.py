"""Labels from the columns of datasets: values, numbers, several annotators, rows left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from support.images import image_cell
from support.tasks import write_split, write_task, write_yaml

from mtrl_judge.common.errors import DataError, JudgeTaskError
from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.sources import find_source, load_raw, load_rows

IMAGE = image_cell("red")
PAIR = {"kind": "pairwise", "images": "[image0, image1]", "verdicts": '["1", "2", "Tie"]'}


def labels(task: Any, **columns: list[Any]) -> list[str | None]:
    n = len(next(iter(columns.values())))
    shown = {name: [IMAGE] * n for name in task.judge.images}
    raw = RawSplit(task, Dataset.from_dict({**shown, "text": ["a"] * n, **columns}))
    return raw.labels(raw.train_median())


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        ("map: {'Yes': [a, b], 'No': c}", ["a", "b", "c", None], ["Yes", "Yes", "No", None]),
        ("map: {Yes: 'Yes', No: 'No'}", ["Yes", "No"], ["Yes", "No"]),
        ("map: {Yes: 'Yes', No: 'No'}", [True, False], ["Yes", "No"]),
        ("map: {1: 'Yes', 0: 'No'}", [True, False], ["Yes", "No"]),
        ("map: {true: 'Yes', false: 'No'}", [1, 0], ["Yes", "No"]),
        ("map: {0.9: 'Yes', 0.1: 'No'}", [0.9, 0.1], ["Yes", "No"]),
        ("bins: [3]", [2.9, 3, 3.1, None], ["Yes", "No", "No", None]),
        ("drop: [unsure], map: {a: 'Yes', b: 'No'}", ["a", "unsure", "b"], ["Yes", None, "No"]),
        ("reduce: mean, threshold: 3", [[1, 4, 5], [1, 2], []], ["Yes", "No", None]),
        ("reduce: median, threshold: 3", [[1, 1, 9], [3, 4, None]], ["No", "Yes"]),
        (
            "reduce: majority, map: {a: 'Yes', b: 'No'}",
            [["a", "a", "b"], ["a", "b"], ["b"]],
            ["Yes", None, "No"],
        ),
    ],
)
def test_a_rule_labels_values(
    tmp_path: Path, rule: str, values: list[Any], expected: list[str | None]
) -> None:
    task = write_task(tmp_path, label=f"{{column: label, {rule}}}")
    assert labels(task, label=values) == expected


def test_a_number_of_single_precision_is_the_decimal_that_was_written(tmp_path: Path) -> None:
    task = write_task(tmp_path, label="{column: x, map: {0.9: 'Yes', 0.1: 'No'}}")
    values = np.array([0.9, 0.1], dtype=np.float32)
    data = Dataset.from_dict(
        {"image": [IMAGE] * 2, "text": ["a", "b"], "x": values},
        features=Features(
            image={"bytes": Value("binary"), "path": Value("null")},
            text=Value("string"),
            x=Value("float32"),
        ),
    )
    assert RawSplit(task, data).labels() == ["Yes", "No"]


def test_several_columns_become_one_label(tmp_path: Path) -> None:
    task = write_task(tmp_path, label="{column: [one, two], reduce: mean, threshold: 3}")
    assert labels(task, one=[1, 5, None], two=[4, 2, 3]) == ["No", "Yes", "Yes"]
    for one, two in (["x", "y"], [1e308, 1e308]):
        with pytest.raises(DataError, match="have no mean; expected numbers"):
            labels(task, one=[one], two=[two])


def test_the_message_about_long_values_is_short(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    with pytest.raises(DataError) as caught:
        labels(task, label=["x" * 2**20, "y"])
    assert len(str(caught.value)) < 3000
    assert str(caught.value).endswith("covered: 1, 0")
    with pytest.raises(DataError) as caught:
        raise DataError("x\n" * 2**20 + "the last line")
    assert len(str(caught.value)) < 60_000
    assert str(caught.value).endswith("the last line")


def test_the_larger_number_is_preferred(tmp_path: Path) -> None:
    task = write_task(
        tmp_path, **PAIR, label="{larger_of: ['scores[0]', 'scores[1]'], margin: 0.5}"
    )
    scores = [[3, 1], [1, 3], [2, 2.5], [2, None]]
    assert labels(task, scores=scores) == ["1", "2", "Tie", None]
    task = write_task(tmp_path, **PAIR | {"verdicts": '["1", "2"]'}, label="{larger_of: [s0, s1]}")
    assert labels(task, s0=[3, 1, 2], s1=[1, 3, 2]) == ["1", "2", None]


def test_the_first_candidate_of_every_pair_is_right(tmp_path: Path) -> None:
    """As in SugarCrepe, whose first caption is always the right one."""
    task = write_task(
        tmp_path,
        kind="pairwise",
        candidates="[caption, negative]",
        question="'1: {{ caption }} 2: {{ negative }}'",
        verdicts='["1", "2"]',
        label="{constant: first}",
    )
    columns = {"image": [IMAGE] * 2, "caption": ["a", "b"], "negative": ["c", "d"]}
    write_split(tmp_path, "my_task", "test", columns)
    rows = load_rows(task, "test", tmp_path).rows.dataset
    assert rows["label"][:] == ["1", "2", "1", "2"]


def test_rows_are_selected_and_left_out_and_counted(tmp_path: Path) -> None:
    task = write_task(
        tmp_path,
        label="{column: label, drop: [unsure], map: {a: 'Yes', b: 'No'}}",
        where="{source: [one, two], 'meta.ok': true}",
        splits="{validation: {from: train, fraction: 0.5}}",
    )
    columns = {
        "image": [IMAGE] * 6,
        "text": [*"abcdef"],
        "source": ["one", "two", "three", "one", "one", "two"],
        "meta": [{"ok": ok} for ok in (True, True, True, False, True, True)],
        "label": ["a", "b", "a", "b", "unsure", "a"],
    }
    for split in ("train", "test"):
        write_split(tmp_path, "my_task", split, columns)
    record = load_rows(task, "test", tmp_path).record
    assert record["left_out"] == {"judge.label.drop": 1, "judge.where": 2}
    assert (record["items"], record["labels"]) == (3, {"Yes": 2, "No": 1})
    source = find_source(task, tmp_path)
    sizes = [len(load_raw(task, split, source)) for split in ("train", "validation")]
    assert sum(sizes) == 3
    nothing = write_task(tmp_path, where="{source: four}")
    with pytest.raises(DataError, match=r"leaves none of 6 rows.*'one', 'three', 'two'"):
        load_rows(nothing, "test", tmp_path)


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"label": "{column: l, map: {'Yes': [a, b], 'No': [b]}}"}, "'b' is also a value of 'Yes'"),
        ({"label": "{column: l, map: {'Yes': [a], 'No': [[b]]}}"}, "No: has a list or a mapping"),
        ({"where": "{source: [[one]]}"}, "where.source.0: is a list, no single value"),
        ({"where": "{source: {one: two}}"}, "where.source.0: is a mapping, no single value"),
        ({"label": "{column: l, bins: [3, 1]}"}, "ascending numbers"),
        ({"label": "{column: l, bins: [1, 2]}"}, "2 bounds for 2 verdicts"),
        ({"label": "{column: l, reduce: sum, threshold: 3}"}, "reduce.*is 'sum'"),
        ({"label": "{column: [a, b], threshold: 3}"}, "reduce: is missing for 2 columns"),
        ({**PAIR, "label": "{constant: first, reduce: mean}"}, "this rule reads each"),
        ({**PAIR, "label": "{larger_of: [a, b], reduce: mean}"}, "this rule reads each"),
        ({**PAIR, "label": "{constant: third}"}, "constant.*is 'third'"),
        ({**PAIR, "label": "{larger_of: [a]}"}, "larger_of"),
        ({**PAIR, "label": "{larger_of: [a, text]}"}, "reads the column 'text', the label"),
    ],
)
def test_faults_of_rules_are_named(tmp_path: Path, keys: dict[str, str], fault: str) -> None:
    question = "'{{ text }} <image> <image>'" if "images" in keys else "'{{ text }}'"
    with pytest.raises(JudgeTaskError, match=fault):
        load_judge_task(write_yaml(tmp_path, question=question, **keys))
