"""A full disk and too little memory end a command in one message and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import call, fails
from support.limits import limited_files
from support.results import judged_rows, write_results
from support.shared import sample_corpus

WRITING = [
    ["new", "mine", "--out", "{file}", "--force"],
    ["preview", "mtrl_judge_agin_nat", "--data-root", "{data}", "--out", "{folder}"],
    ["score", "{rows}", "--task", "mtrl_judge_seetrue", "--out", "{file}", "--force"],
    ["data", "sample", "--data-root", "{folder}"],
    ["leaderboard", "{results}", "--out", "{file}", "--force"],
    ["leaderboard", "{results}", "--plots", "{folder}"],
    ["leaderboard", "add", "{board}", "{others}"],
    ["leaderboard", "merge", "{board}", "--out", "{file}", "--force"],
    ["baseline", "save", "{results}", "--out", "{file}", "--force"],
    ["gate", "{results}", "--baseline", "{results}", "--summary", "{file}", "--force"],
    ["experiment", "--recipe", "tiny_cpu", "--model", "base", "--out", "{folder}"],
]


@pytest.mark.parametrize("words", WRITING, ids=lambda words: " ".join(words[:2]))
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path,
    base: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
) -> None:
    """As far as a limit on the size of files is one; both are an OSError of write()."""
    monkeypatch.chdir(tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"item_id": "a", "label": "Yes", "text": "Yes"}\n' * 50, encoding="utf-8")
    results = {
        name: write_results(
            tmp_path / name, {"mtrl_judge_a": judged_rows(200, 0.8, 0)}, model=f"me/{name}"
        )
        for name in ("results", "others")
    }
    board, file = tmp_path / "board.json", tmp_path / "file"
    assert call("leaderboard", "add", board, results["results"]).exit_code == 0
    file.write_text("before", encoding="utf-8")
    places = {"file": file, "folder": tmp_path / "folder", "rows": rows, "board": board}
    places |= {"data": sample_corpus(base), **results}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with limited_files(400):  # a lock's file has less
        message = fails(capsys, monkeypatch, *(word.format(**places) for word in words))
    assert "File too large" in message
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


LIMITED = """
import resource, sys
from mtrl_judge.cli.main import main
resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))
main()
"""


def test_too_little_memory_is_one_message(tmp_path: Path) -> None:
    board = tmp_path / "board.json"
    with board.open("wb") as file:
        file.truncate(8 * 2**30)  # which takes no space on the disk
    words = ["leaderboard", "show", str(board)]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "out of memory: MemoryError\n")
