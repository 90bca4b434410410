"""Raw dataset rows to judge rows: labels, questions, both orders of a pair, nothing undecodable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.progress import track

from mtrl_judge.common.errors import DataError, did_you_mean
from mtrl_judge.common.hashing import digest, stable_hash

from .images import decode, encoded, fault_of, truncation_refused
from .prompts import question_columns, render_question
from .spec import (
    TRAIN_MEDIAN,
    IndexLabel,
    JudgeTask,
    MapLabel,
    PairLabel,
    ThresholdLabel,
    label_key,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

MAX_UNDECODABLE_SHARE = 0.01
_BATCH = 64
_PROGRESS_FROM = 2_000  # images; fewer are checked in less than two seconds


@dataclass(frozen=True)
class JudgeRow:
    """What both hosts see of an item."""

    item_id: str  # stable across runs; placement, folds and pairs hang on it
    task: str
    question: str  # rendered, with <image> where an image stands
    verdicts: tuple[str, ...]
    label: str | None  # None = unlabelled: scored by nothing
    n_images: int
    pair_id: str | None = None
    swapped: bool = False
    reasoning: str | None = None  # a good answer's, where the data has one: to learn from
    cluster: str | None = None  # what the item shares with others, which are not independent of it
    images: tuple[Image.Image, ...] = ()

    @classmethod
    def from_doc(cls, doc: Mapping[str, Any]) -> JudgeRow:
        """From one row of :func:`to_rows`, with its images where the row still has them."""
        return cls(
            item_id=doc["item_id"],
            task=doc["task"],
            question=doc["question"],
            verdicts=tuple(doc["verdicts"]),
            label=doc["label"],
            n_images=doc["n_images"],
            pair_id=doc["pair_id"],
            swapped=doc["swapped"],
            reasoning=doc["reasoning"],
            cluster=doc["cluster"],
            images=tuple(doc.get("images", ())),
        )


class Rows(NamedTuple):
    """The rows of a split and what became of its items."""

    dataset: Dataset
    """JudgeRow's fields as columns, and ``source_index``; ``images`` are decoded on access."""
    n_items: int
    undecodable: dict[str, str]
    """item id -> why it was left out"""
    known_bad: dict[str, str]
    """The same of those that the YAML leaves out."""
    fingerprint: str
    """Over the label rule, and ids, questions, labels, verdicts, reasoning and image bytes of
    the rows, in whatever order."""
    raw: Dataset
    """The raw split; a row's ``source_index`` counts in it."""
    pictures: Sequence[str]
    """For each raw row a digest of its image bytes."""


def to_rows(task: JudgeTask, split: Dataset, *, threshold: float | None = None) -> Rows:
    """Judge rows of a raw split, in its order; a pair in both orders gives two neighbours.

    Args:
        threshold: what ``train_median`` came to; see :func:`train_median`.

    Raises:
        DataError: a column is missing, a label is not covered by the rule, the question does not
            render, nothing is left, or over 1 % of the items do not decode.
    """
    check_columns(task, split)
    if len(split) == 0:
        raise DataError(f"{task.task}: the split is empty")
    texts = _texts(task, split)
    images_N, undecodable = _check_images(task, split)
    ids_N = _item_ids(task, texts, images_N)
    known_bad = _known_bad(task, ids_N)
    undecodable = {i: why for i, why in undecodable.items() if i not in known_bad}
    labels_N = labels_of(task, split, threshold=threshold)
    reasoning_N = _reasoning(task, split)
    clusters_N = _clusters(task, split, ids_N)
    _refuse_many(task, {ids_N[i]: why for i, why in undecodable.items()}, len(split))
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for index, item_id in enumerate(ids_N):
        if index in undecodable or index in known_bad:
            continue
        values = {name: column[index] for name, column in texts.items()}
        for swapped in orders(task, item_id):
            row = _row(task, item_id, values, labels_N[index], reasoning_N[index], swapped)
            row = replace(row, cluster=clusters_N[index])
            for name in _COLUMNS[:-1]:
                columns[name].append(getattr(row, name))
            columns["source_index"].append(index)
    return Rows(
        dataset=_with_images(task, columns, split),
        n_items=len(split) - len(undecodable) - len(known_bad),
        undecodable={ids_N[i]: why for i, why in undecodable.items()},
        known_bad={ids_N[i]: why for i, why in known_bad.items()},
        fingerprint=_fingerprint(task, columns, images_N),
        raw=split,
        pictures=images_N,
    )


_COLUMNS = (
    "item_id",
    "task",
    "question",
    "verdicts",
    "label",
    "n_images",
    "pair_id",
    "swapped",
    "reasoning",
    "cluster",
    "source_index",
)


