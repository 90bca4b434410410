"""Shapes of datasets: paths into columns, lists of images, candidates of texts and images."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from support.images import image_cell
from support.tasks import write_task, write_yaml

from mtrl_judge.common.errors import DataError, JudgeTaskError
from mtrl_judge.judge_tasks.column_paths import leaves, mapped, parse_path, replaced, value_at
from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.row_checks import identical_pairs
from mtrl_judge.judge_tasks.rows import JudgeRow, to_rows
from mtrl_judge.judge_tasks.validate import validate

COLORS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255), "gray": (128, 128, 128)}
PAIR = {"kind": "pairwise", "verdicts": '["A", "B"]', "label": "{column: best}"}


def cell(color: str) -> bytes:
    data: bytes = image_cell(color)["bytes"]
    return data


def rows_of(task: Any, *rows: dict[str, Any]) -> list[JudgeRow]:
    dataset = to_rows(RawSplit(task, Dataset.from_list(list(rows)))).dataset
    return [JudgeRow.from_doc(dataset[index]) for index in range(len(dataset))]


def shown(row: JudgeRow) -> str:
    """The prompt of a row with the colors of its images where they stand."""
    names = {value: name for name, value in COLORS.items()}
    images = iter(row.images)
    parts = render_messages(row, "direct")[0]["content"]
    texts = [
        part["text"] if part["type"] == "text" else f"[{names[next(images).getpixel((0, 0))]}]"
        for part in parts
    ]
    return "".join(texts).partition("\n\n")[0]


def test_paths_lead_to_values() -> None:
    row = {"a": [{"b": 1}, {"b": [2, None]}], "c.d": 5, "e": {"f": None}}
    paths = {path: parse_path(path, row) for path in ("a[1].b", "a[].b", "a[-2].b", "c.d", "e.f.g")}
    found = {path: value_at(row[name], steps) for path, (name, steps) in paths.items()}
    assert found == {"a[1].b": [2, None], "a[].b": [1, [2, None]], "a[-2].b": 1, "c.d": 5} | {
        "e.f.g": None
    }
    assert list(leaves(row["a"], paths["a[].b"].steps)) == [1, 2, None]
    assert mapped(row["a"], (None, "b"), str) == [{"b": "1"}, {"b": "[2, None]"}]
    assert replaced(row["a"], (0, "b"), 7) == [{"b": 7}, {"b": [2, None]}]
    assert row["a"] == [{"b": 1}, {"b": [2, None]}]


def test_two_texts_of_a_list_change_places_with_their_label(tmp_path: Path) -> None:
    """As VL-RewardBench has them, with a rank for each; 0 is the better one."""
    task = write_task(
        tmp_path,
        **PAIR | {"label": "{column: 'ranks[0]', first: 0, second: 1}"},
        question="'{{ query }} A: {{ response[0] }} B: {{ response[1] }}'",
        candidates="response",
    )
    row = {"query": "Who?", "response": ["he", "she"], "image": cell("red"), "ranks": [1, 0]}
    one, other = rows_of(task, row)
    assert shown(one) == "[red]Who? A: he B: she"
    assert shown(other) == "[red]Who? A: she B: he"
    assert (one.label, other.label) == ("B", "A")


def test_groups_of_text_and_images_change_places_together(tmp_path: Path) -> None:
    task = write_task(
        tmp_path,
        **PAIR,
        images="[context, image_a, image_b]",
        candidates="[[text_a, image_a], [text_b, image_b]]",
        question="'{{ context }}: {{ text_a }}{{ image_a }} or {{ text_b }}{{ image_b }}?'",
    )
    row = {"context": cell("gray"), "text_a": "one", "text_b": "two", "best": 0}
    rows = rows_of(
        task,
        {**row, "image_a": [cell("red"), cell("lime")], "image_b": [cell("blue")]},
        {**row, "context": None, "image_a": [], "image_b": None},
    )
    assert [shown(row) for row in rows] == [
        "[gray]: one[red][lime] or two[blue]?",
        "[gray]: two[blue] or one[red][lime]?",
        ": one or two?",
        ": two or one?",
    ]
    assert [row.n_images for row in rows] == [4, 4, 0, 0]


def test_candidates_interleave_segments(tmp_path: Path) -> None:
    """As MMRB2's multimodal answers: any order of texts and images."""
    segments = "{% for part in {0} %}{{ part.image or '' }}{{ part.text or '' }}{% endfor %}"
    question = " / ".join(segments.replace("{0}", name) for name in ("context", "a", "b"))
    task = write_task(
        tmp_path,
        **PAIR,
        images="['context[].image', 'a[].image', 'b[].image']",
        candidates="[a, b]",
        question=f'"{question}"',
    )

    def text(words: str) -> dict[str, Any]:
        return {"text": words, "image": None}

    def image(color: str) -> dict[str, Any]:
        return {"text": None, "image": image_cell(color)}

    rows = rows_of(
        task,
        {
            "context": [text("Draw "), image("gray"), text(" again")],
            "a": [image("red"), text("first"), image("lime")],
            "b": [text("second"), image("blue")],
            "best": 1,
        },
    )
    assert [shown(row) for row in rows] == [
        "Draw [gray] again / [red]first[lime] / second[blue]",
        "Draw [gray] again / second[blue] / [red]first[lime]",
    ]
    assert validate(task.path) == []


