"""A YAML file to a :class:`JudgeTask`, or to every fault it has."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import TemplateSyntaxError
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from .errors import Fault, JudgeTaskError, did_you_mean
from .prompts import IMAGE_MARK, question_columns
from .spec import (
    LABEL_KINDS,
    SPLIT_KEYS,
    SPLITS,
    Card,
    Frozen,
    JudgeSpec,
    JudgeTask,
    KnownBad,
    MadeSplit,
    Pictures,
    Raw,
    label_kind,
)
from .verdicts import parse_verdict

SHIPPED = Path(__file__).parent.parent / "task_yamls"
GROUPS = ("mtrl_id", "mtrl_ood", "mtrl_all")
# Keys that lmms-eval merges into every request's metadata (lmms_eval/api/task.py), and ours.
RESERVED_METADATA = ("task", "doc_id", "repeats", "split", "judge")
_MERGED_KEYS = ("dataset_kwargs", "generation_kwargs", "judge", "metadata")


class _Problem(NamedTuple):
    field: str
    wrong: str
    right: str


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
    faults += [Fault(path, *problem) for problem in problems]
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
    """Tasks by names, patterns of shipped names and paths of YAMLs, each once; all where empty.

    Raises:
        JudgeTaskError: as :func:`find_task`; a pattern that matches none is no task's name.
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
    try:
        text = path.read_bytes()
    except OSError:
        return None
    has_block = text.startswith(b"judge:") or b"\njudge:" in text
    if not has_block and b"include:" not in text:
        return None
    raw, _ = _read(path)
    if raw is None:
        return {} if has_block else None
    return raw if "judge" in raw else None


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that notes, rather than forgets, duplicate keys and foreign tags."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.problems: list[_Problem] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag.endswith(":merge"):
                continue
            if key_node.value in seen:
                line = key_node.start_mark.line + 1
                self.problems.append(
                    _Problem(key_node.value, f"given twice (line {line})", "keep one of the two")
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)

    def construct_foreign(self, node: yaml.Node) -> None:
        line = node.start_mark.line + 1
        self.problems.append(
            _Problem(
                f"line {line}",
                f"tag {node.tag} is not allowed",
                "a judge YAML is plain data and runs no code; remove the tag",
            )
        )


_StrictLoader.add_constructor(None, _StrictLoader.construct_foreign)


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
        right = "name one YAML file of the same folder"
        return raw, [*faults, Fault(path, "include", f"{include!r} is no sibling", right)]
    base_path = path.parent / include
    if base_path in (path, *including):
        return raw, [*faults, Fault(path, "include", f"{include} includes itself", "remove it")]
    if not base_path.is_file():
        siblings = [p.name for p in path.parent.glob("*.yaml") if p != path]
        right = did_you_mean(include, siblings)
        return raw, [*faults, Fault(path, "include", f"no file {include} beside it", right)]
    base, base_faults = _read(base_path, (*including, path))
    return _merge(base or {}, raw), faults + base_faults


def _parse(path: Path) -> tuple[dict[str, Any] | None, list[_Problem]]:
    try:
        loader = _StrictLoader(path.read_text(encoding="utf-8"))
        try:
            raw = loader.get_single_data()
        finally:
            loader.dispose()
    except FileNotFoundError:
        return None, [_Problem("file", "does not exist", "give the path of a judge YAML")]
    except (OSError, UnicodeDecodeError) as error:
        return None, [_Problem("file", f"cannot be read ({error})", "a UTF-8 text file")]
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else "file"
        what = getattr(error, "problem", None) or type(error).__name__
        return None, [_Problem(where, f"not YAML: {what}", "check quotes, colons and indentation")]
    if not isinstance(raw, dict):
        return None, [_Problem("file", "is no mapping", "start with task: and judge:")]
    return raw, loader.problems


def _merge(
    base: Mapping[str, Any], own: Mapping[str, Any], keys: Sequence[str] = _MERGED_KEYS
) -> dict[str, Any]:
    """The own keys over the included ones; the named mappings are merged key by key."""
    merged = {**base, **own}
    for key in keys:
        if isinstance(base.get(key), Mapping) and isinstance(own.get(key), Mapping):
            merged[key] = _merge(base[key], own[key], ("card",))
    return merged


def _build(raw: dict[str, Any], path: Path) -> tuple[JudgeTask | None, list[_Problem]]:
    problems = list(_cross_field_problems(raw))
    try:
        return JudgeTask.model_validate({**raw, "path": path}), problems
    except ValidationError as error:
        return None, [*map(_problem_of, error.errors()), *problems]


