"""What ends an evaluation before lmms-eval starts, whose imports take ten seconds and more: tasks
that do not exist, faults in YAMLs of judge tasks, and data that is missing.

What only lmms-eval knows is left to it.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from mtrl_judge.common.errors import DataError, JudgeError, nearest
from mtrl_judge.common.files import expanded, read_json
from mtrl_judge.common.plain_yaml import MAX_BYTES, yaml_mapping
from mtrl_judge.harness_plugin.host_flags import LISTS
from mtrl_judge.judge_tasks.loading import SHIPPED, load_judge_task, peek, shipped_paths
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE, find_source
from mtrl_judge.judge_tasks.spec import DATA_CARD, GROUPS

PREFIX = "mtrl_"
_SAMPLE = "`mtrl-judge data sample` writes data to try things with"


def check_tasks(tasks: str, flags: Sequence[str], root: str | None) -> None:
    """Refuse what no judge can be evaluated on.

    Args:
        tasks: names, patterns and YAMLs, comma-separated.
        flags: of lmms-eval; ``--include_path`` is read.
        root: the folder of the data; None is the hub.

    Raises:
        JudgeError: no task has a name or matches a pattern; or YAMLs have faults: all of them.
        DataError: a task has neither a folder nor a dataset on the hub.
    """
    folders = _included(flags)
    known = _judge_yamls(folders) | {path.stem: path for path in shipped_paths()}
    words = list(dict.fromkeys(tasks.split(",")))
    unknown = [word for word in words if not _exists(word, known, folders)]
    if unknown:
        raise JudgeError("\n".join(_unknown(word, [*GROUPS, *known]) for word in unknown))
    folder = None if root is None else expanded(root)
    mistakes: dict[str, type[JudgeError]] = {}
    for path in _selected(words, known, folder):
        try:
            find_source(load_judge_task(path), folder)
        except JudgeError as error:
            mistakes[str(error)] = DataError if isinstance(error, DataError) else JudgeError
    if mistakes:
        if root is None:
            mistakes[f"{DATA_ROOT_VARIABLE} names the folder of the data; {_SAMPLE}"] = DataError
        kinds = {*mistakes.values()}
        raise (kinds.pop() if len(kinds) == 1 else JudgeError)("\n".join(mistakes))


def _unknown(word: str, known: Sequence[str]) -> str:
    if "*" in word:
        return f"--tasks: no task matches {word!r}; {LISTS}"
    near = nearest(word, known)
    return f"--tasks: no task {word!r}; {f'did you mean {near!r}?' if near else LISTS}"


def _included(flags: Sequence[str]) -> list[Path]:
    """The folders that ``--include_path`` names."""
    found = [
        value or (flags[index + 1] if index + 1 < len(flags) else "")
        for index, flag in enumerate(flags)
        for name, _, value in [flag.partition("=")]
        if name == "--include_path"
    ]
    missing = [folder for folder in found if not Path(folder).is_dir()]
    if missing:
        raise JudgeError(f"--include_path: no folder {missing[0]}")
    return [Path(folder) for folder in found]


def _judge_yamls(folders: Sequence[Path]) -> dict[str, Path]:
    """The YAMLs of judge tasks in the folders, by their task's name."""
    found = {}
    for path in _yamls(folders):
        raw = None if path.name.startswith("_") else peek(path)
        if raw is not None:
            name = raw.get("task")
            found[name if isinstance(name, str) else path.stem] = path
    return found


def _yamls(folders: Sequence[Path]) -> Iterator[Path]:
    return (path for folder in folders for path in sorted(folder.rglob("*.yaml")))


def _exists(word: str, known: Mapping[str, Path], folders: Sequence[Path]) -> bool:
    if fnmatch.filter([*known, *GROUPS], word) or Path(word).exists():
        return True
    if os.environ.get("LMMS_EVAL_PLUGINS"):  # its tasks are in further packages
        return True
    if re.search(r"[?[]", word):  # lmms-eval matches its own tasks by such patterns, too
        return True
    if word.startswith(PREFIX) and not folders:
        return False
    return word in ("all", "list") or word.startswith("list_") or _mentioned(word, folders)


def _mentioned(word: str, folders: Sequence[Path]) -> bool:
    """Whether a YAML of lmms-eval or in the folders has what may be a task, a group or a tag of
    this name."""
    spec = find_spec("lmms_eval")
    assert spec is not None
    assert spec.origin is not None
    name = rb"[\w.-]*".join(re.escape(part.encode()) for part in word.split("*"))
    named = re.compile(
        rb"^[ \t]*(?:-[ \t]+)?(?:[\"']?%b[\"']?[ \t\r]*(?:#.*)?$"
        rb"|[\"']?(?:task|group|tag)[\"']?[ \t]*:.*(?<![\w.-])%b(?![\w.-]))" % (name, name),
        re.MULTILINE,
    )
    # Some of its tasks are in files such as _default_template_yaml, which others include.
    searched = [*folders, Path(spec.origin).with_name("tasks")]
    for path in (path for folder in searched for path in folder.rglob("*yaml")):
        if path.is_file():  # reading a device or a FIFO may never end
            with path.open("rb") as file:
                if named.search(file.read(MAX_BYTES)):
                    return True
    return False


def _selected(words: Sequence[str], known: Mapping[str, Path], root: Path | None) -> list[Path]:
    """The YAMLs of judge tasks that the words select and whose data is not seen at a glance.

    Of the tasks that a pattern matches, shipped ones that the sample corpus does not have are
    skipped later (`harness_plugin/wrappers.py`).
    """
    card = {} if root is None else read_json(root / DATA_CARD, missing_ok=True)
    paths: dict[Path, None] = {}
    for word in words:
        members = [word]
        if word in GROUPS:
            members = yaml_mapping(SHIPPED / f"{word}.yaml")["task"]
        for name in members:
            if name in known:
                paths[known[name]] = None
            elif Path(name).is_file() and peek(Path(name)) is not None:
                paths[Path(name)] = None
        for name in fnmatch.filter(known, word) if "*" in word else ():
            shipped = known[name].parent == SHIPPED
            if not shipped or not (card.get("source") == "sample" or _has_folder(root, name)):
                paths[known[name]] = None
    return list(paths)


def _has_folder(root: Path | None, name: str) -> bool:
    return root is not None and (root / name).is_dir()
