"""Whether a task's folder still has all files and rows that were written to it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtrl_judge.common.errors import DataError

from .spec import DATA_CARD, SPLITS, SplitName

# As `datasets` names shards, test-00000-of-00003.parquet, and `mtrl-judge data prepare`, which does
# not know their number in advance, test-00000.parquet.
_SHARD = re.compile(r"(?:train|validation|test)-(?P<index>\d{5})(?:-of-(?P<total>\d{5}))?\.parquet")


def listed_rows(folder: Path, card: Mapping[str, Any]) -> dict[SplitName, int]:
    """The rows of each split that a folder's card lists; cards of users may list none.

    Raises:
        DataError: the card's ``splits`` is not a mapping of splits to numbers of rows.
    """
    listed = card.get("splits", {})
    if not isinstance(listed, dict) or not all(
        split in SPLITS and type(rows) is int for split, rows in listed.items()
    ):
        raise DataError(
            f"{folder / DATA_CARD}: splits: found {listed!r}; expected the number of rows of each "
            'split, such as {"train": 100, "test": 20}'
        )
    return listed


def check_shards(split: SplitName, files: Sequence[Path]) -> None:
    """The names of a split's shards must be of one set without a gap.

    Raises:
        DataError: a shard is missing, or is one too many.
    """
    shards = {file: match for file in files if (match := _SHARD.fullmatch(file.name))}
    if not shards:
        return
    totals = {match["total"] for match in shards.values()}
    if len(totals) > 1 or len(shards) < len(files):
        names = ", ".join(file.name for file in files)
        raise DataError(
            f"{files[0].parent}: shards of different sets: {names}; keep those of one set"
        )
    found = {int(match["index"]): file for file, match in shards.items()}
    total = totals.pop()
    expected = range(max(found) + 1 if total is None else int(total))
    of = "" if total is None else f"-of-{total}"
    missing = [f"{split}-{index:05d}{of}.parquet" for index in expected if index not in found]
    extra = [file.name for index, file in found.items() if index not in expected]
    counts = f"found {len(found)} files of the {split} split, expected {len(expected)}"
    if missing:
        raise DataError(
            f"{files[0].parent}: no shard {', '.join(missing)}: {counts}; copy or prepare the data "
            "again"
        )
    if extra:
        raise DataError(
            f"{files[0].parent}: shard {', '.join(extra)} is one too many: {counts}; remove it"
        )


def check_rows(split: SplitName, files: Sequence[Path], rows: int, listed: int | None) -> None:
    """A split must have the rows that the folder's card lists.

    Raises:
        DataError: it has more or fewer.
    """
    if listed is None or rows == listed:
        return
    names = files[0].name if len(files) == 1 else f"{files[0].name} to {files[-1].name}"
    raise DataError(
        f"{files[0].parent}: the {split} split ({names}) has {rows:,} rows, expected {listed:,} as "
        f"in {DATA_CARD}; copy or prepare the data again"
    )
