"""How fast datasets are prepared, and how accurate and fast the search for leaks is.

``prepare_items_per_s``: by dataset, from replicas of 5,000 items with images of 128 × 128 in the
dataset's raw form, without the time to make them. ``peak_mib``: of the processes that prepare.

``leaks_s``: from parquet files to the report, for 20,000 images of noise like clouds. Half of them
are training data; the other half contains 900 near-duplicates of them, changed in nine ways (see
tests/support/images.py), and 100 identical copies. ``near_duplicate_recall``, ``exact_recall`` and
``false_hits`` are about those. ``sample_false_hits``: pairs found among 2,500 of the sample
corpus's drawings and 2,500 others, which is the hard case because they look much alike.

Run from the repository's root: ``python -m benchmarks.data [--images 20000]``. The last line of
the output is a JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from mtrl_judge.data.leaks import find_leaks
from mtrl_judge.data.near_duplicates import find_near_duplicates
from mtrl_judge.data.prepare import PrepareOptions, prepare
from mtrl_judge.demo.corpus import Sizes, write_sample
from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.judge_tasks.sources import find_source, load_raw
from mtrl_judge.judge_tasks.spec import SplitName

# tests/ is not a package, because other packages have one of that name.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.images import CHANGES, encode
from support.replicas import REPLICAS

ITEMS = 5_000
N_SPLITS = {"mtrl_judge_imagereward": 3, "mtrl_judge_unsafebench": 2}
TRAINED, JUDGED = "mtrl_judge_imagereward", "mtrl_judge_unsafebench"
SIDE = 128
BATCH_ROWS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--leaks-only", action="store_true")
    parser.add_argument("--prepare", nargs=3, metavar=("TASK", "FROM", "ROOT"))
    arguments = parser.parse_args()
    if arguments.prepare:
        print(json.dumps(prepare_one(*arguments.prepare)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = {} if arguments.leaks_only else measure_preparation(folder)
        figures |= measure_leaks(folder / "leaks", arguments.images)
        figures["sample_false_hits"] = false_hits_in_sample(folder / "sample")
    print(json.dumps(figures))


def measure_preparation(folder: Path) -> dict[str, Any]:
    """Prepare each dataset in a process of its own."""
    rates, peak = {}, 0
    for task, make in REPLICAS.items():
        raw = folder / task
        make(raw, ITEMS // N_SPLITS.get(task, 1), (SIDE, SIDE))
        command = [sys.executable, "-m", "benchmarks.data", "--prepare", task, str(raw)]
        done = subprocess.run(
            [*command, str(folder / "root")], capture_output=True, text=True, check=True
        )
        figures = json.loads(done.stdout.splitlines()[-1])
        rates[task.removeprefix("mtrl_judge_")] = round(figures["items"] / figures["seconds"])
        peak = max(peak, figures["peak_mib"])
        print(f"{task}: {figures}", file=sys.stderr)
    return {"prepare_items_per_s": rates, "peak_mib": peak}


def prepare_one(task: str, source: str, root: str) -> dict[str, float]:
    """Prepare one replica in this process."""
    options = PrepareOptions(source=Path(source), any_count=True)
    started = time.perf_counter()
    (prepared,) = prepare([find_task(task)], Path(root), options, lambda *_: None)
    return {
        "items": sum(prepared.card["splits"].values()),
        "seconds": time.perf_counter() - started,
        "peak_mib": peak_mib(),
    }


def peak_mib() -> int:
    """The peak memory of this process; getrusage would include that of its parent before exec."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def measure_leaks(root: Path, images: int) -> dict[str, Any]:
    """Plant copies of training images in the other half, and search for them."""
    half = images // 2
    n_near, n_exact = round(0.09 * half), round(0.01 * half)
    n_new = half - n_near - n_exact
    write(root / TRAINED / "train.parquet", cloud_images(half, seed=1), TRAINED)
    new = cloud_images(n_new, seed=2)
    write(root / JUDGED / "test.parquet", chain(new, planted_copies(n_near, n_exact)), JUDGED)
    started = time.perf_counter()
    report = find_leaks([find_task(TRAINED)], [find_task(JUDGED)], root)
    seconds = time.perf_counter() - started
    hits = {(leak.kind, leak.train_item, leak.item) for leak in report.leaks}
    train_ids, test_ids = item_ids(root, TRAINED, "train"), item_ids(root, JUDGED, "test")
    pairs = [*zip(train_ids[: n_near + n_exact], test_ids[n_new:], strict=True)]
    near = {("near-duplicate", *pair) for pair in pairs[:n_near]}
    exact = {("identical image", *pair) for pair in pairs[n_near:]}
    return {
        "leaks_s": round(seconds, 1),
        "leaks_images": 2 * half,
        "near_duplicate_recall": round(len(hits & near) / n_near, 4),
        "exact_recall": round(len(hits & exact) / n_exact, 4),
        "false_hits": len(hits - near - exact),
        "leaks_peak_mib": peak_mib(),
    }


