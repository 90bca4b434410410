"""Checks between the fields of a judge YAML."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import TemplateSyntaxError

from mtrl_judge.common.errors import Problem, did_you_mean

from .prompts import IMAGE_MARK, question_columns
from .spec import GROUPS, SPLIT_KEYS, SPLITS, label_kind
from .verdicts import parse_verdict

# Keys that lmms-eval merges into every request's metadata (lmms_eval/api/task.py), and ours.
RESERVED_METADATA = ("task", "doc_id", "repeats", "split", "judge")


def cross_field_problems(raw: Mapping[str, Any]) -> Iterator[Problem]:
    judge = _mapping(raw.get("judge"))
    for check in _TASK_CHECKS:
        yield from check(raw, judge)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def _check_name(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    if raw.get("task") in GROUPS:
        yield Problem("task", f"{raw['task']} is the name of a group", "choose another name")


def _check_metadata(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    for key in _mapping(raw.get("metadata")):
        if key in RESERVED_METADATA:
            wrong = "is a key that lmms-eval and the results use themselves"
            yield Problem(f"metadata.{key}", wrong, "rename it")


def _check_question(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    question, images = judge.get("question"), _strings(judge.get("images"))
    if isinstance(question, str) and question:
        yield from _template_problems("judge.question", question, images)


def _check_paraphrases(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    listed = judge.get("paraphrases")
    texts = listed if isinstance(listed, list) else [listed]
    seen = [judge.get("question")]
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            continue
        field = f"judge.paraphrases.{number}"
        yield from _template_problems(field, text, _strings(judge.get("images")))
        if text in seen:
            yield Problem(field, "is there already", "ask the same in other words, or drop it")
        seen.append(text)


def _template_problems(field: str, template: str, images: Sequence[str]) -> Iterator[Problem]:
    try:
        question_columns(template)
    except TemplateSyntaxError as error:
        wrong = f"line {error.lineno} of the template: {error.message}"
        yield Problem(field, wrong, "a column is written {{ column }}")
    except ValueError as error:
        yield Problem(field, str(error), "write the text in the YAML itself")
    marks = template.count(IMAGE_MARK)
    if images and marks not in (0, len(images)):
        wrong = f"has {marks} {IMAGE_MARK} for {len(images)} image columns"
        right = f"place each image once, or write no {IMAGE_MARK} to put all before the text"
        yield Problem(field, wrong, right)


def _check_verdicts(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    verdicts = [verdict for verdict in _strings(judge.get("verdicts")) if verdict]
    try:
        parse_verdict("", verdicts or ["any"])
    except ValueError as error:
        wrong, right = str(error).removeprefix("verdicts: ").split("; ", 1)
        yield Problem("judge.verdicts", wrong, right)


def _check_map(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    verdicts = _strings(judge.get("verdicts"))
    mapped = _mapping(_mapping(judge.get("label")).get("map"))
    if not verdicts or not mapped:
        return
    for value, verdict in mapped.items():
        if isinstance(verdict, str) and verdict not in verdicts:
            wrong = f"{verdict!r} is none of the verdicts"
            yield Problem(f"judge.label.map.{value}", wrong, did_you_mean(verdict, verdicts))
    for verdict in verdicts:
        if verdict not in mapped.values():
            wrong = f"no value maps to the verdict {verdict!r}"
            yield Problem("judge.label.map", wrong, "map a value to it or drop the verdict")


def _check_pointwise(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    if judge.get("kind") != "pointwise":
        return
    for key in ("candidates", "orders"):
        if judge.get(key) is not None:
            yield Problem(f"judge.{key}", "is for pairs", "remove it or set kind: pairwise")
    label = judge.get("label")
    kind = label_kind(label)
    if isinstance(label, Mapping) and kind not in ("map", "threshold"):
        right = "a pointwise label has {column, map} or {column, threshold}"
        yield Problem("judge.label", "says which of two is preferred", right)
    if kind == "threshold" and len(_strings(judge.get("verdicts"))) not in (0, 2):
        right = "give two: the one at or above the threshold, then the one below"
        yield Problem("judge.verdicts", "a threshold tells two verdicts apart", right)


def _check_pairwise(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    if judge.get("kind") != "pairwise":
        return
    images, candidates = _strings(judge.get("images")), _strings(judge.get("candidates"))
    if not candidates and images and len(images) != 2:
        wrong = f"unclear which of {len(images)} image columns are compared"
        yield Problem("judge.candidates", wrong, "name the two columns to compare")
    if len({c in images for c in candidates}) == 2:
        wrong = "one is an image column, the other is not"
        yield Problem("judge.candidates", wrong, "compare two images or two texts")
    yield from _check_pair_label(judge)


def _check_pair_label(judge: Mapping[str, Any]) -> Iterator[Problem]:
    label, verdicts = judge.get("label"), _strings(judge.get("verdicts"))
    if not isinstance(label, Mapping):
        return
    if label_kind(label) in ("map", "threshold"):
        right = "{column, first: value, second: value} or {column} that holds 0 or 1"
        yield Problem("judge.label", "says nothing of which of two is preferred", right)
    wanted = 3 if label.get("tie") is not None else 2
    if verdicts and len(verdicts) != wanted:
        right = "name the first slot, the second slot" + (", then the tie" if wanted == 3 else "")
        wrong = f"{len(verdicts)} verdicts for a label {'with' if wanted == 3 else 'without'} tie"
        yield Problem("judge.verdicts", wrong, right)


def _check_splits(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    made: dict[str, Any] = {k: v for k, v in _mapping(judge.get("splits")).items() if k in SPLITS}
    own = [s for s in SPLITS if raw.get(SPLIT_KEYS[s])]
    for name, rule in made.items():
        source = _mapping(rule).get("from")
        if name in own:
            wrong = f"{SPLIT_KEYS[name]} is given too"
            yield Problem(f"judge.splits.{name}", wrong, "keep one of the two")
        if source in SPLITS and source not in own:
            wrong = f"the dataset has no {source} split"
            right = f"set {SPLIT_KEYS[source]}, or cut it from one of: {', '.join(own) or 'none'}"
            yield Problem(f"judge.splits.{name}.from", wrong, right)
    yield from _check_shared_source(made)
    available = {*own, *made}
    if judge.get("role") == "train" and "train" not in available:
        yield Problem("training_split", "is missing", "a task with role: train needs one")
    if not available & {"validation", "test"}:
        yield Problem("test_split", "is missing", "name the split to judge, or make it in splits")


def _check_shared_source(made: Mapping[str, Any]) -> Iterator[Problem]:
    """Splits cut from one source are cut in one pass, so they must agree on how."""
    for source in SPLITS:
        rules = {n: r for n, r in made.items() if _mapping(r).get("from") == source}
        for key in ("seed", "stratify", "group_by"):
            if len({str(rule.get(key)) for rule in rules.values()}) > 1:
                field = f"judge.splits.{list(rules)[-1]}.{key}"
                wrong = f"differs between the splits cut from {source}"
                yield Problem(field, wrong, "give the same in each")
        fractions = [r.get("fraction") for r in rules.values()]
        numbers = [f for f in fractions if isinstance(f, int | float)]
        if len(numbers) > 1 and sum(numbers) >= 1:
            wrong = f"fractions of {source} add up to {sum(numbers):g}"
            yield Problem("judge.splits", wrong, f"leave something for {source} itself")


def _check_raw(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    own = [s for s in SPLITS if raw.get(SPLIT_KEYS[s])]
    files = _mapping(judge.get("raw"))
    pictures = _mapping(files.get("pictures"))
    named = {"raw.tables": files.get("tables"), "raw.pictures.archives": pictures.get("archives")}
    for field, by_split in named.items():
        for split in _mapping(by_split):
            if split in SPLITS and split not in own:
                right = f"set {SPLIT_KEYS[split]}, or name one of: {', '.join(own) or 'none'}"
                wrong = f"the dataset has no {split} split"
                yield Problem(f"judge.{field}.{split}", wrong, right)
    if pictures.get("subset") is True and not pictures.get("archives"):
        right = "name the archives, or remove it"
        yield Problem("judge.raw.pictures.subset", "there are no archives", right)
    there = {*own, *_mapping(judge.get("splits"))}
    for split in _mapping(_mapping(judge.get("card")).get("expects")):
        if split in SPLITS and split not in there:
            right = f"name one of: {', '.join(sorted(there)) or 'none'}"
            yield Problem(f"judge.card.expects.{split}", "there is no such split", right)


_TASK_CHECKS: tuple[Callable[[Mapping[str, Any], Mapping[str, Any]], Iterator[Problem]], ...] = (
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
