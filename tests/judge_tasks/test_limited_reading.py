"""What a stranger's tables take on the hub is limited, whatever their files say."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pytest
from support.hub import COMMIT, hub

SCRIPT = """
import json, re, sys
from pathlib import Path
from mtrl_judge.common.errors import DataError
from mtrl_judge.judge_tasks import limited_reading
from mtrl_judge.judge_tasks.dataset_keys import read_dataset
limited_reading.MAX_MEMORY = 2**30
limited_reading.ALWAYS_ACCEPTED_BYTES = 50_000_000
for file in sys.argv[2:]:
    try:
        keys = {"revision": sys.argv[1], "data_files": file}
        found = len(read_dataset("owner/name", None, keys, "train"))
    except DataError as error:
        found = str(error)
    print(json.dumps(found))
print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
"""
MEMORY, GROWTH = "takes more than 1 GiB of memory", "becomes more than 50 MB"


def arrow(array: pa.Array) -> bytes:
    sink = io.BytesIO()
    table = pa.table({"text": array})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


LINE = b'{"text": "' + b"x" * 1000 + b'"}\n'
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "many.jsonl.gz": (lambda: gzip.compress(LINE * 100_000), GROWTH),
    "one.jsonl.gz": (lambda: gzip.compress(b'{"text": "' + b"x" * 2**30 + b'"}', 1), MEMORY),
    "repeated.arrow": (
        lambda: arrow(
            pa.DictionaryArray.from_arrays(
                pa.array([0] * 20_000, pa.int32()), pa.array(["x" * 2**16])
            )
        ),
        MEMORY,
    ),
}
HARMLESS = {
    "a.csv": b"text\na\nb\n",
    "a.jsonl.gz": gzip.compress(b'{"text": "a"}\n{"text": "b"}\n'),
    "a.json": b'[{"text": "a"}, {"text": "b"}]',
    "a.arrow": arrow(pa.array(["a", "b"])),
}


def read(folder: Path, files: Mapping[str, bytes]) -> tuple[dict[str, object], int]:
    """The rows or the message of each file on a replica of the hub, and the KiB that it took."""
    repository = folder / "repository"
    repository.mkdir()
    for name, data in files.items():
        (repository / name).write_bytes(data)
    with hub({"owner/name": repository}) as (address, _):
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(folder / "home")}
        environment.pop("HF_HUB_OFFLINE", None)
        command = [sys.executable, "-c", SCRIPT, COMMIT, *files]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    *found, peak = map(json.loads, done.stdout.splitlines())
    assert len(found) == len(files), done.stderr
    return dict(zip(files, found, strict=True)), peak


@pytest.mark.slow
def test_what_becomes_huge_is_one_message(tmp_path: Path) -> None:
    found, peak = read(tmp_path, {name: make() for name, (make, _) in HOSTILE.items()})
    for name, (_, message) in HOSTILE.items():
        assert message in str(found[name]), name
        assert str(found[name]).startswith("owner/name: cannot be read: "), name
    assert peak < 2**20  # the limits are of another process


@pytest.mark.slow
def test_what_is_harmless_is_read(tmp_path: Path) -> None:
    assert set(read(tmp_path, HARMLESS)[0].values()) == {2}
