"""Benchmarks of pairs in their published form: what a judge is shown in both orders, and labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import pair_replicas
from support.pair_replicas import COLORS
from support.replicas import mjbench

from mtrl_judge.data.prepare import PrepareOptions, prepare
from mtrl_judge.judge_tasks.dataset_keys import LOCAL_FILES_VARIABLE
from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import LoadedSplit, load_rows
from mtrl_judge.metrics.records import Record

NAMES = {value: name for name, value in COLORS.items()}


def loaded(name: str, folder: Path) -> LoadedSplit:
    """The rows of a task whose dataset lies in a folder as it does on the hub."""
    task = find_task(name)
    kwargs = {key: value for key, value in task.dataset_kwargs.items() if key != "revision"}
    local = {"dataset_path": str(folder), "dataset_kwargs": kwargs}
    return load_rows(task.model_copy(update=local), "test")


def rows_of(split: LoadedSplit) -> list[JudgeRow]:
    dataset = split.rows.dataset
    return [JudgeRow.from_doc(dataset[index]) for index in range(len(dataset))]


def shown(row: JudgeRow) -> list[str]:
    """The lines of a prompt that show the item, with the colors of its images where they stand."""
    images = iter(row.images)
    parts = render_messages(row, "direct")[0]["content"]
    text = "".join(
        part["text"] if part["type"] == "text" else f"[{NAMES[next(images).getpixel((0, 0))]}]"
        for part in parts
    )
    assert next(images, None) is None
    return text.partition("\n\n")[0].splitlines()


@pytest.fixture
def local_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCAL_FILES_VARIABLE, "1")


def exchanged(lines: list[str], first: str, second: str) -> list[str]:
    """Lines with what follows two beginnings in each other's place."""
    contents = {
        begin: line.removeprefix(begin)
        for line in lines
        for begin in (first, second)
        if line.startswith(begin)
    }
    other = {first: second, second: first}
    return [
        next((b + contents[other[b]] for b in (first, second) if line.startswith(b)), line)
        for line in lines
    ]


GENAI = {"generation": "Image", "edition": "Edit"}
MMRB2 = ("t2i", "edit", "interleaved", "reasoning")
# Of each benchmark: who writes its replica, how the lines of the candidates begin, and the labels
# in the dataset's order.
Replica = Callable[[Path], None]
BENCHMARKS: dict[str, tuple[Replica, tuple[str, str], list[str | None]]] = {
    "vlrewardbench": (
        pair_replicas.vlrewardbench,
        ("Answer 1: ", "Answer 2: "),
        ["1", "2", "1", "1"],
    ),
    "mmrewardbench": (
        pair_replicas.mmrewardbench,
        ("Response 1: ", "Response 2: "),
        ["1", "2", "2"],
    ),
    "pickapic": (pair_replicas.pickapic, ("Image 1: ", "Image 2: "), ["1", "2", "Tie"]),
}
for config, word in GENAI.items():
    BENCHMARKS[f"genaibench_{config}"] = (
        lambda folder, config=config: pair_replicas.genaibench(folder, f"image_{config}"),
        (f"{word} A: ", f"{word} B: "),
        ["A", "B", "Both good", "Both bad"],
    )
for config, word in zip(MMRB2, ("Image", "Result", "Response", "Response"), strict=True):
    BENCHMARKS[f"mmrb2_{config}"] = (
        lambda folder, config=config: pair_replicas.mmrb2(folder, config),
        (f"{word} A: ", f"{word} B: "),
        ["A", "B", "B"],
    )


