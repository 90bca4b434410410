"""What identifies the files of a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

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


def test_a_model_of_the_hub_has_its_commit(random_judge: Path, tmp_path: Path) -> None:
    """From the local cache, as laid out by huggingface_hub."""
    commit = "c493721" + "0" * 33
    model = tmp_path / "models--owner--judge"
    shutil.copytree(random_judge, model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    for revision in (None, "main", commit):
        assert model_revision("owner/judge", revision, cache_dir=tmp_path) == commit
    assert model_revision("owner/other", cache_dir=tmp_path) is None
