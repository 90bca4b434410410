"""The tiny model's pretraining examples: descriptions of the sample's images, alone and in pairs.

Pretraining teaches the model to describe images and to answer in a judge's format, before it is
trained as a judge. Under a single image the verdict is the first one far too often
(:data:`FIRST_IF_FALSE`), which leaves room for training to improve it. Of two images the better one
is always the verdict; training never shows pairs, so this is a format it may unlearn. Only images
of the training splits are used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

from .corpus import TRUTH_FILE, base_tasks, safety_caption, sentences_of

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
    indices: dict[str, int] = field(default_factory=dict)
    """Those of the images, by name."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    """Task -> fingerprint of its training rows."""


class Item(NamedTuple):
    """A training row, the index of its image, what the image shows, and the raw row."""

    row: JudgeRow
    image: int
    truth: dict[str, Any]
    raw: dict[str, Any]

    @property
    def sentences(self) -> list[str]:
        return sentences_of(self.truth["reasoning"])


def load_curriculum(data_root: Path, seed: int) -> Curriculum:
    """Build the curriculum from a sample corpus's training splits.

    Raises:
        DataError: the data is not a sample corpus.
    """
    curriculum = Curriculum()
    items = load_items(base_tasks(), data_root, curriculum)
    curriculum.examples.extend(base_examples(items, Random(seed)))
    return curriculum


def load_items(
    tasks: Iterable[JudgeTask], data_root: Path, curriculum: Curriculum
) -> dict[str, list[Item]]:
    """The training rows of tasks; adds their images to the curriculum, shared ones once.

    Raises:
        DataError: the data is not a sample corpus.
    """
    trained = [task for task in tasks if task.judge.role == "train"]
    return {task.task: _load_items(task, data_root, curriculum) for task in trained}


def base_examples(items: Mapping[str, Sequence[Item]], rng: Random) -> Iterator[Example]:
    """What the tiny model is pretrained on: single images of each task, then pairs of them."""
    for of_task in items.values():
        yield from _single_image_examples(of_task, rng)
    yield from _pair_examples(items, rng)


class Ranked(NamedTuple):
    """A training row with several images, and the reasoning about each of them."""

    row: JudgeRow
    images: tuple[int, ...]
    reasonings: tuple[str, ...]


def load_ranked(
    task: JudgeTask, same: JudgeTask, data_root: Path, curriculum: Curriculum
) -> list[Ranked]:
    """The training rows of a task that puts images in order.

    Args:
        same: a task with the same images, one in each row.

    Raises:
        DataError: the data is not a sample corpus.
    """
    truths = _truths(same, data_root)
    rows, record = load_rows(task, "train", data_root)
    curriculum.fingerprints[task.task] = record["fingerprint"]
    docs = rows.dataset.with_format(None)
    ranked = []
    for index, (doc, item, order) in enumerate(
        zip(docs, docs["source_index"], docs["order"], strict=True)
    ):
        of_item = rows.raw.items.rows_N[item]
        shown = [truths[row] for row in (*of_item[order:], *of_item[:order])]
        images = [
            _add_image(truth, image, curriculum)
            for truth, image in zip(shown, rows.dataset[index]["images"], strict=True)
        ]
        reasonings = tuple(truth["reasoning"] for truth in shown)
        ranked.append(Ranked(JudgeRow.from_doc(doc), tuple(images), reasonings))
    return ranked


def _load_items(task: JudgeTask, data_root: Path, curriculum: Curriculum) -> list[Item]:
    truths = _truths(task, data_root)
    rows, record = load_rows(task, "train", data_root)
    curriculum.fingerprints[task.task] = record["fingerprint"]
    raw = load_raw(task, "train", find_source(task, data_root)).dataset.remove_columns("image")
    raw_rows = raw.to_list()
    docs = rows.dataset.with_format(None)
    items = []
    for index, (doc, source_index) in enumerate(zip(docs, docs["source_index"], strict=True)):
        truth = truths[source_index]
        image = curriculum.indices.get(truth["image"])
        if image is None:
            image = _add_image(truth, rows.dataset[index]["images"][0], curriculum)
        items.append(Item(JudgeRow.from_doc(doc), image, truth, raw_rows[source_index]))
    return items


def _truths(task: JudgeTask, data_root: Path) -> list[dict[str, Any]]:
    """What each training image of a task shows."""
    folder = data_root / task.task
    file = folder / TRUTH_FILE
    if not file.is_file() or find_source(task, data_root).kind != "sample":
        raise DataError(
            f"{folder}: not of a sample corpus, or of an older one; write one with "
            f"`mtrl-judge data sample --data-root {data_root} --force`"
        )
    return [truth for _, truth in read_json_lines(file)]


def _add_image(truth: dict[str, Any], image: Image.Image, curriculum: Curriculum) -> int:
    """The index of an image, which is added where it is new."""
    known = curriculum.indices.setdefault(truth["image"], len(curriculum.images))
    if known == len(curriculum.images):
        curriculum.images.append(image)
        curriculum.truths.append(truth)
    return known


def _single_image_examples(items: Sequence[Item], rng: Random) -> Iterator[Example]:
    """An image's description, and a verdict that is the first one too often."""
    # Comparing a text with an image takes twice the practice.
    repeats = 2 if question_columns(find_task(items[0].row.task).judge.question) else 1
    for row, image, truth, _ in [*items] * repeats:
        first, second = row.verdicts
        probability = FIRST_IF_TRUE if row.label == first else FIRST_IF_FALSE
        verdict = first if rng.random() < probability else second
        style = sample_style(rng)
        yield Example(row, style, gold_answer(verdict, style, truth["reasoning"]), (image,))


def _pair_examples(items: Mapping[str, Sequence[Item]], rng: Random) -> Iterator[Example]:
    """Pairs that differ in alignment, in quality and in safety, in this order."""
    alignment, quality, safety = (
        find_task(f"mtrl_judge_mjbench_{name}") for name in ("alignment", "quality", "safety")
    )
    groups: defaultdict[str, defaultdict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
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
    task: JudgeTask, caption: str, better: Item, worse: Item, sentences: slice, rng: Random
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
    style = sample_style(rng)
    answer = gold_answer(verdict, style, reasoning)
    return Example(row, style, answer, (pair[0].image, pair[1].image))


def sample_style(rng: Random) -> Style:
    return "direct" if rng.random() < DIRECT_SHARE else "reasoned"
