"""Small datasets in the published form of the benchmarks of pairs: columns, types, nesting, quirks.

Images have one color each, by which tests know them again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature

from .images import image_cell

TEXT, NUMBER, TRUTH = Value("string"), Value("int64"), Value("bool")
IMAGE = ImageFeature()
COLORS = {
    "red": (255, 0, 0),
    "lime": (0, 255, 0),
    "blue": (0, 0, 255),
    "gray": (128, 128, 128),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "cyan": (0, 255, 255),
}


def write_parquet(path: Path, features: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = [{name: row.get(name) for name in features} for row in rows]
    Dataset.from_list(whole, features=Features(features)).to_parquet(path)


def write_config(folder: Path, split: str, files: str, name: str = "default") -> None:
    """The part of a dataset card that says which files a split of a configuration has."""
    data_files = [{"split": split, "path": files}]
    card = json.dumps({"configs": [{"config_name": name, "data_files": data_files}]})
    (folder / "README.md").write_text(f"---\n{card}\n---\n", encoding="utf-8")


def vlrewardbench(folder: Path) -> None:
    """Answers and ranks in lists; the second of two rows with one id prefers its second answer."""
    features = {
        "id": TEXT,
        "query": TEXT,
        "response": List(TEXT),
        "image": IMAGE,
        "human_ranking": List(NUMBER),
        "models": List(TEXT),
        "judge": TEXT,
        "rationale": TEXT,
        "query_source": TEXT,
        "ground_truth": TEXT,
    }
    rows = [
        {
            "id": name,
            "query": "What is on the table?",
            "response": ["A <image> of a cup.", "Two cups."],
            "image": image_cell(color),
            "human_ranking": ranks,
            "models": None,
            "query_source": source,
        }
        for name, color, ranks, source in (
            ("RLAIF-V-1", "red", [0, 1], "RLAIF-V"),
            ("RLAIF-V-1", "red", [1, 0], "RLAIF-V"),
            ("mathverse_2", "lime", [0, 1], "MathVerse"),
            ("wildvision-battle-3", "blue", [0, 1], "WildVision"),
        )
    ]
    rows[1]["query"] = "How many cups?"
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", features, rows)
    write_config(folder, "test", "data/test-*")


def mmrewardbench(folder: Path) -> None:
    """The copy on the hub."""
    texts = ("ID", "Text", "Output1", "Output2", "Better", "Category")
    features = {**dict.fromkeys(texts, TEXT), "Image": IMAGE}
    rows = [
        {
            "ID": name,
            "Text": "Describe {{ this }}.",
            "Image": image_cell(color),
            "Output1": f"one {name}",
            "Output2": f"two {name}",
            "Better": better,
            "Category": category,
        }
        for name, color, better, category in (
            ("nocaps_1", "red", "Output1", "open_generation/correctness_task"),
            ("pairs_2", "lime", "Output2", "safety"),
            ("mathvista_3", "blue", "Output2", "reasoning"),
        )
    ]
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", features, rows)
    write_config(folder, "test", "data/test-*")


def mmrewardbench_json(folder: Path) -> None:
    """The authors' own form, after their script has downloaded the images."""
    lines = []
    for name, color, better in (("nocaps/1", "red", "Output1"), ("pairs/2", "blue", "Output2")):
        file = folder / "data" / "images" / f"{name}.jpg"
        file.parent.mkdir(parents=True)
        file.write_bytes(image_cell(color)["bytes"])
        line = {"ID": name.replace("/", "_"), "Text": "Describe it.", "Image": f"images/{name}.jpg"}
        texts = {"Output1": f"one {name}", "Output2": f"two {name}"}
        lines.append({**line, **texts, "Better": better, "Category": "safety"})
    (folder / "data" / "all_data.json").write_text(json.dumps(lines, indent=2))


def pickapic(folder: Path) -> None:
    """Images as plain bytes; a tie, and rows whose label is missing by has_label or by itself."""
    texts = ("best_image_uid", "caption", "image_0_uid", "image_1_uid", "model_0", "model_1")
    features = {
        **dict.fromkeys(texts, TEXT),
        "are_different": TRUTH,
        "has_label": TRUTH,
        "ranking_id": NUMBER,
        "user_id": NUMBER,
        **{name: Value("binary") for name in ("jpg_0", "jpg_1")},
        **{name: Value("float64") for name in ("label_0", "label_1")},
    }
    labels = ((1.0, True), (0.0, True), (0.5, True), (None, False), (0.5, False))
    rows = [
        {
            "caption": f"a cat {number}",
            "jpg_0": image_cell("red")["bytes"],
            "jpg_1": image_cell("blue")["bytes"],
            "label_0": label,
            "label_1": None if label is None else 1 - label,
            "has_label": has_label,
            "are_different": True,
        }
        for number, (label, has_label) in enumerate(labels)
    ]
    write_parquet(folder / "data" / "test_unique-00000-of-00001-a1.parquet", features, rows)
    # Of the other splits nothing may be read.
    (folder / "data" / "train-00000-of-00645-b2.parquet").write_bytes(b"not read")


