"""Datasets in their published form are written to the data root, or an error says why not."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.commands import call
from support.hub import COMMIT, hub
from support.replicas import (
    REPLICAS,
    agin,
    files_of,
    image_file,
    imagereward,
    mjbench,
    seetrue,
    unsafebench,
)

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.data import raw_files, shards
from mtrl_judge.data.prepare import PreparedTask, PrepareOptions, prepare
from mtrl_judge.judge_tasks.facts import FACTS_FILE
from mtrl_judge.judge_tasks.loading import find_task, find_tasks
from mtrl_judge.judge_tasks.sources import load_rows, split_files
from mtrl_judge.judge_tasks.spec import DATA_CARD

N = 120
AGIN = [f"mtrl_judge_agin_{d}{kind}" for d in ("nat", "rat", "tech") for kind in ("", "_graded")]


def prepare_from(source: Path, root: Path, *tasks: str, **changes: Any) -> list[PreparedTask]:
    """Prepare with any number of rows, as replicas are small."""
    options = PrepareOptions(source=source, **{"any_count": True, **changes})
    return list(prepare(find_tasks(tasks), root, options, lambda *_: None))


def cells(folder: Path, split: str, column: str) -> list[Any]:
    tables = [pq.read_table(file) for file in split_files(folder, split)]
    return [cell for table in tables for cell in table[column].to_pylist()]


def is_empty(root: Path) -> bool:
    return not root.exists() or not any(root.iterdir())


def test_facts_collected_before_stay(tmp_path: Path) -> None:
    source, root, name = tmp_path / "raw", tmp_path / "root", "mtrl_judge_seetrue"
    seetrue(source, N)
    facts = root / name / FACTS_FILE
    facts.parent.mkdir(parents=True)
    facts.write_text('{"id": "a", "facts": ["two cars"]}\n')
    prepare_from(source, root, name)
    prepare_from(source, root, name, force=True)
    assert facts.read_text() == '{"id": "a", "facts": ["two cars"]}\n'


@pytest.mark.parametrize("name", REPLICAS)
def test_every_dataset_is_prepared(name: str, tmp_path: Path) -> None:
    source, root = tmp_path / "raw", tmp_path / "root"
    REPLICAS[name](source, N)
    (outcome,) = prepare_from(source, root, name)
    task = find_task(name)
    assert outcome.folder == root / name
    assert outcome.card["source"] == "prepared"
    counts = {}
    for split in task.splits:
        rows, record = load_rows(task, split, root)
        assert record["source"] == "prepared"
        assert len(rows.undecodable) == (name.endswith("imagereward") and split == "train")
        assert rows.dataset[0]["images"][0].size == (48, 32)
        counts[split] = rows.n_items + len(rows.undecodable)
    assert sum(counts.values()) == sum(outcome.card["splits"].values())
    made = [split for split in task.judge.splits if split != "train"]
    assert all(counts[split] == N // 10 for split in made)


def test_image_bytes_and_columns_are_kept(tmp_path: Path) -> None:
    agin(tmp_path / "agin", N)
    mjbench(tmp_path / "mj", 20)
    mjbench(tmp_path / "bare", 20, cells="bytes")
    root = tmp_path / "root"
    prepare_from(tmp_path / "agin", root, AGIN[0])
    folder = root / AGIN[0]
    assert cells(folder, "train", "filename")[7] == "sd_00007.png"
    kept = {"bytes": image_file(7), "path": "sd_00007.png"}
    assert cells(folder, "train", "image")[7] == kept
    for name in ("mj", "bare"):
        prepare_from(tmp_path / name, root, "mtrl_judge_mjbench_alignment", force=True)
        folder = root / "mtrl_judge_mjbench_alignment"
        (file,) = split_files(folder, "test")
        assert pq.read_schema(file).names == ["caption", "image0", "image1", "label", "info"]
        assert [cell["bytes"] for cell in cells(folder, "test", "image1")[:2]] == [
            image_file(50_001),
            image_file(50_003),
        ]
        assert cells(folder, "test", "image1")[0]["path"] in (None, "50001.png")


def test_tasks_of_one_dataset_share_its_files(tmp_path: Path) -> None:
    agin(tmp_path / "agin", N)
    outcomes = prepare_from(tmp_path / "agin", tmp_path / "root", "mtrl_judge_agin_*")
    assert [outcome.task for outcome in outcomes] == AGIN
    files = [split_files(outcome.folder, "train")[0] for outcome in outcomes]
    assert len({file.stat().st_ino for file in files}) == 1
    for split in find_task(AGIN[0]).splits:
        rows = [load_rows(find_task(task), split, tmp_path / "root").rows for task in AGIN]
        ids = [task_rows.dataset.with_format(None)["item_id"][:] for task_rows in rows]
        assert all(own == ids[0] for own in ids)


def test_a_task_prepared_later_needs_no_second_copy(tmp_path: Path) -> None:
    """Neither on the disk nor in the cache of `datasets`; its archives are not read again."""
    imagereward(tmp_path / "raw", N)
    root, names = tmp_path / "root", ("mtrl_judge_imagereward", "mtrl_judge_imagereward_graded")
    prepare_from(tmp_path / "raw", root, names[0])
    for archive in (tmp_path / "raw").rglob("*.zip"):
        archive.write_bytes(bytes(archive.stat().st_size))  # unreadable
    (outcome,) = prepare_from(tmp_path / "raw", root, names[1])
    files = [split_files(root / name, "test")[0] for name in names]
    assert files[0].samefile(files[1])
    assert outcome.card["plan"] == json.loads((root / names[0] / DATA_CARD).read_text())["plan"]
    rows = [load_rows(find_task(name), "test", root).rows.raw.dataset for name in names]
    assert rows[0].cache_files == rows[1].cache_files != []
    pq.write_table(pq.read_table(files[0]).drop_columns("overall_rating"), files[0])
    shutil.rmtree(root / names[1])
    with pytest.raises(DataError, match="no column 'overall_rating'"):
        prepare_from(tmp_path / "raw", root, names[1])
    assert not (root / names[1]).exists()


def test_a_lost_shard_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 20)
    unsafebench(tmp_path / "raw", N)
    root, name = tmp_path / "root", "mtrl_judge_unsafebench"
    (outcome,) = prepare_from(tmp_path / "raw", root, name)
    arguments = ("data", "status", name, "--data-root", root, "--json")
    assert json.loads(call(*arguments).stdout)[0]["problems"] == []
    first, *_, last = split_files(outcome.folder, "train")
    last.rename(tmp_path / last.name)
    with pytest.raises(
        JudgeError, match=rf"train split .* rows, expected {outcome.card['splits']['train']}"
    ):
        load_rows(find_task(name), "train", root)
    first.unlink()
    problems = json.loads(call(*arguments).stdout)[0]["problems"]
    assert [problem.split(":")[0] for problem in problems] == ["train", "validation"]
    assert all(f"no shard {first.name}" in problem for problem in problems)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_gives_the_same_as_its_folder(tmp_path: Path, kind: str) -> None:
    seetrue(tmp_path / "raw" / "SeeTRUE", N)
    archive = Path(shutil.make_archive(str(tmp_path / "all"), kind, tmp_path / "raw"))
    name = "mtrl_judge_seetrue"
    prepare_from(tmp_path / "raw", tmp_path / "one", name)
    prepare_from(archive, tmp_path / "two", name)
    one, two = (split_files(tmp_path / root / name, "train") for root in ("one", "two"))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]
    assert {path.name for path in (tmp_path / "two" / name).iterdir()} == {
        "card.json",
        *(file.name for file in two),
    }


def test_hidden_files_are_ignored(tmp_path: Path) -> None:
    agin(tmp_path / "raw" / "AGIN", N)
    for name in (f"__MACOSX/AGIN/._{AGIN_CSV}", f"AGIN/.ipynb_checkpoints/{AGIN_CSV}"):
        (tmp_path / "raw" / name).parent.mkdir(parents=True)
        (tmp_path / "raw" / name).write_bytes(bytes(range(256)))
    archive = Path(shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path / "raw"))
    for source in (tmp_path / "raw", archive):
        (outcome,) = prepare_from(source, tmp_path / f"to {source.name}", AGIN[0])
        assert list(outcome.card["files"]) == [f"AGIN/{AGIN_CSV}"]


def command(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("mtrl-judge")
    return subprocess.run(
        [str(program), "data", "prepare", *map(str, arguments)],
        env={**os.environ, "COLUMNS": "200", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_hub_is_asked_for_the_needed_files_of_one_revision(tmp_path: Path) -> None:
    imagereward(tmp_path / "raw", N)
    seetrue(tmp_path / "texts", N)
    for more in ("train_5.zip", "train_11.zip"):  # of the larger configurations
        shutil.copy(tmp_path / "raw/images/train/train_1.zip", tmp_path / "raw/images/train" / more)
    unsafebench(tmp_path / "gated", 30)
    names = {
        "zai-org/ImageRewardDB": tmp_path / "raw",
        "yonatanbitton/SeeTRUE": tmp_path / "texts",
        "yiting/UnsafeBench": tmp_path / "gated",
    }
    with hub(names, gated=("yiting/UnsafeBench",)) as (address, fetched):
        away = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
        root = ("--root", tmp_path / "root")
        free = ("mtrl_judge_imagereward", "mtrl_judge_seetrue")
        done = command(*free, *root, "--any-count", **away)
        assert done.returncode == 0, done.stderr
        gated = command("mtrl_judge_unsafebench", *root, **away)
        unknown = command("mtrl_judge_mjbench_safety", *root, **away)
    parts = {"train": 4, "validation": 2, "test": 2}
    assert sorted(fetched) == sorted(
        [
            *("SeeTRUE.csv", "images.zip"),
            *(f"metadata-{split}.parquet" for split in parts),
            *(f"images/{s}/{s}_{i}.zip" for s, n in parts.items() for i in range(1, n + 1)),
        ]
    )
    assert "images that cannot be shown to a judge: 1" in done.stderr
    record, other = (load_rows(find_task(name), "test", tmp_path / "root").record for name in free)
    assert (record["revision"], record["items"]) == (COMMIT, N)
    assert (other["revision"], other["items"]) == (find_task(free[1]).revision, N // 10)
    assert (gated.returncode, unknown.returncode) == (2, 2)
    assert "accept the terms at https" in gated.stderr
    assert "not found on the hub at revision 4b96673" in unknown.stderr
    assert "Traceback" not in gated.stderr + unknown.stderr


def test_counts_must_match_the_card(tmp_path: Path) -> None:
    agin(tmp_path / "raw", N)
    done = command(AGIN[0], "--from", tmp_path / "raw", "--root", tmp_path / "root")
    assert done.returncode == 2
    assert "train: 120 items, expected 6,049" in done.stderr
    assert is_empty(tmp_path / "root")
    outcome = prepare_from(tmp_path / "raw", tmp_path / "root", AGIN[0])[0]
    assert (outcome.card["splits"], outcome.card["expected"]) == ({"train": 120}, {"train": 6049})


KILLED = """
import os, signal, sys
from pathlib import Path
from mtrl_judge.judge_tasks.loading import find_tasks
from mtrl_judge.data import prepare, shards
shards.SHARD_ROWS = 32
def die(label, done, total):
    if done >= 80:
        os.kill(os.getpid(), signal.SIGKILL)
