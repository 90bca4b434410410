"""The benchmark of hostile files finds nothing in a few tries, and finds what it should."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from benchmarks.hostile import fuzz, run
from benchmarks.hostile_attacks import attacks, baselines
from benchmarks.hostile_fuzz import Fuzzer
from mtrl_judge.common.errors import DataError
from mtrl_judge.data.raw_files import expand_range, open_source


@pytest.mark.parametrize(
    "name", ["verdict", "rating", "order", "YAML", "template", "image", "archive", "table"]
)
@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged images
def test_random_damage_ends_as_documented(name: str, tmp_path: Path) -> None:
    attempt = Fuzzer(0, tmp_path).tries[name]
    for _ in range(100):
        attempt()


def test_an_undocumented_exception_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fuzz(tmp_path, 0, 0.01)[1].faults == []
    monkeypatch.setattr("benchmarks.hostile_fuzz.DECODE_ERRORS", ())
    monkeypatch.setattr("benchmarks.hostile_fuzz.FORMATS", ("PNG",))
    tries, found = fuzz(tmp_path, 0, 1)
    assert 0 < len(found.faults) <= tries["image"]
    assert found.faults[0].startswith("image, try ")


def test_attacks_run_as_users_run_them(tmp_path: Path) -> None:
    assert run(baselines(tmp_path)["yaml"], tmp_path).fault == "succeeded"
    (tmp_path / "own").mkdir()
    taken = run(attacks()["aliases in aliases"](tmp_path / "own"), tmp_path)
    assert taken.fault is None
    assert taken.mib > 10


def test_archives_of_unknown_versions_and_endless_ranges(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 6] = 250  # the version that reading it takes
    path.write_bytes(data)
    with pytest.raises(DataError, match="zip file version"):
        open_source(path, tmp_path)
    with pytest.raises(DataError, match="expected up to 10,000"):
        expand_range("x_{1-999999999}.zip")
    assert expand_range("x_{1-9999999999}.zip") == ["x_{1-9999999999}.zip"]