def orders(task: JudgeTask, item_id: str) -> tuple[bool, ...]:
    """Whether the candidates are swapped, for each row that an item becomes.

    One order for a pointwise item; for a pair both, or the one that a hash of the item picks, so
    that a dataset whose first candidate always wins cannot be judged by position.
    """
    if task.judge.kind == "pointwise":
        return (False,)
    if task.paired:
        return (False, True)
    return (stable_hash("order", item_id) % 2 == 1,)


def _row(
    task: JudgeTask,
    item_id: str,
    values: Mapping[str, Any],
    label: str | None,
    reasoning: str | None,
    swapped: bool,
) -> JudgeRow:
    n_images = len(task.judge.images)
    try:
        question = render_question(
            task.judge.question, _placed(task, values, swapped), n_images=n_images
        )
    except DataError as error:
        raise DataError(f"{task.task}: item {item_id}: {error}") from None
    return JudgeRow(
        item_id=item_id,
        task=task.task,
        question=question,
        verdicts=task.judge.verdicts,
        label=_swap_label(task, label) if swapped else label,
        n_images=n_images,
        pair_id=item_id if task.paired else None,
        swapped=swapped,
        reasoning=reasoning,
    )


def asked_otherwise(task: JudgeTask, rows: Rows, field: str, *, exchanged: bool) -> list[str]:
    """The question of each row with one thing changed; the rows themselves stay.

    Args:
        field: whose template is rendered, one of the task's ``questions``.
        exchanged: show each row's candidates in each other's place.

    Raises:
        DataError: the template does not render.
    """
    template, n_images = task.questions[field], len(task.judge.images)
    texts = _texts(task, rows.raw, template)
    about = rows.dataset.with_format(None)
    columns = (about[name][:] for name in ("item_id", "source_index", "swapped"))
    questions = []
    for item_id, index, swapped in zip(*columns, strict=True):
        values = {name: column[index] for name, column in texts.items()}
        placed = _placed(task, values, swapped != exchanged)
        try:
            questions.append(render_question(template, placed, n_images, field))
        except DataError as error:
            raise DataError(f"{task.task}: item {item_id}: {error}") from None
    return questions


def _placed(task: JudgeTask, values: Mapping[str, Any], swapped: bool) -> Mapping[str, Any]:
    """The values a row shows: in a swapped row each candidate stands in the other's column."""
    if not swapped or task.candidates is None:
        return values
    first, second = task.candidates
    exchanged = {first: values.get(second), second: values.get(first)}
    return {**values, **{k: v for k, v in exchanged.items() if k in values}}


def _swap_label(task: JudgeTask, label: str | None) -> str | None:
    first, second, *_ = task.judge.verdicts
    return {first: second, second: first}.get(label, label) if label is not None else None


# Columns


def check_columns(task: JudgeTask, split: Dataset) -> None:
    """Refuse a split that lacks a column the YAML names.

    Raises:
        DataError: naming every missing column and what is there.
    """
    there = split.column_names
    wanted = {
        "judge.images": task.judge.images,
        **{field: sorted(question_columns(text)) for field, text in task.questions.items()},
        "judge.label.column": (task.judge.label.column,),
        "judge.id": task.judge.id or (),
        "judge.candidates": task.candidates or (),
        "judge.reasoning": (task.judge.reasoning,) if task.judge.reasoning else (),
        "judge.cluster_by": (task.judge.cluster_by,) if task.judge.cluster_by else (),
    }
    faults = [
        f"{task.path}: {field}: no column {name!r} in the data; {did_you_mean(name, there)}"
        for field, names in wanted.items()
        for name in names
        if name not in there
    ]
    if faults:
        raise DataError("\n".join([*faults, f"columns there: {', '.join(there)}"]))


def column_of(split: Dataset, name: str) -> list[Any]:
    """All values of one column that holds no image."""
    values: list[Any] = split.select_columns([name]).with_format(None)[:][name]
    return values


def _texts(task: JudgeTask, split: Dataset, template: str | None = None) -> dict[str, list[Any]]:
    """The columns that the question reads or that name an item, each N values."""
    names = question_columns(template or task.judge.question) | set(task.judge.id or ())
    names |= set(task.candidates or ())
    return {name: column_of(split, name) for name in sorted(names - set(task.judge.images))}


def _reasoning(task: JudgeTask, split: Dataset) -> list[str | None]:
    if task.judge.reasoning is None:
        return [None] * len(split)
    return [None if v is None else str(v) for v in column_of(split, task.judge.reasoning)]


