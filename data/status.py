"""The data of each task: where it is, what it consists of, and what it may be used for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtrl_judge.common.errors import JudgeError, first_line
from mtrl_judge.judge_tasks.sources import Source, find_source, load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask

_REPORTED = (
    "items",
    "rows",
    "labels",
    "unlabeled",
    "undecodable",
    "known_bad",
    "fingerprint",
    "data_fingerprint",
    "duplicates",
    "contradictory",
    "identical_pairs",
)


def data_status(tasks: Sequence[JudgeTask]) -> list[dict[str, Any]]:
    """The status of each task's data as values that JSON can hold.

    Rows in folders are read and checked. Nothing is downloaded from the hub: of data that is only
    there, `expected` has the number of items of each split.
    """
    return [_task_status(task) for task in tasks]


def _task_status(task: JudgeTask) -> dict[str, Any]:
    card = task.judge.card
    if task.judge.role == "ood":
        training = "no: out of distribution"
    elif card.forbids_training:
        training = f"only with --accept-license {task.short_name}"
    else:
        training = "yes"
    status: dict[str, Any] = {
        "task": task.task,
        "role": task.judge.role,
        "source": None,
        "location": None,
        "revision": None,
        "license": card.license,
        "gated": card.gated,
        "training": training,
        "bytes": None,
        "expected": dict(card.expects),
        "splits": {},
        "problems": [],
    }
    try:
        source = find_source(task)
    except JudgeError as error:
        return {**status, "problems": [first_line(error).removeprefix(f"{task.task}: ")]}
    status |= {"source": source.kind, "location": source.location, "revision": source.revision}
    if source.kind == "sample":  # not the dataset, and under its own license
        status |= {"license": source.card.get("license", card.license)}
        status |= {"gated": False, "expected": {}}
        if task.judge.role == "train":
            status["training"] = "yes"
    if source.folder is not None:
        sizes = (file.stat().st_size for file in source.folder.rglob("*") if file.is_file())
        status["bytes"] = sum(sizes)
        status["splits"], status["problems"] = _split_records(task, source)
    return status


def _split_records(task: JudgeTask, source: Source) -> tuple[dict[str, Any], list[str]]:
    """What is recorded of each split that can be loaded, and why the others cannot."""
    records: dict[str, Any] = {}
    problems = []
    known_bad = {bad.item for bad in task.judge.known_bad}
    for split in task.splits:
        if split in source.splits or split in task.judge.splits:
            try:
                record = load_rows(task, split).record
            except JudgeError as error:
                reason = first_line(error).removeprefix(f"{task.task}: ")
                problems.append(f"{split}: {reason}")
                continue
            records[split] = {name: record[name] for name in _REPORTED}
            known_bad -= record["known_bad"].keys()
    if not problems:
        problems = [f"judge.known_bad: no item {item!r} in the data" for item in sorted(known_bad)]
    return records, problems
