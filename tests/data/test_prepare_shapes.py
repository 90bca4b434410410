"""Datasets whose images are in lists, in nested columns, in texts, or in several files of a row."""

from __future__ import annotations

import base64
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features
from datasets import Image as ImageFeature
from support.images import encode, image_cell, random_image
from support.replicas import write_csv
from support.tasks import PAIR, write_task, write_yaml

from mtrl_judge.common.errors import DataError, JudgeError, JudgeTaskError
from mtrl_judge.data.prepare import PrepareOptions, prepare
from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import load_rows, split_files
from mtrl_judge.judge_tasks.spec import JudgeTask


def cell(red: int) -> bytes:
    """An image that can be told by its red."""
    data: bytes = image_cell(f"#{red:02x}0000")["bytes"]
    return data


def prepared(task: JudgeTask, source: Path, root: Path, **options: Any) -> dict[str, Any]:
    """The card of a task's prepared data."""
    (outcome,) = prepare([task], root, PrepareOptions(source=source, **options), lambda *_: None)
    return dict(outcome.card)


def reds(task: JudgeTask, root: Path, split: str = "test") -> list[list[int]]:
    """The images of each row of prepared data."""
    dataset = load_rows(task, split, root).rows.dataset  # type: ignore[arg-type]
    rows = [JudgeRow.from_doc(doc) for doc in dataset]
    return [[image.getpixel((0, 0))[0] for image in row.images] for row in rows]


def features(root: Path, task: JudgeTask) -> Features:
    (file,) = split_files(root / task.task, "test")
    return Features.from_arrow_schema(pq.read_schema(file))


def test_pairs_of_files_that_a_csv_lists(tmp_path: Path) -> None:
    task = write_task(
        tmp_path,
        **PAIR | {"label": "{column: best}", "verdicts": "[A, B]"},
        raw="{tables: {test: pairs.csv}, images: {named_by: {image0: left, image1: right}, "
        "archives: {test: all.zip}}}",
    )
    source = tmp_path / "raw"
    source.mkdir()
    with zipfile.ZipFile(source / "all.zip", "w") as archive:
        for red in range(8):
            archive.writestr(f"images/{red}.png", cell(10 * red))
    lines = [{"left": f"{i}.png", "right": f"images/{i + 4}.png"} for i in range(4)]
    write_csv(source / "pairs.csv", [{**line, "text": "x", "best": 0} for line in lines])
    card = prepared(task, source, tmp_path / "root")
    assert card["splits"] == {"test": 4}
    assert reds(task, tmp_path / "root")[::2] == [[10 * i, 10 * i + 40] for i in range(4)]
    assert list(features(tmp_path / "root", task)) == [
        *("left", "right", "text", "best", "image0", "image1")
    ]
    lines[0]["right"] = "9.png"
    write_csv(source / "pairs.csv", [{**line, "text": "x", "best": 0} for line in lines])
    with pytest.raises(DataError, match="row 0 image1: there is no such file"):
        prepared(task, source, tmp_path / "other")
    subset = write_task(
        tmp_path,
        **PAIR | {"label": "{column: best}", "verdicts": "[A, B]"},
        raw="{tables: {test: pairs.csv}, images: {named_by: {image0: left, image1: right}, "
        "archives: {test: all.zip}, subset: true}}",
    )
    assert prepared(subset, source, tmp_path / "other")["splits"] == {"test": 3}