def false_hits_in_sample(root: Path, drawings: int = 5_000) -> int:
    """Near-duplicates found among drawings that all differ."""
    tasks = ("agin_nat", "seetrue", "imagereward", "unsafebench")
    sizes = Sizes(train=drawings // len(tasks), validation=2, test=2, test_pairs=2)
    write_sample(root, seed=11, sizes=sizes)
    tables = [pq.read_table(root / f"mtrl_judge_{task}" / "train.parquet") for task in tasks]
    images = [cell["bytes"] for table in tables for cell in table["image"].to_pylist()]
    return len(find_near_duplicates(images[::2], images[1::2]))


def cloud_images(n: int, seed: int) -> Iterator[bytes]:
    """Noise whose power falls with frequency as in photographs, each with its own exponent."""
    rng = np.random.default_rng(seed)
    rows, columns = np.meshgrid(*[np.fft.fftfreq(SIDE)] * 2, indexing="ij")
    frequency = np.maximum(np.hypot(rows, columns), 1 / SIDE)
    for _ in range(n):
        noise = np.fft.fft2(rng.normal(size=(3, SIDE, SIDE)))
        pixels = np.fft.ifft2(noise / frequency ** rng.uniform(1.0, 2.0)).real
        pixels = pixels.mean(axis=0) + 0.5 * pixels
        pixels = (pixels - pixels.mean()) / pixels.std() * 45 + 128
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8).transpose(1, 2, 0))
        yield encode(image, "JPEG", quality=92)


def planted_copies(n_near: int, n_exact: int) -> Iterator[bytes]:
    """Copies of the first training images."""
    rng = np.random.default_rng(1)
    changes = list(CHANGES.values())
    for index, data in enumerate(cloud_images(n_near + n_exact, seed=1)):
        if index >= n_near:
            yield data
        else:
            image = Image.open(io.BytesIO(data)).convert("RGB")
            yield encode(changes[index % len(changes)](image, rng), "PNG")


def write(path: Path, images: Iterator[bytes], task: str) -> None:
    """Write a split in the task's own columns as a stream."""
    labels = {TRAINED: [7, 1], JUDGED: ["Unsafe", "Safe"]}[task]
    (column,) = find_task(task).judge.label.columns
    label_type = Value("int64") if task == TRAINED else Value("string")
    features = Features({"image": ImageFeature(), "prompt": Value("string"), column: label_type})
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, features.arrow_schema) as writer:
        rows = []
        for number, data in enumerate(images):
            cell = {"bytes": data, "path": None}
            prompt = f"{task} prompt {number}"
            rows.append({"image": cell, "prompt": prompt, column: labels[number % 2]})
            if len(rows) == BATCH_ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema))


def item_ids(root: Path, name: str, split: SplitName) -> list[str]:
    task = find_task(name)
    return load_raw(task, split, find_source(task, root)).ids


if __name__ == "__main__":
    main()
