"""What identifies the files of a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from mtrl_judge.models.checkpoint import model_revision


def test_copies_have_one_revision_and_other_weights_another(
    random_judge: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(random_judge, copy)
    revision = model_revision(str(random_judge))
    (copy / "20260101_results.json").write_text("{}")
    assert model_revision(str(copy)) == revision
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert model_revision(str(copy)) != revision


def test_a_model_of_the_hub_has_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the local cache, as laid out by huggingface_hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "c493721" + "0" * 33
    model = tmp_path / "models--owner--judge"
    (model / "snapshots" / commit).mkdir(parents=True)
    (model / "snapshots" / commit / "config.json").touch()
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    for revision in (None, "main", commit):
        assert model_revision("owner/judge", revision) == commit
    assert model_revision("owner/other") is None
