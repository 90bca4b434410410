"""How fast datasets are prepared, and what the leak gate finds and takes.

``prepare_items_per_s`` by dataset, from replicas of 5,000 items with pictures of 128 × 128 in the
dataset's raw form, without making them; ``peak_mib`` of the processes that prepare. ``leaks_s``:
from parquet files to the report, 20,000 pictures of clouds, half of them to train on, of which 900
near copies (nine ways, see tests/support/images.py) and 100 exact ones stand in the other half;
``near_copy_recall`` and ``false_hits`` of it. ``sample_false_hits``: of 2,500 of the sample's
drawings among 2,500 others, which is the hard case, as they are much alike.

Run from the repository's root: ``python -m benchmarks.data [--pictures 20000]``; the last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from mtrl_judge.data.leaks import find_leaks
from mtrl_judge.data.near_duplicates import near_copies
from mtrl_judge.data.prepare import PrepareOptions, prepare
from mtrl_judge.demo.corpus import Sizes, write_sample
from mtrl_judge.judge_tasks.loading import find_task

# What the tests make datasets and copies with; in tests/, whose name other packages have too.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.images import CHANGES, encode
from support.replicas import REPLICAS

T = TypeVar("T")
ITEMS = 5_000
SPLITS = {"mtrl_judge_imagereward": 3, "mtrl_judge_unsafebench": 2}
TRAINED, JUDGED = "mtrl_judge_imagereward", "mtrl_judge_unsafebench"
SIDE = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--leaks-only", action="store_true")
    parser.add_argument("--prepare", nargs=3, metavar=("TASK", "FROM", "ROOT"))
    arguments = parser.parse_args()
    if arguments.prepare:
        print(json.dumps(prepared(*arguments.prepare)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = {} if arguments.leaks_only else measured_preparation(folder)
        figures |= measured_leaks(folder / "leaks", arguments.pictures)
        figures["sample_false_hits"] = false_hits_of_sample(folder / "sample")
    print(json.dumps(figures))


def measured_preparation(folder: Path) -> dict[str, Any]:
    """Each dataset in a process of its own."""
    rates, peak = {}, 0
    for task, make in REPLICAS.items():
        raw = folder / task
        make(raw, ITEMS // SPLITS.get(task, 1), (128, 128))
        words = [sys.executable, "-m", "benchmarks.data", "--prepare", task, str(raw)]
        done = subprocess.run(
            [*words, str(folder / "root")], capture_output=True, text=True, check=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
        rates[task.removeprefix("mtrl_judge_")] = round(found["items"] / found["seconds"])
        peak = max(peak, found["peak_mib"])
        print(f"{task}: {found}", file=sys.stderr)
    return {"prepare_items_per_s": rates, "peak_mib": peak}


def prepared(task: str, source: str, root: str) -> dict[str, float]:
    """Prepare one replica in this process."""
    choices = PrepareOptions(source=Path(source), any_count=True)
    begun = time.perf_counter()
    (outcome,) = prepare([find_task(task)], Path(root), choices, lambda *_: None)
    return {
        "items": sum(outcome.card["splits"].values()),
        "seconds": time.perf_counter() - begun,
        "peak_mib": peak_mib(),
    }


def peak_mib() -> int:
    """Of this process; what getrusage says begins with its parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def measured_leaks(root: Path, pictures: int) -> dict[str, Any]:
    """Plant copies of training's pictures in the other half, and look for them."""
    half = pictures // 2
    near, exact = round(0.09 * half), round(0.01 * half)
    draw = np.random.default_rng(1)
    write(root / TRAINED / "train.parquet", clouds(half, 1), TRAINED)
    fresh = clouds(half - near - exact, 2)
    copies = planted(near, exact, draw)
    write(root / JUDGED / "test.parquet", chain(fresh, copies), JUDGED)
    before = time.perf_counter()
    report = find_leaks([find_task(TRAINED)], [find_task(JUDGED)], root)
    seconds = time.perf_counter() - before
    hits = {(leak.kind, leak.train_item, leak.item) for leak in report.leaks}
    names = item_names(root)
    right = {
        (kind, names["train", i], names["test", half - near - exact + i])
        for i in range(near + exact)
        for kind in (("near_copy",) if i < near else ("bytes",))
    }
    found = hits & right
    return {
        "leaks_s": round(seconds, 1),
        "leaks_pictures": 2 * half,
        "near_copy_recall": round(sum(kind == "near_copy" for kind, *_ in found) / near, 4),
        "exact_recall": round(sum(kind == "bytes" for kind, *_ in found) / exact, 4),
        "false_hits": len(hits - right),
        "leaks_peak_mib": peak_mib(),
    }


