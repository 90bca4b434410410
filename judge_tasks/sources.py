"""Where a task's rows come from: a folder of parquet files, or the hub."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.common.files import read_json

from .rows import Rows, check_columns, column_of, item_ids, labels_of, to_rows, train_median
from .spec import DATA_CARD, SPLITS, JudgeTask, MadeSplit, SplitName
from .splits import cut_folds

if TYPE_CHECKING:
    from datasets import Dataset

DATA_ROOT_VARIABLE = "MTRL_JUDGE_DATA"
_BAR_FROM_BYTES = 50_000_000


@dataclass(frozen=True)
class Source:
    """A place that has the raw rows of a task."""

    kind: str
    """What the rows are: ``hub``, or what the folder's card says (``sample``, …), or ``folder``."""
    place: str
    revision: str | None
    splits: tuple[SplitName, ...]
    """The splits that the place has itself; the YAML's others are made from them."""
    folder: Path | None = None
    card: dict[str, Any] = field(default_factory=dict)


class LoadedSplit(NamedTuple):
    """A split ready to be judged, and what a result must say of it."""

    rows: Rows
    record: dict[str, Any]


def data_root() -> Path | None:
    """The folder that ``MTRL_JUDGE_DATA`` names.

    Raises:
        DataError: it names no folder.
    """
    value = os.environ.get(DATA_ROOT_VARIABLE)
    if not value:
        return None
    root = Path(value).expanduser()
    if not root.is_dir():
        raise DataError(
            f"{DATA_ROOT_VARIABLE}: no folder {root}; it should hold <task>/test.parquet "
            "(`mtrl-judge data sample` makes one to try)"
        )
    return root


def find_source(task: JudgeTask, root: Path | None = None) -> Source:
    """The task's folder under the root (default: ``MTRL_JUDGE_DATA``), else the hub.

    Raises:
        DataError: the folder is not usable, or there is neither folder nor hub dataset.
    """
    root = root or data_root()
    folder = root / task.task if root else None
    if folder is not None and folder.is_dir():
        return _folder_source(task, folder)
    if task.dataset_path is None:
        where = f"no folder {folder}" if folder else f"{DATA_ROOT_VARIABLE} is not set"
        raise DataError(
            f"{task.task}: {where}, and the dataset is not on the hub; get it "
            f"({task.judge.card.url}), then: mtrl-judge data prepare {task.task} --from FOLDER"
        )
    own = tuple(s for s in SPLITS if task.source_split(s))
    return Source("hub", task.dataset_path, task.revision, own)


def _folder_source(task: JudgeTask, folder: Path) -> Source:
    own = tuple(s for s in SPLITS if split_files(folder, s))
    if not own:
        there = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
        raise DataError(
            f"{task.task}: {folder} has no train.parquet, validation.parquet or test.parquet; "
            f"there: {there}"
        )
    card = read_json(folder / DATA_CARD, missing_ok=True)
    kind = str(card.get("source", "folder"))
    revision = card.get("revision")
    return Source(kind, str(folder), None if revision is None else str(revision), own, folder, card)


def split_files(folder: Path, split: SplitName) -> list[Path]:
    """The parquet files of a split in a task's folder: one, or several that follow each other."""
    whole = folder / f"{split}.parquet"
    return [whole] if whole.is_file() else sorted(folder.glob(f"{split}-*.parquet"))


def load_rows(task: JudgeTask, split: SplitName, root: Path | None = None) -> LoadedSplit:
    """The judge rows of one split, with the record that results keep.

    Raises:
        DataError: the split is not to be had, or its rows are not what the YAML says.
    """
    source = find_source(task, root)
    raw = load_raw(task, split, source)
    if len(raw) == 0:
        raise DataError(f"{task.task}: the {split} split is empty ({source.place})")
    threshold = _threshold(task, source)
    rows = to_rows(task, raw, threshold=threshold)
    labels = rows.dataset.with_format(None)["label"]
    counts = Counter(labels)
    record = {
        "split": split,
        "source": source.kind,
        "place": source.place,
        "revision": source.revision,
        "fingerprint": rows.fingerprint,
        "items": rows.n_items,
        "rows": len(rows.dataset),
        "labels": {verdict: counts[verdict] for verdict in task.judge.verdicts},
        "unlabelled": counts[None],
        "undecodable": rows.undecodable,
        "known_bad": rows.known_bad,
        "threshold": threshold,
    }
    return LoadedSplit(rows, record)


def _threshold(task: JudgeTask, source: Source) -> float | None:
    """The frozen median of the training split, where the labels need it."""
    if getattr(task.judge.label, "threshold", None) != "train_median":
        return None
    return train_median(task, load_raw(task, "train", source))


