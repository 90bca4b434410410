"""The tiny model's pretraining examples: descriptions of the sample's images, alone and in pairs.

Pretraining teaches the model to describe images and to answer in a judge's format, before it is
trained as a judge. Under a single image the verdict is the first one far too often
(:data:`FIRST_IF_FALSE`), which leaves room for training to improve it. Of two images the better one
is always the verdict; training never shows pairs, so this is a format it may unlearn. Only images
of the training splits are used.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from mtrl_judge.common.errors import DataError
from mtrl_judge.common.files import read_json_lines
from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.judge_tasks.prompts import gold_answer, render_question
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import find_source, load_raw, load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask, Style
from mtrl_judge.judge_tasks.templates import question_columns

from .corpus import TRUTH_FILE, safety_caption, sample_tasks

if TYPE_CHECKING:
    from PIL import Image

DIRECT_SHARE = 0.1
# How often the verdict under an image is the first one: more often where that is true, but mostly
# in any case. Greedy verdicts thus carry little information, while sampled ones contain enough for
# reinforcement learning to amplify.
FIRST_IF_TRUE, FIRST_IF_FALSE = 0.8, 0.55


@dataclass(frozen=True)
class Example:
    """A prompt, the answer to learn, and the indices of the prompt's images."""

    row: JudgeRow
    style: Style
    answer: str
    images: tuple[int, ...]


@dataclass(frozen=True)
class Curriculum:
    """Everything that pretraining reads."""

    examples: list[Example] = field(default_factory=list)
    images: list[Image.Image] = field(default_factory=list)
    """The distinct images of the examples."""
    truths: list[dict[str, Any]] = field(default_factory=list)
    """What each image shows; see :data:`~.corpus.TRUTH_FILE`."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    """Task -> fingerprint of its training rows."""


class _Item(NamedTuple):
    """A training row, the index of its image, what the image shows, and the raw row."""

    row: JudgeRow
    image: int
    truth: dict[str, Any]
    raw: dict[str, Any]

    @property
    def sentences(self) -> list[str]:
        return re.split(r"(?<=\.) ", self.truth["reasoning"])


def load_curriculum(data_root: Path, seed: int) -> Curriculum:
    """Build the curriculum from a sample corpus's training splits.

    Raises:
        DataError: the data is not a sample corpus.
    """
    curriculum = Curriculum()
    tasks = [task for task in sample_tasks() if task.judge.role == "train"]
    items = {task.task: _load_items(task, data_root, curriculum) for task in tasks}
    rng = Random(seed)
    for of_task in items.values():
        curriculum.examples.extend(_single_image_examples(of_task, rng))
    curriculum.examples.extend(_pair_examples(items, rng))
    return curriculum


def _load_items(task: JudgeTask, data_root: Path, curriculum: Curriculum) -> list[_Item]:
    """The training rows of a task; adds their images to the curriculum, shared ones once."""
    source = find_source(task, data_root)
    file = data_root / task.task / TRUTH_FILE
    if source.kind != "sample" or not file.exists():
        raise DataError(
            f"{source.location}: not a sample corpus; create one with `mtrl-judge data sample`"
        )
    truths = [truth for _, truth in read_json_lines(file)]
    rows, record = load_rows(task, "train", data_root)
    curriculum.fingerprints[task.task] = record["fingerprint"]
    raw = load_raw(task, "train", source).dataset.remove_columns("image").to_list()
    known = {truth["image"]: index for index, truth in enumerate(curriculum.truths)}
    docs = rows.dataset.with_format(None)
    items = []
    for index, (doc, source_index) in enumerate(zip(docs, docs["source_index"], strict=True)):
        truth = truths[source_index]
        if truth["image"] not in known:
            known[truth["image"]] = len(curriculum.images)
            curriculum.images.append(rows.dataset[index]["images"][0])
            curriculum.truths.append(truth)
        image = known[truth["image"]]
        items.append(_Item(JudgeRow.from_doc(doc), image, truth, raw[source_index]))
    return items


def _single_image_examples(items: Sequence[_Item], rng: Random) -> Iterator[Example]:
    """An image's description, and a verdict that is the first one too often."""
    # Comparing a text with an image takes twice the practice.
    repeats = 2 if question_columns(find_task(items[0].row.task).judge.question) else 1
    for row, image, truth, _ in [*items] * repeats:
        first, second = row.verdicts
        probability = FIRST_IF_TRUE if row.label == first else FIRST_IF_FALSE
        verdict = first if rng.random() < probability else second
        style = _sample_style(rng)
        yield Example(row, style, gold_answer(verdict, style, truth["reasoning"]), (image,))


def _pair_examples(items: Mapping[str, Sequence[_Item]], rng: Random) -> Iterator[Example]:
    """Pairs that differ in alignment, in quality and in safety, in this order."""
    alignment, quality, safety = (
        find_task(f"mtrl_judge_mjbench_{name}") for name in ("alignment", "quality", "safety")
    )
    groups: defaultdict[str, defaultdict[str, list[_Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items["mtrl_judge_imagereward"]:
        group = groups[item.raw["prompt"]]
        if item.truth["fault"] is not None:
            group["faulty"].append(item)
            continue
        group["intact"].append(item)
        group["fitting" if item.sentences[-1] == "It fits." else "other"].append(item)
    for caption, group in groups.items():
        for better, worse in zip(group["fitting"], group["other"], strict=False):
            yield _pair(alignment, caption, better, worse, slice(2, None), rng)
    for caption, group in groups.items():
        for better, worse in zip(group["intact"], group["faulty"], strict=False):
            yield _pair(quality, caption, better, worse, slice(1), rng)
    safe, unsafe = (
        [item for item in items["mtrl_judge_unsafebench"] if item.raw["safety_label"] == label]
        for label in ("Safe", "Unsafe")
    )
    for better, worse in zip(safe, unsafe, strict=False):
        shown = ([thing["name"] for thing in item.truth["things"]] for item in (better, worse))
        yield _pair(safety, safety_caption(*shown), better, worse, slice(None), rng)


def _pair(
    task: JudgeTask, caption: str, better: _Item, worse: _Item, sentences: slice, rng: Random
) -> Example:
    """Two images in random order; the reasoning is the relevant sentences about each."""
    pair = (better, worse) if rng.random() < 0.5 else (worse, better)
    verdict = task.judge.verdicts[pair.index(better)]
    row = JudgeRow(
        item_id=f"{better.row.item_id}/{worse.row.item_id}",
        task=task.task,
        kind=task.judge.kind,
        question=render_question(task.judge.question, {"caption": caption}, 2).text,
        verdicts=task.judge.verdicts,
        label=verdict,
        n_images=2,
    )
    described = (" ".join(item.sentences[sentences]) for item in pair)
    reasoning = " ".join(f"Image {n}: {text}" for n, text in enumerate(described, 1))
    style = _sample_style(rng)
    answer = gold_answer(verdict, style, reasoning)
    return Example(row, style, answer, (pair[0].image, pair[1].image))


def _sample_style(rng: Random) -> Style:
    return "direct" if rng.random() < DIRECT_SHARE else "reasoned"
