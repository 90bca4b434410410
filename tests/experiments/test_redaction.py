"""What commands print passes through without secrets."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
