"""Checks between the fields of a judge YAML.

They read the raw mapping, so that one wrong field does not hide the faults of another. Each skips
values of the wrong type, which pydantic reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mtrl_judge.common.errors import Problem, did_you_mean

from .column_paths import parse_path
from .dataset_keys import dataset_problems, is_hub_name, local_files_allowed
from .demonstration_checks import JUDGE, TFIDF, demonstration_problems
from .fields import mapping, strings
from .kinds import KINDS, LABEL_RULES
from .kinds.base import label_rule
from .question_checks import shown_problems
from .spec import (
    GENERATION_KEYS,
    GROUPS,
    MAX_PARAPHRASES,
    MAX_VERDICT,
    MAX_VERDICTS,
    SPLIT_KEYS,
    SPLITS,
)
from .templates import IMAGE_MARK, QuestionError, question_columns
from .verdicts import parse_verdict

# Keys that lmms-eval merges into every request's metadata (lmms_eval/api/task.py), and ours.
RESERVED_METADATA = ("task", "doc_id", "repeats", "split", "judge")


def cross_field_problems(raw: Mapping[str, Any]) -> Iterator[Problem]:
    judge = mapping(raw.get("judge"))
    for check in _TASK_CHECKS:
        yield from check(raw, judge)


def _check_name(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    if raw.get("task") in GROUPS:
        yield Problem("task", f"{raw['task']} is the name of a group", "choose another name")


def _check_metadata(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    for key in mapping(raw.get("metadata")):
        if key in RESERVED_METADATA:
            wrong = "is a key that lmms-eval or the results use themselves"
            yield Problem(f"metadata.{key}", wrong, "rename it")


def _check_dataset(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    keys = ("dataset_path", "dataset_name", "dataset_kwargs")
    yield from dataset_problems(*map(raw.get, keys))


def _check_generation(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    """Many of lmms-eval's models pass all keys to `generate`, which can load code from the hub."""
    for key, value in mapping(raw.get("generation_kwargs")).items():
        field = f"generation_kwargs.{key}"
        if key not in GENERATION_KEYS:
            yield Problem(field, "unknown key", did_you_mean(key, GENERATION_KEYS))
        elif key == "until":
            if not isinstance(value, str) and strings(value) != value:
                yield Problem(field, "is not a list of texts", "[] or texts that end an answer")
        elif not isinstance(value, bool | int | float | None):
            yield Problem(field, f"is {value!r}", "a number, or true or false")


