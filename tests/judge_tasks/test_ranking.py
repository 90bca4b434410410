"""The kind ranking: labels, orders of presentation, scores, and a task from YAML to rows."""

from __future__ import annotations

import re
from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from support.images import image_cell
from support.tasks import raw_dataset, write_task, write_yaml

from mtrl_judge.common.errors import DataError, JudgeTaskError
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.kinds.ranking import OrderLabel, ScoresLabel
from mtrl_judge.judge_tasks.prompts import render_text
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.rows import JudgeRow, render_variant, to_rows
from mtrl_judge.judge_tasks.spec import STYLES, JudgeTask, Style
from mtrl_judge.judge_tasks.validate import validate
from mtrl_judge.metrics.rankings import read_order, score_order

RANKING = KINDS["ranking"]
ABCD = ("A", "B", "C", "D")


@pytest.mark.parametrize(
    ("rule", "value", "order"),
    [
        ({"best": "lowest"}, [3, 1, 2, 4], "B>C>A>D"),
        ({"best": "highest"}, [3.5, 1.0, 3.5, 4], "D>A=C>B"),
        ({"order": "best_first"}, "CDAB", "C>D>A>B"),
        ({"order": "best_first"}, "C > D > A = B", "C>D>A=B"),
        ({"order": "best_first"}, ["C", "D", "A", "B"], "C>D>A>B"),
        ({"order": "best_first"}, [2, 3, 0, 1], "C>D>A>B"),
        ({"order": "best_first"}, [3, 4, 1, 2], "C>D>A>B"),
        ({"order": "worst_first"}, "BADC", "C>D>A>B"),
        ({"best": "lowest"}, [1, 2, 3], None),
        ({"best": "lowest"}, [1, 2, 3, None], None),
        ({"best": "lowest"}, "CDAB", None),
        ({"order": "best_first"}, "CDA", None),
        ({"order": "best_first"}, [1, 2, 3, 5], None),
    ],
)
def test_labels_are_ranks_scores_or_orders(
    rule: dict[str, Any], value: object, order: str | None
) -> None:
    label = (ScoresLabel if "best" in rule else OrderLabel)(column="x", **rule)
    if order is None:
        with pytest.raises(LookupError):
            label.verdict(value, ABCD, None)
    else:
        assert label.verdict(value, ABCD, None) == order


def test_a_label_names_the_slots_in_which_candidates_are_shown() -> None:
    for label in ("D>B>A>C", "D>A=C>B"):
        places = {name: place for place, names in enumerate(read_order(label)) for name in names}
        for order in range(4):
            shown = [ABCD[(slot + order) % 4] for slot in range(4)]  # as rows show them
            presented = read_order(RANKING.presented(label, ABCD, order) or "")
            for place, slots in enumerate(presented):
                assert {places[shown[ABCD.index(slot)]] for slot in slots} == {place}
    assert RANKING.presented(None, ABCD, 1) is None


def test_the_gold_answer_of_every_label_is_right_and_ties_are_asked_for() -> None:
    for label in RANKING.gold_labels(ABCD):
        read = RANKING.read(RANKING.gold(label, ABCD), ABCD).value
        assert RANKING.correctness(read, label, ABCD) == RANKING.attainable(label, ABCD) == 1
    assert RANKING.correctness("A>B=C=D", "A=B=C=D", ABCD) == 0
    assert RANKING.correctness(None, "A>B>C>D", ABCD) == 0
    for names in permutations(ABCD):
        verdict = ">".join(names)
        expected = score_order(read_order(verdict), read_order("B>A>D>C")).pairwise_accuracy
        assert RANKING.correctness(verdict, "B>A>D>C", ABCD) == expected


@pytest.mark.parametrize("style", STYLES)
def test_the_prompt_repeated_is_no_order(tmp_path: Path, style: Style) -> None:
    row = rows_of(write_task(tmp_path, **THREE), three())[0]
    text = render_text(row, style)
    assert RANKING.verdict_form(row.verdicts) in text
    assert RANKING.read(text, row.verdicts).value is None
    assert RANKING.read(RANKING.verdict_form(row.verdicts), row.verdicts).value is None


