"""A stranger's judge YAML ends in a message of bounded length, whatever it contains."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.tasks import write_yaml

from mtrl_judge.common.errors import JudgeTaskError
from mtrl_judge.judge_tasks.loading import MAX_FAULTS, load_judge_task, peek
from mtrl_judge.judge_tasks.validate import validate


def message(path: Path) -> str:
    with pytest.raises(JudgeTaskError) as caught:
        validate(path)
    assert len(caught.value.faults) <= MAX_FAULTS + 1
    assert len(str(caught.value)) < 100_000
    return str(caught.value)


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"verdicts": str([f"v{i}" for i in range(3000)])}, "judge.verdicts"),
        ({"verdicts": f'["Yes", "{"9" * 6000}"]'}, "judge.verdicts.1"),
        ({"paraphrases": str([f"Is it {i}?" for i in range(3000)])}, "judge.paraphrases"),
        ({"kind": "x" * 100_000}, "judge.kind"),
        ({"x" * 1000: "1"}, "unknown key"),
        ({f"key{i}": "1" for i in range(3000)}, "more faults"),
        ({"label": "{column: x, map: {" + ",".join(f"{i}: n" for i in range(3000)) + "}}"}, "map"),
    ],
)
def test_many_and_long_faults_are_one_message(
    tmp_path: Path, keys: dict[str, str], part: str
) -> None:
    assert part in message(write_yaml(tmp_path, **keys))


def test_includes(tmp_path: Path) -> None:
    path = write_yaml(tmp_path)
    text = path.read_text()
    for number in range(1000):
        name = tmp_path / f"_{number}.yaml"
        name.write_text(f"include: _{number + 1}.yaml\n")
    os.mkfifo(tmp_path / "_fifo.yaml")
    for include, part in (("_0.yaml", "include at most 3"), ("_fifo.yaml", "not a regular file")):
        path.write_text(f"include: {include}\n{text}")
        assert part in message(path)
        assert len(message(path).splitlines()) == 1


def test_looking_for_judge_yamls_does_not_wait_or_read_on(tmp_path: Path) -> None:
    fifo, large = tmp_path / "fifo.yaml", tmp_path / "large.yaml"
    os.mkfifo(fifo)
    large.write_bytes(write_yaml(tmp_path).read_bytes() + b"#" * 2**20)
    assert peek(fifo) is None
    assert peek(Path("/dev/zero")) is None
    assert peek(large) == {}, "it is a judge task, whose fault is reported when it is selected"
    with pytest.raises(JudgeTaskError, match="larger than the limit"):
        load_judge_task(large)
