"""Raw rows to judge rows: questions, labels, both orders of a pair, images that can be shown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mtrl_judge.common.errors import DataError
from mtrl_judge.common.hashing import digest
from mtrl_judge.metrics.human import HumanRating

from .facts import Fact, compared_with_prompt, from_cells, to_cells
from .fields import label_key
from .images import encoded, shown
from .prompts import Rendered, instruction
from .raw_split import RawSplit, Repeats
from .row_renderer import RowRenderer
from .spec import JudgeTask

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

MAX_UNDECODABLE_SHARE = 0.01


@dataclass(frozen=True)
class JudgeRow:
    """What both hosts, lmms-eval and TRL, see of an item."""

    item_id: str  # stable across runs; orders, folds and pairs depend on it
    task: str
    kind: str  # of the task; decides how an answer is read and scored
    question: str  # rendered, with <image> where an image stands
    verdicts: tuple[str, ...]
    label: str | None  # None = unlabeled: scored by nothing
    n_images: int
    pair_id: str | None = None
    swapped: bool = False
    reasoning: str | None = None  # of a good answer, where the data has one: to learn from
    cluster: str | None = None  # names what the item shares with others that depend on it
    group: str | None = None  # by which results are also reported, such as a category
    joint: str | None = None  # names the rows that have to be right together
    candidates: tuple[str, ...] = ()  # of pairs, names by content in the dataset's order
    human: HumanRating | None = None  # what people thought of it
    facts: tuple[Fact, ...] = ()  # what it shows, to look for in the reasoning; never in a prompt
    images: tuple[Image.Image, ...] = ()
    demonstrations: tuple[JudgeRow, ...] = ()  # labeled rows that its prompt shows solved first

    @property
    def prompt_images(self) -> list[Image.Image]:
        """All images of the prompt in order: those of the demonstrations, and its own."""
        return [image for row in (*self.demonstrations, self) for image in row.images]

    @classmethod
    def from_doc(cls, doc: Mapping[str, Any]) -> JudgeRow:
        """From one row of :func:`to_rows`, with its images where the row still has them."""
        human = doc.get("human")
        return cls(
            item_id=doc["item_id"],
            task=doc["task"],
            kind=doc["kind"],
            question=doc["question"],
            verdicts=tuple(doc["verdicts"]),
            label=doc["label"],
            n_images=doc["n_images"],
            pair_id=doc["pair_id"],
            swapped=doc["swapped"],
            reasoning=doc["reasoning"],
            cluster=doc["cluster"],
            group=doc.get("group"),
            joint=doc.get("joint"),
            candidates=tuple(doc.get("candidates") or ()),
            human=human and HumanRating(*json.loads(human)),
            facts=from_cells(doc.get("facts") or ()),
            images=tuple(doc.get("images", ())),
            demonstrations=tuple(map(cls.from_doc, doc.get("demonstrations", ()))),
        )


class FactCounts(NamedTuple):
    """The facts of the rows of a split."""

    rows: int
    """Rows with facts that count."""
    facts: int
    """Facts that count, of all rows."""
    in_question: int
    """Facts that do not count, since the prompt itself mentions them."""
    fingerprint: str
    """A hash of the facts of all rows. It is not part of the rows' own: facts change what is
    measured, not what is answered."""


class Rows(NamedTuple):
    """The judge rows of a split and what became of its items."""

    dataset: Dataset
    """The fields of :class:`JudgeRow` as columns; ``source_index``, the row's index in ``raw``;
    ``order``, by how many places its candidates are rotated;
    ``image_order``, which of its images are shown, in order. ``images`` are decoded on access."""
    raw: RawSplit
    undecodable: dict[str, str]
    """Item id -> why it was left out."""
    known_bad: dict[str, str]
    """The same for the items that the YAML leaves out."""
    fingerprint: str
    """A hash of the label rule and of the rows' ids, questions, labels, verdicts, reasoning and
    image bytes; it does not depend on the order of rows."""
    data_fingerprint: str
    """A hash of the data alone: ids, orders, images, the columns that the question reads, and those
    of labels, whatever the question and the label rule make of them."""
    repeats: Repeats
    facts: FactCounts | None
    """None where nothing says what the items show."""

    @property
    def n_items(self) -> int:
        """Items that are judged; a pair in both orders is one."""
        return len(self.raw) - len(self.undecodable) - len(self.known_bad)


def to_rows(raw: RawSplit, threshold: float | None = None) -> Rows:
    """Judge rows of a raw split, in its order; a pair in both orders gives two neighbors.

    Args:
        threshold: the median of the training split (:meth:`RawSplit.train_median`), where the
            label rule asks for it.

    Raises:
        DataError: a label is not covered by the rule, the question does not render, the split is
            empty, or more than 1 % of the items have an image that cannot be shown to a judge.
    """
    task = raw.task
    if len(raw) == 0:
        raise DataError(f"{task.task}: the split is empty")
    # Before the ids, which need the digests that come with this check.
    faults = raw.faults
    reasons = {bad.item: bad.reason for bad in task.judge.known_bad}
    known_bad = {item: reasons[item] for item in raw.ids if item in reasons}
    undecodable = {raw.ids[i]: why for i, why in faults.items() if raw.ids[i] not in reasons}
    _refuse_many(task, undecodable, len(raw))
    labels_N = raw.labels(threshold)
    kept = [
        (index, order)
        for index, item in enumerate(raw.ids)
        if item not in undecodable and item not in known_bad
        for order in task.kind.orders(task.judge, item, raw.n_candidates[index])
    ]
    ids = row_ids(raw, kept)
    verdicts_N = raw.verdicts
    reasoning_N, clusters_N = raw.reasoning, raw.clusters
    groups_N, joint_N, human_N = raw.groups, raw.joint, raw.human
    rendered = _rendered(raw, "judge.question", kept)
    questions = [question for question, _ in rendered]
    facts = _facts(raw, kept, questions)
    columns: dict[str, list[Any]] = {
        "item_id": ids,
        "task": [task.task] * len(kept),
        "kind": [task.judge.kind] * len(kept),
        "question": questions,
        "verdicts": [list(verdicts_N[index]) for index, _ in kept],
        "label": [
            task.kind.presented(labels_N[index], verdicts_N[index], order) for index, order in kept
        ],
        "n_images": [len(images) for _, images in rendered],
        "pair_id": ids if task.paired else [None] * len(kept),
        "swapped": [task.kind.compares and order > 0 for _, order in kept],
        "reasoning": [reasoning_N[index] for index, _ in kept],
        "cluster": [clusters_N[index] for index, _ in kept],
        "group": [groups_N[index] for index, _ in kept],
        "joint": [joint_N[index] for index, _ in kept],
        "candidates": [raw.candidate_names[index] for index, _ in kept],
        # As text, so that a table of rows has the same columns for every task.
        "human": [rating and json.dumps(rating) for rating in (human_N[i] for i, _ in kept)],
        "facts": [to_cells(of_row) for of_row in facts],
        "source_index": [index for index, _ in kept],
        "order": [order for _, order in kept],
        "image_order": [images for _, images in rendered],
    }
    return Rows(
        dataset=_with_images(raw, columns),
        raw=raw,
        undecodable=undecodable,
        known_bad=known_bad,
        fingerprint=_fingerprint(raw, columns),
        data_fingerprint=_data_fingerprint(raw, columns),
        repeats=raw.repeats(labels_N),
        facts=_fact_counts(kept, facts, ids) if raw.has_facts else None,
    )


class _DemonstrationsOnAccess:
    """Adds the demonstrations to the rows that are read, with their images."""

    def __init__(self, images: Any, pool: Dataset) -> None:
        self.images, self.pool = images, pool
        ids = pool.with_format(None)["item_id"][:]
        self.numbers = {item: number for number, item in enumerate(ids)}

    def __deepcopy__(self, memo: dict[int, Any]) -> _DemonstrationsOnAccess:
        """`datasets` copies a transform with its dataset."""
        return self

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        batch = self.images(batch)
        if DEMONSTRATION_IDS not in batch or "images" not in batch:
            return batch  # a column was read on its own
        found = [[self.pool[self.numbers[i]] for i in ids] for ids in batch[DEMONSTRATION_IDS]]
        return {**batch, "demonstrations": found}


DEMONSTRATION_IDS = "demonstration_ids"
"""The column with the items that a row's prompt shows solved, where there are any."""


