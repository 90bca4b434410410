"""What a store of answers gives back, after writers that were killed as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.harness_plugin.answer_keys import weights_identity
from mtrl_judge.harness_plugin.answer_store import (
    AnswerStore,
    Question,
    StoredAnswer,
    answer_line,
    failure_line,
    new_session,
)


def question(key: str) -> Question:
    return Question(key, "their_points", f"item {key}", None, 0)


def answer(key: str, text: str) -> dict[str, object]:
    return answer_line(question(key), StoredAnswer(text, {"output_tokens": 3}))


def test_the_newest_answer_counts_and_a_failure_is_none(tmp_path: Path) -> None:
    first, second = AnswerStore(tmp_path, "1-1"), AnswerStore(tmp_path, "2-1")
    first.append([answer("a", "é\ud800"), failure_line(question("b"))])
    first.append([answer("c", "old"), answer("d", "old")])
    second.append([answer("b", "now"), failure_line(question("c")), answer("d", "new")])
    stored = first.read({"a", "b", "c", "d", "e"})
    assert {key: found.text for key, found in stored.answers.items()} == {
        "a": "é�",
        "b": "now",
        "d": "new",
    }
    assert stored.answers["a"].tokens == {"output_tokens": 3}
    assert stored.failed == {"c"}
    # What a run repeats is what that run knew.
    stored = first.read({"b", "c"}, until="1-1")
    assert (set(stored.answers), stored.failed) == ({"c"}, {"b"})
    assert new_session() < new_session()


def test_a_line_that_its_writer_did_not_finish_is_left_out(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path, "1-1")
    store.append([answer("a", "whole"), answer("b", "cut")])
    (file,) = tmp_path.iterdir()
    text = file.read_bytes()
    for length in range(len(text)):
        file.write_bytes(text[:length])
        found = store.read({"a", "b"}).answers
        assert [found[key].text for key in found] == ["whole"] * (length > text.index(b"\n"))
    file.write_bytes(b"not JSON\n" + text)
    with pytest.raises(DataError, match=r"line 1: .*remove the file to ask its items again"):
        store.read({"a"})


def test_a_store_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JudgeError, match="cannot be written"):
        AnswerStore(tmp_path / "file", "1-1").append([])


def test_weights_are_known_by_their_files(tmp_path: Path) -> None:
    checkpoint = tmp_path / "judge"
    (checkpoint / "vision").mkdir(parents=True)
    weights = checkpoint / "vision" / "model.safetensors"
    weights.write_bytes(b"1234")
    before = weights_identity(str(checkpoint), {})
    (checkpoint / "1_results.json").touch()  # evaluated with --output_path in the checkpoint
    assert weights_identity(str(checkpoint), {}) == before
    weights.write_bytes(b"5678")
    assert weights_identity(str(checkpoint), {}) != before
    assert weights_identity("no/such-model", {}) is None
    assert weights_identity("x" * 5000, {}) is None


def test_a_model_of_the_hub_is_known_by_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--owner--name"
    for commit in ("a" * 40, "b" * 40):
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / "config.json").touch()
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    assert weights_identity("owner/name", {}) == "a" * 40
    assert weights_identity("owner/name", {"revision": "b" * 40}) == "b" * 40