def test_lists_and_nested_images_of_json(tmp_path: Path) -> None:
    """Files by their names, base64 and data URLs, in lists and in segments of an answer."""
    segments = "{% for part in {0} %}{{ part.image or '' }}{{ part.text or '' }}{% endfor %}"
    question = " / ".join(segments.replace("{0}", name) for name in ("a", "b"))
    task = write_task(
        tmp_path,
        kind="pairwise",
        images="[photos, 'a[].image', 'b[].image']",
        candidates="[a, b]",
        question=f'"{{% for photo in photos %}}{{{{ photo }}}}{{% endfor %}} {question}"',
        label="{column: best}",
        verdicts="[A, B]",
        raw="{tables: {test: rows.jsonl}}",
    )
    source = tmp_path / "raw"
    source.mkdir()
    for red in (10, 20, 30):
        (source / f"{red}.png").write_bytes(cell(red))
    url = f"data:image/png;base64,{base64.b64encode(cell(40)).decode()}"
    rows = [
        {
            "photos": ["10.png", "20.png"],
            "a": [{"image": url, "text": None}, {"image": None, "text": "so"}],
            "b": [{"text": "no", "image": "30.png"}],
            "best": 0,
        },
        {"photos": [], "a": [{"text": "x"}], "b": [{"text": "y", "image": "10.png"}], "best": 1},
    ]
    (source / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared(task, source, tmp_path / "root")
    assert reds(task, tmp_path / "root") == [[10, 20, 40, 30], [10, 20, 30, 40], [10], [10]]
    found = features(tmp_path / "root", task)
    assert isinstance(found["photos"].feature, ImageFeature)
    assert isinstance(found["a"].feature["image"], ImageFeature)
    (file,) = split_files(tmp_path / "root" / task.task, "test")
    table = pq.read_table(file).to_pylist()
    assert table[0]["photos"][1] == {"bytes": cell(20), "path": "20.png"}
    assert table[0]["a"] == [
        {"image": {"bytes": cell(40), "path": None}, "text": None},
        {"image": None, "text": "so"},
    ]


@pytest.mark.parametrize("kind", ["list", "lines", "parquet"])
def test_lists_of_images_in_cells_keep_their_bytes(tmp_path: Path, kind: str) -> None:
    task = write_task(
        tmp_path,
        images="['images[1]', 'images[0]']",
        question="'{{ images[0] }} {{ images[1] }} {{ text }}'",
        raw=f"{{tables: {{test: rows.{'parquet' if kind == 'parquet' else 'json'}}}}}",
    )
    source = tmp_path / "raw"
    source.mkdir()
    images = [[encode(random_image(3 * i + k)) for k in range(3)] for i in range(20)]
    rows: list[dict[str, Any]] = [{"text": str(i), "label": i % 2} for i in range(20)]
    if kind == "parquet":
        rows = [{**row, "images": cells} for row, cells in zip(rows, images, strict=True)]
        pq.write_table(pa.Table.from_pylist(rows), source / "rows.parquet")
    else:
        coded = [[base64.b64encode(data).decode() for data in cells] for cells in images]
        rows = [{**row, "images": cells} for row, cells in zip(rows, coded, strict=True)]
        lines = "\n".join(map(json.dumps, rows))
        text = lines if kind == "lines" else json.dumps(rows)
        (source / "rows.json").write_text(text)
    card = prepared(task, source, tmp_path / "root")
    (file,) = split_files(tmp_path / "root" / task.task, "test")
    written = pq.read_table(file)["images"].to_pylist()
    assert [[image["bytes"] for image in cells] for cells in written] == images
    assert card["undecodable"] == {"test": {}}


def test_images_that_are_null_or_damaged(tmp_path: Path) -> None:
    """A null is a fault where an item needs the image, as when it is loaded."""
    source = tmp_path / "raw"
    source.mkdir()
    cells = [cell(10)] * 200
    for name, first in (("null", [None]), ("damaged", [cell(10)[:40]]), ("good", [cell(10)])):
        table = {"image": [*first, *cells], "text": ["x"] * 201, "label": [0] * 201}
        pq.write_table(pa.table(table), source / f"{name}.parquet")
    keys = {"question": "'{{ image }} Is it {{ text }}?'"}
    found = {}
    for name in ("null", "damaged", "good"):
        for question in ({}, keys):
            raw = f"{{tables: {{test: {name}.parquet}}}}"
            task = write_task(tmp_path, raw=raw, **question)
            card = prepared(task, source, tmp_path / f"{name} {len(question)}")
            found[name, len(question)] = card["undecodable"]["test"]
    assert found["good", 0] == found["good", 1] == found["null", 1] == {}
    assert found["null", 0] == {"0 image": "the image cell is empty"}
    assert found["damaged", 0].keys() == found["damaged", 1].keys() == {"0 image"}


def test_rows_are_gathered_when_they_are_prepared(tmp_path: Path) -> None:
    """The card's numbers are of items, and labels are those of items."""
    path = write_yaml(
        tmp_path,
        kind="ranking",
        gather="{by: prompt, columns: [image, rank]}",
        images="[image]",
        candidates="image",
        question="'{{ prompt }}?'",
        label="{column: rank, best: lowest}",
        verdicts="[A, B, C]",
        raw="{tables: {test: rows.csv}, images: {named_by: file, image: image}}",
    )
    text = path.read_text().replace("citation: none", "citation: none, expects: {test: 2}")
    path.write_text(text)
    task = load_judge_task(path)
    source = tmp_path / "raw"
    source.mkdir()
    lines = []
    for i in range(5):
        (source / f"{i}.png").write_bytes(cell(10 * i))
        lines.append({"file": f"{i}.png", "prompt": "pq"[i % 2], "rank": i + 1})
    write_csv(source / "rows.csv", lines)
    card = prepared(task, source, tmp_path / "root")
    assert (card["splits"], card["expected"]) == ({"test": 5}, {"test": 2})
    assert sorted(map(len, reds(task, tmp_path / "root"))) == [2, 2, 3, 3, 3]
    write_csv(source / "rows.csv", [{**line, "prompt": "p"} for line in lines[:3]])
    with pytest.raises(DataError, match=r"test: 1 items, expected 2"):
        prepared(task, source, tmp_path / "other")
    write_csv(source / "rows.csv", [{**line, "prompt": line["file"]} for line in lines])
    with pytest.raises(DataError, match="no two rows have the same 'prompt'"):
        prepared(task, source, tmp_path / "other", any_count=True)


def test_a_task_with_other_images_of_the_same_files_is_written_anew(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    source.mkdir()
    table = {"image": [cell(1)], "other": [cell(2)], "text": ["x"], "label": [0]}
    pq.write_table(pa.table(table), source / "rows.parquet")
    raw = "{tables: {test: rows.parquet}}"
    one = write_task(tmp_path, "one", raw=raw)
    two = write_task(tmp_path, "two", raw=raw, images="[other]")
    root = tmp_path / "root"
    prepared(one, source, root)
    prepared(two, source, root)
    assert [reds(one, root), reds(two, root)] == [[[1]], [[2]]]
    assert not isinstance(features(root, one)["other"], ImageFeature)
    assert isinstance(features(root, two)["other"], ImageFeature)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, 2]', "entry 1: found 2; expected an object"),
        ("[" * 100_000, "cannot be read as JSON"),
        (json.dumps([{str(i): i for i in range(10_001)}]), "has 10,001 columns; expected up to"),
        ("[]", "has no rows"),
        ("{}", "has no rows"),
        ('{"a":\n 1}', "line 1: "),
        ('[{"text": "\\ud800", "label": "x"}]', "no column 'image'"),
    ],
)
def test_json_that_is_no_table(tmp_path: Path, text: str, message: str) -> None:
    task = write_task(tmp_path, raw="{tables: {test: rows.json}}")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "rows.json").write_text(text)
    with pytest.raises(JudgeError, match=message):
        prepared(task, tmp_path / "raw", tmp_path / "root")
    assert not (tmp_path / "root" / task.task).exists()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_of_very_many_columns(tmp_path: Path, kind: str) -> None:
    task = write_task(tmp_path, raw=f"{{tables: {{test: rows.{kind}}}}}")
    (tmp_path / "raw").mkdir()
    file, names = tmp_path / "raw" / f"rows.{kind}", [f"c{i}" for i in range(10_001)]
    if kind == "csv":
        file.write_text(f"{','.join(names)}\n")
    else:
        pq.write_table(pa.table({name: [1] for name in names}), file)
    with pytest.raises(JudgeError, match="has 10,001 columns; expected up to 10,000"):
        prepared(task, tmp_path / "raw", tmp_path / "root")