def test_only_canonical_orders_of_all_candidates_are_verdicts() -> None:
    assert RANKING.has_verdict("B>A=C", "ABC")
    for text in ("B>C=A", "B>A", "B>A>C>D", "B", "", "B>A>A"):
        assert not RANKING.has_verdict(text, "ABC")


THREE = {
    "kind": "ranking",
    "images": "[image0, image1, image2]",
    "candidates": "[image0, image1, image2]",
    "question": "'{{ text }}: <image>, <image> or <image>?'",
    "label": "{column: ranks, best: lowest}",
    "verdicts": '["A", "B", "C"]',
}
COLORS = ("#ff0000", "#00ff00", "#0000ff")


def three(n: int = 1, **columns: Any) -> Dataset:
    """Items of three images whose ranks are red 2, green 3, blue 1."""
    images = {f"image{place}": [image_cell(color)] * n for place, color in enumerate(COLORS)}
    given = {"text": [f"Best {item}" for item in range(n)], "ranks": [[2, 3, 1]] * n}
    return raw_dataset({**images, **given, **columns})


def place_of(row: JudgeRow) -> str:
    """The order of the colors that the label means."""
    colors = ["rgb"[image.getpixel((0, 0)).index(255)] for image in row.images]
    order = read_order(row.label or "")
    return ">".join("=".join(colors[row.verdicts.index(name)] for name in place) for place in order)


def rows_of(task: JudgeTask, data: Dataset) -> list[JudgeRow]:
    return [JudgeRow.from_doc(doc) for doc in to_rows(RawSplit(task, data)).dataset]


def test_each_candidate_is_shown_in_each_slot_and_the_label_goes_with_it(tmp_path: Path) -> None:
    rows = rows_of(write_task(tmp_path, **THREE), three(2))
    assert [row.label for row in rows[:3]] == ["C>A>B", "B>C>A", "A>B>C"]
    assert {place_of(row) for row in rows} == {"b>r>g"}
    first = {row.images[0].getpixel((0, 0)) for row in rows[:3]}
    assert len(first) == 3
    ids = [row.item_id for row in rows]
    assert ids[1:3] == [f"{ids[0]}@1", f"{ids[0]}@2"]
    assert [row.cluster for row in rows] == [ids[0]] * 3 + [ids[3]] * 3
    assert {(row.pair_id, row.swapped) for row in rows} == {(None, False)}


def test_a_hash_shows_each_item_in_one_order(tmp_path: Path) -> None:
    rows = rows_of(write_task(tmp_path, **THREE, orders="hashed"), three(90))
    assert len({row.item_id for row in rows}) == 90
    assert {place_of(row) for row in rows} == {"b>r>g"}
    counts = Counter(row.label for row in rows)
    assert len(counts) == 3
    assert min(counts.values()) > 15


def test_answers_of_a_list_rotate_with_the_order_that_people_gave(tmp_path: Path) -> None:
    """As MLLM-as-a-Judge's batch.jsonl has them."""
    answers = [{"name": name, "answer": name} for name in ("llava", "cogvlm", "gpt4", "gemini")]
    task = write_task(
        tmp_path,
        **THREE
        | {
            "images": "[image]",
            "candidates": "answers",
            "question": "'{{ instruction }} A: {{ answers[0].answer }} B: {{ answers[1].answer }} "
            "C: {{ answers[2].answer }} D: {{ answers[3].answer }}'",
            "label": "{column: human_answer, order: best_first}",
            "verdicts": '["A", "B", "C", "D"]',
        },
    )
    item = {"image": image_cell("red"), "instruction": "What?", "answers": answers}
    rows = rows_of(task, Dataset.from_list([{**item, "human_answer": "CDAB"}]))
    for row in rows:
        shown = dict(re.findall(r"(\w): (\w+)", row.question))
        best_first = [shown[place[0]] for place in read_order(row.label or "")]
        assert best_first == ["gpt4", "gemini", "llava", "cogvlm"]
    assert rows[1].question == "What? A: cogvlm B: gpt4 C: gemini D: llava"
    short = {**item, "answers": answers[:3], "human_answer": "CDAB"}
    with pytest.raises(DataError, match=r"'CDAB' .*covered: orders of A, B, C, D"):
        rows_of(task, Dataset.from_list([short]))


