"""What a probe changes of the rows that a judge is asked, and how its verdicts are read back.

``MTRL_JUDGE_PROBE`` chooses the probe of an lmms-eval process, whatever its backend. Labels and
verdicts in samples are always in the task's own words and places, so the same metrics apply.
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
from mtrl_judge.common.markup import neutralise
from mtrl_judge.judge_tasks.rows import JudgeRow, Rows, asked_otherwise
from mtrl_judge.judge_tasks.scoring import Score, score
from mtrl_judge.judge_tasks.spec import JudgeTask

PROBE_VARIABLE = "MTRL_JUDGE_PROBE"
MID_GREY = (128, 128, 128)
# Nothing in it can be seen in a picture, and no word of it is likely to be a verdict.
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


class Probe:
    """The same task with one thing changed; this one changes nothing.

    Args:
        name: as ``MTRL_JUDGE_PROBE`` has it; None where no probe runs.
        rows: those of the task that are judged, for a probe that looks at all of them.
    """

    def __init__(self, name: str | None, task: JudgeTask, rows: Rows | None = None) -> None:
        self.name, self.task = name, task

    @property
    def asked(self) -> tuple[str, ...]:
        """The verdicts that the judge is to choose from, in the order of the prompt."""
        return self.task.judge.verdicts

    @property
    def words(self) -> Mapping[str, str]:
        """For each of the task's verdicts the one of ``asked`` that means it in a changed row."""
        return {verdict: verdict for verdict in self.task.judge.verdicts}

    @property
    def meant(self) -> tuple[str, ...]:
        """The task's verdicts that ``asked`` mean, in the same order."""
        back = {word: own for own, word in self.words.items()}
        return tuple(back[word] for word in self.asked)

    def changed(self, row: JudgeRow) -> JudgeRow:
        """The row as it is put to the judge, its label in the words of that.

        Pictures that the row has not got (lmms-eval drops them for scoring) are not made.
        """
        label = None if row.label is None else self.words[row.label]
        return replace(row, verdicts=self.asked, label=label)

    def restored(self, verdict: str | None) -> str | None:
        """The task's verdict that a judge means by one given for a changed row."""
        return None if verdict is None else self.meant[self.asked.index(verdict)]

    def scored(self, row: JudgeRow, text: str) -> Score:
        """What the judge wrote when asked the changed row, its verdict in the task's own words."""
        given = score(self.changed(row), text)
        verdict = given.verdict._replace(value=self.restored(given.verdict.value))
        return given._replace(verdict=verdict)


class Swap(Probe):
    """The two candidates of a pair change places."""

    def __init__(self, name: str | None, task: JudgeTask, rows: Rows) -> None:
        super().__init__(name, task, rows)
        self._questions = _by_row(
            rows, asked_otherwise(task, rows, "judge.question", exchanged=True)
        )

    @property
    def words(self) -> Mapping[str, str]:
        first, second, *others = self.task.judge.verdicts
        return dict(zip(self.task.judge.verdicts, (second, first, *others), strict=True))

    def changed(self, row: JudgeRow) -> JudgeRow:
        return replace(
            super().changed(row),
            question=self._questions[row.item_id, row.swapped],
            swapped=not row.swapped,
            images=_exchanged(self.task, row.images),
        )


class BlankImage(Probe):
    """Each picture is grey all over, of the same size."""

    def changed(self, row: JudgeRow) -> JudgeRow:
        blank = tuple(Image.new("RGB", picture.size, MID_GREY) for picture in row.images)
        return replace(super().changed(row), images=blank)


class ShuffledImage(Probe):
    """Each item is shown with the pictures of another one."""

    def __init__(self, name: str | None, task: JudgeTask, rows: Rows) -> None:
        super().__init__(name, task, rows)
        self._dataset = rows.dataset
        about = rows.dataset.with_format(None)
        columns = (about[key][:] for key in ("item_id", "source_index", "swapped"))
        self._places: dict[str, dict[bool, int]] = {}
        pictures = {}
        for place, (item, index, swapped) in enumerate(zip(*columns, strict=True)):
            self._places.setdefault(item, {})[swapped] = place
            pictures[item] = rows.pictures[index]
        try:
            self._foreign = deranged(pictures)
        except ValueError as error:
            raise DataError(f"{name}: {task.task}: {error}; leave this probe out") from None

    def changed(self, row: JudgeRow) -> JudgeRow:
        return replace(super().changed(row), images=self._pictures(row) if row.images else ())

    def _pictures(self, row: JudgeRow) -> tuple[Image.Image, ...]:
        """The other item's, in the order that this row shows its own in."""
        places = self._places[self._foreign[row.item_id]]
        if row.swapped in places:
            return tuple(self._dataset[places[row.swapped]]["images"])
        return _exchanged(self.task, self._dataset[places[not row.swapped]]["images"])


class Paraphrase(Probe):
    """The question in other words, which the YAML lists."""

    def __init__(self, name: str | None, task: JudgeTask, rows: Rows) -> None:
        super().__init__(name, task, rows)
        field = f"judge.paraphrases.{_number(name or '') - 1}"
        self._questions = _by_row(rows, asked_otherwise(task, rows, field, exchanged=False))

    def changed(self, row: JudgeRow) -> JudgeRow:
        return replace(super().changed(row), question=self._questions[row.item_id, row.swapped])


class Length(Probe):
    """The prompt is longer by a text that says nothing of the answer."""

    def changed(self, row: JudgeRow) -> JudgeRow:
        return replace(super().changed(row), question=f"{PADDING}\n\n{row.question}")


