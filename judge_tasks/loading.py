"""Read a judge YAML: a :class:`JudgeTask`, or all of its faults."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from mtrl_judge.common.errors import Fault, JudgeTaskError, Problem, did_you_mean, shortened
from mtrl_judge.common.plain_yaml import MAX_BYTES, read_yaml

from .checks import cross_field_problems
from .fields import Frozen, mapping
from .kinds import KINDS, LABEL_RULES
from .spec import (
    Card,
    Demonstrations,
    Facts,
    Gather,
    Human,
    ImageFiles,
    JudgeSpec,
    JudgeTask,
    KnownBad,
    MadeSplit,
    Raw,
)

SHIPPED = Path(__file__).parent.parent / "task_yamls"
MAX_FAULTS = 50  # that one message lists
MAX_INCLUDES = 3  # files that include one another in a chain
_RULES = {rule.__name__: rule for rule in LABEL_RULES}
_MERGED_KEYS = ("dataset_kwargs", "generation_kwargs", "judge", "metadata")


def load_judge_task(path: Path | str) -> JudgeTask:
    """Read and check one YAML.

    Raises:
        JudgeTaskError: with every fault of the file and of the file it includes.
    """
    path = Path(path)
    raw, faults = _read(path)
    if raw is None:
        raise JudgeTaskError(faults)
    task, problems = _build(raw, path)
    faults += [Fault(path, *problem) for problem in islice(problems, MAX_FAULTS)]
    if len(faults) >= MAX_FAULTS:
        faults.append(Fault(path, "file", "may have more faults than these", "correct them first"))
    own = path.resolve().parent == SHIPPED.resolve()
    if task is not None and not own and (SHIPPED / f"{task.task}.yaml").exists():
        wrong = f"{task.task} is the name of a shipped task"
        faults.append(Fault(path, "task", wrong, "choose another name"))
    if faults or task is None:
        raise JudgeTaskError(faults)
    return task


def load_shipped_tasks() -> list[JudgeTask]:
    """The tasks that come with the package, by name."""
    return [load_judge_task(path) for path in shipped_paths()]


def shipped_paths() -> list[Path]:
    """The YAML of each shipped task, by name."""
    return sorted(SHIPPED.glob("mtrl_judge_*.yaml"))


def find_task(name_or_path: str) -> JudgeTask:
    """A shipped task by its name, or any task by the path of its YAML.

    Raises:
        JudgeTaskError: no such task or file, or a fault in it.
    """
    if name_or_path.endswith((".yaml", ".yml")):
        return load_judge_task(name_or_path)
    names = {path.stem: path for path in shipped_paths()}
    if name_or_path not in names:
        hint = did_you_mean(name_or_path, names)
        raise JudgeTaskError(
            [Fault(Path(name_or_path), "task", "no shipped task and no .yaml file", hint)]
        )
    return load_judge_task(names[name_or_path])


def find_tasks(words: Sequence[str]) -> list[JudgeTask]:
    """Tasks by name, pattern of shipped names or path of a YAML, each once; all shipped by default.

    Raises:
        JudgeTaskError: as :func:`find_task`; a pattern without a match is not a task's name.
    """
    names = [path.stem for path in shipped_paths()]
    found: dict[str, JudgeTask] = {}
    for word in words or ["*"]:
        for name in fnmatch.filter(names, word) or [word]:
            task = find_task(name)
            found.setdefault(task.task, task)
    return list(found.values())


def peek(path: Path) -> dict[str, Any] | None:
    """The file's mapping with its include merged in if it is a judge YAML, else None.

    Tolerant: meant for finding judge YAMLs among others, faults are for :func:`load_judge_task`.
    A judge YAML that cannot be parsed gives an empty mapping.
    """
    if not path.is_file():  # reading a device or a FIFO may never end
        return None
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES)
    except OSError:
        return None
    has_block = text.startswith(b"judge:") or b"\njudge:" in text
    if not has_block and b"include:" not in text:
        return None
    raw, _ = _read(path)
    if raw is None:
        return {} if has_block else None
    return raw if "judge" in raw else None


def _read(
    path: Path, including: tuple[Path, ...] = ()
) -> tuple[dict[str, Any] | None, list[Fault]]:
    """The file's mapping with its include merged in, and the faults of reading it."""
    raw, problems = _parse(path)
    faults = [Fault(path, *problem) for problem in problems]
    if raw is None or "include" not in raw:
        return raw, faults
    include = raw.pop("include")
    if not isinstance(include, str) or Path(include).name != include:
        right = "name a YAML file of the same folder"
        return raw, [
            *faults,
            Fault(path, "include", f"{include!r} is not in the same folder", right),
        ]
    if len(including) == MAX_INCLUDES:
        wrong = f"the {MAX_INCLUDES + 1}th file in a chain of includes"
        right = f"include at most {MAX_INCLUDES} files in a chain"
        return raw, [*faults, Fault(path, "include", wrong, right)]
    base_path = path.parent / include
    if base_path in (path, *including):
        return raw, [*faults, Fault(path, "include", f"{include} includes itself", "remove it")]
    if not os.path.exists(base_path):  # noqa: PTH110  Path's raises for a long name
        siblings = [p.name for p in path.parent.glob("*.yaml") if p != path]
        right = did_you_mean(include, siblings)
        return raw, [*faults, Fault(path, "include", f"no file {include} beside it", right)]
    base, base_faults = _read(base_path, (*including, path))
    return _merge(base or {}, raw), faults + base_faults


