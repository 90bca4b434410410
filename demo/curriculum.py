"""What the tiny model is taught: descriptions of the sample's pictures, alone and in pairs.

It is taught to describe and to answer in a judge's form before it is anyone's judge. Under a single
picture stands a verdict that is the first one far too often (:data:`FIRST_IF_FALSE`), so what
training makes of it shows. Of two pictures it is told which is the better one, so that it has a
format to lose that training never shows. It sees the pictures of the training splits only.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from mtrl_judge.common.errors import DataError
from mtrl_judge.common.files import read_json_lines
from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.judge_tasks.prompts import gold_answer, question_columns, render_question
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import find_source, load_raw, load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask, Style

from .corpus import TRUTH_FILE, sample_tasks

if TYPE_CHECKING:
    from PIL import Image

DIRECT_SHARE = 0.1
# How often the first verdict stands under a picture: more often where it is true, most of the time
# in any case. So greedy verdicts say little, and sampled ones hold what training can bring out.
FIRST_IF_TRUE, FIRST_IF_FALSE = 0.8, 0.55


@dataclass(frozen=True)
class Example:
    """One thing to learn: a prompt, the answer to it, and the pictures in it, by number."""

    row: JudgeRow
    style: Style
    answer: str
    pictures: tuple[int, ...]


@dataclass(frozen=True)
class School:
    """Everything the teaching reads: examples and the distinct pictures in them."""

    examples: list[Example]
    pictures: list[Image.Image]
    truths: list[dict[str, Any]]
    fingerprints: dict[str, str]


class _Sight(NamedTuple):
    """A training row, its picture's number, what the picture shows, and the raw row."""

    row: JudgeRow
    picture: int
    truth: dict[str, Any]
    raw: dict[str, Any]

    @property
    def sentences(self) -> list[str]:
        return re.split(r"(?<=\.) ", self.truth["reasoning"])


def load_school(data_root: Path, seed: int) -> School:
    """Read a sample's training splits.

    Raises:
        DataError: the data is no sample.
    """
    school = School([], [], [], {})
    numbers: dict[str, int] = {}
    tasks = [task for task in sample_tasks() if task.judge.role == "train"]
    sights = {task.task: list(_look(task, data_root, school, numbers)) for task in tasks}
    draw = Random(seed)
    for seen in sights.values():
        school.examples.extend(_alone(seen, draw))
    for pair in (_alignment, _quality, _safety):
        school.examples.extend(pair(sights, draw))
    return school


def _look(
    task: JudgeTask, data_root: Path, school: School, numbers: dict[str, int]
) -> Iterator[_Sight]:
    """The training rows of a task; a picture that tasks share is kept once."""
    source = find_source(task, data_root)
    truths = _read_truths(data_root / task.task / TRUTH_FILE)
    if source.kind != "sample":
        raise DataError(f"{source.location}: is no sample; see `mtrl-judge data sample`")
    rows, record = load_rows(task, "train", data_root)
    school.fingerprints[task.task] = record["fingerprint"]
    raw = load_raw(task, "train", source).dataset.remove_columns("image").to_list()
    bare = rows.dataset.with_format(None)
    for index, (doc, line) in enumerate(zip(bare, bare["source_index"], strict=True)):
        truth = truths[line]
        if truth["image"] not in numbers:
            numbers[truth["image"]] = len(school.pictures)
            school.pictures.append(rows.dataset[index]["images"][0])
            school.truths.append(truth)
        yield _Sight(JudgeRow.from_doc(doc), numbers[truth["image"]], truth, raw[line])


def _read_truths(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path}: not found; the tiny model is trained on `mtrl-judge data sample`")
    return [row for _, row in read_json_lines(path)]


def _alone(sights: Sequence[_Sight], draw: Random) -> Iterator[Example]:
    """A picture's description and a verdict that is the first one too often."""
    # Comparing a text with a picture takes twice the practice.
    times = 2 if question_columns(find_task(sights[0].row.task).judge.question) else 1
    for row, picture, truth, _ in [*sights] * times:
        first, second = row.verdicts
        readiness = FIRST_IF_TRUE if row.label == first else FIRST_IF_FALSE
        verdict = first if draw.random() < readiness else second
        style = _style(draw)
        yield Example(row, style, gold_answer(verdict, style, truth["reasoning"]), (picture,))


def _style(draw: Random) -> Style:
    return "direct" if draw.random() < DIRECT_SHARE else "reasoned"


_Sights = dict[str, list[_Sight]]


def _alignment(sights: _Sights, draw: Random) -> Iterator[Example]:
    """Two intact pictures made from one prompt, of which one fits."""
    for caption, group in _by_prompt(sights).items():
        intact = [sight for sight in group if sight.truth["fault"] is None]
        good = [sight for sight in intact if sight.sentences[-1] == "It fits."]
        bad = [sight for sight in intact if sight.sentences[-1] != "It fits."]
        for better, worse in zip(good, bad, strict=False):
            yield _pair("alignment", caption, better, worse, slice(2, None), draw)


def _quality(sights: _Sights, draw: Random) -> Iterator[Example]:
    """An intact and a faulty picture made from one prompt."""
    for caption, group in _by_prompt(sights).items():
        good = [sight for sight in group if sight.truth["fault"] is None]
        bad = [sight for sight in group if sight.truth["fault"] is not None]
        for better, worse in zip(good, bad, strict=False):
            yield _pair("quality", caption, better, worse, slice(1), draw)


def _safety(sights: _Sights, draw: Random) -> Iterator[Example]:
    """A picture with something dangerous and one without."""
    seen = sights["mtrl_judge_unsafebench"]
    safe, unsafe = ([s for s in seen if s.raw["safety_label"] == x] for x in ("Safe", "Unsafe"))
    for better, worse in zip(safe, unsafe, strict=False):
        yield _pair("safety", "a picture of two things", better, worse, slice(None), draw)


def _by_prompt(sights: _Sights) -> dict[str, list[_Sight]]:
    groups: defaultdict[str, list[_Sight]] = defaultdict(list)
    for sight in sights["mtrl_judge_imagereward"]:
        groups[sight.raw["prompt"]].append(sight)
    return groups


@cache
def _pair_task(dimension: str) -> JudgeTask:
    return find_task(f"mtrl_judge_mjbench_{dimension}")


def _pair(
    dimension: str, caption: str, better: _Sight, worse: _Sight, part: slice, draw: Random
) -> Example:
    """What bears on the question of each of the two pictures, in random order, and the better."""
    task = _pair_task(dimension)
    pair = (better, worse) if draw.random() < 0.5 else (worse, better)
    row = JudgeRow(
        item_id=f"{better.row.item_id}/{worse.row.item_id}",
        task=task.task,
        kind=task.judge.kind,
        question=render_question(task.judge.question, {"caption": caption}, 2),
        verdicts=task.judge.verdicts,
        label=task.judge.verdicts[pair.index(better)],
        n_images=2,
    )
    described = (" ".join(sight.sentences[part]) for sight in pair)
    reasoning = " ".join(f"Picture {n}: {text}" for n, text in enumerate(described, 1))
    style = _style(draw)
    answer = gold_answer(str(row.label), style, reasoning)
    return Example(row, style, answer, (pair[0].picture, pair[1].picture))
