"""A prepared dataset as a repository of the hub, with a card that says where it comes from."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtrl_judge.common.errors import DataError
from mtrl_judge.common.hub import CARD, TAG, Upload
from mtrl_judge.common.licenses import license_fields
from mtrl_judge.common.markdown import as_yaml, render_card
from mtrl_judge.judge_tasks.sources import Source, find_source, load_rows, split_files
from mtrl_judge.judge_tasks.spec import SPLIT_KEYS, JudgeTask

from .leak_cache import known_leaks

# The hub's size categories, and the number of rows that each but the first begins with.
_SIZE_NAMES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")
_SIZES = (10**3, 10**4, 10**5, 10**6, 10**7)


def dataset_upload(task: JudgeTask, repo: str, root: Path | None = None) -> Upload:
    """A task's files and its card.

    Reads and checks the rows, and compares the splits with each other; offline.

    Raises:
        DataError: the task's data is not in a folder, or is not as its YAML says.
    """
    from huggingface_hub import DatasetCardData

    source = find_source(task, root)
    if source.folder is None:
        raise DataError(
            f"{task.task}: its data is not in a folder, only on the hub ({source.location}); "
            f"prepare it first: mtrl-judge data prepare {task.task}"
        )
    if source.kind == "sample":
        raise DataError(f"{task.task}: {source.location} is the sample corpus, not the dataset")
    # Without the folder's own card.json, which may name paths of this machine.
    files: dict[str, bytes | Path] = {}
    data_files = []
    for split in source.splits:
        paths = {f"data/{file.name}": file for file in split_files(source.folder, split)}
        data_files.append({"split": split, "path": [*paths]})
        files |= paths
    splits = {split: load_rows(task, split, root).record for split in task.splits}
    card = render_card(
        Path(__file__).with_name("dataset_card.md.jinja"),
        DatasetCardData(
            **license_fields(task.judge.card.license, task.judge.card.url),
            pretty_name=task.task,
            source_datasets=None if task.dataset_path is None else [task.dataset_path],
            size_categories=_SIZE_NAMES[bisect(_SIZES, sum(r["rows"] for r in splits.values()))],
            tags=[TAG, "llm-as-a-judge", task.judge.kind],
            configs=[{"config_name": "default", "data_files": data_files}],
        ),
        task=task,
        revision=source.revision,
        splits=splits,
        cut_splits=[split for split in task.splits if split not in source.splits],
        columns=_columns(source),
        shared=_shared_items(task, root),
        keys=as_yaml({"dataset_path": repo, **{SPLIT_KEYS[s]: s for s in source.splits}}),
    )
    return Upload(
        repo, "dataset", {CARD: card.encode(), **files}, f"{task.task}, prepared by mtrl-judge"
    )


def _columns(source: Source) -> Mapping[str, str]:
    """The type of each column, as the first file of the first split has it."""
    from pyarrow import parquet

    assert source.folder is not None
    schema = parquet.read_schema(split_files(source.folder, source.splits[0])[0])
    return {field.name: str(field.type) for field in schema}


def _shared_items(task: JudgeTask, root: Path | None) -> Sequence[Mapping[str, Any]] | None:
    """How many items of each evaluation split share something with the training split, and what;
    None for a task without a training split."""
    if "train" not in task.splits:
        return None
    counts: dict[tuple[str, str], set[str]] = {}
    for leak in known_leaks([task], [task], root).leaks:
        counts.setdefault((leak.split, leak.kind), set()).add(leak.item)
    return [{"split": split, "kind": kind, "items": len(i)} for (split, kind), i in counts.items()]
