"""What training shares with evaluation is found and printed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.commands import call
from support.images import encode, random_image
from support.replicas import agin
from support.tasks import write_split, write_yaml

from mtrl_judge.data.leak_cache import known_leaks
from mtrl_judge.data.leaks import Leak, LeakReport, find_leaks, normalized, refused
from mtrl_judge.data.prepare import PrepareOptions, prepare
from mtrl_judge.demo.corpus import Sizes, write_sample
from mtrl_judge.judge_tasks.loading import find_tasks, load_judge_task
from mtrl_judge.judge_tasks.spec import JudgeTask


def cell(seed: int, kind: str = "PNG", crop: float = 0.0) -> dict[str, Any]:
    image = random_image(seed, (96, 72))
    width, height = image.size
    kept = image.crop((round(crop * width), 0, width, round((1 - crop) * height)))
    return {"bytes": encode(kept, kind), "path": None}


def write_world(root: Path) -> tuple[JudgeTask, JudgeTask]:
    """A task to train on and one out of distribution, with a leak of each kind planted."""
    made = "{validation: {from: train, fraction: 0.2}}"
    trained = load_judge_task(write_yaml(root, "mine", splits=made, id="[text]"))
    text = write_yaml(root, "theirs", id="[text]").read_text().replace("role: train", "role: ood")
    (root / "theirs.yaml").write_text(text)
    theirs = load_judge_task(root / "theirs.yaml")
    names = [f"number {i} of mine" for i in range(20)]
    mine = {
        "image": [cell(i) for i in range(20)],
        "text": names,
        "label": [i % 2 for i in range(20)],
    }
    write_split(root, "mine", "train", mine)
    test = {
        "image": [cell(100), cell(101), cell(102)],
        "text": ["a test", "another test of mine", "a third test of mine"],
        "label": [0, 1, 0],
    }
    write_split(root, "mine", "test", test)
    write_split(
        root,
        "theirs",
        "test",
        {
            # An identical image, a near-duplicate and a text of training, and an item of its own.
            "image": [cell(TRAIN[0]), cell(TRAIN[1], "JPEG", crop=0.06), cell(200), cell(201)],
            "text": ["one of theirs", "two of theirs", f"Number {TRAIN[2]}, of MINE!", "free"],
            "label": [0, 1, 0, 1],
        },
    )
    return trained, theirs


TRAIN = (3, 5, 8)
"""Rows of mine that the fold leaves to training."""


def test_each_kind_is_found_across_tasks(tmp_path: Path) -> None:
    mine, theirs = write_world(tmp_path)
    report = find_leaks([mine], [mine, theirs], tmp_path)
    found = {(leak.kind, leak.train_item, leak.task, leak.item) for leak in report.leaks}
    assert found == {
        ("identical image", "number 3 of mine", "theirs", "one of theirs"),
        ("near-duplicate", "number 5 of mine", "theirs", "two of theirs"),
        ("identical text", "number 8 of mine", "theirs", "Number 8, of MINE!"),
    }
    assert len(refused(report)) == 3
    assert report.checked == {
        "mine": {"train": 16, "validation": 4, "test": 3},
        "theirs": {"test": 4},
    }


def test_the_same_data_is_compared_once(tmp_path: Path) -> None:
    mine, theirs = write_world(tmp_path)
    labels: list[str] = []

    def leaks() -> LeakReport:
        labels.clear()
        return known_leaks([mine], [theirs], tmp_path, lambda label, *_: labels.append(label))

    found = leaks()
    assert "hashing images" in labels
    assert found == find_leaks([mine], [theirs], tmp_path)
    assert leaks() == found
    assert labels == []
    free = {"image": [cell(300)], "text": ["free"], "label": [0]}
    write_split(tmp_path, "theirs", "test", free)
    assert leaks().leaks == []
    assert labels
    # A change of the YAML counts, too.
    text = (tmp_path / "mine.yaml").read_text().replace("fraction: 0.2", "fraction: 0.5")
    (tmp_path / "mine.yaml").write_text(text)
    mine = load_judge_task(tmp_path / "mine.yaml")
    assert leaks().checked["mine"]["validation"] == 10


def test_leaks_into_validation_are_refused(tmp_path: Path) -> None:
    mine, _ = write_world(tmp_path)
    columns = {"image": [cell(3), cell(300)], "text": ["mine to validate", "x"], "label": [0, 1]}
    write_split(tmp_path, "mine", "validation", columns)
    report = find_leaks([mine], [mine], tmp_path)
    assert [(leak.kind, leak.split) for leak in report.leaks] == [("identical image", "validation")]
    assert refused(report) == report.leaks


def test_known_bad_items_are_not_leaks(tmp_path: Path) -> None:
    mine, _ = write_world(tmp_path)
    text = (tmp_path / "theirs.yaml").read_text()
    bad = '  known_bad: [{item: "one of theirs", reason: "in training"}]\n  card:'
    (tmp_path / "theirs.yaml").write_text(text.replace("  card:", bad))
    report = find_leaks([mine], [load_judge_task(tmp_path / "theirs.yaml")], tmp_path)
    assert {leak.kind for leak in report.leaks} == {"near-duplicate", "identical text"}


def test_text_is_expected_where_the_yaml_cuts_by_row(tmp_path: Path) -> None:
    for group, count in (("", True), (", group_by: text", False)):
        made = f"{{test: {{from: train, fraction: 0.3{group}}}}}"
        path = write_yaml(tmp_path, "mine", splits=made)
        path.write_text(path.read_text().replace("test_split: test\n", ""))
        texts = [f"a text that is number {i // 4}" for i in range(40)]
        columns = {"image": [cell(i) for i in range(40)], "text": texts, "label": [0, 1] * 20}
        write_split(tmp_path, "mine", "train", columns)
        report = find_leaks([load_judge_task(path)], [], tmp_path)
        assert bool(report.leaks) is count
        assert all(leak.expected and leak.kind == "identical text" for leak in report.leaks)
        assert refused(report) == []


def test_agins_tasks_share_their_split_and_another_split_is_noticed(tmp_path: Path) -> None:
    agin(tmp_path / "raw", 60)
    every = find_tasks(["mtrl_judge_agin_*"])
    options = PrepareOptions(source=tmp_path / "raw", any_count=True)
    list(prepare(every, tmp_path / "root", options, lambda *_: None))
    assert find_leaks(every, every, tmp_path / "root").leaks == []
    tasks = find_tasks(["mtrl_judge_agin_nat", "mtrl_judge_agin_rat"])
    shutil.copy(tasks[0].path.with_name("_agin_binary.yaml"), tmp_path)
    base = tasks[0].path.with_name("_agin.yaml").read_text()
    (tmp_path / "_agin.yaml").write_text(base.replace("seed: 0", "seed: 1"))
    text = tasks[1].path.read_text().replace(f"task: {tasks[1].task}", "task: other")
    (tmp_path / "other.yaml").write_text(text)
    (tmp_path / "root" / "other").symlink_to(tasks[1].task)
    other = load_judge_task(tmp_path / "other.yaml")
    bad = refused(find_leaks(tasks[:1], [other], tmp_path / "root"))
    assert bad
    assert {leak.kind for leak in bad} == {"identical image"}
    assert {leak.split for leak in bad} == {"validation", "test"}


def test_the_sample_has_no_leaks_and_planted_ones_are_found(tmp_path: Path) -> None:
    root = tmp_path / "sample"
    write_sample(root, seed=3, sizes=Sizes(train=60, validation=8, test=60, test_pairs=12))
    arguments = ["data", "leaks", "--data-root", root]
    clean = call(*arguments)
    assert clean.exit_code == 0, clean.output
    assert "0 leaks that training refuses" in clean.stdout
    for task in ("seetrue", "unsafebench"):
        folder = root / f"mtrl_judge_{task}"
        folder.joinpath("test.parquet").write_bytes(folder.joinpath("train.parquet").read_bytes())
    planted = call(*arguments, "--json")
    assert planted.exit_code == 1
    leaks = [Leak(**leak) for leak in json.loads(planted.stdout)["leaks"]]
    identical = {(leak.task, leak.item) for leak in leaks if leak.kind == "identical image"}
    assert len(identical) == 120
    shown = call(*arguments, "mtrl_judge_unsafebench")
    assert "identical image" in shown.stdout
    assert "60" in shown.stdout


def test_without_training_data_there_is_nothing_to_compare(tmp_path: Path) -> None:
    done = call("data", "leaks", "--data-root", tmp_path)
    assert "no task has a training split in the data root" in str(done.exception)


@given(st.text(max_size=40))
def test_normalization_is_idempotent(text: str) -> None:
    once = normalized(text)
    assert normalized(once) == once
    assert normalized(f"  {text.upper().lower()} !") == normalized(text.upper().lower())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("A zebra, to the right.", "a ZEBRA to the\nright"),
        ("ﬁne ｗｉｄｅ letters", "fine wide letters"),
        ("“Straße” und Weg", "STRASSE und weg"),
        ("一只斑马在消防栓的右边，很近。", "一只斑马在消防栓的右边，很近"),
    ],
)
def test_texts_that_differ_in_form_only_are_equal(first: str, second: str) -> None:
    assert normalized(first) == normalized(second) != ""