def test_images_stand_at_the_numbered_marks_of_a_text(tmp_path: Path) -> None:
    """Images without a mark follow the text, marks without an image stay text."""
    task = write_task(
        tmp_path,
        **PAIR,
        images="['asked[]', 'a_images[]', 'b_images[]']",
        candidates="[[a, a_images], [b, b_images]]",
        question="'{{ ask | interleave(asked) }} A: {{ a | interleave(a_images) }} "
        "B: {{ b | interleave(b_images) }}'",
    )
    row = {
        "ask": "Draw <image_1> as <image_2>|",
        "asked": [image_cell("gray"), image_cell("red")],
        "a": "<image_1> then <image> <image_7>",
        "a_images": [image_cell("lime")],
        "b": "",
        "b_images": [image_cell("blue"), image_cell("red")],
        "best": 0,
    }
    empty = {**row, "ask": "Only text", "asked": None, "a_images": [], "b_images": None}
    shown_a = "[lime] then <\u200bimage> <image_7>"
    assert [shown(each) for each in rows_of(task, row, empty)] == [
        f"Draw [gray] as [red]| A: {shown_a} B: [blue][red]",
        f"Draw [gray] as [red]| A: [blue][red] B: {shown_a}",
        "Only text A: <image_1> then <\u200bimage> <image_7> B:",
        "Only text A:  B: <image_1> then <\u200bimage> <image_7>",
    ]
    assert validate(task.path) == []
    for wrong, why in (("| upper", "is the last filter"), ("", "no column of judge.images")):
        other = "b" if not wrong else "b_images"
        question = (
            "'{{ asked }}{{ a_images }}{{ a }}{{ b | interleave(" + other + ") " + wrong + "}}'"
        )
        bad = write_task(
            tmp_path,
            **PAIR,
            images="['asked[]', 'a_images[]', 'b_images[]']",
            candidates="[[a, a_images], [b, b_images]]",
            question=question,
        )
        with pytest.raises(DataError, match=why):
            rows_of(bad, row)


def test_images_in_a_list_stand_before_the_text_or_where_the_question_places_them(
    tmp_path: Path,
) -> None:
    row = {"photos": [cell("red"), cell("blue")], "text": "big", "label": 1}
    before = write_task(tmp_path, images="[photos]")
    assert shown(rows_of(before, row)[0]) == "[red][blue]Is it big?"
    placed = write_task(
        tmp_path, images="[photos]", question="'{{ photos[1] }} then {{ photos[0] }}: {{ text }}?'"
    )
    assert shown(rows_of(placed, row)[0]) == "[blue] then [red]: big?"
    once = write_task(tmp_path, images="[photos]", question="'{{ photos[1] }} {{ text }}'")
    with pytest.raises(DataError, match="places 1 images, 1 of the row's 2"):
        rows_of(once, row)