def with_demonstrations(rows: Rows, pool: Dataset, ids_N: Sequence[Sequence[str]]) -> Rows:
    """The rows, each with its demonstrations.

    Args:
        pool: labeled rows, one of each item.
        ids_N: for each of N rows the items of the pool, in the order in which they are shown.
    """
    from datasets import List, Value

    about = rows.dataset.with_format(None)
    values: list[Any] = [[*ids] for ids in ids_N]
    dataset = about.add_column(DEMONSTRATION_IDS, values, feature=List(Value("string")))
    transform = _DemonstrationsOnAccess(_ImagesOnAccess(rows.raw), pool)
    return rows._replace(dataset=dataset.with_transform(transform))


def render_variant(rows: Rows, field: str, *, exchanged: bool = False) -> list[Rendered]:
    """The question of each row with one thing changed; the rows themselves stay as they are.

    Args:
        field: whose template is rendered, one of the task's ``questions``.
        exchanged: rotate each row's candidates by one more place, so that those of a pair exchange
            theirs.

    Raises:
        DataError: the template does not render.
    """
    about = rows.dataset.with_format(None)
    kept = zip(about["source_index"][:], about["order"][:], strict=True)
    return _rendered(rows.raw, field, ((index, order + exchanged) for index, order in kept))


def row_ids(raw: RawSplit, kept: Sequence[tuple[int, int]]) -> list[str]:
    """The id of the item that each row is of; both rows of a pair have the same.

    Of several candidates in all cyclic orders, the rows that are rotated by n places have @n after
    the id.
    """
    if raw.task.judge.orders != "cyclic":
        return [raw.ids[index] for index, _ in kept]
    return [f"{raw.ids[index]}@{order}" if order else raw.ids[index] for index, order in kept]