def test_values_of_several_types_are_texts(tmp_path: Path) -> None:
    task = write_task(
        tmp_path,
        label='{column: label, map: {"Yes": [1, "a"], "No": ["b", 2.5]}}',
        raw="{tables: {test: rows.json}}",
    )
    (tmp_path / "raw").mkdir()
    coded = base64.b64encode(cell(10)).decode()
    rows = [
        {"image": coded, "text": text, "label": label, "more": more, "empty": {}}
        for text, label, more in (
            ("x", 1, {}),
            ("y", "a", [1]),
            ("z", 2.5, {"é": None}),
            (3, "b", 4),
        )
    ]
    (tmp_path / "raw" / "rows.json").write_text(json.dumps(rows))
    prepared(task, tmp_path / "raw", tmp_path / "root")
    made = load_rows(task, "test", tmp_path / "root").rows.dataset.with_format(None)
    assert made["label"][:] == ["Yes", "Yes", "No", "No"]
    assert made["question"][3] == "Is it 3?"
    (file,) = split_files(tmp_path / "root" / task.task, "test")
    table = pq.read_table(file)
    assert table["more"].to_pylist() == ["{}", "[1]", '{"é": null}', "4"]
    assert table["empty"].to_pylist() == [None] * 4


@pytest.mark.parametrize(
    ("images", "field", "part"),
    [
        ("{named_by: file}", "judge.raw.images.image", "is missing"),
        ("{named_by: {image: file}, image: image}", "judge.raw.images.image", "remove it"),
    ],
)
def test_faults_of_a_yaml(tmp_path: Path, images: str, field: str, part: str) -> None:
    with pytest.raises(JudgeTaskError) as caught:
        write_task(tmp_path, raw=f"{{tables: {{test: x.csv}}, images: {images}}}")
    found = {fault.field: f"{fault.found}; {fault.expected}" for fault in caught.value.faults}
    assert part in found.get(field, ""), found