options = prepare.PrepareOptions(source=Path(sys.argv[1]), any_count=True)
list(prepare.prepare(find_tasks([sys.argv[3]]), Path(sys.argv[2]), options, die))
"""


@pytest.mark.parametrize(
    ("name", "whole"), [("mtrl_judge_unsafebench", 76), ("mtrl_judge_seetrue", 64)]
)
def test_a_killed_run_is_resumed_with_the_same_result(
    tmp_path: Path, name: str, whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, root = tmp_path / "raw", tmp_path / "root"
    REPLICAS[name](source, N)
    done = subprocess.run([sys.executable, "-c", KILLED, str(source), str(root), name], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (root / name).exists()
    monkeypatch.setattr(shards, "SHARD_ROWS", 32)
    seen: list[int] = []
    options = PrepareOptions(source=source, any_count=True)
    list(prepare(find_tasks([name]), root, options, lambda _, done, __: seen.append(done)))
    assert seen[0] == whole, "two shards"
    prepare_from(source, tmp_path / "other", name)
    files = dict(files_of(root / name))
    assert {file: path.read_bytes() for file, path in files.items()} == {
        file: path.read_bytes() for file, path in files_of(tmp_path / "other" / name)
    }
    assert [path.name for path in root.iterdir()] == [name]


def test_two_processes_do_not_write_one_data_root(tmp_path: Path) -> None:
    source, root, name = tmp_path / "raw", tmp_path / "root", "mtrl_judge_unsafebench"
    unsafebench(source, N)
    refused: list[str] = []

    def prepare_meanwhile(_: str, done: int, __: int) -> None:
        if done and not refused:
            other = command(name, "--any-count", "--from", source, "--root", root)
            assert other.returncode == 2
            refused.append(other.stderr)

    options = PrepareOptions(source=source, any_count=True)
    (outcome,) = prepare(find_tasks([name]), root, options, prepare_meanwhile)
    assert f"{root}: in use by process {os.getpid()} on " in refused[0]
    assert sum(outcome.card["splits"].values()) == 2 * N
    assert [path.name for path in root.iterdir()] == [name]


def test_a_shard_that_is_lost_before_the_end_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, root, name = tmp_path / "raw", tmp_path / "root", "mtrl_judge_unsafebench"
    unsafebench(source, N)
    monkeypatch.setattr(shards, "SHARD_ROWS", 32)

    def lose(_: str, done: int, total: int) -> None:
        if done == total:
            (root / f".{name}.work" / "train-00001.parquet").unlink(missing_ok=True)

    options = PrepareOptions(source=source, any_count=True)
    with pytest.raises(DataError, match=r"unsafebench: train: \d+ of 120 rows were written"):
        list(prepare(find_tasks([name]), root, options, lose))
    assert is_empty(root)


def test_a_killed_run_of_other_files_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, root = "mtrl_judge_seetrue", tmp_path / "root"
    seetrue(tmp_path / "raw", N)
    words = [sys.executable, "-c", KILLED, str(tmp_path / "raw"), str(root), name]
    subprocess.run(words, check=False)
    shutil.rmtree(tmp_path / "raw")
    seetrue(tmp_path / "raw", N - 20)
    assert prepare_from(tmp_path / "raw", root, name)[0].card["splits"] == {"train": N - 20}


def test_existing_data_is_kept_refused_or_replaced(tmp_path: Path) -> None:
    agin(tmp_path / "raw", N)
    root = tmp_path / "root"
    prepare_from(tmp_path / "raw", root, AGIN[0])
    before = {path: path.stat().st_mtime_ns for _, path in files_of(root)}
    assert prepare_from(tmp_path / "raw", root, AGIN[0])[0].existed
    assert before == {path: path.stat().st_mtime_ns for _, path in files_of(root)}
    shutil.rmtree(tmp_path / "raw")
    agin(tmp_path / "raw", N - 20)
    with pytest.raises(JudgeError, match=r"contains other data.*--force"):
        prepare_from(tmp_path / "raw", root, AGIN[0])
    assert not prepare_from(tmp_path / "raw", root, AGIN[0], force=True)[0].existed


@pytest.mark.parametrize("theirs", ["no card", "their card", "sample", "another file", "a file"])
def test_only_prepared_folders_are_replaced(tmp_path: Path, theirs: str) -> None:
    agin(tmp_path / "raw", N)
    root = tmp_path / "root"
    folder = root / AGIN[0]
    prepare_from(tmp_path / "raw", root, AGIN[0])
    if theirs == "no card":
        (folder / "card.json").unlink()
    elif theirs == "another file":
        (folder / "notes.txt").touch()
    elif theirs == "a file":
        shutil.rmtree(folder)
        folder.touch()
    else:
        card = {"source": "sample"} if theirs == "sample" else {"note": "by hand"}
        (folder / "card.json").write_text(json.dumps(card))
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    with pytest.raises(JudgeError, match=r"agin_nat: contains files that .* did not write"):
        prepare_from(tmp_path / "raw", root, AGIN[0], force=True)
    assert before == {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


Breaker = Callable[[Path], Any]


def cut(name: str) -> Breaker:
    return lambda raw: (raw / name).write_bytes((raw / name).read_bytes()[:-200])


def rewritten(name: str, change: Callable[[str], str], encoding: str = "utf-8") -> Breaker:
    def write(raw: Path) -> None:
        (raw / name).write_text(change((raw / name).read_text()), encoding=encoding)

    return write


def member(name: str, data: bytes = b"x") -> Breaker:
    def add(raw: Path) -> None:
        with zipfile.ZipFile(raw / "images.zip", "a") as archive:
            archive.writestr(name, data)

    return add


def linked(raw: Path) -> None:
    info = zipfile.ZipInfo("images/link.png")
    info.external_attr = 0o120777 << 16
    member(info)(raw)  # type: ignore[arg-type]


def flipped_bits(raw: Path) -> None:
    """Two members whose checksums are wrong then."""
    data = bytearray((raw / "images.zip").read_bytes())
    with zipfile.ZipFile(raw / "images.zip") as archive:
        for info in archive.infolist()[3:5]:
            data[info.header_offset + 120] ^= 0xFF
    (raw / "images.zip").write_bytes(data)


def without(*names: str) -> Breaker:
    def remove(raw: Path) -> None:
        for name in names:
            (raw / name).unlink()

    return remove


def odd_label(raw: Path) -> None:
    path = raw / "data" / "train-00000-of-00002.parquet"
    table = pq.read_table(path)
    labels = pa.array(["Maybe", *table["safety_label"].to_pylist()[1:]])
    pq.write_table(table.set_column(1, "safety_label", labels), path)


AGIN_CSV, SEETRUE_CSV, FILE = "AGIN_MOS.csv", "SeeTRUE.csv", "data/train-00001-of-00002.parquet"
BROKEN: list[tuple[Callable[[Path, int], None], str, Breaker, str]] = [
    (agin, AGIN[0], without(AGIN_CSV), r"found images/sd_00000\.png.* 110 more; expected \*\.csv"),
    (agin, AGIN[0], lambda raw: shutil.rmtree(raw / "images"), "over 1% of the images"),
    (
        agin,
        "mtrl_judge_agin_*",
        rewritten(AGIN_CSV, lambda text: text.replace("MOS_nat", "MOS_natural")),
        r"no column 'MOS_nat'; found: filename, MOS_natural, .*"
        r"\n.*--columns MOS_natural=MOS_nat",
    ),
    (agin, AGIN[0], rewritten(AGIN_CSV, lambda text: text + "é,1,2,3\n", "latin-1"), "not UTF-8"),
    (agin, AGIN[0], rewritten(AGIN_CSV, lambda text: text + "a,1,2,3,4,5\n"), "as CSV.*line 122"),
    (agin, AGIN[0], rewritten(AGIN_CSV, lambda text: ""), "cannot be read as CSV"),
    (
        agin,
        AGIN[0],
        rewritten(AGIN_CSV, lambda text: text.replace(",1.7", ",good")),
        "is not a number",
    ),
    (seetrue, "mtrl_judge_seetrue", without("images.zip"), "found SeeTRUE.*; expected images.zip"),
    (seetrue, "mtrl_judge_seetrue", cut("images.zip"), "not a complete .zip file"),
    (seetrue, "mtrl_judge_seetrue", flipped_bits, "over 1% .*\n.*row 3 image: cannot be read from"),
    (seetrue, "mtrl_judge_seetrue", member("../evil.png"), "leads out of the archive; nothing was"),
    (seetrue, "mtrl_judge_seetrue", member("/etc/evil.png"), "leads out of the archive"),
    (seetrue, "mtrl_judge_seetrue", member("a\\..\\..\\x"), "leads out of the archive"),
    (seetrue, "mtrl_judge_seetrue", linked, "is a link; nothing was read"),
    (
        seetrue,
        "mtrl_judge_seetrue",
        member("more/id_5_Positional_sd_1_4_0.png"),
        "image 'id_5_.*expected a single file",
    ),
    (unsafebench, "mtrl_judge_unsafebench", cut(FILE), "cannot be read as parquet.*truncated"),
    (unsafebench, "mtrl_judge_unsafebench", without("data/test-00000-of-00001.parquet"), "test-"),
    (unsafebench, "mtrl_judge_unsafebench", odd_label, r"'Maybe' \(1 rows\); covered: Unsafe"),
]


@pytest.mark.parametrize(("make", "name", "breaks", "message"), BROKEN)
def test_errors_are_reported_and_leave_nothing_behind(
    tmp_path: Path, make: Callable[[Path, int], None], name: str, breaks: Breaker, message: str
) -> None:
    make(tmp_path / "raw", N)
    breaks(tmp_path / "raw")
    with pytest.raises(JudgeError, match=message):
        prepare_from(tmp_path / "raw", tmp_path / "root", name)
    assert is_empty(tmp_path / "root")


def test_other_column_names_are_mapped(tmp_path: Path) -> None:
    agin(tmp_path / "raw", N)
    rewritten(AGIN_CSV, lambda text: text.replace("filename", "file"))(tmp_path / "raw")
    words = (AGIN[0], "--from", tmp_path / "raw", "--root", tmp_path / "root", "--any-count")
    assert "--columns file=filename" in command(*words).stderr
    assert command(*words, "--columns", "file=filename").returncode == 0
    assert load_rows(find_task(AGIN[0]), "test", tmp_path / "root").rows.n_items == N // 10
    assert "THEIRS=OURS" in command(*words, "--columns", "file").stderr


def test_unusable_sources_are_reported(tmp_path: Path) -> None:
    seetrue(tmp_path / "raw", N)
    with pytest.raises(JudgeError, match="found nothing; expected a folder"):
        prepare_from(tmp_path / "nowhere", tmp_path / "root", AGIN[0])
    with pytest.raises(JudgeError, match=r"SeeTRUE\.csv: found another kind of file; expected"):
        prepare_from(tmp_path / "raw" / SEETRUE_CSV, tmp_path / "root", "mtrl_judge_seetrue")
    with pytest.raises(JudgeError, match=r"not on the hub; download it .*--from"):
        list(prepare([find_task(AGIN[0])], tmp_path / "root", PrepareOptions(), lambda *_: None))
    archive = tmp_path / "link.tar"
    with tarfile.open(archive, "w") as tar:
        info = tarfile.TarInfo("images.zip")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(JudgeError, match="is a link; nothing was read"):
        prepare_from(archive, tmp_path / "root", "mtrl_judge_seetrue")
    (tmp_path / "raw" / "passwd.csv").symlink_to("/etc/passwd")
    with pytest.raises(JudgeError, match=r"passwd\.csv: a link to a file outside the folder"):
        prepare_from(tmp_path / "raw", tmp_path / "root", "mtrl_judge_seetrue")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_LZMA) as bomb:
        bomb.writestr(SEETRUE_CSV, bytes(2**20))
    with pytest.raises(JudgeError, match=r"SeeTRUE\.csv' is compressed by method 14; expected"):
        prepare_from(tmp_path / "bomb.zip", tmp_path / "root", "mtrl_judge_seetrue")
    assert is_empty(tmp_path / "root")


def test_a_few_damaged_images_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agin(tmp_path / "raw", 400)
    images = tmp_path / "raw" / "images"
    (images / "sd_00000.png").write_bytes(b"")
    (images / "sd_00001.png").unlink()
    (images / "sd_00002.png").write_bytes(image_file(2) + bytes(9_000))
    monkeypatch.setattr(raw_files, "MAX_IMAGE_BYTES", 8_000)
    (outcome,) = prepare_from(tmp_path / "raw", tmp_path / "root", AGIN[0])
    notes = outcome.card["undecodable"]["train"]
    assert list(notes) == ["0 image", "1 image", "2 image"]
    assert [note.split()[0] for note in notes.values()] == ["the", "there", "larger"]
    kept = cells(outcome.folder, "train", "image")[:3]
    assert kept == [{"bytes": b"", "path": None}, *[{"bytes": None, "path": None}] * 2]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unsafebench(tmp_path / "raw", N)
    words = ["mtrl_judge_unsafebench", "--any-count", "--from", tmp_path / "raw"]
    words += ["--root", tmp_path / "root"]
    done = subprocess.run(
        [sys.executable, "-m", "mtrl_judge.cli.main", "data", "prepare", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert "File too large" in done.stderr
    assert is_empty(tmp_path / "root")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(JudgeError, match=r"0\.0 GB are free, about 0\.0 GB are needed"):
        prepare_from(tmp_path / "raw", tmp_path / "root", "mtrl_judge_unsafebench")


# The most memory of this process itself; what getrusage says begins with its parent's.
MEASURED = """
import sys
from pathlib import Path
from mtrl_judge.judge_tasks.loading import find_tasks
from mtrl_judge.data.prepare import PrepareOptions, prepare
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
before = peak()
options = PrepareOptions(source=Path(sys.argv[1]), any_count=True)
list(prepare(find_tasks(["mtrl_judge_mjbench_quality"]), Path(sys.argv[2]), options, lambda *_: 0))
print(peak() - before)
"""


def test_a_large_file_needs_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MJ-Bench's quality of 7 GB; here of 0.6 GB, in row groups of 20 pairs of images."""
    data = image_file(0, (640, 640)) + bytes(1_500_000)
    rows, cell = 200, pa.array([{"bytes": data, "path": None}])
    cells_N = pa.concat_arrays([cell] * rows)
    columns = {"caption": [f"c{i}" for i in range(rows)], "image0": cells_N, "image1": cells_N}
    table = pa.table({**columns, "label": [i % 2 for i in range(rows)]})
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "quality.parquet"
    pq.write_table(table, file, use_dictionary=False, compression="none", row_group_size=20)
    size = file.stat().st_size // 2**20
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "data"), str(tmp_path / "root")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert size > 550
    assert int(done.stdout) < 300, f"{done.stdout} MiB more for a file of {size} MiB"
    memory = psutil.virtual_memory()._replace(available=50_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(JudgeError, match=r"0\.1 GB in one piece, which need up to 0\.2 GB"):
        prepare_from(tmp_path / "data", tmp_path / "other", "mtrl_judge_mjbench_quality")


def test_a_table_that_does_not_fit_in_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as 100 GB of zeros, which are 100 MB in an archive."""
    seetrue(tmp_path / "raw", N)
    memory = psutil.virtual_memory()._replace(available=1_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(JudgeError, match=r"SeeTRUE\.csv: has .* GB of memory to read"):
        prepare_from(tmp_path / "raw", tmp_path / "root", "mtrl_judge_seetrue")


def test_the_card_names_files_and_no_local_paths(tmp_path: Path) -> None:
    seetrue(tmp_path / "raw", N)
    prepare_from(tmp_path / "raw", tmp_path / "root", "mtrl_judge_seetrue")
    card = json.loads((tmp_path / "root" / "mtrl_judge_seetrue" / "card.json").read_text())
    assert set(card["files"]) == {"SeeTRUE.csv", "images.zip"}
    assert str(tmp_path) not in json.dumps(card)
