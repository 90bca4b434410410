"""Tables of a dataset's files."""

from __future__ import annotations

from pathlib import Path

from mtrl_judge.data.table_files import read_table


def test_cells_of_a_tsv_file_are_separated_by_tabs(tmp_path: Path) -> None:
    file = tmp_path / "ratings.tsv"
    file.write_text('caption\tmos\n"a dog, running"\t3.5\nNA\t\n', encoding="utf-8")
    table = read_table([file], {}, in_memory=True)
    assert table.column("caption") == ["a dog, running", "NA"]
    assert table.column("mos") == [3.5, None]
