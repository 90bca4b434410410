"""The sample corpus: complete, true by construction, disjoint between splits, repeatable."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.demo import corpus as sample
from mtrl_judge.demo.corpus import SMALL, Sizes, write_sample
from mtrl_judge.demo.drawing import KINDS, Scene, split_of
from mtrl_judge.judge_tasks.loading import load_shipped_tasks
from mtrl_judge.judge_tasks.sources import find_source, load_rows
from mtrl_judge.judge_tasks.spec import SPLITS


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample") / "data"
    write_sample(root, seed=3, sizes=SMALL)
    return root


def table(root: Path, task: str, split: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(root / task / f"{split}.parquet").to_pylist()
    return rows


def pictures(root: Path, task: str, split: str) -> set[bytes]:
    path = root / task / f"{split}.parquet"
    rows = table(root, task, split) if path.is_file() else []
    cells = chain.from_iterable(row.values() for row in rows)
    return {cell["bytes"] for cell in cells if isinstance(cell, dict)}


def test_every_shipped_task_loads_balanced_and_says_what_it_is(root: Path) -> None:
    tasks = load_shipped_tasks()
    assert {task.task for task in tasks} == set(sample.SAMPLE_TASKS)
    for task in tasks:
        source = find_source(task, root)
        assert source.kind == "sample"
        assert "Stands in for" in source.card["note"]
        assert "CC-BY-4.0" in source.card["license"]
        assert source.splits == (("test",) if task.judge.role == "ood" else SPLITS)
        for split in source.splits:
            rows, record = load_rows(task, split, root)
            assert record["unlabeled"] == 0
            assert not record["undecodable"]
            assert min(record["labels"].values()) >= 0.4 * sum(record["labels"].values())
            assert rows.n_items == source.card["splits"][split]


def test_no_picture_and_no_combination_of_test_is_seen_in_training(root: Path) -> None:
    seen = {
        split: set(chain.from_iterable(pictures(root, t, split) for t in sample.SAMPLE_TASKS))
        for split in SPLITS
    }
    assert not seen["train"] & (seen["test"] | seen["validation"])
    assert not seen["test"] & seen["validation"]
    trained = {
        tuple(sorted(thing["name"] for thing in truth["things"]))
        for task in sample.SAMPLE_TASKS
        for truth in truths(root, task)
    }
    assert {split_of(names, seed=3) for names in trained} == {"train"}


def truths(root: Path, task: str) -> list[dict[str, Any]]:
    path = root / task / sample.TRUTH_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


@pytest.mark.parametrize("split", SPLITS)
def test_every_scene_of_a_split_is_the_splits_own(split: sample.Split) -> None:
    scenes = [
        *sample.pair_scenes(3, split, sample.HARMLESS + sample.DANGEROUS),
        *sample.count_scenes(3, split),
    ]
    assert {split_of(scene.names, 3) for scene in scenes} == {split}
    for scene in scenes:
        for wrong, others in sample.one_wrong(scene, 3, split).items():
            assert others
            assert {split_of(other.names, 3) for other in others} == {split}
            assert all(differences(scene, other) == {wrong} for other in others)


def differences(a: Scene, b: Scene) -> set[str]:
    """In what two scenes differ, read from what they show."""
    if len(set(a.names)) == 1:
        return {
            *({"thing"} if set(a.names) != set(b.names) else ()),
            *({"number"} if len(a.names) != len(b.names) else ()),
        }
    if sorted(a.names) == sorted(b.names):
        return {"relation"} if a != b else set()
    kept = [x == y for x, y in zip(a.names, b.names, strict=True)]
    return {"thing"} if a.relation == b.relation and sum(kept) == 1 else {"thing", "relation"}


def test_labels_follow_from_the_truth(root: Path) -> None:
    for nat, tech, rat, row in zip(
        *(truths(root, task) for task in sample.AGIN),
        table(root, sample.AGIN[0], "train"),
        strict=True,
    ):
        assert nat["image"] == tech["image"] == rat["image"] == row["image"]["path"]
        assert (row["MOS_tech"] > 3.5) == (tech["fault"] is None)
        assert (row["MOS_rat"] > 3.5) == rat["reasoning"].endswith("Everything is in its place.")
        upside_down = any(thing["upside_down"] for thing in rat["things"])
        assert upside_down == rat["reasoning"].endswith("upside down.")
    for truth, row in zip(
        truths(root, "mtrl_judge_seetrue"), table(root, "mtrl_judge_seetrue", "train"), strict=True
    ):
        shown = f"The picture shows {row['text']}." in truth["reasoning"]
        assert shown == bool(row["label"]) == truth["reasoning"].endswith("It fits.")
    for truth, row in zip(
        truths(root, "mtrl_judge_unsafebench"),
        table(root, "mtrl_judge_unsafebench", "train"),
        strict=True,
    ):
        found = any(thing["name"] in sample.DANGEROUS for thing in truth["things"])
        assert found == (row["safety_label"] == "Unsafe")


def test_ranks_of_a_prompt_follow_its_ratings(root: Path) -> None:
    rows = table(root, "mtrl_judge_imagereward", "train")
    for row in rows:
        group = [other for other in rows if other["prompt_id"] == row["prompt_id"]]
        better = [other for other in group if other["overall_rating"] > row["overall_rating"]]
        assert row["image_amount_in_total"] == len(group)
        assert row["rank"] == 1 + len(better)
        assert all(1 <= row[name] <= 7 for name in row if name.endswith("_rating"))


def test_the_same_seed_writes_the_same_bytes(root: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "again", seed=3, sizes=SMALL)
    write_sample(tmp_path / "other", seed=4, sizes=SMALL)
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert len(files) == 1 + 9 + 6 * 3 + 3 + 6
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (root / file).read_bytes(), file
    test = Path("mtrl_judge_seetrue/test.parquet")
    assert (tmp_path / "other" / test).read_bytes() != (root / test).read_bytes()


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    tiny = Sizes(train=8, validation=8, test=8, test_pairs=2)
    write_sample(tmp_path / "data", sizes=tiny)
    with pytest.raises(JudgeError, match="--force"):
        write_sample(tmp_path / "data", sizes=tiny)
    assert write_sample(tmp_path / "data", seed=1, sizes=tiny, force=True)["seed"] == 1
    (tmp_path / "data" / "notes.txt").write_text("mine")
    with pytest.raises(JudgeError, match="did not write"):
        write_sample(tmp_path / "data", sizes=tiny, force=True)
    assert (tmp_path / "data" / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"mtrl-judge\[sample\]"):
        write_sample(tmp_path / "data")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", range(10))
def test_every_seed_has_something_to_ask_in_every_split(seed: int) -> None:
    """Splits repeat after ten seeds: the last digit of a sum with the seed deals them."""
    for split in SPLITS:
        scenes = sample.pair_scenes(seed, split)
        assert any(sample.one_wrong(scene, seed, split) for scene in scenes)
        homes = [
            [KINDS[name].home for name in scene.names]
            for scene in scenes
            if scene.relation == "above"
        ]
        assert {pair == ["sky", "ground"] for pair in homes} == {True, False}
