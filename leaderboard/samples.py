"""Items for reading: what was asked and shown, what each judge answered, and which are wrong."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.judge_tasks.loading import find_task, load_judge_task, peek
from mtrl_judge.judge_tasks.prompts import instruction
from mtrl_judge.judge_tasks.rows import JudgeRow, Rows
from mtrl_judge.judge_tasks.sources import find_source, load_rows
from mtrl_judge.judge_tasks.spec import SPLITS, STYLES, JudgeTask
from mtrl_judge.metrics.rates import PairCount
from mtrl_judge.metrics.records import Pair, pair_counts

from .runs import Run, Sample, TaskResult

if TYPE_CHECKING:
    from PIL import Image

ITEMS_PER_TASK = 20
_THUMBNAIL = 160  # pixels, the longer side
# The reasoned form, in the spellings that the parser accepts as well-formed.
_REASONED = re.compile(
    r"\s*[<＜]\s{0,4}think\s{0,4}[>＞](.*)[<＜]\s{0,4}/\s{0,4}think\s{0,4}[>＞]"
    r"\s*[<＜]\s{0,4}answer\s{0,4}[>＞](.*)[<＜]\s{0,4}/\s{0,4}answer\s{0,4}[>＞]\s*"
    r"(?:<confidence>[^<]{0,20}</confidence>\s*)?",
    re.IGNORECASE | re.DOTALL,
)


class Answer(NamedTuple):
    """What one judge answered for an item, in one order of a pair."""

    sample: Sample
    wrong: bool
    """As in all rates, a missing verdict is wrong, and nothing is wrong without a label or whose
    request failed."""

    @property
    def parts(self) -> tuple[str, str]:
        """The reasoning, empty unless the text has the required form, and what the verdict was
        read from: the answer part, or the whole text."""
        text = self.sample.text
        match = _REASONED.fullmatch(text) if self.sample.record.well_formed else None
        return (match[1].strip(), match[2].strip()) if match else ("", text.strip())

    @property
    def confidence(self) -> str:
        """Probabilities or votes, if there are any."""
        probabilities = (self.sample.probabilities or {}).items()
        shares = ", ".join(f"P({verdict}) = {p:.2f}" for verdict, p in probabilities)
        votes = Counter(self.sample.votes).most_common()
        counts = ", ".join(f"{vote or 'none'} {n}" for vote, n in votes)
        return "; ".join(filter(None, (shares, counts and f"votes: {counts}")))


class Order(NamedTuple):
    """An item as judges saw it; a pair judged in both orders has two."""

    swapped: bool
    label: str | None
    question: str
    answers: Mapping[str, Answer]
    """By judge."""
    images: tuple[str, ...] = ()
    """Thumbnails in the order shown, as `data:` addresses; empty if the data is not available."""


class Item(NamedTuple):
    """What was judged, in one or two orders."""

    item_id: str
    orders: tuple[Order, ...]
    flags: Mapping[str, Sequence[str]]
    """For each judge, which of wrong, null, failed and flipped apply to it."""

    @property
    def disagreed(self) -> bool:
        """Whether two judges differ in an order; a missing verdict differs from every verdict."""
        records = [
            [answer.sample.record for answer in order.answers.values()] for order in self.orders
        ]
        return any(len({r.verdict for r in order if not r.failed}) > 1 for order in records)


class TaskItems(NamedTuple):
    """The selected items of one task."""

    task: str
    items: Sequence[Item]
    of: int
    """How many there are."""
    notes: Sequence[str]
    """What readers should know, such as why there are no images."""

    @property
    def question(self) -> str:
        """The question of all items; empty if they have different ones."""
        questions = {order.question for item in self.items for order in item.orders}
        return next(iter(questions)) if len(questions) == 1 else ""


def select_items(
    runs: Sequence[Run],
    tasks: Iterable[str],
    *,
    include: Sequence[Path] = (),
    limit: int = ITEMS_PER_TASK,
) -> list[TaskItems]:
    """The most informative items of each task, the same for the same runs.

    Items on which judges disagree come first, then those that some judge gets wrong, leaves without
    a verdict or flips, then the others. Among these, each combination of wrong, null and flipped
    takes its turn, and a hash picks its items.

    Args:
        include: folders with YAMLs of tasks (or the YAMLs), for tasks that are not shipped.

    Raises:
        JudgeError: a path in `include` does not exist.
    """
    check_include(include)
    selected = []
    for task in tasks:
        found, rows = all_items(runs, task, include)
        items = found.items[:limit]
        if rows is not None:
            items = [_with_thumbnails(item, rows) for item in items]
        selected.append(found._replace(items=items))
    return selected


def check_include(include: Sequence[Path]) -> None:
    """
    Raises:
        JudgeError: one of these paths does not exist.
    """
    for path in include:
        if not path.exists():
            raise JudgeError(f"--include-path: no folder or YAML {path}")


def all_items(
    runs: Sequence[Run], task: str, include: Sequence[Path]
) -> tuple[TaskItems, JudgedRows | None]:
    """All items of a task in the order of :func:`select_items`, without their images, and the rows
    that were judged; None, with a note that says why, if these are not available."""
    results = {run.name: run.tasks[task] for run in runs if task in run.tasks}
    items = _ordered(task, _items(results))
    if not items:
        notes = ["Its rows are unknown: the file reports only rates."]
        return TaskItems(task, (), 0, notes), None
    notes = [
        f"{name} was evaluated with the perturbation {result.metadata['perturbation']}: the images "
        "shown here may not be what it saw."
        for name, result in results.items()
        if result.metadata.get("perturbation")
    ]
    rows = None
    try:
        paired = any(result.paired for result in results.values())
        rows = JudgedRows(_load_rows(task, list(results.values()), include), paired)
    except JudgeError as error:
        notes.append(f"No images: {' '.join(str(error).split())}")
    return TaskItems(task, items, len(items), notes), rows


def _items(results: Mapping[str, TaskResult]) -> list[Item]:
    """All items of a task, without their images."""
    answers: dict[str, dict[bool, dict[str, Answer]]] = {}
    for name, result in results.items():
        for sample in result.samples:
            judged = sample.record.label is not None and not sample.record.failed
            wrong = judged and not result.is_correct(sample.record)
            of_item = answers.setdefault(sample.item_id, {})
            of_item.setdefault(sample.record.swapped, {})[name] = Answer(sample, wrong)
    items = []
    for item_id, of_item in answers.items():
        orders = []
        for swapped, by_judge in sorted(of_item.items()):
            questions = (_question(a.sample, results[name]) for name, a in by_judge.items())
            label = next(iter(by_judge.values())).sample.record.label
            orders.append(Order(swapped, label, next(filter(None, questions), ""), by_judge))
        judges = dict.fromkeys(name for order in orders for name in order.answers)
        flags = {name: _flags(name, orders, results[name]) for name in judges}
        items.append(Item(item_id, tuple(orders), flags))
    return items


def _flags(judge: str, orders: Sequence[Order], result: TaskResult) -> list[str]:
    answers = [order.answers[judge] for order in orders if judge in order.answers]
    records = [answer.sample.record for answer in answers]
    states = {record.state for record in records}
    complete = result.paired and len(records) == 2 and "failed" not in states
    pair = Pair(*records) if complete else None
    flags = {
        "wrong": any(answer.wrong for answer in answers),
        "null": not states.isdisjoint({"null", "refused"}),
        "failed": "failed" in states,
        "flipped": pair and pair_counts(pair, result.verdicts)[PairCount.FLIPPED],
    }
    return [flag for flag, applies in flags.items() if applies]


def _question(sample: Sample, result: TaskResult) -> str:
    """The prompt without the instruction how to answer, which all items share."""
    question = sample.input
    for style in STYLES:
        question = question.removesuffix(instruction(result.kind.name, result.verdicts, style))
    return question.strip()


def _ordered(task: str, items: Sequence[Item]) -> list[Item]:
    """The items in the order in which they are worth reading."""
    turns: Counter[object] = Counter()
    keyed = []
    for item in sorted(items, key=lambda item: stable_hash("read", task, ascii(item.item_id))):
        flags = sorted({flag for flags in item.flags.values() for flag in flags})
        tier = 0 if item.disagreed else 1 if flags else 2
        keyed.append((tier, turns[tier, *flags], flags, item))
        turns[tier, *flags] += 1
    return [item for *_, item in sorted(keyed, key=lambda entry: entry[:3])]


# The data behind the items


class JudgedRows:
    """The rows that were judged, by item and order."""

    def __init__(self, rows: Rows, paired: bool) -> None:
        self._dataset, self._paired = rows.dataset, paired
        columns = rows.dataset.with_format(None)
        # A pair judged in one order has that order in its row, and none in its sample.
        keys = zip(columns["item_id"][:], columns["swapped"][:], strict=True)
        self._index_of = {(item, swapped and paired): i for i, (item, swapped) in enumerate(keys)}

    def row(self, item_id: str, swapped: bool) -> JudgeRow | None:
        """With its images decoded; None for an item that the data does not have."""
        index = self._index_of.get((item_id, swapped and self._paired))
        return None if index is None else JudgeRow.from_doc(self._dataset[index])


def _with_thumbnails(item: Item, rows: JudgedRows) -> Item:
    """The item with the images of its first order."""
    first, *others = item.orders
    row = rows.row(item.item_id, first.swapped)
    if row is None:
        return item
    return item._replace(
        orders=(first._replace(images=tuple(map(_thumbnail, row.images))), *others)
    )


def _load_rows(name: str, results: Sequence[TaskResult], include: Sequence[Path]) -> Rows:
    """The rows that were judged.

    Raises:
        JudgeError: they are not available, or those that are available are others.
    """

    def stated(key: str) -> set[str]:
        return {result.metadata[key] for result in results if result.metadata.get(key) is not None}

    fingerprints = stated("fingerprint")
    if len(fingerprints) != 1:
        raise JudgeError(
            "the runs judged different rows" if fingerprints else "the results have no fingerprint"
        )
    task = _find(name, include)
    if find_source(task).kind == "hub" and "hub" not in stated("source"):
        raise JudgeError("the rows came from a folder; name it with --data-root")
    split = next((split for split in SPLITS if split in stated("split")), task.evaluation_split)
    loaded = load_rows(task, split)
    if loaded.rows.fingerprint not in fingerprints:
        raise JudgeError(
            f"the rows in {loaded.record['location']} have the fingerprint "
            f"{loaded.rows.fingerprint}; expected {fingerprints.pop()}"
        )
    return loaded.rows


def _find(name: str, include: Sequence[Path]) -> JudgeTask:
    """As in lmms-eval, an included task takes precedence over a shipped one of the same name."""
    for path in include:
        for file in [path] if path.is_file() else sorted(path.rglob("*.yaml")):
            raw = peek(file)
            if raw is not None and raw.get("task") == name:
                return load_judge_task(file)
    return find_task(name)


def _thumbnail(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=78, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
