"""Perturbations of a task: one thing about its rows changes, and verdicts are mapped back.

``MTRL_JUDGE_PROBE`` selects the perturbation of an lmms-eval process, whatever its backend. Labels
and verdicts in sample files are always the task's own, in the task's own order of the candidates,
so the same metrics apply to perturbed and unperturbed runs.
"""

from __future__ import annotations

import os
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from PIL import Image

from mtrl_judge.common.errors import DataError, JudgeError, did_you_mean
from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.common.markup import neutralize
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.prompts import Rendered
from mtrl_judge.judge_tasks.rows import JudgeRow, Rows, render_variant
from mtrl_judge.judge_tasks.scoring import Score, score
from mtrl_judge.judge_tasks.spec import JudgeTask

PERTURBATION_VARIABLE = "MTRL_JUDGE_PROBE"
PARAPHRASES = 2
"""How many of a task's paraphrases are used unless more are asked for: each is a run of its own."""
DEMONSTRATION_ORDER = "demonstration_order"
MID_GRAY = (128, 128, 128)
# Nothing in it describes an image, and none of its words is likely to be a verdict.
PADDING = (
    "The following lines come before every question of this collection and are the same each time. "
    "The questions were put together over several months and are kept in one long list. "
    "Each of them has a number, which is given in the order of arrival and is not shown here. "
    "From time to time the list is copied to another place, so that it cannot be lost, and the "
    "copies are compared with it line by line. "
    "When a question is read, it is read on its own, without those before it and those after it. "
    "How long the list is, who keeps it and where the copies are has no bearing on any question "
    "in it. "
    "Here these lines end, and the question begins."
)


class Perturbation:
    """A task with one thing changed; the base class changes nothing.

    Args:
        name: the value of ``MTRL_JUDGE_PROBE``; None for an unperturbed run.
        rows: the evaluated rows of the task, for perturbations that need all of them.
    """

    def __init__(self, name: str | None, task: JudgeTask, rows: Rows | None = None) -> None:
        self.name, self.task = name, task
        self.verdicts = task.judge.verdicts
        """The verdicts that a perturbed prompt offers, in its order."""
        self.renamed = {verdict: verdict for verdict in task.judge.verdicts}
        """The task's verdict -> the one of ``verdicts`` that means it in a perturbed row."""

    @property
    def record(self) -> dict[str, str]:
        """What results say about it beside its name."""
        return {}

    @property
    def original_verdicts(self) -> tuple[str, ...]:
        """The task's verdicts that ``verdicts`` mean, in the same order."""
        return tuple(str(self.restore(verdict)) for verdict in self.verdicts)

    def apply(self, row: JudgeRow) -> JudgeRow:
        """The perturbed row, with its label among :attr:`verdicts`.

        A row without images stays without: lmms-eval drops them from the rows it scores.
        """
        if self.name is None:
            return row
        label = None if row.label is None else self.renamed.get(row.label, row.label)
        # A ranking may have fewer candidates than its task names.
        return replace(row, verdicts=self.verdicts[: len(row.verdicts)], label=label)

    def shown(self, demonstrations: tuple[JudgeRow, ...]) -> tuple[JudgeRow, ...]:
        """The demonstrations of a perturbed row."""
        return demonstrations

    def restore(self, verdict: str | None) -> str | None:
        """The task's verdict that a verdict on a perturbed row means."""
        original = {new_name: name for name, new_name in self.renamed.items()}
        return None if verdict is None else original.get(verdict, verdict)

    def score(self, row: JudgeRow, text: str) -> Score:
        """Score an answer to the perturbed row; the verdict is the task's own.

        Args:
            row: the unperturbed row.
        """
        scored = score(self.apply(row), text)
        if self.name is None:
            return scored
        verdict = scored.verdict._replace(value=self.restore(scored.verdict.value))
        return scored._replace(verdict=verdict)


class _Rephrased(Perturbation):
    """The question is rendered from another template, or with the candidates exchanged."""

    def __init__(
        self, name: str | None, task: JudgeTask, rows: Rows, field: str, exchanged: bool
    ) -> None:
        super().__init__(name, task, rows)
        dataset = rows.dataset.with_format(None)
        keys = zip(dataset["item_id"][:], dataset["swapped"][:], strict=True)
        variants = render_variant(rows, field, exchanged=exchanged)
        self._questions = dict(zip(keys, [variant.text for variant in variants], strict=True))
        self._positions = _positions(rows, variants)

    def apply(self, row: JudgeRow) -> JudgeRow:
        key = row.item_id, row.swapped
        images = row.images and tuple(row.images[position] for position in self._positions[key])
        return replace(super().apply(row), question=self._questions[key], images=images)


