"""Items that are made of several rows of a dataset, and several items of one row."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from support.images import image_cell
from support.tasks import raw_dataset, write_split, write_task

from mtrl_judge.common.errors import DataError, JudgeTaskError
from mtrl_judge.judge_tasks.preview import write_preview
from mtrl_judge.judge_tasks.prompts import render_text
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.rows import JudgeRow, to_rows
from mtrl_judge.judge_tasks.sources import find_source, load_raw, load_rows
from mtrl_judge.judge_tasks.validate import validate
from mtrl_judge.metrics.rankings import read_order

RANKED = {
    "kind": "ranking",
    "gather": "{by: prompt_id, columns: [image, rank]}",
    "images": "[image]",
    "candidates": "image",
    "verdicts": "[A, B, C, D]",
    "question": "'{{ text }}: the images are called A, B, and so on. Put them in order.'",
    "label": "{column: rank, best: lowest}",
    "id": "prompt_id",
}
"""Images of a prompt with their ranks, a row for each, as ImageReward has them."""
SHADES = {"p": (3, 1, 2), "q": (1, 2), "r": (4, 2, 1, 3)}


def ranked(**columns: list[Any]) -> dict[str, list[Any]]:
    """Rows of three prompts in turn; the darker an image, the better its rank."""
    rows = [
        (name, rank) for place in range(4) for name, r in SHADES.items() for rank in r[place:][:1]
    ]
    return {
        "image": [image_cell(f"#{20 * rank:02x}{ord(name):02x}00") for name, rank in rows],
        "prompt_id": [name for name, _ in rows],
        "text": [f"Prompt {name}" for name, _ in rows],
        "rank": [rank for _, rank in rows],
        **columns,
    }


def rows_of(raw: RawSplit) -> list[JudgeRow]:
    return [JudgeRow.from_doc(doc) for doc in to_rows(raw).dataset]


def test_rows_become_one_item_with_as_many_candidates(tmp_path: Path) -> None:
    task = write_task(tmp_path, **RANKED)
    assert validate(task.path) == []
    rows = rows_of(RawSplit(task, raw_dataset(ranked())))
    assert Counter(row.cluster for row in rows) == {"p": 3, "q": 2, "r": 4}
    assert [row.item_id for row in rows[:5]] == ["p", "p@1", "p@2", "q", "q@1"]
    for row in rows:
        prompt, shades = row.item_id[0], [image.getpixel((0, 0)) for image in row.images]
        assert {green for _, green, _ in shades} == {ord(prompt)}
        assert row.verdicts == tuple("ABCD"[: len(SHADES[prompt])])
        best_first = [
            shades[row.verdicts.index(name)][0] for (name,) in read_order(row.label or "")
        ]
        assert best_first == sorted(best_first)
        assert row.question.startswith(f"Prompt {prompt}")
        *_, last = row.verdicts
        assert f"and {last} from best to worst" in render_text(row, "reasoned")


def test_an_item_is_in_one_split_whatever_the_order_of_its_rows(tmp_path: Path) -> None:
    n = 40
    columns = {
        "image": [image_cell(f"#{i:02x}0000") for i in range(2 * n)],
        "prompt_id": [i % n for i in range(2 * n)],
        "text": [f"Prompt {i % n}" for i in range(2 * n)],
        "rank": [1 + i // n for i in range(2 * n)],
    }
    splits = "{validation: {from: train, fraction: 0.25}}"
    task = write_task(tmp_path, splits=splits, **RANKED)
    write_split(tmp_path, "my_task", "train", columns)
    raws = {s: load_raw(task, s, find_source(task, tmp_path)) for s in ("train", "validation")}
    assert {split: len(raw) for split, raw in raws.items()} == {"train": 30, "validation": 10}
    assert len({*raws["train"].ids, *raws["validation"].ids}) == n
    assert {len(raw.image_bytes(index)) for raw in raws.values() for index in range(9)} == {2}
    turned = [*range(1, 2 * n, 2), *range(0, 2 * n, 2)]
    again = {name: [values[i] for i in turned] for name, values in columns.items()}
    write_split(tmp_path, "my_task", "train", again)
    moved = load_raw(task, "validation", find_source(task, tmp_path))
    assert {*moved.ids} == {*raws["validation"].ids}


def test_rows_are_selected_before_they_are_gathered_and_counted(tmp_path: Path) -> None:
    by = [*"pqrpqrprr"]
    by[-1] = None  # type: ignore[call-overload]
    keep = ["no", *["yes"] * 8]
    task = write_task(tmp_path, where="{keep: 'yes'}", **RANKED)
    write_split(tmp_path, "my_task", "test", ranked(prompt_id=by, keep=keep, text=["?"] * 9))
    loaded = load_rows(task, "test", tmp_path)
    assert loaded.record["left_out"] == {"judge.where": 1, "judge.gather.by": 1}
    assert (loaded.record["items"], loaded.record["rows"]) == (3, 2 + 2 + 3)


def test_a_single_candidate_is_no_item(tmp_path: Path) -> None:
    raw = RawSplit(
        write_task(tmp_path, **RANKED),
        raw_dataset(ranked(prompt_id=[*"ppsqqrrtt"], text=["?"] * 9)),
    )
    assert {row.cluster for row in rows_of(raw)} == {*"pqrt"}
    assert raw.left_out == {"judge.candidates": 1}


# Four comparisons of two captions and two images, as Winoground has them.
_TEXTS = "text_a: {column: caption_0}, text_b: {column: caption_1}, image_a: null, image_b: null"
_IMAGES = "text_a: '', text_b: '', image_a: {column: image_0}, image_b: {column: image_1}"
FOUR = f"""
    - {{asked: text, image: {{column: image_0}}, caption: '', {_TEXTS}, best: a}}
    - {{asked: text, image: {{column: image_1}}, caption: '', {_TEXTS}, best: b}}
    - {{asked: image, image: null, caption: {{column: caption_0}}, {_IMAGES}, best: a}}
    - {{asked: image, image: null, caption: {{column: caption_1}}, {_IMAGES}, best: b}}
