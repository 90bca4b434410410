"""Where a task's rows come from: a folder of parquet files, or the hub."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.common.files import expanded, read_json
from mtrl_judge.common.locks import FOLDER_LOCK

from .caches import cache_fault
from .dataset_keys import is_local, read_builder, read_dataset
from .facts import FACTS_FILE
from .folder_checks import check_rows, check_shards, listed_rows
from .hub import hub_fault
from .raw_split import RawSplit
from .row_checks import checked_pairs
from .rows import Rows, to_rows
from .spec import DATA_CARD, SPLITS, JudgeTask, SplitName
from .splits import cut_folds

if TYPE_CHECKING:
    from datasets import Dataset

DATA_ROOT_VARIABLE = "MTRL_JUDGE_DATA"
_BAR_FROM_BYTES = 50_000_000


@dataclass(frozen=True)
class Source:
    """Where the raw rows of a task come from."""

    kind: str
    """``hub``, or what the folder's card says (``sample``, …), or ``folder``."""
    location: str
    """The path of the folder, or the name of the dataset on the hub."""
    revision: str | None
    splits: tuple[SplitName, ...]
    """The splits that the source has itself, or should have according to its card; the YAML's
    others are cut from them."""
    folder: Path | None = None
    card: dict[str, Any] = field(default_factory=dict)
    listed: Mapping[SplitName, int] = field(default_factory=dict)
    """The rows of each split according to the folder's card; empty if it does not say."""
    facts_file: Path | None = None
    """The file in the data root that says what the items show, also of a dataset on the hub."""


class LoadedSplit(NamedTuple):
    """A split ready to be judged, and the record of it that results keep."""

    rows: Rows
    record: dict[str, Any]


def data_root() -> Path | None:
    """The folder that ``MTRL_JUDGE_DATA`` names.

    Raises:
        DataError: there is no such folder.
    """
    value = os.environ.get(DATA_ROOT_VARIABLE)
    if not value:
        return None
    root = expanded(value)
    if not root.is_dir():
        raise DataError(
            f"data root: no folder {root}; expected a folder with <task>/test.parquet in "
            f"--data-root or {DATA_ROOT_VARIABLE} "
            "(`mtrl-judge data sample` writes a small one)"
        )
    return root


def find_source(task: JudgeTask, root: Path | None = None) -> Source:
    """The task's folder under the root (default: ``MTRL_JUDGE_DATA``), else the hub.

    Raises:
        DataError: the folder is not usable, or there is neither folder nor hub dataset.
    """
    root = root or data_root()
    folder = root / task.task if root else None
    facts_file = None
    if folder is not None and folder.is_dir():
        facts_file = folder / FACTS_FILE if (folder / FACTS_FILE).exists() else None
        if facts_file is None or not has_only_facts(folder):
            return replace(_folder_source(task, folder), facts_file=facts_file)
    if task.dataset_path is None:
        where = f"no folder {folder}" if folder else f"{DATA_ROOT_VARIABLE} is not set"
        raise DataError(
            f"{task.task}: {where}, and the dataset is not on the hub; get it from "
            f"{task.judge.card.url}, then run: mtrl-judge data prepare {task.task} --from FOLDER"
        )
    splits = tuple(s for s in SPLITS if task.source_split(s))
    return Source("hub", task.dataset_path, task.revision, splits, facts_file=facts_file)


def has_only_facts(folder: Path) -> bool:
    """Whether a task's folder holds facts and no data: they describe a dataset on the hub."""
    return [path.name for path in folder.iterdir() if path.name != FOLDER_LOCK] == [FACTS_FILE]


def _folder_source(task: JudgeTask, folder: Path) -> Source:
    found = {split for split in SPLITS if split_files(folder, split)}
    if not found:
        names = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
        raise DataError(
            f"{task.task}: {folder} has no train.parquet, validation.parquet or test.parquet; "
            f"found: {names}"
        )
    card = read_json(folder / DATA_CARD, missing_ok=True)
    listed = listed_rows(folder, card)
    # A split whose files are lost is an error when it is read, and not cut from another one.
    splits = tuple(split for split in SPLITS if split in found or split in listed)
    kind = str(card.get("source", "folder"))
    revision = card.get("revision")
    revision = None if revision is None else str(revision)
    return Source(kind, str(folder), revision, splits, folder, card, listed)


def split_files(folder: Path, split: SplitName) -> list[Path]:
    """The parquet files of a split in a task's folder: one file, or shards in their order."""
    whole = folder / f"{split}.parquet"
    return [whole] if whole.is_file() else sorted(folder.glob(f"{split}-*.parquet"))


