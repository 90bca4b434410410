"""A YAML is read whole: every fault at once, each with its field and its fix."""

from __future__ import annotations

import textwrap
from itertools import chain
from pathlib import Path

import pytest

from mtrl_judge.common.errors import JudgeTaskError
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.loading import (
    SHIPPED,
    find_task,
    load_judge_task,
    load_shipped_tasks,
    shipped_paths,
)
from mtrl_judge.judge_tasks.spec import GROUPS
from mtrl_judge.judge_tasks.validate import validate

SOUND = """
task: my_task
dataset_path: owner/name
training_split: train
test_split: test
judge:
  kind: pointwise
  role: train
  dimension: safety
  images: [image]
  question: "Is it safe? {{ text }}"
  label: {column: label, map: {1: "Yes", 0: "No"}}
  verdicts: ["Yes", "No"]
  card: {license: MIT, gated: false, url: x, citation: y}
metadata: {version: 1.0}
"""


def write(folder: Path, text: str, name: str = "my_task.yaml") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def faults(path: Path) -> dict[str, str]:
    with pytest.raises(JudgeTaskError) as caught:
        load_judge_task(path)
    assert all(str(f).startswith(f"{f.file}: {f.field}: ") for f in caught.value.faults)
    return {fault.field: f"{fault.found}; {fault.expected}" for fault in caught.value.faults}


@pytest.mark.parametrize("path", shipped_paths(), ids=lambda p: p.stem)
def test_every_shipped_yaml_validates(path: Path) -> None:
    assert validate(path) == []
    assert load_judge_task(path).task == path.stem


def test_groups_name_tasks_of_their_role_or_kind() -> None:
    import yaml

    by_role = {
        role: {t.task for t in load_shipped_tasks() if t.judge.role == role}
        for role in ("train", "ood")
    }
    members = {
        name: yaml.safe_load((SHIPPED / f"{name}.yaml").read_text())["task"] for name in GROUPS
    }
    assert set(members["mtrl_id"]) <= by_role["train"]
    assert set(members["mtrl_ood"]) <= by_role["ood"]
    assert members["mtrl_all"] == [*members["mtrl_id"], *members["mtrl_ood"]]
    by_kind = {
        kind: {t.task for t in load_shipped_tasks() if t.judge.kind == kind} for kind in KINDS
    }
    assert {*members["mtrl_graded"]} == by_kind["score"] | by_kind["ranking"]
    unlabeled = "mtrl_judge_mjbench_bias"
    assert {*members["mtrl_pairs"], unlabeled} == by_kind["pairwise"]
    assert {*members["mtrl_everything"]} == {*chain.from_iterable(by_kind.values())}
    assert {*members["mtrl_text"]} <= {*members["mtrl_everything"]}


def test_twenty_faults_at_once(tmp_path: Path) -> None:
    found = faults(
        write(
            tmp_path,
            """
            task: mtrl_all
            dataset_pth: owner/name
            training_split: train
            validation_split: validation
            repeats: 0
            dataset_kwargs: 3
            metadata: {split: x}
            metadata: {doc_id: 1}
            evil: !!python/object/apply:os.system ["true"]
            judge:
              kind: pontwise
              role: trian
              images: [image]
              question: "{{ text "
              label: {column: label, map: {1: "Ye", 0: "No"}, colum: x}
              verdicts: [Yes, "no", "No"]
              orders: sometimes
              styel: reasoned
              splits:
                validation: {from: train, fraction: 1.5}
                test: {from: tset, fraction: 0.1, strat: label}
              card: {license: "", gated: perhaps, url: x}
            """,
        )
    )
    wanted = {
        "task": "name of a group",
        "dataset_pth": "did you mean 'dataset_path'?",
        "evil": "unknown key",
        "repeats": "greater than or equal to 1",
        "dataset_kwargs": "dictionary",
        "metadata": "given twice",
        "metadata.doc_id": "rename it",
        "line 10": "tag",
        "judge.kind": "did you mean 'pointwise'?",
        "judge.role": "did you mean 'train'?",
        "judge.dimension": "is missing",
        "judge.question": "line 1 of the template",
        "judge.label.colum": "did you mean 'column'?",
        "judge.label.map.1": "none of the verdicts",
        "judge.verdicts.0": 'write it in quotes, such as "Yes"',
        "judge.verdicts": "is the same text as",
        "judge.orders": "known: both, cyclic, hashed",
        "judge.styel": "did you mean 'style'?",
        "judge.splits.validation": "keep one of the two",
        "judge.splits.validation.fraction": "less than 1",
        "judge.splits.test.from": "did you mean 'test'?",
        "judge.splits.test.strat": "did you mean 'stratify'?",
        "judge.card.license": "at least 1 character",
        "judge.card.gated": "boolean",
        "judge.card.citation": "is missing",
    }
    assert len(wanted) >= 20
    for field, part in wanted.items():
        assert part in found.get(field, ""), (field, found)


