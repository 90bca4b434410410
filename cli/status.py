"""``mtrl-judge data status``: where each task's rows would come from."""

from __future__ import annotations

from tabulate import tabulate

from mtrl_judge.judge_tasks.errors import JudgeError
from mtrl_judge.judge_tasks.loading import load_shipped_tasks
from mtrl_judge.judge_tasks.sources import Source, find_source
from mtrl_judge.judge_tasks.spec import JudgeTask


def status_table() -> str:
    """One line a shipped task; no rows are read and the hub is not asked."""
    return tabulate([_line(task) for task in load_shipped_tasks()], headers="keys")


def _line(task: JudgeTask) -> dict[str, str]:
    line = {"task": task.task, "role": task.judge.role}
    try:
        source = find_source(task)
    except JudgeError as error:
        return {**line, "source": "none", "rows": "", "place": str(error).splitlines()[0]}
    return {
        **line,
        "source": source.kind,
        "rows": _rows(source),
        "place": source.place + (f"@{source.revision}" if source.revision else ""),
    }


def _rows(source: Source) -> str:
    if source.folder is None:
        return ", ".join(source.splits)
    import pyarrow.parquet as pq

    counts = []
    for split in source.splits:
        try:
            n = pq.read_metadata(source.folder / f"{split}.parquet").num_rows
        except (OSError, ValueError):
            n = "unreadable"
        counts.append(f"{split} {n}")
    return ", ".join(counts)
