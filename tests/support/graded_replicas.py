"""Small datasets in the published form of graded and ranked benchmarks, awkward rows included."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .replicas import SMALL, agin, image_file, write_csv

AGIQA3K_MOS = ((0, 0.021462288), (0.965602553, 0.40889324), (4.488740784, 4.286204297))
"""Quality and alignment of the first images, the extremes of data.csv among them."""


def agiqa3k(folder: Path, n: int = 6) -> None:
    """data.csv, whose adjectives and styles are often empty, and a folder of JPEGs."""
    (folder / "AGIQA-3K").mkdir(parents=True)
    lines = []
    for i in range(n):
        name = f"AttnGAN_normal_{i:03d}.jpg"
        (folder / "AGIQA-3K" / name).write_bytes(image_file(3_000 + i, SMALL, "JPEG"))
        quality, alignment = AGIQA3K_MOS[i % 3]
        style = "baroque style" if i % 2 else ""
        lines.append(
            {
                "name": name,
                "prompt": f'statue {i // 2} of a man, "close up"' + (f", {style}" if style else ""),
                "adj1": "",
                "adj2": "HDR lighting" if i == 3 else "",
                "style": style,
                "mos_quality": quality,
                "std_quality": 0.2233,
                "mos_align": alignment,
                "std_align": 0.6156,
            }
        )
    write_csv(folder / "data.csv", lines)


GENAI_MODELS = (
    *("DALLE_3", "DeepFloyd_I_XL_v1", "Midjourney_6"),
    *("SDXL_2_1", "SDXL_Base", "SDXL_Turbo"),
)


def genaibench(folder: Path, n: int = 2) -> None:
    """A row for each prompt, with six images and three ratings of each; two files."""
    from datasets import Features, List, Value
    from datasets import Image as ImageFeature

    texts, numbers = List(Value("string")), List(Value("int64"))
    features = Features(
        {
            "Index": Value("int64"),
            "Prompt": Value("string"),
            "Tags": {"advanced": texts, "basic": texts},
            "HumanRatings": dict.fromkeys(GENAI_MODELS, numbers),
            **dict.fromkeys(GENAI_MODELS, ImageFeature()),
        }
    )
    (folder / "data").mkdir(parents=True)
    for i in range(n):
        ratings: dict[str, list[int | None] | None] = {
            model: [1 + (i + k) % 5, 5, 1 + k % 5] for k, model in enumerate(GENAI_MODELS)
        }
        if i == 0:
            ratings |= {"Midjourney_6": [3, None, 4], "SDXL_Turbo": None}
        row = {
            "Index": i,
            "Prompt": f"{i} bakers, none of whom wears a hat",
            "Tags": {"advanced": ["counting", "negation"], "basic": []},
            "HumanRatings": ratings,
            **{
                model: {"bytes": image_file(4_000 + 10 * i + k, SMALL, "JPEG"), "path": None}
                for k, model in enumerate(GENAI_MODELS)
            },
        }
        table = pa.Table.from_pylist([row], schema=features.arrow_schema)
        pq.write_table(table, folder / "data" / f"train-{i:05d}-of-{n:05d}.parquet")


IMAGEREWARD_RANKS: tuple[tuple[int, ...], ...] = (
    (2, 1, 3, 2),
    (1, 1),
    (9, 8, 7, 6, 5, 4, 3, 2, 1),
)
"""Of the images of each prompt of an archive; equal ranks are ties."""


def imagereward_image(split: str, part: int, prompt: int, place: int) -> bytes:
    seed = 1_000 * ("train", "validation", "test").index(split)
    return image_file(60_000 + seed + 100 * part + 10 * prompt + place, SMALL, "WEBP")


def imagereward_prompts(folder: Path) -> None:
    """Prompts with two to nine images, whose rows are not next to one another."""
    parts = {"train": 4, "validation": 2, "test": 2}
    for split, count in parts.items():
        rows = []
        (folder / "images" / split).mkdir(parents=True)
        for part in range(1, count + 1):
            with zipfile.ZipFile(folder / "images" / split / f"{split}_{part}.zip", "w") as archive:
                for prompt, ranks in enumerate(IMAGEREWARD_RANKS):
                    for place, rank in enumerate(ranks):
                        name = f"{part}-{prompt}-{place}.webp"
                        archive.writestr(name, imagereward_image(split, part, prompt, place))
                        rows.append(
                            {
                                "image": f"images/{split}/{split}_{part}/{name}",
                                "prompt_id": f"{part:06d}-{prompt:04d}",
                                "prompt": f"a fantasy castle {part} {prompt}",
                                "classification": "Scenes",
                                "image_amount_in_total": len(ranks),
                                "rank": rank,
                                "overall_rating": max(1, 8 - rank),
                                "image_text_alignment_rating": 4,
                                "fidelity_rating": 5,
                            }
                        )
        rows.sort(key=lambda row: str(row["image"])[-6:])  # by their place in the prompt
        pq.write_table(pa.Table.from_pylist(rows), folder / f"metadata-{split}.parquet")


MLLMJUDGE_MODELS = ("llava", "cogvlm", "gpt4", "gemini")


def mllmjudge(folder: Path) -> None:
    """JSON lines of ratings and of orders, beside a folder of images.

    Ratings are numbers or texts, paths with or without the folder, and some rows have more columns.
    """
    (folder / "image").mkdir(parents=True)
    (folder / "Benchmark").mkdir()
    scores: list[dict[str, Any]] = []
    batches = []
    for number, order in enumerate(("CDAB", "DBCA")):
        image = 100 + number
        (folder / "image" / f"{image}.jpg").write_bytes(image_file(5_000 + number, SMALL, "JPEG"))
        about = {"id": image, "instruction": "Please analyse: what is shown?"}
        answers = [
            {"name": name, "answer": f" {name} says {number}.\nReally."}
            for name in MLLMJUDGE_MODELS
        ]
        batches.append(
            {
                **about,
                "image_path": f"image/{image}.jpg",
                "original_dataset": "coco",
                "answers": answers,
                "human_answer": order,
            }
        )
        for place, answer in enumerate(answers):
            human: Any = (place + number) % 5 + 1
            row = {"score_id": len(scores), **answer, **about, "image_path": f"{image}.jpg"}
            row |= {"original_dataset": "ScienceQA" if number else "coco"}
            row |= {"true_answers": "New Zealand"} if number else {}
            scores.append({**row, "human": str(human) if place % 2 else human})
    for name, rows in (("score", scores), ("batch", batches)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "Benchmark" / f"{name}.jsonl").write_text(text, encoding="utf-8")


def agin_of_twenty(folder: Path) -> None:
    agin(folder, 20)


GRADED_REPLICAS: dict[str, Callable[[Path], None]] = {
    **{f"mtrl_judge_agin_{name}_graded": agin_of_twenty for name in ("nat", "rat", "tech")},
    "mtrl_judge_agiqa3k_alignment": agiqa3k,
    "mtrl_judge_agiqa3k_quality": agiqa3k,
    "mtrl_judge_genaibench_graded": genaibench,
    "mtrl_judge_imagereward_graded": imagereward_prompts,
    "mtrl_judge_imagereward_ranked": imagereward_prompts,
    "mtrl_judge_mllmjudge_batch": mllmjudge,
    "mtrl_judge_mllmjudge_score": mllmjudge,
}
