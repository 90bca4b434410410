"""The sample corpus: complete, true by construction, disjoint between splits, repeatable."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support import replicas

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.common.hashing import digest
from mtrl_judge.data.prepare import PrepareOptions, prepare
from mtrl_judge.demo import corpus as sample
from mtrl_judge.demo import drawing
from mtrl_judge.demo.corpus import SMALL, Sizes, base_tasks, sample_tasks, write_sample
from mtrl_judge.demo.curriculum import load_curriculum
from mtrl_judge.demo.drawing import THINGS, Scene, near_misses, pair_scenes, split_of
from mtrl_judge.demo.scene_facts import facts_of_both, scene_facts
from mtrl_judge.experiments import demo, pipeline
from mtrl_judge.judge_tasks import loading
from mtrl_judge.judge_tasks.facts import FACTS_FILE, as_facts, check_facts
from mtrl_judge.judge_tasks.loading import find_task, load_shipped_tasks
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.scoring import score
from mtrl_judge.judge_tasks.sources import find_source, load_rows
from mtrl_judge.judge_tasks.spec import ANSWERS_FILE, SPLITS, SplitName
from mtrl_judge.rl.rejection_sampling import RowKey, read_answers

TASKS = [task.task for task in sample_tasks()]
MEASURED = "9f8660c85d00dd4d0f3882255b796409"
TINY = Sizes(train=8, validation=8, test=8, test_pairs=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample") / "data"
    write_sample(root, seed=3, sizes=SMALL)
    return root


def table(root: Path, task: str, split: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(root / task / f"{split}.parquet").to_pylist()
    return rows


def images(root: Path, task: str, split: str) -> set[bytes]:
    path = root / task / f"{split}.parquet"
    rows = table(root, task, split) if path.is_file() else []
    cells = chain.from_iterable(row.values() for row in rows)
    return {cell["bytes"] for cell in cells if isinstance(cell, dict)}


def test_every_task_loads_balanced_and_its_card_says_what_it_is(root: Path) -> None:
    assert len(TASKS) == 12
    for task in sample_tasks():
        source = find_source(task, root)
        assert source.kind == "sample"
        assert "Stands in for" in source.card["note"]
        assert "CC-BY-4.0" in source.card["license"]
        assert source.revision == sample.VERSION
        assert source.splits == (("test",) if task.judge.role == "ood" else SPLITS)
        for split in source.splits:
            rows, record = load_rows(task, split, root)
            assert record["unlabeled"] == 0
            assert not record["undecodable"]
            if task.kind.counted:
                assert min(record["labels"].values()) >= 0.4 * sum(record["labels"].values())
            assert len(rows.raw.dataset) == source.card["splits"][split]


def test_pairs_are_independent_and_captions_do_not_say_which_is_safe(root: Path) -> None:
    for task in sample_tasks():
        if task.paired:
            clusters = load_rows(task, "test", root).rows.dataset["cluster"][:]
            assert len(set(clusters)) > SMALL.test_pairs / 2
    for row in table(root, "mtrl_judge_mjbench_safety", "test"):
        things = row["caption"].partition(": ")[2].split(", ")
        assert things == sorted(things)
        assert 3 <= len(things) <= 4


def test_no_image_and_no_combination_of_test_is_in_training(root: Path) -> None:
    seen = {
        split: set(chain.from_iterable(images(root, t, split) for t in TASKS)) for split in SPLITS
    }
    assert not seen["train"] & (seen["test"] | seen["validation"])
    assert not seen["test"] & seen["validation"]
    trained = {
        tuple(sorted(thing["name"] for thing in truth["things"]))
        for task in TASKS
        for truth in truths(root, task)
    }
    assert {split_of(names, seed=3) for names in trained} == {"train"}


def truths(root: Path, task: str) -> list[dict[str, Any]]:
    path = root / task / sample.TRUTH_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def test_the_reasoning_to_learn_states_every_fact_that_counts(root: Path) -> None:
    for task in sample_tasks():
        if task.task in (sample.VLREWARDBENCH, sample.IMAGEREWARD_RANKED):
            assert not (root / task.task / FACTS_FILE).exists()
            continue
        for split in find_source(task, root).splits:
            rows, record = load_rows(task, split, root)
            assert record["facts"]["facts"] > 0
            of_rows = [JudgeRow.from_doc(doc).facts for doc in rows.dataset.with_format(None)]
            assert all(of_rows)
            if split != "train":
                continue
            for facts, truth in zip(of_rows, truths(root, task.task), strict=True):
                check = check_facts(truth["reasoning"], facts)
                assert len(check.stated) == check.total
                assert check.contradicted == ()


def test_every_training_row_has_a_correct_answer_to_learn(root: Path) -> None:
    for task in sample_tasks():
        if task.judge.role != "train":
            assert not (root / task.task / ANSWERS_FILE).exists()
            continue
        rows = [row for row in load_rows(task, "train", root).rows.dataset if row["label"]]
        answers = read_answers([root / task.task / ANSWERS_FILE])
        assert len(answers) == len(rows)
        for row in map(JudgeRow.from_doc, rows):
            (text,) = answers[RowKey(row.task, row.item_id, row.swapped)]
            scored = score(row, text)
            best = task.kind.attainable(row.label or "", row.verdicts)
            assert (scored.correct, scored.format) == (best, 1.0)


def test_what_a_scene_does_not_show_contradicts_it() -> None:
    for scene in (*pair_scenes(3, "test"), *drawing.count_scenes(3, "test")):
        facts = as_facts(scene_facts(scene), "scene")
        for others in near_misses(scene, 3, "test").values():
            for other in others:
                assert check_facts(f"The image shows {other.text}.", facts).contradicted


def test_two_images_do_not_contradict_each_other() -> None:
    one, two = Scene("house", "tree"), Scene("tree", "house")
    facts = as_facts(facts_of_both([scene_facts(one), scene_facts(two)]), "both")
    for scene in (one, two):
        assert check_facts(f"It shows {scene.text}.", facts).contradicted == ()
    assert check_facts("It shows a car left of a house.", facts).contradicted
    assert check_facts("It shows a house above a tree.", facts).contradicted


def test_a_larger_validation_split_begins_with_the_rows_of_a_smaller_one(tmp_path: Path) -> None:
    tables = {}
    for validation in (64, 80):
        sizes = Sizes(train=8, validation=validation, test=8, test_pairs=2)
        write_sample(tmp_path / str(validation), sizes=sizes)
        tables[validation] = [
            table(tmp_path / str(validation), task.task, "validation")
            for task in sample_tasks()
            if task.judge.role == "train"
        ]
    for smaller, larger in zip(tables[64], tables[80], strict=True):
        assert larger[:64] == smaller
        cells = [row["image"]["bytes"] for row in larger]
        assert len(set(cells)) == len(cells) == 80


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_belong_to_one_split(split: SplitName) -> None:
    scenes = [
        *pair_scenes(3, split, drawing.HARMLESS + drawing.DANGEROUS),
        *drawing.count_scenes(3, split),
    ]
    assert {split_of(scene.names, 3) for scene in scenes} == {split}
    for scene in scenes:
        for wrong, others in near_misses(scene, 3, split).items():
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
        shown = f"The image shows {row['text']}." in truth["reasoning"]
        assert shown == bool(row["label"]) == truth["reasoning"].endswith("It fits.")
    for truth, row in zip(
        truths(root, "mtrl_judge_unsafebench"),
        table(root, "mtrl_judge_unsafebench", "train"),
        strict=True,
    ):
        found = any(thing["name"] in drawing.DANGEROUS for thing in truth["things"])
        assert found == (row["safety_label"] == "Unsafe")


def test_what_is_rated_is_what_is_cut_in_two(root: Path) -> None:
    """The graded task has the images and ratings of the binary one, and more than two levels."""
    for split in SPLITS:
        assert table(root, sample.AGIN_GRADED, split) == table(root, sample.AGIN[0], split)
        rows = load_rows(find_task(sample.AGIN_GRADED), split, root).rows.dataset
        assert len({round(float(label)) for label in rows["label"]}) >= 4


def test_what_figures_were_measured_on_is_as_it_was(root: Path) -> None:
    """README and docs/comparison.md have figures of the tasks that the tiny model is made for."""
    written = {
        f"{task.task}/{split}": [
            {name: value for name, value in row.items() if not isinstance(value, dict)}
            for row in table(root, task.task, split)
        ]
        for task in base_tasks()
        for split in find_source(task, root).splits
    }
    assert digest([json.dumps(written, sort_keys=True).encode()]) == MEASURED


def test_one_of_two_answers_is_true(root: Path) -> None:
    rows = table(root, sample.VLREWARDBENCH, "test")
    for row in rows:
        true, other = sorted(zip(row["human_ranking"], row["response"], strict=True))
        assert (true[0], other[0]) == (0, 1)
        assert true[1] != other[1]
    assert {row["human_ranking"][0] for row in rows} == {0, 1}


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
    assert len(files) == 1 + 12 + 8 * 3 + 4 + 7 + 8 + 10
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (root / file).read_bytes(), file
    test = Path("mtrl_judge_seetrue/test.parquet")
    assert (tmp_path / "other" / test).read_bytes() != (root / test).read_bytes()


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    write_sample(tmp_path / "data", sizes=TINY)
    with pytest.raises(JudgeError, match="--force"):
        write_sample(tmp_path / "data", sizes=TINY)
    assert write_sample(tmp_path / "data", seed=1, sizes=TINY, force=True)["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_sample_replaces_only_what_a_sample_wrote(tmp_path: Path) -> None:
    """Both `data sample` and `data prepare` write into mtrl-data by default."""
    root, real = tmp_path / "data", "mtrl_judge_seetrue"
    mine = root / "mtrl_judge_mine" / "test.parquet"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    write_sample(root, sizes=TINY)
    shutil.rmtree(root / real)  # a real dataset in its place
    replicas.seetrue(tmp_path / "raw", 24)
    options = PrepareOptions(tmp_path / "raw", any_count=True)
    list(prepare([find_task(real)], root, options, lambda *_: None))
    assert not (root / real / FACTS_FILE).exists()
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    for force in (False, True):
        with pytest.raises(JudgeError, match=rf"{real}: contains files that this command did not"):
            write_sample(root, seed=1, sizes=TINY, force=force)
    assert before == {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    shutil.move(root / real, tmp_path / "real")
    (root / "mtrl_judge_unsafebench" / "notes.txt").write_text("mine")
    with pytest.raises(JudgeError, match="mtrl_judge_unsafebench: contains files"):
        write_sample(root, seed=1, sizes=TINY, force=True)
    (root / "mtrl_judge_unsafebench" / "notes.txt").unlink()
    assert write_sample(root, seed=1, sizes=TINY, force=True)["seed"] == 1
    assert mine.read_text() == "mine"


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"mtrl-judge\[sample\]"):
        write_sample(tmp_path / "data")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", range(10))
def test_every_seed_has_scenes_with_near_misses_in_every_split(seed: int) -> None:
    """Splits repeat after ten seeds: the last digit of a sum with the seed decides."""
    for split in SPLITS:
        scenes = pair_scenes(seed, split)
        assert any(near_misses(scene, seed, split) for scene in scenes)
        homes = [
            [THINGS[name].home for name in scene.names]
            for scene in scenes
            if scene.relation == "above"
        ]
        assert {pair == ["sky", "ground"] for pair in homes} == {True, False}


def test_a_task_without_sample_data_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new YAML is all that a new task needs."""
    shipped = tmp_path / "task_yamls"
    shutil.copytree(loading.SHIPPED, shipped)
    text = (shipped / "mtrl_judge_seetrue.yaml").read_text(encoding="utf-8")
    new = shipped / "mtrl_judge_new.yaml"
    new.write_text(text.replace("mtrl_judge_seetrue", "mtrl_judge_new"), encoding="utf-8")
    monkeypatch.setattr(loading, "SHIPPED", shipped)
    assert "mtrl_judge_new" in [task.task for task in load_shipped_tasks()]
    record = write_sample(tmp_path / "data", sizes=TINY)
    assert {*record["tasks"]} == {task.task for task in sample_tasks()} == {*TASKS}
    assert load_curriculum(tmp_path / "data", seed=0).fingerprints.keys() < {*TASKS}
    commands: list[str] = []

    def stop(steps: Sequence[pipeline.Step], *_: object) -> None:
        commands.extend(step.command for step in steps)
        raise InterruptedError

    monkeypatch.setattr(demo, "run_steps", stop)
    with pytest.raises(InterruptedError):
        demo.run_demo(tmp_path / "demo", seed=0)
    assert sum("mtrl_judge_unsafebench" in command for command in commands) == 3
    assert not any("mtrl_judge_new" in command for command in commands)