class Swap(_Rephrased):
    """The two candidates of a pair trade places."""

    def __init__(self, name: str | None, task: JudgeTask, rows: Rows) -> None:
        super().__init__(name, task, rows, "judge.question", exchanged=True)
        verdicts = task.judge.verdicts
        self.renamed = {v: str(task.kind.swapped_label(v, verdicts)) for v in verdicts}

    def apply(self, row: JudgeRow) -> JudgeRow:
        return replace(super().apply(row), swapped=not row.swapped)


class Paraphrase(_Rephrased):
    """The question is one of the paraphrases that the YAML lists."""

    def __init__(self, name: str | None, task: JudgeTask, rows: Rows) -> None:
        field = f"judge.paraphrases.{_paraphrase_number(name or '') - 1}"
        super().__init__(name, task, rows, field, exchanged=False)
        self._text = task.questions[field]

    @property
    def record(self) -> dict[str, str]:
        return {"paraphrase": self._text}


class BlankImage(Perturbation):
    """Every image is replaced by a gray one of the same size."""

    def apply(self, row: JudgeRow) -> JudgeRow:
        blank = tuple(Image.new("RGB", image.size, MID_GRAY) for image in row.images)
        return replace(super().apply(row), images=blank)


class ShuffledImage(Perturbation):
    """Every item is shown with the images of another item."""

    def __init__(self, name: str | None, task: JudgeTask, rows: Rows) -> None:
        super().__init__(name, task, rows)
        self._dataset = rows.dataset
        dataset = rows.dataset.with_format(None)
        columns = (dataset[key][:] for key in ("item_id", "source_index", "swapped"))
        if len(set(dataset["n_images"][:])) > 1:
            raise DataError(
                f"{name}: {task.task}: its items have different numbers of images; leave this "
                "perturbation out"
            )
        self._exchanged = _positions(
            rows, render_variant(rows, "judge.question", exchanged=bool(task.candidates))
        )
        self._rows_of: dict[str, dict[bool, int]] = {}  # item id -> order -> row
        digests = {}
        for row, (item, source_index, swapped) in enumerate(zip(*columns, strict=True)):
            self._rows_of.setdefault(item, {})[swapped] = row
            digests[item] = rows.raw.digests[source_index]
        try:
            self._donors = derangement(digests)
        except ValueError as error:
            raise DataError(f"{name}: {task.task}: {error}; leave this perturbation out") from None

    def apply(self, row: JudgeRow) -> JudgeRow:
        changed = super().apply(row)
        if not row.images:
            return changed
        donor = self._rows_of[self._donors[row.item_id]]
        if row.swapped in donor:
            return replace(changed, images=tuple(self._dataset[donor[row.swapped]]["images"]))
        images = self._dataset[donor[not row.swapped]]["images"]
        positions = self._exchanged[self._donors[row.item_id], not row.swapped]
        return replace(changed, images=tuple(images[position] for position in positions))


class Length(Perturbation):
    """The prompt is longer by a text that is irrelevant to the question."""

    def apply(self, row: JudgeRow) -> JudgeRow:
        return replace(super().apply(row), question=f"{PADDING}\n\n{row.question}")


class VerdictNames(Perturbation):
    """The verdicts have other names, and the question says which stands for which."""

    def __init__(self, name: str | None, task: JudgeTask, rows: Rows | None = None) -> None:
        super().__init__(name, task, rows)
        self.verdicts = _unused_names(task.judge.verdicts)
        self.renamed = dict(zip(task.judge.verdicts, self.verdicts, strict=True))

    def apply(self, row: JudgeRow) -> JudgeRow:
        stands = [
            f'{new_name} stands for "{neutralize(verdict)}"'
            for verdict, new_name in self.renamed.items()
        ]
        legend = f"Here {', '.join(stands[:-1])} and {stands[-1]}."
        return replace(super().apply(row), question=f"{row.question}\n\n{legend}")

    def shown(self, demonstrations: tuple[JudgeRow, ...]) -> tuple[JudgeRow, ...]:
        """Those of the same task use the same names."""
        own = self.task.task
        return tuple(self.apply(row) if row.task == own else row for row in demonstrations)


class DemonstrationOrder(Perturbation):
    """The demonstrations come in the reverse order, the most similar first."""

    def shown(self, demonstrations: tuple[JudgeRow, ...]) -> tuple[JudgeRow, ...]:
        return demonstrations[::-1]


# By the names a user gives; "paraphrase" stands for one perturbation per paraphrase in the YAML.
PERTURBATIONS: Mapping[str, type[Perturbation]] = {
    "swap": Swap,
    "blank_image": BlankImage,
    "shuffled_image": ShuffledImage,
    "paraphrase": Paraphrase,
    "rerun": Perturbation,
    "length": Length,
    "verdict_names": VerdictNames,
    DEMONSTRATION_ORDER: DemonstrationOrder,
}


def check_perturbations(names: Sequence[str]) -> list[str]:
    """The named perturbations without duplicates; all of them if none is named.

    Raises:
        JudgeError: a name is unknown.
    """
    for name in names:
        if name not in PERTURBATIONS:
            raise JudgeError(f"unknown perturbation {name!r}; {did_you_mean(name, PERTURBATIONS)}")
    return list(dict.fromkeys(names or PERTURBATIONS))


