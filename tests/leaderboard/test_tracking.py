"""Results as W&B and trackio keep them, in their offline modes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.commands import call
from support.results import judged_pairs, judged_rows, sample, write_results

HOSTILE = "<img src=x onerror=alert(1)> [x](javascript:alert(1)) | `\x1b[31m` \ud800"


def send(folder: Path, tracker: str) -> Any:
    """A run with three rows of one task and three pairs of another."""
    rows = [sample(0, "Yes", "No", text=HOSTILE), sample(1, "Yes", "Yes"), sample(2, "No", None)]
    write_results(
        folder / "logs",
        {"red": rows, "pairs_ood": judged_pairs(3, 1.0, 0)},
        model_args="pretrained=x,api_key=sk-secret",
    )
    sent = call("track", folder / "logs", "--to", tracker, "--project", "p", "--resamples", 100)
    assert sent.exception is None, sent.output
    return sent


def check(tables: dict[str, list[dict[str, Any]]]) -> None:
    assert sorted(tables) == ["samples/pairs_ood", "samples/red", "scores"]
    (accuracy,) = (
        row["value"]
        for row in tables["scores"]
        if (row["task"], row["rate"]) == ("red", "accuracy")
    )
    assert accuracy == pytest.approx(1 / 3)
    red = tables["samples/red"]
    assert [(row["state"], row["label"], row["verdict"]) for row in red] == [
        ("judged", "Yes", "No"),
        ("judged", "Yes", "Yes"),
        ("null", "No", None),
    ]
    assert not set("\x1b\ud800") & set(red[0]["text"])
    assert [row["order"] for row in tables["samples/pairs_ood"]] == ["AB", "BA"] * 3


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    send(tmp_path, "wandb")
    tables: dict[str, list[dict[str, Any]]] = {}
    for file in tmp_path.rglob("*.table.json"):
        table = json.loads(file.read_text(encoding="utf-8"))
        name = str(file).split("media/table/")[1].rsplit("_", 2)[0]
        tables[name] = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    check(tables)
    assert not any(b"sk-secret" in file.read_bytes() for file in tmp_path.rglob("*.wandb"))


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It renders texts as Markdown."""
    reason = "trackio 0.43 asks for an older pillow than mtrl-judge does"
    storage = pytest.importorskip("trackio.sqlite_storage", reason=reason)
    for module in (storage, __import__("trackio.utils").utils):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path)
    send(tmp_path, "trackio")
    (logged,) = storage.SQLiteStorage.get_logs("p", "judge")
    tables = {name: each["_value"] for name, each in logged.items() if isinstance(each, dict)}
    check(tables)
    text = tables["samples/red"][0]["text"]
    assert text.startswith("&lt;img")
    assert "\\[x\\]" in text
    assert logged["red/macro_f1"] == pytest.approx(1 / 3)


def test_a_tracker_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(tmp_path / "logs", {"red": judged_rows(4, 1.0, 0)})
    monkeypatch.setitem(sys.modules, "trackio", None)
    failed = call("track", tmp_path / "logs", "--to", "trackio")
    assert "trackio: not installed; pip install trackio" in str(failed.exception)
