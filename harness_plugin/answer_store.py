"""Answers on disk, item by item: what a stopped evaluation has received is not asked again.

A store is a folder of JSONL files, one for each process that wrote to it. Files are only appended
to. A line is an answer, a failed request, or what the answers of a task depend on::

    {"key": "…", "task": "…", "item_id": "…", "order": "AB", "repeat": 0, "text": "…", "tokens": {}}
    {"key": "…", "task": "…", "item_id": "…", "order": "AB", "repeat": 0, "failed": true}
    {"task": "…", "depends_on": {"weights": "…", …}}

The key is a hash of everything that the answer depends on (see :mod:`.answer_keys`), so a store can
hold answers of several judges, and never gives one to another question.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.common.files import json_text

# Set by `mtrl-judge eval` for the process of lmms-eval; the folder also by users.
STORE_VARIABLE = "MTRL_JUDGE_ANSWERS"
SESSION_VARIABLE = "MTRL_JUDGE_SESSION"
REUSE_VARIABLE = "MTRL_JUDGE_REUSE"
REUSE_ALL = "all"


class Keeping(NamedTuple):
    """Where an evaluation keeps its answers, and which earlier ones it uses."""

    folder: Path
    session: str
    """This evaluation. Later sessions have names that sort later."""
    reuse: bool
    """Whether earlier answers are used."""
    retried: str | None
    """The session whose failed requests are repeated; nothing else may be asked."""


def new_session() -> str:
    """A name for an evaluation that starts now."""
    now = time.time_ns()
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 10**9))
    return f"{stamp}.{now // 1000 % 10**6:06d}-{os.getpid()}"


def keeping_from_environment() -> Keeping | None:
    """What the environment variables say; None if answers are not kept."""
    folder = os.environ.get(STORE_VARIABLE)
    if not folder:
        return None
    reuse = os.environ.get(REUSE_VARIABLE, "")
    session = os.environ.get(SESSION_VARIABLE) or new_session()
    retried = reuse if reuse not in ("", REUSE_ALL) else None
    return Keeping(Path(folder), session, bool(reuse), retried)


class Question(NamedTuple):
    """One request, and the key of its answer."""

    key: str
    task: str
    item_id: str
    order: str | None
    repeat: int


class StoredAnswer(NamedTuple):
    """An answer as the backend gave it."""

    text: str
    tokens: Mapping[str, int]
    """lmms-eval's counts of tokens, those that the backend gives."""


class Stored(NamedTuple):
    """What a store holds."""

    answers: Mapping[str, StoredAnswer]
    """By key; the newest where there are several."""
    failed: Collection[str]
    """Keys whose newest request failed."""
    depends_on: Mapping[str, Mapping[str, str]]
    """For each task what its newest answers depend on: name -> hash."""


class AnswerStore:
    """A folder of answers, and the file in it that this process appends to."""

    def __init__(self, folder: Path, session: str) -> None:
        self.folder = folder
        self._file = folder / f"{session}-{os.environ.get('RANK', '0')}.jsonl"

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add lines; they are on disk when this returns.

        Raises:
            JudgeError: the file cannot be written.
        """
        text = "".join(f"{json_text(line, indent=None)}\n" for line in lines)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise JudgeError(
                f"{self._file}: cannot be written ({error}); answers are kept there"
            ) from None

    def read(self, keys: Collection[str], until: str | None = None) -> Stored:
        """What the store has for these keys.

        Args:
            until: the last session to read; None reads all.

        Raises:
            DataError: a file cannot be read.
        """
        answers: dict[str, StoredAnswer] = {}
        failed: set[str] = set()
        depends_on: dict[str, dict[str, str]] = {}
        for file in sorted(self.folder.glob("*.jsonl")):
            session = file.stem.rpartition("-")[0]
            if until is not None and session > until:
                continue
            for line in _whole_lines(file):
                key = line.get("key")
                if key is None:
                    depends_on[line["task"]] = line["depends_on"]
                elif key in keys and "text" in line:
                    answers[key] = StoredAnswer(line["text"], line["tokens"])
                    failed.discard(key)
                elif key in keys:
                    answers.pop(key, None)
                    failed.add(key)
        return Stored(answers, failed, depends_on)


def answer_line(question: Question, answer: StoredAnswer) -> dict[str, Any]:
    return {**question._asdict(), **answer._asdict()}


def failure_line(question: Question) -> dict[str, Any]:
    return {**question._asdict(), "failed": True}


def _whole_lines(file: Path) -> Iterable[dict[str, Any]]:
    """The lines of a file. Its writer may have been killed within the last one, which is left out.

    Raises:
        DataError: another line is not as :meth:`AnswerStore.append` writes it.
    """
    try:
        lines = file.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
            if not isinstance(value, dict) or not ("key" in value or "depends_on" in value):
                raise ValueError("not an entry of a store of answers")
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{file}: line {number}: {error}; remove the file to ask its items again"
            ) from None
        yield value