def _check_question(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    question, images = judge.get("question"), strings(judge.get("images"))
    if isinstance(question, str) and question:
        yield from _template_problems("judge.question", question, images)
        yield from shown_problems("judge.question", question, judge)


def _check_paraphrases(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    listed = judge.get("paraphrases")
    texts = listed if isinstance(listed, list) else [listed]
    seen = [judge.get("question")]
    for number, text in enumerate(texts[:MAX_PARAPHRASES]):
        if not isinstance(text, str) or not text:
            continue
        field = f"judge.paraphrases.{number}"
        yield from _template_problems(field, text, strings(judge.get("images")))
        yield from shown_problems(field, text, judge)
        if text in seen:
            yield Problem(field, "repeats an earlier text", "rephrase the question, or remove it")
        seen.append(text)


def _template_problems(field: str, template: str, images: Sequence[str]) -> Iterator[Problem]:
    try:
        columns = question_columns(template)
    except QuestionError as error:
        yield Problem(field, error.found, error.expected)
        columns = frozenset()
    marks = template.count(IMAGE_MARK)
    names = {parse_path(path).column for path in images}
    if marks and not names.isdisjoint(columns):
        wrong = f"places images both by {IMAGE_MARK} and as values"
        yield Problem(field, wrong, f"write all of them as values, such as {{{{ {images[0]} }}}}")
    elif images and marks not in (0, len(images)):
        wrong = f"has {marks} {IMAGE_MARK} for {len(images)} image columns"
        right = (
            f"place each image once, or no {IMAGE_MARK} at all to put them before the text; those "
            f"of a list are placed as {{{{ {images[0]}[0] }}}}"
        )
        yield Problem(field, wrong, right)


def _check_verdicts(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    verdicts = [verdict for verdict in _verdicts(judge) if verdict]
    try:
        parse_verdict("", verdicts or ["any"])
    except ValueError as error:
        wrong, right = str(error).removeprefix("verdicts: ").split("; ", 1)
        yield Problem("judge.verdicts", wrong, right)


def _verdicts(judge: Mapping[str, Any]) -> list[str]:
    """The verdicts as they are written; none if there are too many or they are too long to read."""
    verdicts = strings(judge.get("verdicts"))
    readable = len(verdicts) <= MAX_VERDICTS and all(len(v) <= MAX_VERDICT for v in verdicts)
    return verdicts if readable else []


def _check_kind(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    kind = judge.get("kind")
    if isinstance(kind, str) and kind in KINDS:
        yield from KINDS[kind].problems(judge)
    elif kind is not None:
        yield Problem("judge.kind", f"is {kind!r}", did_you_mean(kind, KINDS))


def _check_label(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    kind = KINDS.get(str(judge.get("kind")))
    # With the keys by which a kind recognizes its rules.
    label = judge.get("label") if kind is None else kind.completed(judge).get("label")
    rule, known = label_rule(label), LABEL_RULES if kind is None else kind.label_rules
    if isinstance(label, Mapping) and rule in known:
        yield from rule.problems(label, _verdicts(judge))
        reduced, columns = label.get("reduce") is not None, label.get("column")
        if reduced and not rule.reducible:
            wrong = "makes one value of several, and this rule reads each"
            yield Problem("judge.label.reduce", wrong, "remove it")
        elif rule.reducible and not reduced and isinstance(columns, list) and len(columns) > 1:
            wrong = f"is missing for {len(columns)} columns"
            yield Problem("judge.label.reduce", wrong, "mean, median, majority, min or max")


def _check_human(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    human = mapping(judge.get("human"))
    if human.get("rank") is not None and human.get("group") is None:
        wrong = "ranks are of items in a group, and no group is named"
        yield Problem("judge.human.rank", wrong, "name its column, such as group: prompt_id")


def _check_items(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    """Items that are made of several rows, or several of one."""
    gather = mapping(judge.get("gather"))
    if gather.get("by") is not None and gather.get("by") in strings(gather.get("columns")):
        wrong = f"{gather['by']!r} is the same in all rows that belong together"
        yield Problem("judge.gather.columns", wrong, "leave it out")
    for path in strings(judge.get("images")):
        if parse_path(path).column in strings(judge.get("json_columns")):
            wrong = f"{path!r} is in a column of judge.json_columns"
            yield Problem("judge.images", wrong, "name columns whose images are no JSON")
    listed = judge.get("each")
    entries = [entry for entry in listed if isinstance(entry, Mapping)] if listed else []
    for number, entry in enumerate(entries[1:], 1):
        if entry.keys() != entries[0].keys():
            differing = ", ".join(sorted(map(str, entry.keys() ^ entries[0].keys())))
            wrong = f"does not define the same columns as the first entry: {differing}"
            right = "name the same columns in each entry; null is a value too"
            yield Problem(f"judge.each.{number}", wrong, right)
    defined = {*entries[0]} if entries else set()
    for path in mapping(judge.get("where")):
        if isinstance(path, str) and parse_path(path).column in defined:
            wrong = f"{path!r} is defined by judge.each, and where is about rows of the dataset"
            yield Problem("judge.where", wrong, "leave out the entry of judge.each instead")
    for split, rule in mapping(judge.get("splits")).items():
        column = mapping(rule).get("group_by")
        if isinstance(column, str) and parse_path(column).column in defined:
            wrong = f"{column!r} is defined by judge.each; the items of a row stay in one split"
            right = "name a column of the dataset, or leave it out"
            yield Problem(f"judge.splits.{split}.group_by", wrong, right)


def _check_splits(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    made: dict[str, Any] = {k: v for k, v in mapping(judge.get("splits")).items() if k in SPLITS}
    native = [s for s in SPLITS if raw.get(SPLIT_KEYS[s])]
    for name, rule in made.items():
        source = mapping(rule).get("from")
        if name in native:
            wrong = f"{SPLIT_KEYS[name]} is given too"
            yield Problem(f"judge.splits.{name}", wrong, "keep one of the two")
        if source in SPLITS and source not in native:
            wrong = f"the dataset has no {source} split"
            right = (
                f"set {SPLIT_KEYS[source]}, or cut it from one of: {', '.join(native) or 'none'}"
            )
            yield Problem(f"judge.splits.{name}.from", wrong, right)
    yield from _check_shared_source(made)
    available = {*native, *made}
    if judge.get("role") == "train" and "train" not in available:
        yield Problem("training_split", "is missing", "a task with role: train needs one")
    if not available & {"validation", "test"}:
        yield Problem("test_split", "is missing", "name the split to judge, or make it in splits")


def _check_shared_source(made: Mapping[str, Any]) -> Iterator[Problem]:
    """Splits cut from one source are cut in one pass, so they must agree on how."""
    for source in SPLITS:
        rules = {n: r for n, r in made.items() if mapping(r).get("from") == source}
        for key in ("seed", "stratify", "group_by"):
            if len({str(rule.get(key)) for rule in rules.values()}) > 1:
                field = f"judge.splits.{list(rules)[-1]}.{key}"
                wrong = f"differs between the splits cut from {source}"
                yield Problem(field, wrong, "give the same value in each")
        fractions = [r.get("fraction") for r in rules.values()]
        numbers = [f for f in fractions if isinstance(f, int | float)]
        if len(numbers) > 1 and sum(numbers) >= 1:
            wrong = f"fractions of {source} add up to {sum(numbers):g}"
            yield Problem("judge.splits", wrong, f"leave something for {source} itself")


def _check_raw(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    native = [s for s in SPLITS if raw.get(SPLIT_KEYS[s])]
    files = mapping(judge.get("raw"))
    images = mapping(files.get("images"))
    named = {"raw.tables": files.get("tables"), "raw.images.archives": images.get("archives")}
    for field, by_split in named.items():
        for split in mapping(by_split):
            if split in SPLITS and split not in native:
                right = f"set {SPLIT_KEYS[split]}, or name one of: {', '.join(native) or 'none'}"
                wrong = f"the dataset has no {split} split"
                yield Problem(f"judge.{field}.{split}", wrong, right)
    named_by, image = images.get("named_by"), images.get("image")
    if isinstance(named_by, str) and image is None:
        yield Problem("judge.raw.images.image", "is missing", "the column to put the image in")
    if isinstance(named_by, Mapping) and image is not None:
        wrong = "named_by names the columns of images already"
        yield Problem("judge.raw.images.image", wrong, "remove it")
    if images.get("subset") is True and not images.get("archives"):
        right = "name the archives, or remove it"
        yield Problem("judge.raw.images.subset", "there are no archives", right)
    splits = {*native, *mapping(judge.get("splits"))}
    for split in mapping(mapping(judge.get("card")).get("expects")):
        if split in SPLITS and split not in splits:
            right = f"name one of: {', '.join(sorted(splits)) or 'none'}"
            yield Problem(f"judge.card.expects.{split}", "there is no such split", right)


def _check_encoder(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    """A YAML reads no folder of the user's; a run may say one."""
    encoder = mapping(judge.get("demonstrations")).get("encoder")
    if not isinstance(encoder, str) or encoder in (JUDGE, TFIDF) or is_hub_name(encoder):
        return
    if not local_files_allowed():
        wrong = f"{encoder!r} is neither tfidf nor judge nor a name on the hub"
        right = "owner/name, or name a folder with MTRL_JUDGE_DEMONSTRATIONS or --allow-local-files"
        yield Problem("judge.demonstrations.encoder", wrong, right)


_TASK_CHECKS: tuple[Callable[[Mapping[str, Any], Mapping[str, Any]], Iterator[Problem]], ...] = (
    _check_name,
    _check_metadata,
    _check_dataset,
    _check_generation,
    _check_question,
    _check_paraphrases,
    _check_verdicts,
    _check_kind,
    _check_label,
    _check_human,
    _check_items,
    _check_splits,
    _check_raw,
    demonstration_problems,
    _check_encoder,
)