def _parse(path: Path) -> tuple[dict[str, Any] | None, list[Problem]]:
    raw, problems = read_yaml(path)
    if not isinstance(raw, dict):
        wrong = Problem("file", "is not a mapping", "start with task: and judge:")
        return None, problems or [wrong]
    return raw, problems


def _merge(
    base: Mapping[str, Any], overrides: Mapping[str, Any], keys: Sequence[str] = _MERGED_KEYS
) -> dict[str, Any]:
    """The including file's keys take precedence; the named mappings are merged key by key."""
    merged = {**base, **overrides}
    for key in keys:
        if isinstance(base.get(key), Mapping) and isinstance(overrides.get(key), Mapping):
            merged[key] = _merge(base[key], overrides[key], ("card",))
    return merged


def _build(raw: dict[str, Any], path: Path) -> tuple[JudgeTask | None, Iterable[Problem]]:
    problems = list(islice(cross_field_problems(raw), MAX_FAULTS))
    judge = mapping(raw.get("judge"))
    kind = KINDS.get(str(judge.get("kind")))
    if kind is not None:
        raw = {**raw, "judge": kind.completed(judge)}
    try:
        return JudgeTask.model_validate({**raw, "path": path}), problems
    except ValidationError as error:
        return None, chain(map(_problem_of, error.errors(include_url=False)), problems)


def _problem_of(error: Any) -> Problem:
    """One of pydantic's errors in the words of the person who wrote the YAML."""
    # No YAML spells the name of the label rule, which pydantic has in the location.
    location = [key for key in error["loc"] if key not in _RULES]
    field = ".".join(map(str, location))
    model, name = _model_at(error["loc"])
    info = _fields(model).get(name)
    right = (info.description if info else None) or "see the other keys of the file"
    found = shortened(repr(error["input"]), 60)
    match error["type"]:
        case "extra_forbidden":
            return Problem(field, "unknown key", did_you_mean(name, _fields(model)))
        case "missing":
            return Problem(field, "is missing", right)
        case "literal_error":
            known = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            return Problem(field, f"is {found}", did_you_mean(error["input"], known))
        case "string_pattern_mismatch":
            return Problem(field, f"is {found}", right)
        case "bare_boolean" | "bare_number":
            wrong, right = error["msg"].split("; ", 1)
            return Problem(field, wrong, right)
        case "threshold":
            return Problem(field, error["msg"], right)
    return Problem(field, f"{error['msg']} (is {found})", right)


def _model_at(location: tuple[str | int, ...]) -> tuple[type[Frozen], str]:
    """The model that a location's last named key belongs to, and that key."""
    match location:
        case ("judge", "label", str(rule), str(name), *_):
            return _RULES[rule], name
        case ("judge", "card", str(name), *_):
            return Card, name
        case ("judge", "human", str(name), *_):
            return Human, name
        case ("judge", "demonstrations", str(name), *_):
            return Demonstrations, name
        case ("judge", "facts", str(name), *_):
            return Facts, name
        case ("judge", "gather", str(name), *_):
            return Gather, name
        case ("judge", "splits", _, str(name), *_):
            return MadeSplit, name
        case ("judge", "known_bad", int(), str(name), *_):
            return KnownBad, name
        case ("judge", "raw", "images", str(name), *_):
            return ImageFiles, name
        case ("judge", "raw", str(name), *_):
            return Raw, name
        case ("judge", str(name), *_):
            return JudgeSpec, name
        case (str(name), *_):
            return JudgeTask, name
    return JudgeTask, ""


def _fields(model: type[Frozen]) -> dict[str, FieldInfo]:
    fields = {info.alias or name: info for name, info in model.model_fields.items()}
    if model is JudgeTask:
        del fields["path"]
        fields["include"] = FieldInfo(description="a YAML file of the same folder")
    return fields
