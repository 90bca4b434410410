"""``mtrl-judge data status``: the data of each task, and what may be done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.judge_tasks.sources import Source, find_source, load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask, SplitName


def status_of(tasks: Sequence[JudgeTask]) -> list[dict[str, Any]]:
    """What there is of each task, as JSON can hold it; rows of folders are read and checked.

    Of the hub's data nothing is fetched; its splits are those that the card expects.
    """
    return [_status(task) for task in tasks]


def _status(task: JudgeTask) -> dict[str, Any]:
    card = task.judge.card
    about: dict[str, Any] = {
        "task": task.task,
        "role": task.judge.role,
        "source": None,
        "location": None,
        "revision": None,
        "license": card.license,
        "gated": card.gated,
        "training": _training(task),
        "bytes": None,
        "expected": dict(card.expects),
        "splits": {},
        "problems": [],
    }
    try:
        source = find_source(task)
    except JudgeError as error:
        return {**about, "problems": [_first_line(task, error)]}
    about |= {"source": source.kind, "location": source.location, "revision": source.revision}
    if source.kind == "sample":  # it is not the dataset, and under other terms
        about |= {"license": source.card.get("license", card.license)}
        about |= {"gated": False, "expected": {}}
        about["training"] = about["training"] if task.judge.role == "ood" else "yes"
    if source.folder is None:
        return about
    about["bytes"] = sum(file.stat().st_size for file in source.folder.rglob("*") if file.is_file())
    about["splits"], about["problems"] = _splits(task, source)
    return about


def _training(task: JudgeTask) -> str:
    if task.judge.role == "ood":
        return "no: out of distribution"
    if task.judge.card.forbids_training:
        return f"only with --accept-license {task.short_name}"
    return "yes"


def _splits(task: JudgeTask, source: Source) -> tuple[dict[SplitName, Any], list[str]]:
    splits: dict[SplitName, Any] = {}
    problems = []
    left_out: set[str] = set()
    for split in task.splits:
        if split not in source.splits and split not in task.judge.splits:
            continue
        try:
            record = load_rows(task, split).record
        except JudgeError as error:
            problems.append(f"{split}: {_first_line(task, error)}")
            continue
        names = ("items", "rows", "labels", "unlabeled", "undecodable", "known_bad", "fingerprint")
        splits[split] = {name: record[name] for name in names}
        left_out |= record["known_bad"].keys()
    if not problems:
        unknown = [bad.item for bad in task.judge.known_bad if bad.item not in left_out]
        problems += [f"judge.known_bad: no item {item!r} in the data" for item in unknown]
    return splits, problems


def _first_line(task: JudgeTask, error: JudgeError) -> str:
    return str(error).splitlines()[0].removeprefix(f"{task.task}: ")


def status_table(found: Sequence[Mapping[str, Any]]) -> str:
    """Two tables, of tasks and of their splits, and what is wrong."""
    from tabulate import tabulate

    parts = [
        tabulate([_task_line(each) for each in found], headers="keys", maxcolwidths=36),
        tabulate([line for each in found for line in _split_lines(each)], headers="keys"),
        "\n".join(f"{each['task']}: {text}" for each in found for text in each["problems"]),
    ]
    return "\n\n".join(part for part in parts if part)


def _task_line(about: Mapping[str, Any]) -> dict[str, str]:
    revision = about["revision"]
    return {
        "task": about["task"],
        "role": about["role"],
        "source": about["source"] or "none",
        "revision": revision[:7] if revision else "–",
        "license": about["license"],
        "terms": "to accept" if about["gated"] else "none",
        "may be trained on": about["training"],
        "size": "–" if about["bytes"] is None else f"{about['bytes'] / 1e6:,.1f} MB",
    }


def _split_lines(about: Mapping[str, Any]) -> list[dict[str, str]]:
    splits, expected = about["splits"], about["expected"]
    return [
        {
            "task": about["task"],
            "split": name,
            "items": f"{splits[name]['items']:,}" if name in splits else "–",
            "expected": f"{expected[name]:,}" if name in expected else "–",
            "labels of rows": _labels(splits.get(name)),
            "fingerprint": splits[name]["fingerprint"] if name in splits else "–",
        }
        for name in dict.fromkeys([*splits, *expected])
    ]


def _labels(split: Mapping[str, Any] | None) -> str:
    if split is None:
        return "–"
    counts = {**split["labels"], "none": split["unlabeled"]}
    left_out = len(split["undecodable"]) + len(split["known_bad"])
    shown = ", ".join(f"{name} {n:,}" for name, n in counts.items() if n or name != "none")
    return f"{shown}; {left_out} left out" if left_out else shown