class VerdictNames(Probe):
    """The verdicts have other names, and the question says which stands for which."""

    @property
    def asked(self) -> tuple[str, ...]:
        return _other_names(self.task.judge.verdicts)

    @property
    def words(self) -> Mapping[str, str]:
        return dict(zip(self.task.judge.verdicts, self.asked, strict=True))

    def changed(self, row: JudgeRow) -> JudgeRow:
        stands = [f'{word} stands for "{neutralise(own)}"' for own, word in self.words.items()]
        legend = f"Here {', '.join(stands[:-1])} and {stands[-1]}."
        return replace(super().changed(row), question=f"{row.question}\n\n{legend}")


# As they are asked for; "paraphrase" is a probe for each text that the YAML lists.
PROBES: Mapping[str, type[Probe]] = {
    "swap": Swap,
    "blank_image": BlankImage,
    "shuffled_image": ShuffledImage,
    "paraphrase": Paraphrase,
    "rerun": Probe,
    "length": Length,
    "verdict_names": VerdictNames,
}
_NUMBERED = re.compile("paraphrase_([1-9][0-9]*)")


def checked_probes(names: Sequence[str]) -> list[str]:
    """The named probes, each once.

    Raises:
        JudgeError: there is no such probe, or none is named.
    """
    for name in names:
        if name not in PROBES:
            raise JudgeError(f"--probes: no probe {name!r}; {did_you_mean(name, PROBES)}")
    if not names:
        raise JudgeError(f"--probes: none named; known: {', '.join(PROBES)}")
    return list(dict.fromkeys(names))


def numbered(probes: Iterable[str], paraphrases: int) -> list[str]:
    """As ``MTRL_JUDGE_PROBE`` has them: "paraphrase" is "paraphrase_1" to that of the last text."""
    runs: list[str] = []
    for name in probes:
        many = [f"{name}_{n}" for n in range(1, paraphrases + 1)]
        runs += many if name == "paraphrase" else [name]
    return runs


def applies(name: str, *, kind: str, paraphrases: int) -> bool:
    """Whether a task has what a probe changes.

    Args:
        name: as ``MTRL_JUDGE_PROBE`` has it.
        kind: the task's, pointwise or pairwise.
        paraphrases: how many texts the task lists.
    """
    if name == "swap":
        return kind == "pairwise"
    return _number(name) <= paraphrases


def running_probe(task: JudgeTask, rows: Rows) -> Probe:
    """The probe that ``MTRL_JUDGE_PROBE`` chooses, for the rows of a task.

    Raises:
        JudgeError: there is no such probe, or the task has not what it changes.
    """
    name = os.environ.get(PROBE_VARIABLE)
    if not name:
        return Probe(None, task, rows)
    known = numbered(PROBES, max(1, len(task.judge.paraphrases)))
    if name not in known and not _number(name):
        raise JudgeError(f"{PROBE_VARIABLE}: no probe {name!r}; {did_you_mean(name, known)}")
    if not applies(name, kind=task.judge.kind, paraphrases=len(task.judge.paraphrases)):
        has = "judges one thing at a time" if name == "swap" else "lists no such paraphrase"
        raise JudgeError(f"{PROBE_VARIABLE}: {name}: {task.task} {has}; leave it out of --tasks")
    return PROBES["paraphrase" if _number(name) else name](name, task, rows)


def deranged(pictures: Mapping[str, str]) -> dict[str, str]:
    """For each item another one with other pictures, whatever the order of the items.

    Each item is another one's exactly once. Sorted by their pictures, items that are as far apart
    as the most frequent picture is frequent have different ones.

    Args:
        pictures: what tells the pictures of each item from others.

    Raises:
        ValueError: there is none, as over half of the items have the same pictures.

    >>> deranged({"a": "sun", "b": "sun", "c": "moon", "d": "star"})["a"] in ("c", "d")
    True
    """

    def rank(item: str) -> tuple[int, str, int, str]:
        shown = pictures[item]
        return (
            stable_hash("shuffled_image", shown),
            shown,
            stable_hash("shuffled_image", item),
            item,
        )

    items = sorted(pictures, key=rank)
    apart = max(Counter(pictures.values()).values(), default=0)
    if 2 * apart > len(items):
        raise ValueError(f"{apart} of {len(items)} items have the same pictures")
    return dict(zip(items, items[apart:] + items[:apart], strict=True))


def _number(name: str) -> int:
    """Which of the listed texts a paraphrase is, from 1; 0 for every other probe."""
    found = _NUMBERED.fullmatch(name)
    return int(found[1]) if found else 0


def _by_row(rows: Rows, questions: Sequence[str]) -> dict[tuple[str, bool], str]:
    about = rows.dataset.with_format(None)
    keys = zip(about["item_id"][:], about["swapped"][:], strict=True)
    return dict(zip(keys, questions, strict=True))


def _exchanged(task: JudgeTask, images: Sequence[Image.Image]) -> tuple[Image.Image, ...]:
    """With the candidates, where they are pictures, in each other's place."""
    columns, candidates = task.judge.images, task.candidates or ()
    other = dict(zip(candidates, reversed(candidates), strict=True))
    if not images:
        return ()
    return tuple(images[columns.index(other.get(name, name))] for name in columns)


def _other_names(verdicts: Sequence[str]) -> tuple[str, ...]:
    """Letters, or else numbers, that are none of the verdicts already."""
    taken = {verdict.casefold() for verdict in verdicts}
    letters = tuple(string.ascii_uppercase[: len(verdicts)])
    if len(letters) == len(verdicts) and not taken & {letter.casefold() for letter in letters}:
        return letters
    free = (str(n) for n in range(1, 2 * len(verdicts) + 1) if str(n) not in taken)
    return tuple(next(free) for _ in verdicts)
