"""What commands print passes through without secrets."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtrl_judge.common.exits import CLOSED_OUTPUT
from mtrl_judge.common.secrets import REDACTED, Redactor
from mtrl_judge.experiments.launch import run_command
from mtrl_judge.experiments.redaction import redacted

SECRET = "planted-ké-1234"
REDACTOR = Redactor((), {"A_KEY": SECRET, "HF_HOME": "/nowhere"})


@given(st.lists(st.sampled_from([SECRET, "word", " ", "\r", "\n", "é", "x" * 9000])), st.data())
def test_a_secret_is_found_however_it_is_cut(words: list[str], data: st.DataObject) -> None:
    sent = "".join(f" {word} " if word == SECRET else word for word in words).encode()
    output = io.BytesIO()
    with redacted(output, REDACTOR) as pipe:
        while sent:
            size = data.draw(st.integers(1, len(sent)))
            os.write(pipe, sent[:size])
            sent = sent[size:]
    expected = "".join(f" {word} " if word == SECRET else word for word in words)
    assert output.getvalue().decode() == expected.replace(SECRET, REDACTED)


def test_bytes_that_are_no_text_pass_through() -> None:
    output = io.BytesIO()
    with redacted(output, REDACTOR) as pipe:
        os.write(pipe, b"\xff\x00 \xc3")
    assert output.getvalue() == b"\xff\x00 \xc3"


def test_logs_and_the_screen_hold_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    code = "import os, sys; print(os.environ['HF_TOKEN']); print(sys.argv, file=sys.stderr)"
    command = [sys.executable, "-c", code, "--api_key", "behind-a-flag"]
    log = tmp_path / "command.log"
    run_command("it", command, log=log)
    run_command("it", command)
    screen = capfd.readouterr()
    for text in (log.read_text(), screen.out + screen.err):
        assert text.count(REDACTED) == 2
        assert SECRET not in text
        assert "behind-a-flag" not in text


UNREAD = """
import sys
from mtrl_judge.common.exits import exits_with_message, goes_on_unread
from mtrl_judge.experiments.launch import run_command
from pathlib import Path

def work():
    print("a line " * 20_000)  # more than a buffer
    for _ in range(1000):
        print("a line " * 20)
    Path(sys.argv[2]).write_text("done")

with exits_with_message():
    if sys.argv[1] == "command":
        run_command("it", [sys.executable, __file__, "work", sys.argv[2]])
    elif sys.argv[1] == "work":
        work()
    else:
        with goes_on_unread():
            work()
"""


@pytest.mark.parametrize("kind", ["command", "training"])
def test_work_goes_on_when_nobody_reads_its_output(tmp_path: Path, kind: str) -> None:
    script, made = tmp_path / "script.py", tmp_path / "made"
    script.write_text(UNREAD, encoding="utf-8")
    words = [sys.executable, str(script), kind, str(made)]
    reader, writer = os.pipe()
    os.close(reader)
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        words, stdout=writer, stderr=subprocess.PIPE, env=environment, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (CLOSED_OUTPUT, b"")
    assert made.read_text(encoding="utf-8") == "done"