# Those whose raw files are the ones that `datasets` reads.
PREPARED: dict[str, Replica] = {
    **{name: write for name, (write, *_) in BENCHMARKS.items() if name != "mmrewardbench"},
    "winoground": pair_replicas.winoground,
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_both_orders_show_the_candidates_exchanged(
    name: str, tmp_path: Path, local_files: None
) -> None:
    write, (first, second), labels = BENCHMARKS[name]
    write(tmp_path / name)
    split = loaded(f"mtrl_judge_{name}", tmp_path / name)
    rows = rows_of(split)
    verdicts = rows[0].verdicts
    straight, swapped = rows[::2], rows[1::2]
    assert [row.label for row in straight] == labels
    other = {verdicts[0]: verdicts[1], verdicts[1]: verdicts[0]}
    assert [row.label for row in swapped] == [other.get(str(label), label) for label in labels]
    for one, two in zip(straight, swapped, strict=True):
        assert (one.item_id, one.swapped, two.item_id, two.swapped) == (
            one.item_id,
            False,
            one.item_id,
            True,
        )
        assert shown(two) == exchanged(shown(one), first, second) != shown(one)
    assert split.rows.undecodable == {}


@pytest.mark.parametrize("name", PREPARED)
def test_prepared_files_give_the_same_rows(name: str, tmp_path: Path, local_files: None) -> None:
    PREPARED[name](tmp_path / name)
    task = find_task(f"mtrl_judge_{name}")
    options = PrepareOptions(source=tmp_path / name, any_count=True)
    list(prepare([task], tmp_path / "root", options, lambda *_: None))
    prepared = load_rows(task, "test", tmp_path / "root")
    assert prepared.record["source"] == "prepared"
    direct = loaded(task.task, tmp_path / name)
    assert prepared.record["fingerprint"] == direct.record["fingerprint"]


def test_vl_rewardbench_is_reported_by_the_three_groups_of_its_sources(
    tmp_path: Path, local_files: None
) -> None:
    pair_replicas.vlrewardbench(tmp_path / "vlrewardbench")
    split = loaded("mtrl_judge_vlrewardbench", tmp_path / "vlrewardbench")
    assert split.record["groups"]["rows"] == {"general": 2, "hallucination": 4, "reasoning": 2}
    first, _, third, *_ = rows = rows_of(split)
    assert "Answer 1: A <\u200bimage> of a cup." in shown(first)
    assert first.cluster == third.cluster != rows[4].cluster


def test_mmrb2_shows_texts_and_images_in_the_order_of_the_marks(
    tmp_path: Path, local_files: None
) -> None:
    pair_replicas.mmrb2(tmp_path / "mmrb2", "interleaved")
    straight = rows_of(loaded("mtrl_judge_mmrb2_interleaved", tmp_path / "mmrb2"))[::2]
    assert [shown(row)[3:6] for row in straight] == [
        [
            "Request: Draw [gray] in two steps, like [black].",
            "Response A: First [red], then [lime].",
            "Response B: [blue]Done.",
        ],
        ["Request: A cat", "Response A: [white]", "Response B: [cyan]"],
        ["Request: Why?", "Response A: Because.", "Response B: No idea."],
    ]


def test_edits_are_shown_with_the_original_in_one_place(tmp_path: Path, local_files: None) -> None:
    pair_replicas.genaibench(tmp_path / "genai", "image_edition")
    one, two, *_ = rows_of(loaded("mtrl_judge_genaibench_edition", tmp_path / "genai"))
    assert shown(one)[4] == shown(two)[4] == "Original image: [gray]"
    assert shown(two)[8:10] == ["Edit A: [blue]", "Edit B: [red]"]


def test_a_row_of_winoground_is_four_comparisons(tmp_path: Path, local_files: None) -> None:
    pair_replicas.winoground(tmp_path / "winoground")
    split = loaded("mtrl_judge_winoground", tmp_path / "winoground")
    rows = rows_of(split)
    assert len({row.item_id for row in rows}) == len(rows) / 2 == 8
    assert len({row.joint for row in rows}) == len({row.cluster for row in rows}) == 2
    seen = [(row.group, row.label, *shown(row)[3:6]) for row in rows[:8]]
    cat, dog = "cat under dog", "dog under cat"
    for number, (color, label) in enumerate((("red", "A"), ("lime", "B"))):
        straight, other = seen[2 * number : 2 * number + 2]
        image = f"Image: [{color}]"
        assert straight == ("text", label, image, f"Caption A: {cat}", f"Caption B: {dog}")
        assert other == ("text", "AB".strip(label), image, f"Caption A: {dog}", f"Caption B: {cat}")
    for number, (caption, label) in enumerate(((cat, "A"), (dog, "B"))):
        straight, other = seen[4 + 2 * number : 6 + 2 * number]
        text = f"Caption: {caption}"
        assert straight == ("image", label, text, "Image A: [red]", "Image B: [lime]")
        assert other == ("image", "AB".strip(label), text, "Image A: [lime]", "Image B: [red]")


def prepared(name: str, folder: Path) -> LoadedSplit:
    task = find_task(name)
    options = PrepareOptions(source=folder, any_count=True)
    list(prepare([task], folder.parent / "root", options, lambda *_: None))
    return load_rows(task, "test", folder.parent / "root")


def test_sugarcrepe_is_read_from_its_seven_files(tmp_path: Path) -> None:
    pair_replicas.sugarcrepe(tmp_path / "raw")
    split = prepared("mtrl_judge_sugarcrepe", tmp_path / "raw")
    assert split.record["groups"]["rows"] == dict.fromkeys(pair_replicas.SUGARCREPE, 4)
    rows = rows_of(split)
    pairs = [(row.label, shown(row)[3:5]) for row in rows[:4]]
    right, wrong = "a cat 0", "no cat 0, data"
    assert pairs[0] == ("1", [f"Caption 1: {right}", f"Caption 2: {wrong}"])
    assert pairs[1] == ("2", [f"Caption 1: {wrong}", f"Caption 2: {right}"])
    assert pairs[2][1][0] == "Caption 1: one cat 0"
    assert [NAMES[row.images[0].getpixel((0, 0))] for row in rows[2:6:3]] == ["red", "blue"]


def test_the_subset_bias_has_no_labels_and_measures_consistency(tmp_path: Path) -> None:
    """Whatever its label column says."""
    mjbench(tmp_path / "raw", 4, subset="bias")
    split = prepared("mtrl_judge_mjbench_bias", tmp_path / "raw")
    rows = rows_of(split)
    assert split.record["unlabeled"] == len(rows) == 8
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        assert (one.label, two.label, two.swapped) == (None, None, True)
        assert [image.tobytes() for image in one.images] == [
            image.tobytes() for image in two.images[::-1]
        ]
    # The same image twice; the first place twice; a verdict is missing; the same image twice.
    said = ["1", "2", "1", "1", None, "2", "2", "1"]
    records = [
        Record(row.label, verdict, True, row.pair_id, row.swapped)
        for row, verdict in zip(rows, said, strict=True)
    ]
    table = find_task("mtrl_judge_mjbench_bias").summarize(records)
    assert (table["n"], table["accuracy"], table["macro_f1"]) == (0, None, None)
    assert table["flip_rate"] == pytest.approx(1 / 3)
    assert table["first_slot_rate"] == pytest.approx(4 / 7)


def test_mllm_as_a_judge_is_read_from_its_lines(tmp_path: Path) -> None:
    pair_replicas.mllmjudge(tmp_path / "raw")
    split = prepared("mtrl_judge_mllmjudge_pair", tmp_path / "raw")
    rows = rows_of(split)
    assert [row.item_id for row in rows[::2]] == ["5", "8", "9"]
    assert [(row.label, row.group) for row in rows] == [
        *(
            ("A", "coco"),
            ("B", "coco"),
            ("Tie", "coco"),
            ("Tie", "coco"),
            ("B", "wit"),
            ("A", "wit"),
        )
    ]
    assert rows[0].cluster == rows[2].cluster != rows[4].cluster
    one, two = (shown(row) for row in rows[:2])
    assert one[4:6] == ["Answer A: one 5", "Answer B: two 5"]
    assert two == exchanged(one, "Answer A: ", "Answer B: ")


def test_the_authors_form_of_multimodal_rewardbench_is_prepared(tmp_path: Path) -> None:
    """all_data.json, whose images are paths below its folder."""
    pair_replicas.mmrewardbench_json(tmp_path / "raw")
    rows = rows_of(prepared("mtrl_judge_mmrewardbench", tmp_path / "raw"))
    assert [row.label for row in rows] == ["1", "2", "2", "1"]
    assert shown(rows[0])[0].startswith("[red]")
    assert shown(rows[2])[0].startswith("[blue]")


def test_pick_a_pic_leaves_out_what_has_no_label(tmp_path: Path, local_files: None) -> None:
    pair_replicas.pickapic(tmp_path / "pickapic")
    split = loaded("mtrl_judge_pickapic", tmp_path / "pickapic")
    assert split.record["left_out"] == {"judge.where": 2}
    assert split.record["labels"] == {"1": 2, "2": 2, "Tie": 2}