def _problem_of(error: Any) -> _Problem:
    """One of pydantic's errors in the words of the person who wrote the YAML."""
    location = _location(error["loc"])
    field = ".".join(str(key) for key in location if not str(key).startswith(":"))
    model, name = _model_at(location)
    info = _fields(model).get(name)
    right = (info.description if info else None) or "see the other keys of the file"
    match error["type"]:
        case "extra_forbidden":
            return _Problem(field, "unknown key", did_you_mean(name, _fields(model)))
        case "missing":
            return _Problem(field, "is missing", right)
        case "literal_error":
            known = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            return _Problem(field, f"is {error['input']!r}", did_you_mean(error["input"], known))
        case "string_pattern_mismatch":
            return _Problem(field, f"is {error['input']!r}", right)
        case "bare_boolean" | "bare_number":
            wrong, right = error["msg"].split("; ", 1)
            return _Problem(field, wrong, right)
        case "threshold":
            return _Problem(field, error["msg"], right)
    return _Problem(field, f"{error['msg']} (is {_short(error['input'])})", right)


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _location(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Pydantic's location, the name of the label rule marked: no YAML spells it."""
    if loc[:2] == ("judge", "label") and len(loc) > 2 and loc[2] in LABEL_KINDS.values():
        return (*loc[:2], f":{loc[2]}", *loc[3:])
    return loc


def _model_at(location: tuple[str | int, ...]) -> tuple[type[Frozen], str]:
    """The model that a location's last named key belongs to, and that key."""
    match location:
        case ("judge", "label", str(kind), str(name), *_):
            return next(m for m, k in LABEL_KINDS.items() if f":{k}" == kind), name
        case ("judge", "card", str(name), *_):
            return Card, name
        case ("judge", "splits", _, str(name), *_):
            return MadeSplit, name
        case ("judge", "known_bad", int(), str(name), *_):
            return KnownBad, name
        case ("judge", "raw", "pictures", str(name), *_):
            return Pictures, name
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


# Checks between fields. They read the raw mapping, so that one wrong field does not hide the
# faults of another; each passes over what has not the right shape, which pydantic reports.


def _cross_field_problems(raw: Mapping[str, Any]) -> Iterator[_Problem]:
    judge = _mapping(raw.get("judge"))
    for check in _TASK_CHECKS:
        yield from check(raw, judge)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def _check_name(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[_Problem]:
    if raw.get("task") in GROUPS:
        yield _Problem("task", f"{raw['task']} is the name of a group", "choose another name")


def _check_metadata(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[_Problem]:
    for key in _mapping(raw.get("metadata")):
        if key in RESERVED_METADATA:
            wrong = "is a key that lmms-eval and the results use themselves"
            yield _Problem(f"metadata.{key}", wrong, "rename it")


def _check_question(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[_Problem]:
    question, images = judge.get("question"), _strings(judge.get("images"))
    if isinstance(question, str) and question:
        yield from _template_problems("judge.question", question, images)


def _check_paraphrases(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[_Problem]:
    listed = judge.get("paraphrases")
    texts = listed if isinstance(listed, list) else [listed]
    seen = [judge.get("question")]
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            continue
        field = f"judge.paraphrases.{number}"
        yield from _template_problems(field, text, _strings(judge.get("images")))
        if text in seen:
            yield _Problem(field, "is there already", "ask the same in other words, or drop it")
        seen.append(text)


def _template_problems(field: str, template: str, images: Sequence[str]) -> Iterator[_Problem]:
    try:
        question_columns(template)
    except TemplateSyntaxError as error:
        wrong = f"line {error.lineno} of the template: {error.message}"
        yield _Problem(field, wrong, "a column is written {{ column }}")
    except ValueError as error:
        yield _Problem(field, str(error), "write the text in the YAML itself")
    marks = template.count(IMAGE_MARK)
    if images and marks not in (0, len(images)):
        wrong = f"has {marks} {IMAGE_MARK} for {len(images)} image columns"
        right = f"place each image once, or write no {IMAGE_MARK} to put all before the text"
        yield _Problem(field, wrong, right)


def _check_verdicts(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[_Problem]:
    verdicts = [verdict for verdict in _strings(judge.get("verdicts")) if verdict]
    try:
        parse_verdict("", verdicts or ["any"])
    except ValueError as error:
        wrong, right = str(error).removeprefix("verdicts: ").split("; ", 1)
        yield _Problem("judge.verdicts", wrong, right)


def _check_map(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[_Problem]:
    verdicts = _strings(judge.get("verdicts"))
    mapped = _mapping(_mapping(judge.get("label")).get("map"))
    if not verdicts or not mapped:
        return
    for value, verdict in mapped.items():
        if isinstance(verdict, str) and verdict not in verdicts:
            wrong = f"{verdict!r} is none of the verdicts"
            yield _Problem(f"judge.label.map.{value}", wrong, did_you_mean(verdict, verdicts))
    for verdict in verdicts:
        if verdict not in mapped.values():
            wrong = f"no value maps to the verdict {verdict!r}"
            yield _Problem("judge.label.map", wrong, "map a value to it or drop the verdict")


def _check_pointwise(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[_Problem]:
    if judge.get("kind") != "pointwise":
        return
    for key in ("candidates", "orders"):
        if judge.get(key) is not None:
            yield _Problem(f"judge.{key}", "is for pairs", "remove it or set kind: pairwise")
    label = judge.get("label")
    kind = label_kind(label)
    if isinstance(label, Mapping) and kind not in ("map", "threshold"):
        right = "a pointwise label has {column, map} or {column, threshold}"
        yield _Problem("judge.label", "says which of two is preferred", right)
    if kind == "threshold" and len(_strings(judge.get("verdicts"))) not in (0, 2):
        right = "give two: the one at or above the threshold, then the one below"
        yield _Problem("judge.verdicts", "a threshold tells two verdicts apart", right)


def _check_pairwise(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[_Problem]:
    if judge.get("kind") != "pairwise":
        return
    images, candidates = _strings(judge.get("images")), _strings(judge.get("candidates"))
    if not candidates and images and len(images) != 2:
        wrong = f"unclear which of {len(images)} image columns are compared"
        yield _Problem("judge.candidates", wrong, "name the two columns to compare")
    if len({c in images for c in candidates}) == 2:
        wrong = "one is an image column, the other is not"
        yield _Problem("judge.candidates", wrong, "compare two images or two texts")
    yield from _check_pair_label(judge)


def _check_pair_label(judge: Mapping[str, Any]) -> Iterator[_Problem]:
    label, verdicts = judge.get("label"), _strings(judge.get("verdicts"))
    if not isinstance(label, Mapping):
        return
    if label_kind(label) in ("map", "threshold"):
        right = "{column, first: value, second: value} or {column} that holds 0 or 1"
        yield _Problem("judge.label", "says nothing of which of two is preferred", right)
    wanted = 3 if label.get("tie") is not None else 2
    if verdicts and len(verdicts) != wanted:
        right = "name the first slot, the second slot" + (", then the tie" if wanted == 3 else "")
        wrong = f"{len(verdicts)} verdicts for a label {'with' if wanted == 3 else 'without'} tie"
        yield _Problem("judge.verdicts", wrong, right)


def _check_splits(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[_Problem]:
    made: dict[str, Any] = {k: v for k, v in _mapping(judge.get("splits")).items() if k in SPLITS}
    own = [s for s in SPLITS if raw.get(SPLIT_KEYS[s])]
    for name, rule in made.items():
        source = _mapping(rule).get("from")
        if name in own:
            wrong = f"{SPLIT_KEYS[name]} is given too"
            yield _Problem(f"judge.splits.{name}", wrong, "keep one of the two")
        if source in SPLITS and source not in own:
            wrong = f"the dataset has no {source} split"
            right = f"set {SPLIT_KEYS[source]}, or cut it from one of: {', '.join(own) or 'none'}"
            yield _Problem(f"judge.splits.{name}.from", wrong, right)
    yield from _check_shared_source(made)
    available = {*own, *made}
    if judge.get("role") == "train" and "train" not in available:
        yield _Problem("training_split", "is missing", "a task with role: train needs one")
    if not available & {"validation", "test"}:
        yield _Problem("test_split", "is missing", "name the split to judge, or make it in splits")


def _check_shared_source(made: Mapping[str, Any]) -> Iterator[_Problem]:
    """Splits cut from one source are cut in one pass, so they must agree on how."""
    for source in SPLITS:
        rules = {n: r for n, r in made.items() if _mapping(r).get("from") == source}
        for key in ("seed", "stratify", "group_by"):
            if len({str(rule.get(key)) for rule in rules.values()}) > 1:
                field = f"judge.splits.{list(rules)[-1]}.{key}"
                wrong = f"differs between the splits cut from {source}"
                yield _Problem(field, wrong, "give the same in each")
        fractions = [r.get("fraction") for r in rules.values()]
        numbers = [f for f in fractions if isinstance(f, int | float)]
        if len(numbers) > 1 and sum(numbers) >= 1:
            wrong = f"fractions of {source} add up to {sum(numbers):g}"
            yield _Problem("judge.splits", wrong, f"leave something for {source} itself")


def _check_raw(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[_Problem]:
    own = [s for s in SPLITS if raw.get(SPLIT_KEYS[s])]
    files = _mapping(judge.get("raw"))
    pictures = _mapping(files.get("pictures"))
    named = {"raw.tables": files.get("tables"), "raw.pictures.archives": pictures.get("archives")}
    for field, by_split in named.items():
        for split in _mapping(by_split):
            if split in SPLITS and split not in own:
                right = f"set {SPLIT_KEYS[split]}, or name one of: {', '.join(own) or 'none'}"
                wrong = f"the dataset has no {split} split"
                yield _Problem(f"judge.{field}.{split}", wrong, right)
    if pictures.get("subset") is True and not pictures.get("archives"):
        right = "name the archives, or remove it"
        yield _Problem("judge.raw.pictures.subset", "there are no archives", right)
    there = {*own, *_mapping(judge.get("splits"))}
    for split in _mapping(_mapping(judge.get("card")).get("expects")):
        if split in SPLITS and split not in there:
            right = f"name one of: {', '.join(sorted(there)) or 'none'}"
            yield _Problem(f"judge.card.expects.{split}", "there is no such split", right)


_TASK_CHECKS: tuple[Callable[[Mapping[str, Any], Mapping[str, Any]], Iterator[_Problem]], ...] = (
    _check_name,
    _check_metadata,
    _check_question,
    _check_paraphrases,
    _check_verdicts,
    _check_map,
    _check_pointwise,
    _check_pairwise,
    _check_splits,
    _check_raw,
)