def _rendered(raw: RawSplit, field: str, kept: Iterable[tuple[int, int]]) -> list[Rendered]:
    """The rendered question of each (index in the raw split, places to rotate candidates by)."""
    renderer = RowRenderer(raw, field)
    return [render_row(raw, renderer, index, order) for index, order in kept]


def render_row(raw: RawSplit, renderer: RowRenderer, index: int, order: int) -> Rendered:
    """The question of one row.

    Args:
        index: of its item in the raw split.
        order: by how many places its candidates are rotated.

    Raises:
        DataError: the template does not render.
    """
    number = raw.n_candidates[index]
    shown = [(place + order) % number for place in range(number)]
    try:
        return renderer.render(index, shown if any(shown[:1]) else None)
    except DataError as error:
        raise DataError(f"{raw.task.task}: item {raw.ids[index]}: {error}") from None


def _facts(
    raw: RawSplit, kept: Sequence[tuple[int, int]], questions: Sequence[str]
) -> list[tuple[Fact, ...]]:
    """The facts of each row, compared with the prompt in the style that asks for reasoning."""
    judge = raw.task.judge
    facts = []
    for (index, _), question in zip(kept, questions, strict=True):
        of_row = raw.facts[index]
        if of_row:
            prompt = f"{question}\n\n{instruction(judge.kind, raw.verdicts[index], 'reasoned')}"
            of_row = compared_with_prompt(of_row, prompt)
        facts.append(of_row)
    return facts


