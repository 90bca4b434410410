"""The benchmark of the parser counts what it reads."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXTS = [
    ("one", "Better image: 1", "1"),
    ("one", "Better image: 2\nOverall, image 1 is better.", "2"),
    ("one", "Image 2 is bright.", "2"),
    ("one", "Better image: 2", "1"),
    ("two", "Better image: 1", None),
    ("two", "Better image: 0", None),
    ("two", "I prefer image 2.", "2"),
]


def run(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.verdicts", *map(str, files)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_counts_by_source_and_over_all_files(tmp_path: Path) -> None:
    rows = [
        {"source": source, "verdicts": ["1", "2"], "text": text, "want": want}
        for source, text, want in TEXTS
    ]
    plain, packed = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"
    plain.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    with gzip.open(packed, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows[3:])
    done = run(plain, packed)
    assert done.returncode == 0, done.stderr
    header, _, *table, last = done.stdout.splitlines()
    columns = ["source", "n", "recall", "wrong", "ties read", "contradicting", "forms"]
    assert header.split() == " ".join(columns).split()
    assert [line.split(maxsplit=6) for line in table] == [
        ["one", "4", "0.3333", "1", "0", "1", "field 2"],
        ["two", "3", "1.0000", "0", "1", "0", "field 2"],
        ["all", "7", "0.5000", "1", "1", "1", "field 4"],
    ]
    figures = json.loads(last)
    assert figures.pop("us_a_text") > 0
    assert figures == {
        "texts": 7,
        "recall": 0.5,
        "recall_of_all": 0.4,
        "contradicting": 1,
        "wrong": 2,
    }


def test_an_invalid_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"verdicts": ["1", "2"], "text": "2", "want": "3"}\n')
    done = run(file)
    assert done.returncode != 0
    assert "a.jsonl: line 1: want is '3'; expected null or one of ('1', '2')" in done.stderr
