"""Items to read: what was asked and shown, what each judge wrote, and what is wrong with it."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.judge_tasks.loading import find_task, load_judge_task, peek
from mtrl_judge.judge_tasks.prompts import IMAGE_MARK, instruction
from mtrl_judge.judge_tasks.rows import Rows
from mtrl_judge.judge_tasks.sources import find_source, load_rows
from mtrl_judge.judge_tasks.spec import SPLITS, STYLES, JudgeTask
from mtrl_judge.metrics.rates import PairCount
from mtrl_judge.metrics.records import Pair, Record, pair_counts

from .runs import Judged, Run

if TYPE_CHECKING:
    from PIL import Image

ITEMS_A_TASK = 20
_THUMBNAIL = 160  # pixels, the longer side
_REASONED = re.compile(
    r"\s*[<＜]\s{0,4}think\s{0,4}[>＞](.*)[<＜]\s{0,4}/\s{0,4}think\s{0,4}[>＞]"
    r"\s*[<＜]\s{0,4}answer\s{0,4}[>＞](.*)[<＜]\s{0,4}/\s{0,4}answer\s{0,4}[>＞]\s*",
    re.IGNORECASE | re.DOTALL,
)


class Answer(NamedTuple):
    """What one judge wrote of an item, in one order of a pair."""

    label: str | None
    verdict: str | None
    reasoning: str
    """Empty where the text is not in the required form."""
    rest: str
    """What the verdict was read from: the answer part, or the whole text."""
    sureness: str
    """Probabilities or votes, where there are any."""

    @property
    def null(self) -> bool:
        return self.verdict is None

    @property
    def wrong(self) -> bool:
        """As in all rates: no verdict is wrong, and nothing is where there is no label."""
        return self.label is not None and self.verdict != self.label


class View(NamedTuple):
    """An item as it was put to the judges; a pair judged in both orders has two."""

    swapped: bool
    question: str
    label: str | None
    pictures: tuple[str, ...]
    """Thumbnails in the order shown, as `data:` addresses; empty where the data is not at hand."""
    answers: Mapping[str, Answer]
    """By judge."""


class Item(NamedTuple):
    """What was judged in one or two orders."""

    item_id: str
    views: tuple[View, ...]
    flipped: frozenset[str]
    """The judges whose verdicts in the two orders do not name the same one."""

    @property
    def judges(self) -> list[str]:
        return list(dict.fromkeys(name for view in self.views for name in view.answers))

    @property
    def disagreed(self) -> bool:
        """Whether two judges of one view differ; no verdict differs from any."""
        return any(len({a.verdict for a in view.answers.values()}) > 1 for view in self.views)

    def flags(self, judge: str) -> list[str]:
        """What of wrong, null and flipped the judge is."""
        own = [view.answers[judge] for view in self.views if judge in view.answers]
        found = {
            "wrong": any(answer.wrong for answer in own),
            "null": any(answer.null for answer in own),
            "flipped": judge in self.flipped,
        }
        return [name for name, holds in found.items() if holds]


class TaskItems(NamedTuple):
    """The items of one task that are shown."""

    task: str
    items: Sequence[Item]
    of: int
    """How many there are."""
    notes: Sequence[str]
    """What the reader must know of them, such as why they have no pictures."""

    @property
    def question(self) -> str:
        """What is asked of every one of them; empty where they are asked different things."""
        asked = {view.question for item in self.items for view in item.views}
        return next(iter(asked)) if len(asked) == 1 else ""


def items_to_read(
    runs: Sequence[Run],
    tasks: Iterable[str],
    *,
    include: Sequence[Path] = (),
    most: int = ITEMS_A_TASK,
) -> list[TaskItems]:
    """The items of each task that show most, the same for the same runs.

    Those that judges disagree on come first, then those that some judge has wrong, without a
    verdict or flipped, then the others. Within these, every kind (with and without each of wrong,
    null and flipped) has its turn, and a hash picks among its items.

    Args:
        include: folders with YAMLs of tasks (or the YAMLs), for tasks that are not shipped.

    Raises:
        JudgeError: one of `include` is not there.
    """
    for path in include:
        if not path.exists():
            raise JudgeError(f"--include-path: no folder or YAML {path}")
    return [_task_items(runs, task, include, most) for task in tasks]


def _task_items(runs: Sequence[Run], task: str, include: Sequence[Path], most: int) -> TaskItems:
    judged = {run.name: run.tasks[task] for run in runs if task in run.tasks}
    found = _items(judged)
    chosen = _chosen(task, found)[:most]
    if not chosen:
        return TaskItems(task, (), 0, ["Its rows are not known: only rates were stated of it."])
    notes = [
        f"{name} was evaluated with the perturbation {each.about['perturbation']}: the images and "
        "texts shown here are not what it saw."
        for name, each in judged.items()
        if each.about.get("perturbation")
    ]
    try:
        data = _Data(task, list(judged.values()), include)
    except JudgeError as error:
        why = " ".join(str(error).split())
        return TaskItems(task, chosen, len(found), [*notes, f"No pictures: {why}"])
    return TaskItems(task, [data.shown(item) for item in chosen], len(found), notes)


def _items(judged: Mapping[str, Judged]) -> list[Item]:
    """All items of a task, without what only the data has."""
    views: dict[str, dict[bool, View]] = {}
    for name, each in judged.items():
        for place, (item_id, record) in enumerate(zip(each.item_ids, each.records, strict=True)):
            own = views.setdefault(item_id, {})
            if record.swapped not in own:
                question = _question(each, place)
                own[record.swapped] = View(record.swapped, question, record.label, (), {})
            view = own[record.swapped]
            if not view.question:
                view = own[record.swapped] = view._replace(question=_question(each, place))
            answers = {**view.answers, name: _answer(each, place)}
            own[record.swapped] = view._replace(answers=answers)
    return [
        Item(item_id, tuple(own[swapped] for swapped in sorted(own)), _flipped(own, judged))
        for item_id, own in views.items()
    ]


def _question(judged: Judged, place: int) -> str:
    """What was asked, less how to answer, which is the same for all."""
    if not judged.inputs:
        return ""
    asked = judged.inputs[place]
    for style in STYLES:
        asked = asked.removesuffix(instruction(judged.about["verdicts"], style))
    return asked.strip()


def _answer(judged: Judged, place: int) -> Answer:
    record = judged.records[place]
    text = judged.texts[place] if judged.texts else ""
    parts = _REASONED.fullmatch(text) if record.well_formed else None
    reasoning, rest = parts.groups() if parts else ("", text)
    sureness = []
    if judged.probabilities is not None:
        odds = judged.probabilities[place].items()
        sureness.append(", ".join(f"P({verdict}) = {share:.2f}" for verdict, share in odds))
    if judged.votes is not None and judged.votes[place]:
        counts = Counter(judged.votes[place]).most_common()
        sureness.append("votes: " + ", ".join(f"{vote or 'none'} {n}" for vote, n in counts))
    return Answer(
        record.label, record.verdict, reasoning.strip(), rest.strip(), "; ".join(sureness)
    )


def _flipped(views: Mapping[bool, View], judged: Mapping[str, Judged]) -> frozenset[str]:
    if len(views) < 2:
        return frozenset()
    both = views[False].answers.keys() & views[True].answers.keys()
    return frozenset(name for name in both if _is_flipped(name, views, judged[name]))


def _is_flipped(name: str, views: Mapping[bool, View], judged: Judged) -> bool:
    if not judged.about.get("paired"):
        return False
    straight, swapped = (
        Record(views[order].answers[name].label, views[order].answers[name].verdict)
        for order in (False, True)
    )
    counts = pair_counts(Pair(straight, swapped), judged.about["verdicts"])
    return bool(counts[PairCount.FLIPPED])


def _chosen(task: str, items: Sequence[Item]) -> list[Item]:
    """The items in the order in which they are to be read."""
    turns: Counter[object] = Counter()
    keyed = []
    for item in sorted(items, key=lambda item: stable_hash("read", task, ascii(item.item_id))):
        kind = frozenset(flag for judge in item.judges for flag in item.flags(judge))
        tier = 0 if item.disagreed else 1 if kind else 2
        keyed.append((tier, turns[tier, kind], sorted(kind), item))
        turns[tier, kind] += 1
    return [item for *_, item in sorted(keyed, key=lambda each: each[:3])]


# The data behind the items


class _Data:
    """The rows that were judged, where they are at hand.

    Raises:
        JudgeError: they are not, or those at hand are others.
    """

    def __init__(self, name: str, judged: Sequence[Judged], include: Sequence[Path]) -> None:
        self.rows = _rows_of(name, judged, include)
        about = self.rows.dataset.with_format(None)
        self.paired = any(each.about.get("paired") for each in judged)
        ids, swapped = about["item_id"][:], about["swapped"][:]
        self.places = {
            self._key(item_id, order): place
            for place, (item_id, order) in enumerate(zip(ids, swapped, strict=True))
        }

    def _key(self, item_id: str, swapped: bool) -> tuple[str, bool]:
        # A pair judged in one order has that order in its row, and none in its sample.
        return item_id, swapped and self.paired

    def shown(self, item: Item) -> Item:
        """The item with its question as the data has it, and the pictures of its first view."""
        first, *others = item.views
        views = (self._with_row(first, item, True), *(self._with_row(v, item) for v in others))
        return item._replace(views=views)

    def _with_row(self, view: View, item: Item, pictures: bool = False) -> View:
        place = self.places.get(self._key(item.item_id, view.swapped))
        if place is None:
            return view
        question = _numbered(self.rows.dataset.with_format(None)[place]["question"])
        if not pictures:
            return view._replace(question=question)
        shown = tuple(map(_thumbnail, self.rows.dataset[place]["images"]))
        return view._replace(question=question, pictures=shown)


def _rows_of(name: str, judged: Sequence[Judged], include: Sequence[Path]) -> Rows:
    told = {each.about.get("fingerprint") for each in judged} - {None}
    if len(told) != 1:
        wrong = "the runs judged different rows" if told else "the results name no fingerprint"
        raise JudgeError(wrong)
    task = _find(name, include)
    kinds = {each.about.get("source") for each in judged}
    if find_source(task).kind == "hub" and "hub" not in kinds:
        raise JudgeError("the rows came from a folder; name it with --data-root")
    splits = [s for s in SPLITS if s in {each.about.get("split") for each in judged}]
    loaded = load_rows(task, splits[0] if splits else task.evaluation_split)
    if loaded.rows.fingerprint not in told:
        raise JudgeError(
            f"the rows in {loaded.record['location']} have fingerprint {loaded.rows.fingerprint}, "
            f"those judged {min(map(str, told))}"
        )
    return loaded.rows


def _find(name: str, include: Sequence[Path]) -> JudgeTask:
    """As lmms-eval: a task of one's own goes before a shipped one of that name."""
    for path in _yamls(include):
        raw = peek(path)
        if raw is not None and raw.get("task") == name:
            return load_judge_task(path)
    return find_task(name)


def _yamls(include: Sequence[Path]) -> Iterator[Path]:
    for path in include:
        yield from [path] if path.is_file() else sorted(path.rglob("*.yaml"))


def _numbered(question: str) -> str:
    """
    >>> _numbered("<image> or <image>?")
    '[image 1] or [image 2]?'
    """
    pieces = question.split(IMAGE_MARK)
    return pieces[0] + "".join(f"[image {n}]{piece}" for n, piece in enumerate(pieces[1:], 1))


def _thumbnail(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=78, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
