"""What a judge task is, from YAML to metrics. Imports no torch, lmms_eval or trl.

The names below are the way in; they load when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if __name__ != "mtrl_judge.judge_tasks":
    raise ImportError(
        "this folder is the package mtrl_judge.judge_tasks; "
        "install the project (pip install -e .) and import it under that name"
    )

if TYPE_CHECKING:
    from .errors import DataError, JudgeError, JudgeTaskError
    from .loading import find_task, load_judge_task, load_shipped_tasks
    from .metrics import summarise
    from .prompts import render_messages
    from .rows import JudgeRow, to_rows
    from .scoring import Score, score
    from .sources import load_rows
    from .spec import JudgeTask
    from .verdicts import Verdict, parse_verdict

_HOME = {
    "DataError": "errors",
    "JudgeError": "errors",
    "JudgeRow": "rows",
    "JudgeTask": "spec",
    "JudgeTaskError": "errors",
    "Score": "scoring",
    "Verdict": "verdicts",
    "find_task": "loading",
    "load_judge_task": "loading",
    "load_rows": "sources",
    "load_shipped_tasks": "loading",
    "parse_verdict": "verdicts",
    "render_messages": "prompts",
    "score": "scoring",
    "summarise": "metrics",
    "to_rows": "rows",
}
__all__ = [
    "DataError",
    "JudgeError",
    "JudgeRow",
    "JudgeTask",
    "JudgeTaskError",
    "Score",
    "Verdict",
    "find_task",
    "load_judge_task",
    "load_rows",
    "load_shipped_tasks",
    "parse_verdict",
    "render_messages",
    "score",
    "summarise",
    "to_rows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
