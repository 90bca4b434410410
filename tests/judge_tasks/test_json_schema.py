"""The JSON Schema of YAMLs, the optional card, and names that are taken."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from support.tasks import write_task, write_yaml

from mtrl_judge.common.errors import JudgeTaskError
from mtrl_judge.judge_tasks.json_schema import SCHEMA_FILE, schema_text
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.loading import load_judge_task, shipped_paths
from mtrl_judge.judge_tasks.new_task import write_new_task
from mtrl_judge.judge_tasks.validate import remarks, validate

SCHEMA = jsonschema.Draft202012Validator(json.loads(schema_text()))


def faults(text: str) -> list[str]:
    found = SCHEMA.iter_errors(yaml.safe_load(text))
    return [".".join(map(str, error.path)) for error in found]


@pytest.mark.parametrize("path", shipped_paths(), ids=lambda path: path.stem)
def test_shipped_tasks_fit_the_schema(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_task_names_the_schema_beside_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine.yaml"
    write_new_task("mine", kind, path, force=False)
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA_FILE}\n")
    assert json.loads((tmp_path / SCHEMA_FILE).read_text(encoding="utf-8")) == SCHEMA.schema
    assert faults(text) == []
    assert faults(text.replace("  dimension:", "  dimensoin:")) == ["judge"]
    assert faults(text.replace("role: train", "role: trian")) == ["judge.role"]


@pytest.mark.parametrize(
    "keys",
    [
        {"label": "{column: [a, b], reduce: mean, threshold: 3}", "where": "{x: 1, y: [2, z]}"},
        {"label": "{column: 'meta.l', drop: [7], map: {'Yes': [1, true], 'No': 0.5}}"},
        {"label": "{column: l, bins: [2.5]}", "images": "image"},
        {
            "kind": "pairwise",
            "candidates": "[[a, image0], [b, image1]]",
            "images": "[image0, image1]",
            "question": "'{{ a }} {{ b }}'",
            "label": "{column: l, first: 1, second: [2, 3]}",
        },
    ],
)
def test_what_validation_accepts_fits_the_schema(tmp_path: Path, keys: dict[str, str]) -> None:
    path = write_yaml(tmp_path, **keys)
    assert validate(path) == []
    assert faults(path.read_text(encoding="utf-8")) == []


def test_a_card_is_optional_and_missed(tmp_path: Path) -> None:
    path = write_yaml(tmp_path)
    assert remarks(path) == []
    task = yaml.safe_load(path.read_text(encoding="utf-8"))
    del task["judge"]["card"]
    path.write_text(yaml.safe_dump(task), encoding="utf-8")
    assert load_judge_task(path).judge.card.license == "not stated"
    assert remarks(path) == [
        f"{path}: judge.card: is missing; state the data's license, url and citation"
    ]


def test_the_name_of_a_shipped_task_is_taken(tmp_path: Path) -> None:
    with pytest.raises(JudgeTaskError, match="mtrl_judge_seetrue is the name of a shipped task"):
        write_task(tmp_path, "mtrl_judge_seetrue")