def expand_paraphrases(names: Iterable[str], paraphrases: int) -> list[str]:
    """The values of ``MTRL_JUDGE_PROBE`` that the names stand for.

    >>> expand_paraphrases(["swap", "paraphrase"], 2)
    ['swap', 'paraphrase_1', 'paraphrase_2']
    """
    runs: list[str] = []
    for name in names:
        expanded = [f"{name}_{n}" for n in range(1, paraphrases + 1)]
        runs += expanded if name == "paraphrase" else [name]
    return runs


def applies(name: str, *, kind: str, paraphrases: int, demonstrations: int = 0) -> bool:
    """Whether a task has what a perturbation changes.

    Args:
        name: a value of ``MTRL_JUDGE_PROBE``.
        kind: the task's kind.
        paraphrases: how many paraphrases the task lists.
        demonstrations: how many each prompt shows.
    """
    if name == DEMONSTRATION_ORDER:
        return demonstrations > 1
    if name == "swap":
        return KINDS[kind].compares
    if name == "verdict_names":
        return KINDS[kind].named
    return _paraphrase_number(name) <= paraphrases


def active_perturbation(task: JudgeTask, rows: Rows) -> Perturbation:
    """The perturbation that ``MTRL_JUDGE_PROBE`` selects, for the rows of a task.

    Raises:
        JudgeError: there is no such perturbation, or it does not apply to the task.
    """
    name = os.environ.get(PERTURBATION_VARIABLE)
    if not name:
        return Perturbation(None, task, rows)
    known = expand_paraphrases(PERTURBATIONS, max(1, len(task.judge.paraphrases)))
    if name not in known and not _paraphrase_number(name):
        raise JudgeError(
            f"{PERTURBATION_VARIABLE}: unknown perturbation {name!r}; {did_you_mean(name, known)}"
        )
    # How many demonstrations there are is not known yet: lmms-eval says it later.
    paraphrases = len(task.judge.paraphrases)
    if not applies(name, kind=task.judge.kind, paraphrases=paraphrases, demonstrations=2):
        lacks = {"swap": "has no pairs", "verdict_names": "has no names of verdicts"}
        has = lacks.get(name, "lists no such paraphrase")
        raise JudgeError(
            f"{PERTURBATION_VARIABLE}: {name}: {task.task} {has}; leave it out of --tasks"
        )
    return PERTURBATIONS["paraphrase" if _paraphrase_number(name) else name](name, task, rows)


def derangement(digests: Mapping[str, str]) -> dict[str, str]:
    """Assign each item another item with different images, independent of the order of the items.

    Each item is assigned exactly once. Items are sorted by their images, so items as far apart as
    the most frequent images are frequent differ in them.

    Args:
        digests: item id -> digest of its images.

    Raises:
        ValueError: more than half of the items have the same images, so there is no assignment.

    >>> derangement({"a": "sun", "b": "sun", "c": "moon", "d": "star"})["a"] in ("c", "d")
    True
    """

    def rank(item: str) -> tuple[int, str, int, str]:
        images = digests[item]
        return (
            stable_hash("shuffled_image", images),
            images,
            stable_hash("shuffled_image", item),
            item,
        )

    items = sorted(digests, key=rank)
    shift = max(Counter(digests.values()).values(), default=0)
    if 2 * shift > len(items):
        raise ValueError(f"{shift} of {len(items)} items have the same images")
    return dict(zip(items, items[shift:] + items[:shift], strict=True))


def _paraphrase_number(name: str) -> int:
    """Which of the listed paraphrases a perturbation uses, from 1; 0 for other perturbations."""
    match = re.fullmatch("paraphrase_([1-9][0-9]*)", name)
    return int(match[1]) if match else 0


def _positions(rows: Rows, variants: Sequence[Rendered]) -> dict[tuple[str, bool], tuple[int, ...]]:
    """For each row's (item id, order), which of its images stands where in a variant of it."""
    about = rows.dataset.with_format(None)
    columns = (about[name][:] for name in ("item_id", "swapped", "image_order"))
    return {
        (item, swapped): tuple(map(order.index, variant.images))
        for item, swapped, order, variant in zip(*columns, variants, strict=True)
    }


def _unused_names(verdicts: Sequence[str]) -> tuple[str, ...]:
    """Letters, or else numbers, none of which is a verdict of the task."""
    taken = {verdict.casefold() for verdict in verdicts}
    letters = tuple(string.ascii_uppercase[: len(verdicts)])
    if len(letters) == len(verdicts) and not taken & {letter.casefold() for letter in letters}:
        return letters
    free = (str(n) for n in range(1, 2 * len(verdicts) + 1) if str(n) not in taken)
    return tuple(next(free) for _ in verdicts)