def load_rows(task: JudgeTask, split: SplitName, root: Path | None = None) -> LoadedSplit:
    """The judge rows of one split, with the record that results keep.

    Raises:
        DataError: the split is not available, or its rows are not what the YAML says.
    """
    source = find_source(task, root)
    raw = load_raw(task, split, source)
    if len(raw) == 0:
        raise DataError(f"{task.task}: the {split} split is empty ({source.location})")
    threshold = None
    if task.judge.label.uses_train_median:
        train = raw if split == "train" else load_raw(task, "train", source)
        threshold = train.train_median()
    rows = to_rows(raw, threshold)
    identical = checked_pairs(rows, raw.labels(threshold))
    kind, verdicts = task.kind, task.judge.verdicts
    labels = rows.dataset.with_format(None)["label"][:]
    counts = Counter(label and kind.label_class(label, verdicts) for label in labels)
    record = {
        "split": split,
        "source": source.kind,
        "location": source.location,
        "revision": source.revision,
        "fingerprint": rows.fingerprint,
        "data_fingerprint": rows.data_fingerprint,
        "items": rows.n_items,
        "rows": len(rows.dataset),
        "labels": {verdict: counts[verdict] for verdict in verdicts},
        "unlabeled": counts[None],
        "undecodable": rows.undecodable,
        "known_bad": rows.known_bad,
        "duplicates": rows.repeats.duplicates,
        "contradictory": sum(map(len, rows.repeats.contradictory)),
        "identical_pairs": identical,
        "threshold": threshold,
        **_reported_by(task, rows),
    }
    return LoadedSplit(rows, record)


def _reported_by(task: JudgeTask, rows: Rows) -> dict[str, Any]:
    """The rows in each group, those that people rated, and the facts, where there are any."""
    columns = rows.dataset.with_format(None)
    record: dict[str, Any] = {}
    if rows.raw.left_out:
        record["left_out"] = rows.raw.left_out  # of the split that this one may be cut from
    if task.judge.groups is not None:
        groups = Counter(columns["group"][:])
        without = groups.pop(None, 0)
        named = dict(sorted(groups.items()))
        record["groups"] = {"column": task.judge.groups.column, "rows": named, "without": without}
    if task.judge.joint_by is not None:
        joint = set(columns["joint"][:]) - {None}
        record["joint"] = {"column": task.judge.joint_by, "groups": len(joint)}
    if task.judge.human is not None:
        rated = sum(rating is not None for rating in columns["human"][:])
        record["human"] = {**task.judge.human.model_dump(), "rated": rated}
    if rows.facts is not None:
        record["facts"] = rows.facts._asdict()
    return record


def load_raw(task: JudgeTask, split: SplitName, source: Source) -> RawSplit:
    """The raw rows of a split: the source's own, less what other splits are cut from it.

    Raises:
        DataError: neither the source nor the YAML has such a split.
    """
    origin, wanted = split, None
    if split not in source.splits:
        rule = task.judge.splits.get(split)
        if rule is None or rule.source not in source.splits:
            raise DataError(
                f"{task.task}: no {split} split in {source.location}; "
                f"available: {', '.join(source.splits)}"
            )
        origin, wanted = rule.source, split
    dataset = _read_split(task, origin, source)
    raw = RawSplit(task, dataset, _folder_of_cells(source), source.facts_file).kept()
    # A split that the source has itself is not cut from another one.
    rules = {
        name: rule
        for name, rule in task.judge.splits.items()
        if rule.source == origin and name not in source.splits
    }
    if not rules:
        return raw
    rule = next(iter(rules.values()))  # they agree on all but the fraction
    folds = cut_folds(
        raw.ids,
        {name: rule.fraction for name, rule in rules.items()},
        seed=rule.seed,
        strata_N=_strata(raw, rule.stratify),
        groups_N=_texts(raw, rule.group_by) or (raw.families if task.judge.each else None),
    )
    return raw.select(index for index, fold in enumerate(folds) if fold == wanted)


def _strata(raw: RawSplit, stratify: str | None) -> Sequence[str | None] | None:
    if stratify == "label":
        # The median of all rows: there is no training split yet.
        kind, verdicts = raw.task.kind, raw.task.judge.verdicts
        labels_N = raw.labels(raw.train_median())
        return [label and kind.label_class(label, verdicts) for label in labels_N]
    return _texts(raw, stratify)


def _texts(raw: RawSplit, column: str | None) -> list[str] | None:
    return None if column is None else [str(value) for value in raw.keys(column)]