def test_numbers_may_be_in_a_column_for_each_candidate(tmp_path: Path) -> None:
    rule = "{column: [mos0, mos1, mos2], best: highest}"
    task = write_task(tmp_path, **THREE | {"label": rule}, orders="hashed")
    data = three(2, mos0=[2.0, 2.0], mos1=[1.5, None], mos2=[3.0, 3.0])
    rows = rows_of(task, data)
    assert place_of(rows[0]) == "b>r>g"
    assert rows[1].label is None


def test_a_paraphrase_shows_the_same_order(tmp_path: Path) -> None:
    keys = THREE | {
        "images": "[image]",
        "candidates": "[a, b, c]",
        "question": "'A {{ a }} B {{ b }} C {{ c }}'",
        "paraphrases": "['{{ a }}, {{ b }}, {{ c }}?']",
    }
    data = raw_dataset(
        {"image": [image_cell("red")], "a": ["x"], "b": ["y"], "c": ["z"], "ranks": [[1, 2, 3]]}
    )
    rows = to_rows(RawSplit(write_task(tmp_path, **keys), data))
    assert rows.dataset["question"][:] == ["A x B y C z", "A y B z C x", "A z B x C y"]
    variants = render_variant(rows, "judge.paraphrases.0")
    assert [variant.text for variant in variants] == ["x, y, z?", "y, z, x?", "z, x, y?"]


@pytest.mark.parametrize(
    ("change", "field", "part"),
    [
        ({"candidates": "[image0]"}, "judge.candidates", "names 1 candidates"),
        ({"verdicts": '["1", "2", "3"]'}, "judge.verdicts", "write ['A', 'B', 'C']"),
        ({"verdicts": '["A", "B"]'}, "judge.verdicts", "names 2 of 3 candidates"),
        (
            {"candidates": "answers", "verdicts": '["A", "C"]'},
            "judge.verdicts",
            "write ['A', 'B']",
        ),
        ({"orders": "both"}, "judge.orders", "write cyclic or hashed"),
        ({"human": "{column: ranks}"}, "judge.human", "here several are put in order"),
        ({"label": "{column: ranks}"}, "judge.label", "{best, column} or {column, order}"),
        (
            {"label": "{column: ranks, best: lowest, reduce: mean}"},
            "judge.label.reduce",
            "this rule reads each",
        ),
        ({"label": "{column: ranks, best: first}"}, "judge.label.best", "known: highest, lowest"),
    ],
)
def test_faults_of_a_yaml(tmp_path: Path, change: dict[str, str], field: str, part: str) -> None:
    with pytest.raises(JudgeTaskError) as caught:
        write_task(tmp_path, **THREE | change)
    found = {fault.field: f"{fault.found}; {fault.expected}" for fault in caught.value.faults}
    assert part in found.get(field, ""), found


def test_what_is_no_order_of_the_candidates_is_named(tmp_path: Path) -> None:
    wrong = r"'\[1, 2\]' \(1 rows\); covered: lists of a number for each"
    with pytest.raises(DataError, match=wrong):
        rows_of(write_task(tmp_path, **THREE), three(2, ranks=[[1, 2, 3], [1, 2]]))


def test_validation_with_and_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_yaml(tmp_path, "my_ranking", **THREE)
    assert validate(path) == []
    for split in ("train", "test"):
        folder = tmp_path / "data" / "my_ranking"
        folder.mkdir(parents=True, exist_ok=True)
        three(4).to_parquet(folder / f"{split}.parquet")
    monkeypatch.setenv("MTRL_JUDGE_DATA", str(tmp_path / "data"))
    assert validate(path, rows=4) == []