@pytest.mark.parametrize(
    ("change", "field", "part"),
    [
        (('"Is it safe? {{ text }}"', '"<image> or <image>?"'), "judge.question", "2 <image> for"),
        (("kind: pointwise", "kind: pairwise"), "judge.candidates", "name the two columns"),
        (("kind: pointwise", "kind: pairwise"), "judge.label", "{column, first, second, tie}"),
        (("role: train", "role: train\n  orders: both"), "judge.orders", "is for pairs"),
        (('{column: label, map: {1: "Yes", 0: "No"}}', "{column: label}"), "judge.label", "column"),
        (("map: {1:", "map: {2: \"Maybe\", 1:"), "judge.label.map.2", "none of the verdicts"),
        (('["Yes", "No"]', '["Yes", "No", "Tie"]'), "judge.label.map", "verdict 'Tie'"),
        (("training_split: train\n", ""), "training_split", "role: train needs one"),
        (("test_split: test\n", ""), "test_split", "name the split to judge"),
        (('map: {1: "Yes", 0: "No"}', "threshold: high"), "judge.label.threshold", "no number"),
        (("task: my_task", "task: my task"), "task", "letters, digits"),
        (("task: my_task", "include: ../x.yaml\ntask: my_task"), "include", "in the same folder"),
        (("task: my_task", "include: nope.yaml\ntask: my_task"), "include", "no file nope.yaml"),
        (("task: my_task", "task: [a"), "line 3", "not YAML"),
    ],
)  # fmt: skip
def test_one_fault(tmp_path: Path, change: tuple[str, str], field: str, part: str) -> None:
    assert change[0] in SOUND
    found = faults(write(tmp_path, SOUND.replace(*change)))
    assert part in found.get(field, ""), found


def test_include_takes_a_sibling_and_the_own_keys_win(tmp_path: Path) -> None:
    write(tmp_path, SOUND, "_base.yaml")
    child = "include: _base.yaml\ntask: child\njudge: {dimension: taste}\n"
    task = load_judge_task(write(tmp_path, child))
    assert (task.task, task.judge.dimension, task.judge.role) == ("child", "taste", "train")


def test_include_in_a_ring_is_a_fault(tmp_path: Path) -> None:
    write(tmp_path, "include: b.yaml\n", "a.yaml")
    assert "includes itself" in faults(write(tmp_path, "include: a.yaml\n", "b.yaml"))["include"]


@pytest.mark.parametrize("text", ["", "- a\n", "a: *nope\n", "\x00", "a: " + "[" * 3000])
def test_what_is_no_mapping_is_a_fault(tmp_path: Path, text: str) -> None:
    assert faults(write(tmp_path, text))


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(JudgeTaskError, match="mtrl_judge_seetrue"):
        find_task("mtrl_judge_setrue")


def test_indistinguishable_verdicts_are_invalid(tmp_path: Path) -> None:
    text = SOUND.replace('["Yes", "No"]', '["Yes", "<b>"]').replace('0: "No"', '0: "<b>"')
    text = text.replace("<b>", "</answer>")
    assert any("gold answer" in fault for fault in validate(write(tmp_path, text)))