"""
SQUARE = {
    "kind": "pairwise",
    "each": FOUR,
    "images": "[image, image_a, image_b]",
    "candidates": "[[text_a, image_a], [text_b, image_b]]",
    "question": "\"{{ image or '' }}{{ caption }} A: {{ image_a or '' }}{{ text_a }} "
    "B: {{ image_b or '' }}{{ text_b }}\"",
    "label": "{column: best, first: a, second: b}",
    "verdicts": "[A, B]",
    "id": "pair",
    "groups": "asked",
}


def squares(n: int = 3) -> Dataset:
    """Captions that say how green the image of the same number is; 1 is the greener one."""
    cells = [[image_cell(f"#{i:02x}{200 * k:02x}00") for i in range(n)] for k in (0, 1)]
    data = {"image_0": cells[0], "image_1": cells[1], "pair": [10 + i for i in range(n)]}
    data |= {f"caption_{k}": [f"{i} is {200 * k}" for i in range(n)] for k in (0, 1)}
    return raw_dataset(data)


def right_answer(row: JudgeRow) -> str:
    """The verdict of a judge that sees all: the first green is asked for, or what A says."""
    greens = [image.getpixel((0, 0))[1] for image in row.images]
    said = [int(number) for number in re.findall(r"is (\d+)", row.question)]
    return "A" if greens[0] == said[0] else "B"


def test_a_row_becomes_items_that_are_one_cluster(tmp_path: Path) -> None:
    task = write_task(tmp_path, **SQUARE)
    assert validate(task.path) == []
    rows = rows_of(RawSplit(task, squares()))
    assert [row.item_id for row in rows[:8:2]] == ["10/0", "10/1", "10/2", "10/3"]
    assert len(rows) == 3 * 4 * 2
    assert [row.label for row in rows] == [right_answer(row) for row in rows]
    assert Counter(row.label for row in rows) == {"A": 12, "B": 12}
    assert Counter(row.n_images for row in rows) == {1: 12, 2: 12}
    assert Counter(row.group for row in rows) == {"text": 12, "image": 12}
    families = {
        row.cluster: {r.item_id[:2] for r in rows if r.cluster == row.cluster} for row in rows
    }
    assert sorted(families.values()) == [{"10"}, {"11"}, {"12"}]


@pytest.mark.parametrize("identified", [True, False])
def test_the_items_of_a_row_stay_in_one_split(tmp_path: Path, identified: bool) -> None:
    keys = SQUARE if identified else {k: v for k, v in SQUARE.items() if k != "id"}
    task = write_task(tmp_path, splits="{validation: {from: train, fraction: 0.25}}", **keys)
    folder = tmp_path / "my_task"
    folder.mkdir()
    squares(20).to_parquet(folder / "train.parquet")
    found = {}
    for split in ("train", "validation"):
        raw = load_raw(task, split, find_source(task, tmp_path))
        found[split] = Counter(raw.column("pair"))
        assert len({*raw.ids}) == len(raw)
        assert len({*raw.clusters}) == len(found[split])
    assert {*found["train"].values(), *found["validation"].values()} == {4}
    assert len(found["validation"]) == 5


def test_ids_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    task = write_task(tmp_path, **{k: v for k, v in SQUARE.items() if k != "id"})
    one, other = (to_rows(RawSplit(task, squares().select(o))) for o in ([0, 1, 2], [2, 0, 1]))
    assert one.fingerprint == other.fingerprint
    clusters = [
        dict(zip(r.dataset["item_id"], r.dataset["cluster"], strict=True)) for r in (one, other)
    ]
    assert clusters[0] == clusters[1]


def test_gathered_rows_become_several_items(tmp_path: Path) -> None:
    """Two questions about all images of a prompt; a path leads to one of them."""
    task = write_task(
        tmp_path,
        gather="{by: prompt_id, columns: [image, rank]}",
        each="[{which: 1, one: {column: 'image[0]'}, best: {column: 'rank[0]'}},"
        " {which: 2, one: {column: 'image[1]'}, best: {column: 'rank[1]'}}]",
        images="[one]",
        question="'{{ text }}: is image {{ which }} the best?'",
        label='{column: best, map: {1: "Yes", 2: "No", 3: "No", 4: "No"}}',
    )
    rows = rows_of(RawSplit(task, raw_dataset(ranked())))
    seen = [(row.question[7], row.images[0].getpixel((0, 0))[0] // 20, row.label) for row in rows]
    assert seen == [
        ("p", 3, "No"),
        ("p", 1, "Yes"),
        ("q", 1, "Yes"),
        ("q", 2, "No"),
        ("r", 4, "No"),
        ("r", 2, "No"),
    ]


def test_preview_and_validate_with_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = write_task(tmp_path, **RANKED)
    for split in ("train", "test"):
        write_split(tmp_path / "data", "my_task", split, ranked())
    monkeypatch.setenv("MTRL_JUDGE_DATA", str(tmp_path / "data"))
    assert validate(task.path, rows=2) == []
    text = write_preview(task, tmp_path / "preview", n=1)
    assert text.count("16×16") + text.count("28×28") == 3
    assert "9 rows of my_task test" in text


@pytest.mark.parametrize(
    ("keys", "columns", "message"),
    [
        (
            {},
            {"text": [*"abcabcacc"], "prompt_id": [*"ppqqrrrrr"]},
            r"'text' differs within 3 of 3 items, the first of them prompt_id 'p'",
        ),
        ({}, {"prompt_id": ["p"] * 9, "text": ["?"] * 9}, "'image' has .* 1 of 1 items.* with 9; "),
        ({}, {"prompt_id": [None] * 9}, "is null in all 9 rows"),
        ({}, {"prompt_id": [*range(9)]}, "no two rows have the same 'prompt_id'"),
        (
            {"gather": "{by: prompt, columns: [image, rank]}"},
            {},
            "judge.gather.by: no column 'prompt'",
        ),
        (
            {"each": "[{n: {column: captions}}]"},
            {},
            "judge.each.0.n: no column 'captions' in the data",
        ),
        ({"each": "[{text: x}]"}, {}, "judge.each: 'text' is a column of the data already"),
        (
            {"each": "[{n: {column: 'image[3]'}}]", "groups": "n"},
            {},
            "judge.each.0.n: leads nowhere in 2 of 3 items",
        ),
    ],
)
def test_rows_that_make_no_items_are_refused(
    tmp_path: Path, keys: dict[str, str], columns: dict[str, list[Any]], message: str
) -> None:
    task = write_task(tmp_path, **RANKED | keys)
    with pytest.raises(DataError, match=message):
        to_rows(RawSplit(task, raw_dataset(ranked(**columns))))


def test_images_that_items_do_not_gather_must_be_the_same(tmp_path: Path) -> None:
    keys = RANKED | {"images": "[image, source]", "question": "'{{ text }}'"}
    same = raw_dataset(ranked(source=[image_cell("red")] * 9), ["image", "source"])
    rows = rows_of(RawSplit(write_task(tmp_path, **keys), same))
    assert {row.n_images for row in rows} == {3, 4, 5}
    cells = [image_cell("red")] * 8 + [image_cell("blue")]
    other = raw_dataset(ranked(source=cells), ["image", "source"])
    with pytest.raises(DataError, match=r"'source' differs within 1 of 3 items.*'r'"):
        RawSplit(write_task(tmp_path, **keys), other)


def test_a_candidate_without_its_image_is_a_fault(tmp_path: Path) -> None:
    cells = ranked()["image"]
    raw = RawSplit(write_task(tmp_path, **RANKED), raw_dataset(ranked(image=[None, *cells[1:]])))
    assert raw.faults == {0: "the image cell is empty"}


def test_very_many_rows_of_one_item_are_refused_without_reading_images(tmp_path: Path) -> None:
    n = 100_000
    table = {"prompt_id": ["p"] * n, "text": ["x"] * n, "rank": [1] * n, "image": [b"no image"] * n}
    with pytest.raises(DataError, match=r"has 'p' in 100,000 rows; expected at most 100"):
        RawSplit(write_task(tmp_path, **RANKED), Dataset.from_dict(table))


@pytest.mark.parametrize(
    ("keys", "field", "part"),
    [
        ({"each": "[{a: 1}, {b: 1}]"}, "judge.each.1", "as the first entry: a, b"),
        ({"each": "[{a: [1]}]"}, "judge.each.0.a", "neither a constant nor {column: …}"),
        ({"each": "[{a: {colum: b}}]"}, "judge.each.0.a", "neither a constant nor {column: …}"),
        ({"each": f"[{', '.join(['{a: 1}'] * 51)}]"}, "judge.each", "50"),
        ({"each": "[{a: 1}]", "where": "{a: 1}"}, "judge.where", "leave out the entry"),
        (
            {
                "each": "[{a: 1}]",
                "splits": "{validation: {from: train, fraction: 0.1, group_by: a}}",
            },
            "judge.splits.validation.group_by",
            "name a column of the dataset",
        ),
        ({"gather": "{by: x}"}, "judge.gather.columns", "is missing"),
        ({"gather": "{by: x, columns: [x, y]}"}, "judge.gather.columns", "leave it out"),
        ({"gather": "{by: x, columns: [y], colum: z}"}, "judge.gather.colum", "columns"),
    ],
)
def test_faults_of_a_yaml(tmp_path: Path, keys: dict[str, str], field: str, part: str) -> None:
    with pytest.raises(JudgeTaskError) as caught:
        write_task(tmp_path, **keys)
    found = {fault.field: f"{fault.found}; {fault.expected}" for fault in caught.value.faults}
    assert part in found.get(field, ""), found