def _read_split(task: JudgeTask, split: SplitName, source: Source) -> Dataset:
    if source.folder is not None:
        return _read_parquet(task, split, source.folder, source.listed.get(split))
    keys = source.location, task.dataset_name, task.dataset_kwargs
    fault = None if is_local(source.location) else hub_fault()
    try:
        return read_dataset(*keys, task.source_split(split))
    except JudgeError as error:
        raise DataError(f"{task.task}: {error}") from None
    except Exception as error:
        explained = hub_unreachable(task, fault) if fault else explain_hub_error(task, error)
        raise cache_fault(error) or explained from error


def _folder_of_cells(source: Source) -> Path:
    """The folder below which paths in cells are read: the source's own, also in the hub's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    if source.folder is not None or is_local(source.location):
        return source.folder or expanded(source.location)
    return Path(HF_HUB_CACHE) / repo_folder_name(repo_id=source.location, repo_type="dataset")


def _read_parquet(task: JudgeTask, split: SplitName, folder: Path, listed: int | None) -> Dataset:
    import pyarrow.parquet as pq
    from datasets import load_dataset_builder
    from datasets.config import HF_DATASETS_CACHE

    files = split_files(folder, split)
    if not files:
        raise DataError(
            f"{folder}: no file of the {split} split, expected {listed:,} rows as in {DATA_CARD}; "
            "copy or prepare the data again"
        )
    check_shards(split, files)
    rows, size, file = 0, 0, files[0]
    try:
        for file in files:
            rows += pq.read_metadata(file).num_rows
            size += file.stat().st_size
        check_rows(split, files, rows, listed)
        if rows:  # `datasets` fails on an empty table
            with _quiet(size < _BAR_FROM_BYTES):
                paths = [str(_first_link(file)) for file in files]
                builder = load_dataset_builder("parquet", data_files=paths)
                return read_builder(builder, "train")
    except JudgeError:
        raise
    except Exception as error:
        cause = error.__cause__  # of a DatasetGenerationError
        if isinstance(cause, OSError) and cause.errno:
            raise DataError(
                f"{file}: cannot be copied into the cache of `datasets` ({HF_DATASETS_CACHE}): "
                f"{cause.strerror}"
            ) from error
        explained = DataError(f"{file}: cannot be read as parquet: {_first_line(error)}")
        raise cache_fault(error) or explained from error
    raise DataError(f"{task.task}: the {split} split is empty ({files[0]})")


def _first_link(file: Path) -> Path:
    """The first of the paths that a file has in the data root, where tasks of one dataset share it.

    `datasets` keeps a copy of a file in its cache for each path by which it reads it.
    """
    if file.stat().st_nlink == 1:
        return file
    return min(path for path in file.parent.parent.glob(f"*/{file.name}") if path.samefile(file))


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


_UNREACHABLE = ("Connect", "Timeout")  # in the names of httpx errors, which are not OSErrors


def explain_hub_error(task: JudgeTask, error: Exception) -> JudgeError:
    """An error of the hub, with what the user can do about it."""
    files = _own_files(task)
    text = f"{error} {error.__cause__ or ''}".casefold()
    name = type(error).__name__
    head = f"{task.task}: {task.dataset_path}"
    if "gated" in text or (task.judge.card.gated and ("401" in text or "authenticat" in text)):
        return DataError(
            f"{head} is gated: accept the terms at {task.judge.card.url} and log in "
            f"(`hf auth login`, or HF_TOKEN), or {files}"
        )
    if "script" in text and "support" in text:
        return DataError(
            f"{head} is a script dataset, which `datasets` no longer loads; "
            + (f"mtrl-judge data prepare {task.task} reads its files" if task.judge.raw else files)
        )
    if "NotFound" in name or "404" in text:
        at = f" at revision {task.revision}" if task.revision else ""
        return DataError(f"{head}: not found on the hub{at} ({name}); check the name, or {files}")
    unreachable = isinstance(error, OSError) or any(part in name for part in _UNREACHABLE)
    if unreachable or "offline" in text:
        return hub_unreachable(task, _first_line(error))
    return DataError(f"{head}: {_first_line(error)}; or {files}")


def hub_unreachable(task: JudgeTask, fault: str) -> JudgeError:
    return DataError(
        f"{task.task}: {task.dataset_path}: the hub cannot be reached ({fault}), and the data is "
        f"not in its cache; {_own_files(task)} (`mtrl-judge data sample` writes a small corpus to "
        "try)"
    )


def _own_files(task: JudgeTask) -> str:
    if task.judge.raw:
        return f"use your own copy: mtrl-judge data prepare {task.task} --from FOLDER"
    folder = f"{DATA_ROOT_VARIABLE}=<data root> with <data root>/{task.task}/test.parquet"
    return f"use a local folder: {folder}"