def load_raw(task: JudgeTask, split: SplitName, source: Source) -> Dataset:
    """The raw rows of a split: the source's own, less what other splits are cut from it.

    Raises:
        DataError: neither the source nor the YAML has such a split.
    """
    if split in source.splits:
        made = {
            name: rule
            for name, rule in task.judge.splits.items()
            if rule.source == split and name not in source.splits
        }
        return _fold(task, _read_split(task, split, source), made, None)
    rule = task.judge.splits.get(split)
    if rule is None or rule.source not in source.splits:
        raise DataError(
            f"{task.task}: no {split} split in {source.place}; there: {', '.join(source.splits)}"
        )
    made = {
        name: other
        for name, other in task.judge.splits.items()
        if other.source == rule.source and name not in source.splits
    }
    return _fold(task, _read_split(task, rule.source, source), made, split)


def _fold(
    task: JudgeTask, raw: Dataset, made: dict[SplitName, MadeSplit], wanted: SplitName | None
) -> Dataset:
    if not made:
        return raw
    check_columns(task, raw)
    rule = next(iter(made.values()))
    folds = cut_folds(
        item_ids(task, raw),
        {name: other.fraction for name, other in made.items()},
        seed=rule.seed,
        strata_N=_strata(task, raw, rule.stratify),
        groups_N=_values(task, raw, rule.group_by),
    )
    return raw.select([index for index, fold in enumerate(folds) if fold == wanted])


def _strata(task: JudgeTask, raw: Dataset, stratify: str | None) -> list[Any] | None:
    if stratify != "label":
        return _values(task, raw, stratify)
    own_median = train_median(task, raw)  # strata need a cut before there is a training split
    return list(labels_of(task, raw, threshold=own_median))


def _values(task: JudgeTask, raw: Dataset, column: str | None) -> list[Any] | None:
    if column is None:
        return None
    if column not in raw.column_names:
        raise DataError(
            f"{task.path}: judge.splits: no column {column!r} in the data; "
            f"there: {', '.join(raw.column_names)}"
        )
    return [str(value) for value in column_of(raw, column)]


def _read_split(task: JudgeTask, split: SplitName, source: Source) -> Dataset:
    if source.folder is not None:
        return _read_parquet(task, split, split_files(source.folder, split))
    from datasets import load_dataset

    try:
        return load_dataset(
            task.dataset_path,
            task.dataset_name,
            split=task.source_split(split),
            **task.dataset_kwargs,
        )
    except Exception as error:
        raise explain_hub_error(task, error) from error


def _read_parquet(task: JudgeTask, split: SplitName, files: list[Path]) -> Dataset:
    import pyarrow.parquet as pq
    from datasets import load_dataset

    rows, size, place = 0, 0, files[0]
    try:
        for place in files:
            rows += pq.read_metadata(place).num_rows
            size += place.stat().st_size
        if rows:  # load_dataset takes none for an error
            with _quiet(size < _BAR_FROM_BYTES):
                return load_dataset("parquet", data_files=[*map(str, files)], split="train")
    except Exception as error:
        raise DataError(f"{place}: cannot be read as parquet: {_first_line(error)}") from error
    raise DataError(f"{task.task}: the {split} split is empty ({files[0]})")


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    import datasets

    if not quiet or not datasets.is_progress_bar_enabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or '(no message)').splitlines()[0]}"


_UNREACHABLE = ("Connect", "Timeout")  # in the names of httpx's errors, which are no OSError


def explain_hub_error(task: JudgeTask, error: Exception) -> JudgeError:
    """What went wrong at the hub, and what the user can do about it."""
    text = f"{error} {error.__cause__ or ''}".casefold()
    name = type(error).__name__
    folder = f"{DATA_ROOT_VARIABLE}=<data root> with <data root>/{task.task}/test.parquet"
    files = (
        f"bring files of yours: mtrl-judge data prepare {task.task} --from FOLDER"
        if task.judge.raw
        else f"use a local folder: {folder}"
    )
    head = f"{task.task}: {task.dataset_path}"
    if "gated" in text or (task.judge.card.gated and ("401" in text or "authenticat" in text)):
        return DataError(
            f"{head} is gated: accept its terms at {task.judge.card.url} and log in "
            f"(`hf auth login`, or HF_TOKEN), or {files}"
        )
    if "script" in text and "support" in text:
        return DataError(
            f"{head} is a script dataset, which `datasets` no longer loads; "
            + (f"mtrl-judge data prepare {task.task} reads its files" if task.judge.raw else files)
        )
    if "NotFound" in name or "404" in text:
        at = f" at revision {task.revision}" if task.revision else ""
        return DataError(f"{head}: there is no such dataset on the hub{at} ({name}), or {files}")
    unreachable = isinstance(error, OSError) or any(part in name for part in _UNREACHABLE)
    if unreachable or "offline" in text:
        return DataError(
            f"{head}: the hub cannot be reached ({_first_line(error)}); {files} "
            "(`mtrl-judge data sample` makes a small corpus to try)"
        )
    return DataError(f"{head}: {_first_line(error)}; or {files}")
