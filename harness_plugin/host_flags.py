"""The command line of lmms-eval, checked before it starts: its imports take ten seconds."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from mtrl_judge.common.errors import JudgeError, nearest

LISTS = "`mtrl-judge tasks` and `lmms-eval --tasks list` list all"


@cache
def known_flags() -> tuple[str, ...]:
    """The long flags of the installed lmms-eval, read from its source (lmms_eval/__main__.py)."""
    spec = find_spec("lmms_eval")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).with_name("__main__.py").read_text(encoding="utf-8")
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return tuple(
        argument.value
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
        for argument in call.args
        if isinstance(argument, ast.Constant)
        and isinstance(argument.value, str)
        and argument.value.startswith("--")
    )


_TRACKERS = {"--wandb_args": "wandb", "--swanlab_args": "swanlab"}


def refuse_missing_trackers(flags: Sequence[str]) -> None:
    """lmms-eval imports a tracker when all is judged, and then fails (lmms_eval/__main__.py).

    Raises:
        JudgeError: the package of one that is asked for is not installed.
    """
    for flag in flags:
        package = _TRACKERS.get(flag.partition("=")[0])
        if package is not None and find_spec(package) is None:
            name = flag.partition("=")[0]
            raise JudgeError(
                f"{name}: needs {package}, which is not installed; pip install {package}"
            )


def host_flags(words: Sequence[str], own: Sequence[str] = ()) -> list[str]:
    """Further words of an evaluation's command line as lmms-eval spells its flags.

    Args:
        own: flags of the command that passes the words on, for suggestions.

    Raises:
        JudgeError: lmms-eval has no such flag. It would take the beginning of a name for the whole,
            also of another flag than was meant.
    """
    return list(_spelled(words, own))


def _spelled(words: Sequence[str], own: Sequence[str]) -> Iterator[str]:
    by_hyphens = {flag.replace("_", "-"): flag for flag in known_flags()}
    for word in words:
        if not word.startswith("--") or word == "--":
            yield word
            continue
        name, equals, value = word.partition("=")
        flag = by_hyphens.get(name.replace("_", "-"))
        if flag is None:
            match = nearest(name, [*own, *known_flags()])
            advice = f"did you mean {match}?" if match else "see `lmms-eval --help`"
            raise JudgeError(f"{name}: neither ours nor a flag of lmms-eval; {advice}")
        yield f"{flag}{equals}{value}"