def _clusters(task: JudgeTask, split: Dataset, ids_N: Sequence[str]) -> Sequence[str]:
    """A name for what each item shares with others, N; an item that shares nothing is its own."""
    column = task.judge.cluster_by
    if column is None:
        return ids_N
    if column in task.judge.images:
        place = task.judge.images.index(column)
        return [_digests([cells[place]])[:16] for cells in _cells(task, split)]
    return [digest([str(value).encode()])[:16] for value in column_of(split, column)]


def item_ids(task: JudgeTask, split: Dataset) -> list[str]:
    """The id of each raw row, N strings: the id columns, or else a hash of what is judged."""
    texts = _texts(task, split)
    digests_N = None if task.judge.id else [_digests(cells) for cells in _cells(task, split)]
    return _item_ids(task, texts, digests_N)


def _item_ids(
    task: JudgeTask, texts: Mapping[str, Sequence[Any]], images_N: Sequence[str] | None
) -> list[str]:
    n = len(images_N) if images_N is not None else len(next(iter(texts.values())))
    if task.judge.id:
        names = ["/".join(str(texts[c][i]) for c in task.judge.id) for i in range(n)]
    else:
        shown = sorted(texts)
        names = [
            digest([(images_N or [""])[i].encode(), *(str(texts[c][i]).encode() for c in shown)])[
                :16
            ]
            for i in range(n)
        ]
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return unique


# Labels


def labels_of(
    task: JudgeTask, split: Dataset, *, threshold: float | None = None
) -> list[str | None]:
    """The verdict each raw row is labelled with, N; None where its label is null.

    Raises:
        DataError: naming every value the rule does not cover, with its count.
    """
    rule = task.judge.label
    values_N = column_of(split, rule.column)
    if isinstance(rule, ThresholdLabel):
        limit = threshold if rule.threshold == TRAIN_MEDIAN else float(rule.threshold)
        if limit is None:
            raise DataError(f"{task.task}: the training split's median is needed for the labels")
        return [_above(task, value, limit) for value in values_N]
    mapped = _label_map(task)
    unknown = Counter(
        label_key(v) for v in values_N if not _is_null(v) and label_key(v) not in mapped
    )
    if unknown:
        found = ", ".join(f"{value!r} ({count} rows)" for value, count in unknown.most_common(10))
        raise DataError(
            f"{task.path}: judge.label: column {rule.column!r} has values that the rule does not "
            f"cover: {found}; covered: {', '.join(mapped)}"
        )
    return [None if _is_null(v) else mapped[label_key(v)] for v in values_N]


def _label_map(task: JudgeTask) -> dict[str, str]:
    rule, verdicts = task.judge.label, task.judge.verdicts
    if isinstance(rule, MapLabel):
        return dict(rule.map)
    if isinstance(rule, PairLabel):
        preferred = {rule.first: verdicts[0], rule.second: verdicts[1]}
        return preferred if rule.tie is None else {**preferred, rule.tie: verdicts[2]}
    assert isinstance(rule, IndexLabel)
    return {"0": verdicts[0], "1": verdicts[1]}


def _is_null(value: object) -> bool:
    return value is None or value != value  # NaN is not itself


def _above(task: JudgeTask, value: object, limit: float) -> str | None:
    if _is_null(value):
        return None
    return task.judge.verdicts[0] if _number(task, value) >= limit else task.judge.verdicts[1]


