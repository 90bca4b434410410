"""A YAML names a dataset on the hub; files of this machine only where the user allows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.hub import COMMIT, hub
from support.images import image_cells
from support.tasks import raw_dataset, write_yaml
from typer.testing import CliRunner

from mtrl_judge.cli.main import app
from mtrl_judge.common.errors import DataError, JudgeError, JudgeTaskError
from mtrl_judge.judge_tasks.dataset_keys import LOCAL_FILES_VARIABLE
from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE, load_rows


def yaml_with(folder: Path, lines: str) -> Path:
    path = write_yaml(folder)
    path.write_text(path.read_text().replace("dataset_path: owner/name\n", f"{lines}\n"))
    return path


@pytest.mark.parametrize(
    ("lines", "field", "part"),
    [
        *((f"dataset_path: {name}", "dataset_path", "readers") for name in ("pandas", "json")),
        *(
            (f"dataset_path: {path}", "dataset_path", "path or an address")
            for path in (
                *("/etc", "~/x", "./x", "../x/y", "a/b/c", "..", ".", '""', '"a/b\\n"'),
                *("https://x.org/a", "hf://datasets/a/b", "a/..", "file:/x"),
            )
        ),
        ("dataset_name: ../x", "dataset_name", "is a path"),
        ("dataset_kwargs: {cache_dir: /tmp}", "dataset_kwargs.cache_dir", "files are written"),
        ("dataset_kwargs: {trust_remote_code: true}", "dataset_kwargs.trust_remote_code", "code"),
        ("dataset_kwargs: {data_dir: x}", "dataset_kwargs.data_dir", "does not need it"),
        ("dataset_kwargs: {revison: x}", "dataset_kwargs.revison", "did you mean 'revision'?"),
        ("dataset_kwargs: {revision: 1234567}", "dataset_kwargs.revision", "in quotes"),
        ("dataset_kwargs: {revision: ../x}", "dataset_kwargs.revision", "commit"),
        ("dataset_kwargs: {token: hf_secret}", "dataset_kwargs.token", "write token: true"),
        *(
            (f"dataset_kwargs: {{data_files: {files}}}", "dataset_kwargs.data_files", part)
            for files, part in (
                ("/x.parquet", "not a file of the dataset"),
                ("[a.parquet, ../x.parquet]", "not a file of the dataset"),
                ('{test: "https://x.org/x.parquet"}', "not a file of the dataset"),
                ('{test: ["zip://a::hf://b"]}', "not a file of the dataset"),
                ("7", "is not a name of files"),
                ("{test: {x: y}}", "is not a name of files"),
            )
        ),
        ("generation_kwargs: {custom_generate: a/b}", "generation_kwargs.custom_generate", "key"),
        ("generation_kwargs: {until: {a: b}}", "generation_kwargs.until", "list of texts"),
        ("generation_kwargs: {top_k: [1]}", "generation_kwargs.top_k", "a number"),
    ],
)  # fmt: skip
def test_other_places_and_keys_are_refused(
    tmp_path: Path, lines: str, field: str, part: str
) -> None:
    with pytest.raises(JudgeTaskError) as caught:
        load_judge_task(yaml_with(tmp_path, lines))
    found = {fault.field: str(fault) for fault in caught.value.faults}
    assert part in found.get(field, ""), found
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize(
    "keys",
    [
        "dataset_path: {folder}\ndataset_kwargs: {{data_files: data/test.parquet}}",
        "dataset_path: {folder}",
        "dataset_path: parquet\ndataset_kwargs: {{data_files: {folder}/data/test.parquet}}",
    ],
)
def test_users_may_allow_their_own_parquet_files(
    tmp_path: Path, keys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    folder = tmp_path / "my files"
    (folder / "data").mkdir(parents=True)
    columns = {"image": image_cells(2), "text": ["a", "b"], "label": [0, 1]}
    raw_dataset(columns).to_parquet(folder / "data" / "test.parquet")
    if "data_files" in keys:  # one split, whatever the file is called
        keys += "\ntest_split: train\n"
    path = yaml_with(tmp_path, keys.format(folder=folder))
    if "data_files" in keys:
        path.write_text(path.read_text().replace("test_split: test\n", ""))
    with pytest.raises(JudgeTaskError, match=LOCAL_FILES_VARIABLE):
        load_judge_task(path)
    monkeypatch.setenv(LOCAL_FILES_VARIABLE, "1")
    task = load_judge_task(path)
    assert load_rows(task, "test").record["items"] == 2
    monkeypatch.setenv(LOCAL_FILES_VARIABLE, "no")
    with pytest.raises(DataError, match="my_task: dataset_path: "):
        load_rows(task, "test")
    monkeypatch.setenv(LOCAL_FILES_VARIABLE, "perhaps")
    with pytest.raises(JudgeError, match="expected true or false"):
        load_judge_task(path)


def test_the_flag_allows_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCAL_FILES_VARIABLE, "0")  # restored afterwards: the flag sets it
    command = ["validate", str(yaml_with(tmp_path, f"dataset_path: {tmp_path}"))]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, JudgeError)
    assert "--allow-local-files" in refused.output
    assert CliRunner().invoke(app, [*command, "--allow-local-files"]).exit_code == 0


def test_only_parquet_is_read_from_the_users_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOCAL_FILES_VARIABLE, "1")
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    (tmp_path / "test.csv").write_text("text,label\na,1\n")
    task = load_judge_task(yaml_with(tmp_path, f"dataset_path: {tmp_path}"))
    with pytest.raises(DataError, match="would be read as csv; expected parquet files"):
        load_rows(task, "test")


def test_a_folder_with_the_datasets_name_is_not_read(tmp_path: Path) -> None:
    """And the hub's dataset only in formats of tables and images."""
    repository, here = tmp_path / "repository", tmp_path / "owner" / "name"
    for folder, text in ((repository, "theirs"), (here, "local")):
        folder.mkdir(parents=True)
        (folder / "test.csv").write_text(f"text,label\n{text},1\n")
    (repository / "log.eval").write_text("{}")
    script = f"""
from mtrl_judge.judge_tasks.dataset_keys import read_dataset
keys = {{"revision": {COMMIT!r}, "data_files": "test.csv"}}
print(read_dataset("owner/name", None, keys, "train")["text"][:])
try:
    read_dataset("owner/name", None, {{**keys, "data_files": "log.eval"}}, "train")
except Exception as error:
    print(error)
"""
    with hub({"owner/name": repository}) as (address, _):
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
        environment.pop("HF_HUB_OFFLINE", None)
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
    assert "['theirs']" in done.stdout
    assert "would be read as eval" in done.stdout


def test_a_shortened_commit_is_the_whole_one(tmp_path: Path) -> None:
    """The hub itself knows commits only in full."""
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "test.csv").write_text("text,label\ntheirs,1\n")
    script = f"""
from mtrl_judge.judge_tasks.dataset_keys import read_dataset
keys = {{"revision": {COMMIT[:7]!r}, "data_files": "test.csv"}}
print(read_dataset("owner/name", None, keys, "train")["text"][:])
"""
    with hub({"owner/name": repository}) as (address, _):
        variables = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, **variables, "HF_HUB_OFFLINE": "0"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert "['theirs']" in done.stdout, done.stderr