def false_hits_of_sample(root: Path, drawings: int = 5_000) -> int:
    """Near copies among drawings that are all different."""
    tasks = ("agin_nat", "seetrue", "imagereward", "unsafebench")
    few = Sizes(train=drawings // len(tasks), validation=2, test=2, test_pairs=2)
    write_sample(root, seed=11, sizes=few)
    tables = [pq.read_table(root / f"mtrl_judge_{task}" / "train.parquet") for task in tasks]
    drawn = [cell["bytes"] for table in tables for cell in table["image"].to_pylist()]
    return len(near_copies(drawn[::2], drawn[1::2]))


def clouds(n: int, seed: int) -> Iterator[bytes]:
    """Noise whose power falls with frequency as in photographs, each of another steepness."""
    draw = np.random.default_rng(seed)
    rows, columns = np.meshgrid(*[np.fft.fftfreq(SIDE)] * 2, indexing="ij")
    distance = np.maximum(np.hypot(rows, columns), 1 / SIDE)
    for _ in range(n):
        noise = np.fft.fft2(draw.normal(size=(3, SIDE, SIDE)))
        shown = np.fft.ifft2(noise / distance ** draw.uniform(1.0, 2.0)).real
        shown = shown.mean(axis=0) + 0.5 * shown
        shown = (shown - shown.mean()) / shown.std() * 45 + 128
        picture = Image.fromarray(np.clip(shown, 0, 255).astype(np.uint8).transpose(1, 2, 0))
        yield encode(picture, "JPEG", quality=92)


def planted(near: int, exact: int, draw: np.random.Generator) -> Iterator[bytes]:
    """Copies of training's first pictures."""
    changes = list(CHANGES.values())
    for place, data in enumerate(clouds(near + exact, 1)):
        if place >= near:
            yield data
        else:
            picture = Image.open(io.BytesIO(data)).convert("RGB")
            yield encode(changes[place % len(changes)](picture, draw))


def write(path: Path, pictures: Iterator[bytes], task: str) -> None:
    """A split in the task's own columns, written as it comes."""
    label = {TRAINED: [7, 1], JUDGED: ["Unsafe", "Safe"]}[task]
    column = find_task(task).judge.label.column
    kind = Value("int64") if task == TRAINED else Value("string")
    features = Features({"image": ImageFeature(), "prompt": Value("string"), column: kind})
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, features.arrow_schema) as writer:
        for batch in batched(enumerate(pictures), 256):
            rows = [
                {
                    "image": {"bytes": data, "path": None},
                    "prompt": f"{task} prompt {number}",
                    column: label[number % 2],
                }
                for number, data in batch
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema))


def batched(values: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(values)
    while batch := list(islice(rest, size)):
        yield batch


def item_names(root: Path) -> dict[tuple[str, int], str]:
    """The items' ids by side and row."""
    from mtrl_judge.judge_tasks.sources import find_source, load_raw

    found = {}
    for task in (find_task(TRAINED), find_task(JUDGED)):
        split = "train" if task.task == TRAINED else "test"
        source = find_source(task, root)
        for place, name in enumerate(load_raw(task, split, source).ids):
            found[str(split), place] = name
    return found


if __name__ == "__main__":
    main()