def _number(task: JudgeTask, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        column = task.judge.label.column
        raise DataError(
            f"{task.path}: judge.label: {value!r} in column {column!r} is no number"
        ) from None


def train_median(task: JudgeTask, train: Dataset) -> float | None:
    """The median that cuts the labels, where the task asks for one; nulls do not count."""
    rule = task.judge.label
    if not isinstance(rule, ThresholdLabel) or rule.threshold != TRAIN_MEDIAN:
        return None
    return median(
        _number(task, value) for value in column_of(train, rule.column) if not _is_null(value)
    )


# Images


def _cells(task: JudgeTask, split: Dataset) -> Iterator[list[Any]]:
    """The encoded image cells of each raw row, in the order of ``judge.images``."""
    encoded_only = encoded_images(task, split)
    for start in range(0, len(split), _BATCH):
        batch = encoded_only[start : start + _BATCH]
        yield from zip(*(batch[name] for name in task.judge.images), strict=True)


def encoded_images(task: JudgeTask, split: Dataset) -> Dataset:
    """The image columns alone, as encoded cells."""
    from datasets import Image as ImageFeature

    only = split.select_columns(list(task.judge.images)).with_format(None)
    for name in task.judge.images:
        if isinstance(only.features[name], ImageFeature):
            only = only.cast_column(name, ImageFeature(decode=False))
    return only


def _digests(cells: Sequence[Any]) -> str:
    chunks = []
    for cell in cells:
        try:
            chunks.append(encoded(cell))
        except (OSError, ValueError):
            chunks.append(b"")
    return digest(chunks)


def _digest_and_fault(cells: Sequence[Any]) -> tuple[str, str | None]:
    try:
        faults = [fault_of(encoded(cell)) for cell in cells]
    except (OSError, ValueError) as error:
        faults = [str(error)]
    return _digests(cells), next((fault for fault in faults if fault), None)


def _check_images(task: JudgeTask, split: Dataset) -> tuple[list[str], dict[int, str]]:
    """A digest of each item's images, N, and why the undecodable ones do not decode."""
    few = len(split) * len(task.judge.images) < _PROGRESS_FROM
    with truncation_refused(), ThreadPoolExecutor() as pool:
        checked = track(
            _mapped(pool, _cells(task, split)),
            description=f"{task.task}: checking images",
            total=len(split),
            disable=few,
            transient=True,
            console=Console(stderr=True),
        )
        results = list(checked)
    return [d for d, _ in results], {i: why for i, (_, why) in enumerate(results) if why}


def _mapped(
    pool: ThreadPoolExecutor, cells: Iterator[list[Any]]
) -> Iterator[tuple[str, str | None]]:
    """Like ``pool.map``, a few batches at a time: the images of a split need not fit in memory."""
    batch: list[list[Any]] = []
    for cell in cells:
        batch.append(cell)
        if len(batch) == 4 * _BATCH:
            yield from pool.map(_digest_and_fault, batch, chunksize=8)
            batch = []
    yield from pool.map(_digest_and_fault, batch, chunksize=8)


def _refuse_many(task: JudgeTask, undecodable: Mapping[str, str], n_items: int) -> None:
    if len(undecodable) <= MAX_UNDECODABLE_SHARE * n_items:
        return
    shown = "\n".join(f"  {item}: {why}" for item, why in list(undecodable.items())[:10])
    more = f"\n  and {len(undecodable) - 10} more" if len(undecodable) > 10 else ""
    raise DataError(
        f"{task.task}: {len(undecodable)} of {n_items} items have an image that does not decode, "
        f"over {MAX_UNDECODABLE_SHARE:.0%}:\n{shown}{more}\nfetch or prepare the data again"
    )


class _ImagesOnAccess:
    """Adds the decoded images to the rows that are read, so that no image is ever copied."""

    def __init__(self, task: JudgeTask, cells: Dataset) -> None:
        self.images = task.judge.images
        self.candidates = task.candidates
        self.cells = cells

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if "source_index" not in batch or "swapped" not in batch:
            return batch
        pictures = [
            self._pictures(index, swapped)
            for index, swapped in zip(batch["source_index"], batch["swapped"], strict=True)
        ]
        return {**batch, "images": pictures}

    def _pictures(self, index: int, swapped: bool) -> list[Image.Image]:
        cells = self.cells[index]
        names = list(self.images)
        if swapped and self.candidates and self.candidates[0] in cells:
            other = dict(zip(self.candidates, reversed(self.candidates), strict=True))
            names = [other.get(name, name) for name in names]
        return [decode(encoded(cells[name])) for name in names]


def _with_images(task: JudgeTask, columns: dict[str, list[Any]], split: Dataset) -> Dataset:
    from datasets import Dataset, Features, List, Value

    kinds = {"n_images": "int32", "swapped": "bool", "source_index": "int64"}
    features = Features(
        {
            name: List(Value("string")) if name == "verdicts" else Value(kinds.get(name, "string"))
            for name in _COLUMNS
        }
    )
    columns["verdicts"] = [list(verdicts) for verdicts in columns["verdicts"]]
    rows = Dataset.from_dict(columns, features=features)
    rows.set_transform(_ImagesOnAccess(task, encoded_images(task, split)))
    return rows


def _known_bad(task: JudgeTask, ids_N: Sequence[str]) -> dict[int, str]:
    """The raw rows that the YAML leaves out, with its reason."""
    reasons = {bad.item: bad.reason for bad in task.judge.known_bad}
    return {index: reasons[name] for index, name in enumerate(ids_N) if name in reasons}


def _fingerprint(
    task: JudgeTask, columns: Mapping[str, Sequence[Any]], images_N: Sequence[str]
) -> str:
    """The rule counts beside its labels: another rule is another task, even where none differs."""
    rows = sorted(
        "\x1f".join(
            [
                *(str(columns[name][i]) for name in ("item_id", "swapped", "question")),
                *(str(columns[name][i]) for name in ("label", "verdicts")),
                *filter(None, [columns["reasoning"][i]]),
                images_N[columns["source_index"][i]],
            ]
        )
        for i in range(len(columns["item_id"]))
    )
    rule = task.judge.label.model_dump_json()
    return digest(part.encode() for part in (rule, *rows))[:16]
