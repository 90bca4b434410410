"""Files are complete or absent, never overwritten without force, and valid JSON."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.limits import limited_files

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.common.files import (
    json_text,
    parse_json,
    read_json,
    read_json_lines,
    refuse_existing,
    whole_file,
    whole_folder,
    write_json,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES)
def test_values_survive_and_surrogates_become_question_marks(value: object) -> None:
    text = json_text(value)
    text.encode("utf-8")
    assert parse_json(text) == json.loads(text)
    assert parse_json(json.dumps(value)) == json.loads(text)


def test_an_error_leaves_the_previous_content(tmp_path: Path) -> None:
    file, folder = tmp_path / "a.json", tmp_path / "folder"
    write_json(file, {"a": 1})
    with whole_folder(folder) as part:
        (part / "old").touch()
    for context in (whole_file(file), whole_folder(folder)):
        with pytest.raises(RuntimeError), context as part:
            raise RuntimeError
    assert read_json(file) == {"a": 1}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.json", "folder", "old"]
    with pytest.raises(JudgeError, match="already exists; choose another path or pass --force"):
        write_json(file, {}, force=False)


# Replaces a folder's content and is killed at its nth rename.
REPLACING = """\
import os, signal, sys
from itertools import count
from pathlib import Path
from mtrl_judge.common.files import whole_folder

number, folder = int(sys.argv[1]), Path(sys.argv[2])
renames, rename = count(), Path.rename

def killing(source, target):
    if next(renames) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(source, target)

Path.rename = killing
with whole_folder(folder) as part:
    (part / "new").touch()
"""


def killed_at_rename(number: int, folder: Path) -> int:
    """The exit status of a process that replaces a folder and is killed at its nth rename."""
    command = [sys.executable, "-c", REPLACING, str(number), str(folder)]
    return subprocess.run(command, check=False).returncode


def test_a_folder_is_old_or_new_wherever_its_replacement_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with whole_folder(folder) as part:
        (part / "old").touch()
    for number in (0, 1):
        assert killed_at_rename(number, folder) == -signal.SIGKILL
        # The second is between the two renames, when only the next process brings it back.
        assert folder.exists() == (number == 0)
        with pytest.raises(RuntimeError), whole_folder(folder):
            raise RuntimeError
        assert [path.name for path in tmp_path.rglob("*")] == ["a", "old"]
    assert killed_at_rename(2, folder) == 0
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "new"]


def test_a_full_disk_leaves_the_previous_content(tmp_path: Path) -> None:
    """As far as a limit on the size of files is one; both are an OSError of write()."""
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})
    with (
        limited_files(1000),
        pytest.raises(JudgeError, match=r"a.json: cannot be written: .*is unchanged"),
    ):
        write_json(file, {"a": "x" * 100_000})
    assert read_json(file) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_links_stay_and_what_is_no_file_is_refused(tmp_path: Path) -> None:
    file, link = tmp_path / "a.json", tmp_path / "link.json"
    write_json(file, {"a": 1})
    link.symlink_to(file.name)
    write_json(link, {"a": 2})
    assert (link.is_symlink(), read_json(file)) == (True, {"a": 2})
    for path in (tmp_path, Path(os.devnull)):
        with pytest.raises(JudgeError, match="exists and is not a file"):
            write_json(path, {})
    with pytest.raises(JudgeError, match="exists and is not a folder"), whole_folder(file):
        pass


def test_existing_output_is_refused_unless_it_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refuse_existing(tmp_path / "empty")
    refuse_existing(tmp_path / "missing")
    refuse_existing(tmp_path, force=True)
    with pytest.raises(JudgeError, match=r"choose another path$"):
        refuse_existing(tmp_path)
    with pytest.raises(JudgeError, match="or pass --force"):
        refuse_existing(tmp_path, force=False)
    with pytest.raises(JudgeError, match="did not write"):
        refuse_existing(tmp_path, force=True, replaceable=lambda path: False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"a.json: not valid JSON \(.*\); remove it"),
        (b"[1]", "a.json: found list; expected a JSON object"),
        (b"\xff", r"a.json: cannot be read \(.*\); remove it"),
        (b"[" * 100_000, "a.json: not valid JSON"),
    ],
)
def test_unreadable_json_names_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_json(file, advice="remove it")


def test_missing_json_is_empty_only_where_allowed(tmp_path: Path) -> None:
    assert read_json(tmp_path / "a.json", missing_ok=True) == {}
    assert read_json(tmp_path / "a.json" / "b.json", missing_ok=True) == {}
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path / "a.json")


def test_lines_are_located(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n\n{"a": 2}\n{"a"', encoding="utf-8")
    lines = read_json_lines(file)
    assert next(lines) == (f"{file}: line 1", {"a": 1})
    assert next(lines) == (f"{file}: line 3", {"a": 2})
    with pytest.raises(DataError, match="line 4: not valid JSON"):
        next(lines)


def test_lines_of_a_compressed_file_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    data = gzip.compress('{"a": "é"}\n'.encode())
    file.write_bytes(data)
    assert list(read_json_lines(file)) == [(f"{file}: line 1", {"a": "é"})]
    file.write_bytes(gzip.compress(b" " * 2**27, 1))
    with pytest.raises(DataError, match="line 1: longer than 67,108,864 characters"):
        list(read_json_lines(file))
    for broken in (data[:-9], data[:12] + b"x" + data[13:], b"{}"):
        file.write_bytes(broken)
        with pytest.raises(DataError, match="cannot be read"):
            list(read_json_lines(file))