def mmrb2(folder: Path, config: str) -> None:
    """Texts with marks beside lists of images: none, several, and texts or images alone."""
    sides = {
        f"response_{side}_{what}": feature
        for side in "ab"
        for what, feature in {"text": TEXT, "images": List(IMAGE), "model": TEXT}.items()
    }
    features = {
        "pair_id": TEXT,
        "prompt_source": TEXT,
        "prompt_text": TEXT,
        "prompt_images": List(IMAGE),
        **sides,
        "chosen": TEXT,
        "human_annotations": TEXT,
        "prompt_metadata": TEXT,
    }

    def cells(*colors: str) -> list[dict[str, Any]]:
        return [image_cell(color) for color in colors]

    rows: list[dict[str, Any]] = [
        {
            "pair_id": "p1",
            "prompt_source": "isgbench",
            "chosen": "a",
            "prompt_text": "Draw <image_1> in two steps, like <image_2>.",
            "prompt_images": cells("gray", "black"),
            "response_a_text": "First <image_1>, then <image_2>.",
            "response_a_images": cells("red", "lime"),
            "response_b_text": "<image_1>Done.",
            "response_b_images": cells("blue"),
            "human_annotations": "[6, 5, 6]",
        },
        {
            "pair_id": "p2",
            "prompt_source": "chameleon",
            "chosen": "B",
            "prompt_text": "A cat",
            "prompt_images": None,
            "response_a_text": "",
            "response_a_images": cells("white"),
            "response_b_text": None,
            "response_b_images": cells("cyan"),
            "human_annotations": '{"response_a_ratings": ["A", "B", "A"]}',
        },
        {
            "pair_id": "p3",
            "prompt_source": "chameleon",
            "chosen": "b",
            "prompt_text": "Why?",
            "prompt_images": [],
            "response_a_text": "Because.",
            "response_a_images": [],
            "response_b_text": "No idea.",
            "response_b_images": None,
        },
    ]
    write_parquet(folder / config / "test-00000-of-00001.parquet", features, rows)
    write_config(folder, "test", f"{config}/test-*", config)


def genaibench(folder: Path, config: str) -> None:
    """The four votes; of edits, the original image beside the two."""
    images, texts = {
        "image_generation": (("left_image", "right_image"), ("prompt",)),
        "image_edition": (
            ("source_image", "left_output_image", "right_output_image"),
            ("source_prompt", "target_prompt", "instruct_prompt"),
        ),
    }[config]
    models = ("left_model", "right_model", "vote_type")
    features = {**dict.fromkeys((*texts, *models), TEXT), **dict.fromkeys(images, IMAGE)}
    colors = ("gray", "red", "blue")[-len(images) :]
    votes = ("leftvote", "rightvote", "tievote", "bothbad_vote")
    rows = [
        {
            **{name: f"{name} {number}" for name in texts},
            **{name: image_cell(color) for name, color in zip(images, colors, strict=True)},
            "left_model": "LCM",
            "right_model": "PixArt",
            "vote_type": vote,
        }
        for number, vote in enumerate(votes)
    ]
    write_parquet(folder / config / "test_v1-00000-of-00001.parquet", features, rows)
    write_config(folder, "test_v1", f"{config}/test_v1-*", config)


def winoground(folder: Path) -> None:
    """Two captions and two images in a row."""
    features = {
        "id": Value("int32"),
        "image_0": IMAGE,
        "image_1": IMAGE,
        **dict.fromkeys(("caption_0", "caption_1", "tag", "secondary_tag", "collapsed_tag"), TEXT),
        "num_main_preds": Value("int32"),
    }
    rows = [
        {
            "id": number,
            "image_0": image_cell(first),
            "image_1": image_cell(second),
            "caption_0": f"{one} under {other}",
            "caption_1": f"{other} under {one}",
            "tag": "Preposition",
            "num_main_preds": 1,
        }
        for number, (first, second, one, other) in enumerate(
            (("red", "lime", "cat", "dog"), ("blue", "gray", "cup", "box"))
        )
    ]
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", features, rows)
    write_config(folder, "test", "data/test-*")


SUGARCREPE = (
    "add_att",
    "add_obj",
    "replace_att",
    "replace_obj",
    "replace_rel",
    "swap_att",
    "swap_obj",
)


def sugarcrepe(folder: Path) -> None:
    """Seven files of mappings, an older version of each, and the images of COCO beside them."""
    images = folder / "val2017"
    images.mkdir(parents=True)
    for name in ("data", "data_unrefined"):
        (folder / name).mkdir()
        for number, subset in enumerate(SUGARCREPE):
            file = f"{number % 2:012d}.jpg"
            (images / file).write_bytes(image_cell(("red", "blue")[number % 2])["bytes"])
            texts = {"caption": f"a cat {number}", "negative_caption": f"no cat {number}, {name}"}
            entries = {"0": {"filename": file, **texts}, "4": {"filename": file, **texts}}
            entries["4"]["caption"] = f"one cat {number}"
            (folder / name / f"{subset}.json").write_text(json.dumps(entries, indent=4))


def mllmjudge(folder: Path) -> None:
    """JSON lines beside a folder of images; two pairs are of one image, one lacks an answer."""
    (folder / "image").mkdir(parents=True)
    (folder / "Benchmark").mkdir()
    for number, color in enumerate(("red", "blue")):
        (folder / "image" / f"{number}.jpg").write_bytes(image_cell(color)["bytes"])
    lines = [
        {
            "id": image,
            "pair_id": pair,
            "image_path": f"{image}.jpg",
            "original_dataset": dataset,
            "instruction": "What is this?",
            "answer1": {"name": "gpt4", "answer": f"one {pair}"},
            "answer2": {"name": "llava", "answer": None if pair == 8 else f"two {pair}"},
            "human_answer": label,
        }
        for image, pair, dataset, label in (
            (0, 5, "coco", "A"),
            (0, 8, "coco", "C"),
            (1, 9, "wit", "B"),
        )
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "Benchmark" / "pair.jsonl").write_text(text, encoding="utf-8")
