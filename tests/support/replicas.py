"""Small datasets in the raw form of the real ones: columns, types, archives, quirks."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .images import Size, encode, random_image

SMALL: Size = (48, 32)


def image_file(seed: int, size: Size = SMALL, file_format: str = "PNG") -> bytes:
    return encode(random_image(seed, size), file_format)


def agin(folder: Path, n: int, size: Size = SMALL) -> None:
    """A CSV and a folder of images."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for i in range(n):
        name = f"sd_{i:05d}.png"
        (folder / "images" / name).write_bytes(image_file(i, size))
        lines.append({"filename": name, **{f"MOS_{d}": 1 + i * 7 % 40 / 10 for d in DIMENSIONS}})
    write_csv(folder / "AGIN_MOS.csv", lines)


DIMENSIONS = ("nat", "tech", "rat")


def seetrue(folder: Path, n: int, size: Size = SMALL) -> None:
    """A CSV and one zip, whose members lie in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for i in range(n):
            name = f"id_{i}_Positional_sd_1_4_0.png"
            archive.writestr(f"images/{name}", image_file(i, size))
            lines.append(
                {
                    "image": name,
                    "text": f'A zebra, "{i // 3}" of them.',
                    "label": i % 2,
                    "original_dataset_id": f"text_{i // 3}_image_{i}",
                    "dataset_source": ("drawbench", "editbench")[i % 2],
                }
            )
    write_csv(folder / "SeeTRUE.csv", lines)


def imagereward(folder: Path, n: int, size: Size = SMALL) -> None:
    """Metadata of more images than the archives hold; numbered zips; some that do not decode."""
    parts = {"train": 4, "validation": 2, "test": 2}
    for number, (split, count) in enumerate(parts.items()):
        rows = []
        archives = folder / "images" / split
        archives.mkdir(parents=True)
        for part in range(1, count + 3):
            held = part <= count
            names = [f"{split}_{part}-{i:04d}.webp" for i in range(n // count)]
            if held:
                with zipfile.ZipFile(archives / f"{split}_{part}.zip", "w") as archive:
                    for i, name in enumerate(names):
                        data = image_file(50_000 * number + 2_000 * part + i, size, "WEBP")
                        broken = split == "train" and part == 1 and i == 3
                        archive.writestr(name, data[:40] if broken else data)
            for i, name in enumerate(names):
                rows.append(
                    {
                        "image": f"images/{split}/{split}_{part}/{name}",
                        "prompt_id": f"{part:06d}-{i // 4:04d}",
                        "prompt": f"a fantasy castle {part} {i // 4}",
                        "classification": "Scenes",
                        "image_amount_in_total": 9,
                        "rank": i % 9 + 1,
                        "overall_rating": i % 7 + 1,
                        "image_text_alignment_rating": 4,
                        "fidelity_rating": 5,
                    }
                )
        pq.write_table(pa.Table.from_pylist(rows), folder / f"metadata-{split}.parquet")


def unsafebench(folder: Path, n: int, size: Size = SMALL) -> None:
    """Images in the cells, as `datasets` writes them; several files of a split."""
    from datasets import Features, Value
    from datasets import Image as ImageFeature

    texts = ("safety_label", "category", "source", "text")
    features = Features({"image": ImageFeature(), **{name: Value("string") for name in texts}})
    (folder / "data").mkdir(parents=True)
    for split, files, start in (("train", 2, 0), ("test", 1, n)):
        for number in range(files):
            rows = [
                {
                    "image": {"bytes": image_file(i, size, "JPEG"), "path": None},
                    "safety_label": ("Unsafe", "Safe", "Safe")[i % 3],
                    "category": "Violence",
                    "source": ("Laion5B", "Lexica")[i % 2],
                    "text": f"text {i}",
                }
                for i in range(start + number * (n // files), start + (number + 1) * (n // files))
            ]
            table = pa.Table.from_pylist(rows, schema=features.arrow_schema)
            pq.write_table(table, folder / "data" / f"{split}-{number:05d}-of-{files:05d}.parquet")


def mjbench(
    folder: Path, n: int, size: Size = SMALL, *, subset: str = "alignment", cells: str = "struct"
) -> None:
    """One parquet of one row group; cells of `{bytes, path}`, or plain bytes."""
    from datasets import ClassLabel, Features, Value

    (folder / "data").mkdir(parents=True, exist_ok=True)
    cell_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    label = ClassLabel(names=["image0", "image1"])
    features = Features({"caption": Value("string"), "label": label, "info": Value("string")})
    schema = pa.schema(
        [
            ("caption", pa.string()),
            *((f"image{k}", cell_type if cells == "struct" else pa.binary()) for k in (0, 1)),
            ("label", pa.int64()),
            ("info", pa.string()),
        ],
        metadata=features.arrow_schema.metadata if cells == "struct" else None,
    )

    def cell(seed: int) -> Any:
        data = image_file(seed, size)
        return {"bytes": data, "path": f"/home/somebody/{seed}.png"} if cells == "struct" else data

    rows = [
        {
            "caption": f"a caption {i // 2}",
            "image0": cell(50_000 + 2 * i),
            "image1": cell(50_001 + 2 * i),
            "label": int(i % 8 == 0),
            "info": None,
        }
        for i in range(n)
    ]
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, folder / "data" / f"{subset}.parquet", row_group_size=n)


def write_csv(path: Path, lines: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)


REPLICAS: dict[str, Callable[..., None]] = {
    "mtrl_judge_agin_nat": agin,
    "mtrl_judge_seetrue": seetrue,
    "mtrl_judge_imagereward": imagereward,
    "mtrl_judge_unsafebench": unsafebench,
    "mtrl_judge_mjbench_alignment": mjbench,
}


def files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path