def test_the_name_of_a_file_becomes_a_column(tmp_path: Path) -> None:
    """Of mappings of ids to rows, and of rows on lines."""
    images = "{named_by: file, image: image}"
    raw = f"{{tables: {{test: [b.json, a.json]}}, file_column: kind, images: {images}}}"
    task = write_task(tmp_path, raw=raw, groups="kind")
    (tmp_path / "raw").mkdir()
    row = {"file": "x.png", "text": "t", "label": 1}
    (tmp_path / "raw" / "x.png").write_bytes(cell(9))
    (tmp_path / "raw" / "b.json").write_text(json.dumps({"7": row, "3": {**row, "label": 0}}))
    (tmp_path / "raw" / "a.json").write_text(json.dumps(row))
    prepared(task, tmp_path / "raw", tmp_path / "root")
    rows = load_rows(task, "test", tmp_path / "root").rows.dataset
    assert list(zip(rows["group"][:], rows["label"][:], strict=True)) == [
        ("b", "Yes"),
        ("b", "No"),
        ("a", "Yes"),
    ]
    for name in ("a", "b"):
        (tmp_path / "raw" / f"{name}.json").write_text(json.dumps([{**row, "kind": "c"}]))
    with pytest.raises(DataError, match=r"b\.json: has a column 'kind' already"):
        prepared(task, tmp_path / "raw", tmp_path / "other", any_count=True)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_folders_that_say_what_their_images_are(tmp_path: Path, packed: bool) -> None:
    task = write_task(
        tmp_path,
        images="[file]",
        question="'Is it real?'",
        label='{column: folder, map: {real: "Yes", fake: "No"}}',
        raw='{tables: {test: "test/*/*.png"}}',
    )
    source = tmp_path / "raw"
    for red, name in enumerate(["train/real/0", "test/fake/0", "test/fake/1", "test/real/0"]):
        file = source / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(cell(red))
    if packed:
        with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
            for file in sorted(source.rglob("*.png")):
                archive.write(file, file.relative_to(source))
        source = tmp_path / "raw.zip"
    prepared(task, source, tmp_path / "root")
    rows = load_rows(task, "test", tmp_path / "root").rows.dataset
    found = {doc["images"][0].getpixel((0, 0))[0]: doc["label"] for doc in rows}
    assert found == {1: "No", 2: "No", 3: "Yes"}
