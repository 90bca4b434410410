"""Uploads: one commit to a repository that is ours, and one message where that is not possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from support.upload_hub import COMMIT, TOKEN, upload_hub

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.hub import Upload, preview, push

FILES = {"README.md": b"---\ntags: [mtrl-judge]\n---\n", "data/a.json": b"{}"}
UPLOAD = Upload("me/x", "dataset", FILES, "A message")
OURS = {"private": True, "tags": ["mtrl-judge"], "siblings": [{"rfilename": "README.md"}]}
OTHERS = {**OURS, "tags": []}


def send(upload: Upload = UPLOAD, public: bool = False, force: bool = False, **keys: Any) -> str:
    return push(upload, public=public, force=force, **keys)


def test_an_upload_is_one_commit_to_a_private_repository(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "mine.json"
    file.write_bytes(FILES["data/a.json"])
    with upload_hub(monkeypatch) as hub:
        assert send(UPLOAD._replace(files={**FILES, "data/a.json": file})).endswith(COMMIT)
        assert send(revision="v1", public=False)
    assert hub.files == FILES
    first, second = hub.commits
    assert first == "/api/datasets/me/x/commit/main"
    assert second == "/api/datasets/me/x/commit/v1"
    (kind,) = {created["type"] for created in hub.created}
    assert (kind, hub.created[0]["visibility"]) == ("dataset", "private")
    assert hub.tokens == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    ("existing", "options", "message"),
    [
        (OURS, {}, None),
        (OTHERS, {}, r"me/x: has files \(README.md\) and no tag mtrl-judge"),
        (OTHERS, {"force": True}, None),
        ({**OURS, "private": False}, {}, "me/x: is public already; pass --public"),
        ({**OURS, "private": False}, {"public": True}, None),
    ],
)
def test_what_is_in_a_repository_decides(
    monkeypatch: pytest.MonkeyPatch,
    existing: dict[str, Any],
    options: dict[str, bool],
    message: str | None,
) -> None:
    with upload_hub(monkeypatch, existing={"me/x": existing}) as hub:
        if message is None:
            send(**options)
        else:
            with pytest.raises(JudgeError, match=message):
                send(**options)
    assert bool(hub.files) is (message is None)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "dataset me/x: the hub does not accept the token; log in again"),
        (403, "the token may not write there .*expected one with write access to me"),
        (413, "the hub refused the upload"),
    ],
)
def test_a_refusal_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, status: int, message: str
) -> None:
    with upload_hub(monkeypatch, status=status), pytest.raises(JudgeError, match=message) as error:
        send()
    assert TOKEN not in str(error.value)


def test_without_a_token_or_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    with upload_hub(monkeypatch):
        pass
    with pytest.raises(JudgeError, match=r"the hub at http://127\.0\.0\.1:\d+ cannot be"):
        send()
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(JudgeError, match="no token for the hub; log in with `hf auth login`"):
        send()


def test_a_preview_contacts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    shown = preview(UPLOAD, public=True)
    assert "              2 bytes  data/a.json" in shown
    assert "to: dataset me/x, public" in shown


def test_a_space_is_a_static_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with upload_hub(monkeypatch) as hub:
        send(UPLOAD._replace(repo_type="space"), public=True)
    (space,) = hub.created
    assert (space["type"], space["sdk"], space["visibility"]) == ("space", "static", "public")


def test_no_token_is_uploaded(monkeypatch: pytest.MonkeyPatch) -> None:
    leaky = UPLOAD._replace(files={**FILES, "logs/a.jsonl": f'{{"a": "{TOKEN}"}}'.encode()})
    with upload_hub(monkeypatch) as hub:
        for act in (lambda: send(leaky), lambda: preview(leaky, public=False)):
            with pytest.raises(JudgeError, match=r"logs/a\.jsonl: contains a token") as error:
                act()
            assert TOKEN not in str(error.value)
    assert not hub.created
