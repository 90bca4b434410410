"""What is printed holds no secrets and cannot act on a terminal or a spreadsheet."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtrl_judge.common.printable import printable, printable_line
from mtrl_judge.common.secrets import REDACTED, Redactor, redact
from mtrl_judge.leaderboard.tables import Cell, Row, Table, csv_text, latex, markdown, plain_text

HOSTILE = "a\x1b[31mred\x1b[0m\x1b]0;title\x07\u202eb\x9b2J\x00\r\n| # heading"


def test_secrets_of_the_environment_and_of_arguments_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("stored-in-a-file\n")
    environment = {
        "HF_TOKEN": "planted-hub-token",
        "AZURE_OPENAI_API_KEY": "planted-hub-token-and-more",
        "DB_PASSWORD": "short",
        "CERTIFICATE_TOKEN": str(tmp_path),
        "MONKEY": "not-a-secret",
        "HF_HOME": str(tmp_path),
    }
    arguments = ["--model_args", "model=m,api_key=in-arguments", "--hub_token", "behind-a-flag"]
    arguments += ["--push-token=joined-to-it"]
    clean = Redactor(arguments, environment)
    for secret in (
        *("planted-hub-token", "planted-hub-token-and-more", "stored-in-a-file"),
        *("in-arguments", "behind-a-flag", "joined-to-it", "sk-" + "a1" * 20, "hf_" + "b2" * 17),
    ):
        assert clean(f"'token': '{secret}'") == f"'token': '{REDACTED}'"
    for harmless in ("short", str(tmp_path), "not-a-secret", "max_new_tokens=10240000", "sk-1"):
        assert clean(harmless) == harmless


def test_a_secret_of_this_process_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "planted.key+1")
    assert redact("Incorrect API key provided: planted.key+1.") == (
        f"Incorrect API key provided: {REDACTED}."
    )


@given(st.text())
def test_printable_text_cannot_control_a_terminal(text: str) -> None:
    shown = printable(text)
    assert printable(shown) == shown
    assert shown.encode().decode() == shown  # has no lone surrogates
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown if c not in "\n\t")
    assert len(printable_line(text).splitlines()) <= 1


def test_no_table_passes_on_what_names_do() -> None:
    table = Table(HOSTILE, HOSTILE, [Row(HOSTILE, {HOSTILE: Cell(HOSTILE, "name")})], HOSTILE)
    for text in (markdown([table]), latex([table]), plain_text(table)):
        assert text.isprintable() or set(text) - set(printable(text)) == set()
        assert "ared" in text
    assert "\n| # heading" not in plain_text(table).replace(f"\n\n{printable(HOSTILE)}", "")
    assert "\n% ared" in latex([table])


@pytest.mark.parametrize("start", ["=", "+", "-", "@", " =", "\t="])
def test_no_csv_cell_is_a_formula(start: str) -> None:
    text = csv_text(["name", "value"], [{"name": f"{start}cmd|' /C calc'!A0", "value": -0.5}])
    _, row = text.splitlines()
    assert row.lstrip('"').startswith("'")
    assert row.endswith(",-0.5")
