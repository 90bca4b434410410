"""Examples of the kinds of tasks that the tiny model is taught after its pretraining.

They have the words and images of pretraining (:mod:`.curriculum`). As the first verdict is there,
the highest rating is given far too often, which leaves room for training to improve it. Of two
answers the one that is true is always the verdict, and images without a fault always come first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.judge_tasks.prompts import gold_answer, render_question
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.metrics.rankings import order_by, write_order

from .corpus import (
    AGIN_GRADED,
    IMAGEREWARD_RANKED,
    INTACT,
    QUERY,
    VLREWARDBENCH,
    answer_text,
    comparison,
    sentences_of,
    together,
)
from .curriculum import Curriculum, Example, Item, Ranked, load_items, load_ranked, sample_style

# How often a rating is the highest one, and otherwise that of the label; the rest are any.
HIGHEST, RIGHT = 0.6, 0.6
ORDERS = 3  # in which the images of a prompt are put in order


def load_further(data_root: Path, seed: int) -> Curriculum:
    """Build the examples from a sample corpus's training splits.

    Raises:
        DataError: the data is not a sample corpus.
    """
    curriculum = Curriculum()
    names = (AGIN_GRADED, "mtrl_judge_seetrue")
    items = load_items(map(find_task, names), data_root, curriculum)
    rated, described = (items[name] for name in names)
    one, several = map(find_task, ("mtrl_judge_imagereward", IMAGEREWARD_RANKED))
    ranked = load_ranked(several, one, data_root, curriculum)
    rng = Random(seed)
    curriculum.examples.extend(_ratings(rated, rng))
    curriculum.examples.extend(_orders(ranked, rng))
    curriculum.examples.extend(_answers(find_task(VLREWARDBENCH), described, rng))
    return curriculum


def _ratings(items: Sequence[Item], rng: Random) -> Iterator[Example]:
    """An image's description, and a rating."""
    for row, image, truth, _ in items:
        if row.label is None:
            continue
        rating = KINDS[row.kind].gold(row.label, row.verdicts)
        if rng.random() < HIGHEST:
            rating = row.verdicts[-1]
        elif rng.random() >= RIGHT:
            rating = rng.choice(row.verdicts)
        style = sample_style(rng)
        yield Example(row, style, gold_answer(rating, style, truth["reasoning"]), (image,))


def _orders(rows: Sequence[Ranked], rng: Random) -> Iterator[Example]:
    """The technical faults of several images, and those without any before the others."""
    for row, images, reasonings in rows:
        # The prompt is the same in whatever order its images are.
        for first in rng.sample(range(len(images)), ORDERS):
            shown = [*reasonings[first:], *reasonings[:first]]
            intact = (sentences_of(reasoning)[0] == INTACT for reasoning in shown)
            order = order_by(dict(zip(row.verdicts, intact, strict=True)), lowest_first=False)
            verdict = write_order(order)
            style = sample_style(rng)
            answer = gold_answer(verdict, style, together(shown))
            yield Example(row, style, answer, (*images[first:], *images[:first]))


def _answers(task: JudgeTask, items: Sequence[Item], rng: Random) -> Iterator[Example]:
    """An image with two answers about it: what it shows, and a text that is wrong in one thing."""
    # Comparing texts with an image takes twice the practice, as in pretraining.
    for item in [*items] * 2:
        if item.sentences[-1] == "It fits.":
            continue
        _, shows, compared, wrong = item.sentences
        shown = shows.removeprefix("The image shows ").removesuffix(".")
        parts = compared.removeprefix("Compare ").removesuffix(".").split("; ")
        same = (part.rpartition(", ")[0].partition(" and ")[2] for part in parts)
        fits = f"Compare {'; '.join(comparison(part, part) for part in same)}. It fits."
        answers = [(shown, fits), (item.raw["text"], f"{compared} {wrong}")]
        if rng.random() < 0.5:
            answers.reverse()
        verdict = task.judge.verdicts[answers[0][0] != shown]
        values = {"query": QUERY, "response": [answer_text(text) for text, _ in answers]}
        row = JudgeRow(
            item_id=item.row.item_id,
            task=task.task,
            kind=task.judge.kind,
            question=render_question(task.judge.question, values, 1).text,
            verdicts=task.judge.verdicts,
            label=verdict,
            n_images=1,
        )
        reasoning = " ".join(
            f"Answer {number}: The text says {text}. {shows} {reason}"
            for number, (text, reason) in enumerate(answers, 1)
        )
        style = sample_style(rng)
        answer = gold_answer(verdict, style, reasoning)
        yield Example(row, style, answer, (item.image,))