def test_images_as_base64_data_urls_and_paths(tmp_path: Path) -> None:
    (tmp_path / "blue.png").write_bytes(cell("blue"))
    plain = base64.encodebytes(cell("red")).decode()
    url = f"data:image/png;base64,{base64.b64encode(cell('lime')).decode()}"
    task = write_task(tmp_path, question="'Is it?'")
    cells = [plain, url, "blue.png", "http://a.b/c.png", "data:image/png;base64,!", "../x.png"]
    cells.append("a/" * 2**19)  # resolving it would take hours
    raw = RawSplit(task, Dataset.from_list([{"image": c, "label": 1} for c in cells]), tmp_path)
    assert {
        index: why.partition(":")[0].partition("(")[0] for index, why in raw.faults.items()
    } == {
        3: "the image is a web address ",
        4: "neither base64 nor a path",
        5: "the image cell's path '../x.png' leads out of the data's folder",
        6: "neither an image nor the path of one",
    }
    rows = to_rows(raw.select(range(3))).dataset
    assert [row["images"][0].getpixel((0, 0)) for row in rows] == [
        COLORS[name] for name in ("red", "lime", "blue")
    ]


def test_an_image_that_the_question_needs_must_be_there(tmp_path: Path) -> None:
    rows = [
        {"image": None, "text": "a", "label": 1},
        {"image": cell("red"), "text": "b", "label": 1},
    ]
    with pytest.raises(DataError, match="the image cell is empty"):
        rows_of(write_task(tmp_path), *rows)
    optional = write_task(tmp_path, question="'{{ image }}Is it {{ text }}?'")
    assert [shown(row) for row in rows_of(optional, *rows)] == ["Is it a?", "[red]Is it b?"]


def test_pairs_that_look_the_same_in_both_orders_are_found(tmp_path: Path) -> None:
    task = write_task(
        tmp_path,
        **PAIR,
        images="[images]",
        candidates="images",
        question="'{{ images[0] }} or {{ images[1] }}?'",
    )
    raw = Dataset.from_list(
        [
            {"images": [cell("red"), cell("red")], "best": 0},
            {"images": [cell("red"), cell("blue")], "best": 0},
        ]
    )
    rows = to_rows(RawSplit(task, raw))
    assert identical_pairs(rows) == [rows.dataset["item_id"][0]]


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"question": "'{{ image }} <image> {{ text }}'"}, "both by <image> and as values"),
        ({**PAIR, "candidates": "[[a, image], [b]]", "question": "'{{ a }} {{ b }}'"}, "only one"),
        ({**PAIR, "candidates": "[a, b, c]", "question": "'{{ a }}'"}, "names 3 candidates"),
        (
            {"label": "{column: 'meta.label', map: {1: 'Yes', 0: 'No'}}"}
            | {"question": "'{{ meta.label }}'"},
            "the label",
        ),
    ],
)
def test_faults_of_shapes_are_named(tmp_path: Path, keys: dict[str, str], fault: str) -> None:
    with pytest.raises(JudgeTaskError, match=fault):
        load_judge_task(write_yaml(tmp_path, **keys))


def test_a_path_that_leads_nowhere_names_the_row(tmp_path: Path) -> None:
    task = write_task(tmp_path, label="{column: 'votes[1]', map: {1: 'Yes', 0: 'No'}}")
    rows = [{"image": cell("red"), "text": "a", "votes": votes} for votes in ([1, 1], [1])]
    with pytest.raises(DataError, match=r"'votes\[1\]' leads nowhere in 1 of 2 rows.*row 1"):
        rows_of(task, *rows)
