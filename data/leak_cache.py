"""The report on leaks between the same data as before, kept instead of found again.

A scan reads and hashes every image: minutes for 100,000 of them (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtrl_judge import __version__
from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import json_text, read_json, write_json
from mtrl_judge.common.hashing import digest
from mtrl_judge.common.locks import FOLDER_LOCK
from mtrl_judge.common.progress import ProgressCallback
from mtrl_judge.judge_tasks.dataset_keys import is_local
from mtrl_judge.judge_tasks.sources import data_root, find_source
from mtrl_judge.judge_tasks.spec import JudgeTask

from .leaks import Leak, LeakReport, find_leaks


def known_leaks(
    trained: Sequence[JudgeTask],
    others: Sequence[JudgeTask],
    root: Path | None = None,
    progress: ProgressCallback = lambda *_: None,
) -> LeakReport:
    """As :func:`.leaks.find_leaks`; the report of an earlier scan if nothing has changed since.

    Reports are kept in the cache of `datasets`, which has to be writable anyway.

    Raises:
        JudgeError: the training data cannot be loaded, or a kept report cannot be read.
    """
    from datasets.config import HF_DATASETS_CACHE

    fingerprint = data_fingerprint(trained, others, root)
    if fingerprint is None:
        return find_leaks(trained, others, root, progress)
    file = Path(HF_DATASETS_CACHE) / "mtrl_judge_leaks" / f"{fingerprint}.json"
    if file.is_file():
        return _report(read_json(file, advice="remove it"))
    report = find_leaks(trained, others, root, progress)
    # Data that changed during the scan has no report.
    if data_fingerprint(trained, others, root) == fingerprint:
        write_json(file, report._asdict() | {"leaks": [leak._asdict() for leak in report.leaks]})
    return report


def _report(kept: dict[str, Any]) -> LeakReport:
    return LeakReport(**{**kept, "leaks": [Leak(**leak) for leak in kept["leaks"]]})


def data_fingerprint(
    trained: Sequence[JudgeTask], others: Sequence[JudgeTask], root: Path | None = None
) -> str | None:
    """A digest of the tasks, of this version, and of the files' names, sizes and times of change.

    `datasets` knows a local file by its time of change as well (`data_files.py`), and converts it
    again if that differs.

    Returns:
        None if a task's data is neither in a folder nor pinned to a revision of the hub.
    """
    root = root or data_root()
    names = {task.task for task in trained}
    parts: list[Any] = [__version__]
    for task in [*trained, *(task for task in others if task.task not in names)]:
        if task.task in names and not _dated(task, root):
            return None
        folder = None if root is None else root / task.task
        files = [] if folder is None else _files(folder)
        parts.append([task.task in names, task.model_dump(mode="json"), str(folder), files])
    return digest([json_text(parts, indent=None).encode()])


def _dated(task: JudgeTask, root: Path | None) -> bool:
    """Whether a change of the task's data shows: it is in a folder, or a revision of the hub's."""
    try:
        source = find_source(task, root)
    except JudgeError:  # the scan says what is wrong
        return False
    if source.folder is not None:
        return True
    return source.revision is not None and not is_local(source.location)


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """The name, size in bytes and time of change in nanoseconds of each file in a folder."""
    return [
        (str(path.relative_to(folder)), about.st_size, about.st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.name != FOLDER_LOCK and path.is_file()
        for about in [path.stat()]
    ]