def _fact_counts(
    kept: Sequence[tuple[int, int]], facts: Sequence[tuple[Fact, ...]], ids: Sequence[str]
) -> FactCounts:
    counting = [sum(not fact.in_question for fact in of_row) for of_row in facts]
    rows = sorted(
        json.dumps([item, order > 0, to_cells(of_row)])
        for (_, order), item, of_row in zip(kept, ids, facts, strict=True)
    )
    return FactCounts(
        rows=sum(count > 0 for count in counting),
        facts=sum(counting),
        in_question=sum(map(len, facts)) - sum(counting),
        fingerprint=digest(row.encode() for row in rows)[:16],
    )


def _refuse_many(task: JudgeTask, undecodable: Mapping[str, str], n_items: int) -> None:
    if len(undecodable) <= MAX_UNDECODABLE_SHARE * n_items:
        return
    listed = "\n".join(f"  {item}: {why}" for item, why in list(undecodable.items())[:10])
    more = f"\n  and {len(undecodable) - 10} more" if len(undecodable) > 10 else ""
    raise DataError(
        f"{task.task}: {len(undecodable)} of {n_items} items have an image that cannot be shown to "
        f"a judge, more than {MAX_UNDECODABLE_SHARE:.0%}:\n{listed}{more}\n"
        "get the data again, or leave the items out with judge.known_bad"
    )


class _ImagesOnAccess:
    """Adds the decoded images to the rows that are read, so that no image is ever copied."""

    def __init__(self, raw: RawSplit) -> None:
        self.raw = raw

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if "source_index" not in batch or "image_order" not in batch:
            return batch
        images = []
        for index, order in zip(batch["source_index"], batch["image_order"], strict=True):
            cells = self.raw.image_cells(index) if order else []
            images.append([shown(encoded(cells[image], self.raw.folder)) for image in order])
        return {**batch, "images": images}


def _with_images(raw: RawSplit, columns: Mapping[str, Sequence[Any]]) -> Dataset:
    from datasets import Dataset, Features, List, Value

    types = {"n_images": "int32", "swapped": "bool", "source_index": "int64", "order": "int32"}
    texts = List(Value("string"))
    fact = {"phrase": Value("string"), "instead": texts, "in_question": Value("bool")}
    lists = {
        "verdicts": texts,
        "candidates": texts,
        "facts": List(fact),
        "image_order": List(Value("int32")),
    }
    features = Features(
        {name: lists.get(name) or Value(types.get(name, "string")) for name in columns}
    )
    rows = Dataset.from_dict(dict(columns), features=features)
    rows.set_transform(_ImagesOnAccess(raw))
    return rows


def _fingerprint(raw: RawSplit, columns: Mapping[str, Sequence[Any]]) -> str:
    """The rule is part of it: another rule is another task, even where no label differs."""
    names = ("item_id", "swapped", "question", "label", "verdicts", "reasoning", "source_index")
    rows = sorted(
        "\x1f".join(
            [
                *map(str, (item, swapped, question, label, verdicts)),
                *filter(None, [reasoning]),
                raw.digests[index],
            ]
        )
        for item, swapped, question, label, verdicts, reasoning, index in zip(
            *(columns[name] for name in names), strict=True
        )
    )
    rule = raw.task.judge.label.identity
    return digest(part.encode() for part in (rule, *rows))[:16]


def _data_fingerprint(raw: RawSplit, columns: Mapping[str, Sequence[Any]]) -> str:
    texts = list(raw.texts().values())
    labels_N = raw.label_values
    rows = sorted(
        digest(
            str(part).encode()
            for part in (
                item,
                swapped,
                raw.digests[index],
                label_key(labels_N[index]),
                *(values[index] for values in texts),
            )
        )
        for item, swapped, index in zip(
            *(columns[name] for name in ("item_id", "swapped", "source_index")), strict=True
        )
    )
    return digest(row.encode() for row in rows)[:16]