def test_raw_files_and_counts_are_of_splits_that_there_are(tmp_path: Path) -> None:
    text = SOUND.replace("url: x,", "url: x, expects: {validation: 3, test: 0},").replace(
        "metadata:",
        """  raw:
    tables: {validation: a.csv, train: []}
    images: {named_by: file, imag: image, subset: true, archives: {}}
  known_bad: [{item: 7, reason: odd}, {item: a}]
metadata:""",
    )
    found = faults(write(tmp_path, text))
    wanted = {
        "judge.raw.tables.validation": "set validation_split, or name one of: train, test",
        "judge.raw.tables.train": "at least 1 item",
        "judge.raw.images.imag": "did you mean 'image'?",
        "judge.raw.images.image": "is missing; the column to put the image in",
        "judge.raw.images.subset": "there are no archives",
        "judge.known_bad.0.item": 'write it in quotes: "7"',
        "judge.known_bad.1.reason": "is missing; why it is excluded",
        "judge.card.expects.validation": "there is no such split; name one of: test, train",
        "judge.card.expects.test": "greater than 0",
    }
    assert {field: part for field, part in wanted.items() if part not in found.get(field, "")} == {}
    assert len(found) == len(wanted)


def test_class_counts_are_fixed_where_the_yaml_says_so(tmp_path: Path) -> None:
    made = "  splits: {test: {from: train, fraction: 0.1, stratify: label}}\n  card:"
    fixed = "  fixed_class_counts: true\n  card:"
    without_test = SOUND.replace("test_split: test\n", "")
    for text, expected in (
        (SOUND, False),
        (SOUND.replace("  card:", fixed), True),
        (without_test.replace("  card:", made), True),
        (without_test.replace("  card:", made.replace(", stratify: label", "")), False),
    ):
        assert load_judge_task(write(tmp_path, text)).fixed_labels("test") is expected


def test_groups_and_ratings_of_people_are_columns(tmp_path: Path) -> None:
    task = load_judge_task(
        write(
            tmp_path,
            SOUND.replace(
                "  card:",
                "  groups: kind\n  human: {column: mos, group: prompt, rank: place}\n  card:",
            ),
        )
    )
    assert task.metrics[-3:] == [
        "macro_f1_group_mean",
        "accuracy_group_mean",
        "accuracy_answered_group_mean",
    ]
    wrong = "  human: {colum: mos, rank: place}\n  card:"
    found = faults(write(tmp_path, SOUND.replace("  card:", wrong)))
    assert found.keys() == {"judge.human.colum", "judge.human.column", "judge.human.rank"}
    assert "did you mean 'column'?" in found["judge.human.colum"]
    assert "group: prompt_id" in found["judge.human.rank"]
    pairs = SOUND.replace("pointwise", "pairwise").replace("[image]", "[image0, image1]")
    pairs = pairs.replace('{column: label, map: {1: "Yes", 0: "No"}}', "{column: label}")
    found = faults(write(tmp_path, pairs.replace("  card:", "  human: {column: mos}\n  card:")))
    assert found == {
        "judge.human": "rates single items, and here two are compared; "
        "remove it or set kind: pointwise"
    }


def test_a_preference_may_be_several_values(tmp_path: Path) -> None:
    pairs = SOUND.replace("pointwise", "pairwise").replace("[image]", "[image0, image1]")
    rule = "{column: vote, first: left, second: [right, 2.0], tie: [both, true]}"
    pairs = pairs.replace('{column: label, map: {1: "Yes", 0: "No"}}', rule)
    pairs = pairs.replace('["Yes", "No"]', '["A", "B", "C"]')
    label = load_judge_task(write(tmp_path, pairs)).judge.label
    values = ("left", "right", 2, "2", "both", True)
    assert [label.verdict(value, "ABC", None) for value in values] == list("ABBBCC")
    twice = pairs.replace("[right, 2.0]", "[right, both]").replace("[both, true]", "[both, left]")
    assert "'left' is also a value of first" in faults(write(tmp_path, twice))["judge.label.tie"]
    empty = faults(write(tmp_path, pairs.replace("[right, 2.0]", "[]")))
    assert "is an empty list" in empty["judge.label.second"]
