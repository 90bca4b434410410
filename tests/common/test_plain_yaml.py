"""YAML from a stranger ends in one problem, however little of it stands for however much."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mtrl_judge.common.errors import DataError
from mtrl_judge.common.plain_yaml import MAX_BYTES, parse_yaml, read_yaml, yaml_mapping


def levels(n: int, level: str) -> str:
    return "a0: &a0 {x: 1}\n" + "".join(level.format(i, i - 1) for i in range(1, n))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (levels(9, "a{0}: &a{0} [" + ", ".join(["*a{1}"] * 9) + "]\n"), "with each alias"),
        (levels(40, "a{0}: &a{0} {{<<: [*a{1}, *a{1}], k{0}: 1}}\n"), "with each alias"),
        (f"a: &a {'x' * 2**17}\nb: [*a, *a]", "with each alias"),
        ("a: &a [*a]", "contains itself"),
        ("k: 1\n" * 10_001, "more than 10,000 values"),
        ("a: " + "9" * 6000, "more than 100 digits"),
        ("a: 0x" + "f" * 6000, "more than 100 digits"),
        ("a: 1" + ":59" * 3000, "more than 100 digits"),
        ("a: " + "[" * 10_000, "levels deep"),
        ("- " * 9999, "levels deep"),
        ("a: 0x_", "not YAML"),
        ("a: 2001-99-99", "not YAML: month"),
        ("a: !!python/object/apply:os.system [true]", "runs no code"),
        ("a: !!bool maybe", "tag !!bool"),
        ("a: 1\nb: 2\na: 3", "given twice (line 3)"),
        ("? [a]\n: 1", "unhashable"),
    ],
)
def test_a_hostile_text_is_one_problem(text: str, part: str) -> None:
    problems = parse_yaml(text).problems
    assert len(problems) == 1
    assert part in str(problems[0])
    assert len(str(problems[0])) < 300


def test_anchors_and_merge_keys_are_read() -> None:
    text = "a: &a {x: 1}\nouter: {b: &b {<<: *a, x: 2}}\nc: {<<: *b, y: 3}\n"
    expected = {"a": {"x": 1}, "outer": {"b": {"x": 2}}, "c": {"x": 2, "y": 3}}
    assert parse_yaml(text) == (expected, [])


def test_each_reader_has_a_value_of_its_own() -> None:
    text = "a: {b: [1]}\na: {b: [1]}"
    first = parse_yaml(text)
    first.value["a"]["b"].append(2)
    first.problems.clear()
    second = parse_yaml(text)
    assert second.value == {"a": {"b": [1]}}
    assert len(second.problems) == 1


def test_what_is_no_readable_file(tmp_path: Path) -> None:
    fifo, large = tmp_path / "fifo.yaml", tmp_path / "large.yaml"
    os.mkfifo(fifo)
    large.write_bytes(b"a" * (MAX_BYTES + 1))
    for path, part in (
        (fifo, "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path, "not a regular file"),
        (large, "larger than the limit"),
        (tmp_path / "none.yaml", "does not exist"),
    ):
        [problem] = read_yaml(path).problems
        assert part in str(problem)
        with pytest.raises(DataError, match=part):
            yaml_mapping(path)
