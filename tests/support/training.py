"""A judge, tasks and data so small that whole training runs take seconds.

The tasks ask whether an image of one color is red; a random tiny judge learns to answer that in
the direct style within some tens of steps of supervised training.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.rl.arguments import Method
from mtrl_judge.rl.settings import build_settings
from mtrl_judge.rl.train import JUDGE, train

from .images import image_cell
from .shared import made_once, random_judge
from .tasks import write_split, write_yaml

TASKS = ("red", "warm")
ROWS = 24
VALUES: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "dtype": "float32",
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "lr_scheduler_type": "constant",
    "learning_rate": 1e-3,
    "style": "direct",
    "allow_leaks": True,  # the tasks of `write_world` share their images
    "validation_items": 6,
    "validation_max_new_tokens": 4,
}
GRPO = {"num_generations": 4, "max_completion_length": 4, "alpha": 0.0}


def colors(split: str, n: int) -> list[tuple[str, int]]:
    """Colors of images and whether they are red; no two are alike."""
    shift = ("train", "test").index(split)
    shades = [(i, 2 * i + shift, 40 + stable_hash(split, i) % 40) for i in range(n)]
    return [
        (f"#e8{shade:02x}{blue:02x}" if i % 2 else f"#10{shade + 100:02x}{blue:02x}", i % 2)
        for i, blue, shade in shades
    ]


def write_world(root: Path) -> Path:
    """Two tasks of red and green images, their YAMLs in ``root``, their data in ``root/data``.

    ``guess`` is a third such task; one third of its labels is wrong.
    """
    root.mkdir(parents=True, exist_ok=True)
    for task in (*TASKS, "guess"):
        write_yaml(
            root,
            task,
            question="'Is it {{ text }}?'",
            splits="{validation: {from: train, fraction: 0.25, seed: 0}}",
        )
        n = ROWS if task in TASKS else 4 * ROWS
        for split in ("train", "test"):
            seen = colors(split, n)
            labels = [label for _, label in seen]
            if task == "guess":
                labels = [
                    1 - label if stable_hash("doubt", i) % 3 == 0 else label
                    for i, label in enumerate(labels)
                ]
            write_split(
                root / "data",
                task,
                split,
                {
                    "image": [image_cell(color, (32, 32)) for color, _ in seen],
                    "text": [f"{task} {i}" for i in range(n)],
                    "label": labels,
                },
            )
    return root


def values(world: Path, out: Path, judge: Path, *tasks: str, **fields: Any) -> dict[str, Any]:
    """The settings of a run on the CPU, by field; None leaves a field out."""
    given = {
        **VALUES,
        "model_name_or_path": str(judge),
        "output_dir": str(out),
        "data_root": str(world / "data"),
        "tasks": [str(world / f"{task}.yaml") for task in tasks or TASKS],
        **fields,
    }
    return {name: value for name, value in given.items() if value is not None}


def run(method: Method, given: Mapping[str, Any]) -> Path:
    """Train in this process; the judge's folder."""
    return train(build_settings(method, given))


small_world = made_once(write_world)


@made_once
def guessing_run(folder: Path) -> None:
    base = folder.parent
    fields = {"max_steps": 40, "save_strategy": "no", "learning_rate": 3e-3}
    run("sft", values(small_world(base), folder, random_judge(base), "guess", **fields))


def guessing_judge(base: Path) -> Path:
    """A judge that answers in form, with little confidence: a third of its labels was wrong."""
    return guessing_run(base) / JUDGE


def environment(**variables: str) -> dict[str, str]:
    """For a run in processes of its own; torch's threads would wait for each other."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **variables}


def log_of(run_folder: Path) -> list[dict[str, Any]]:
    lines = (run_folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def swap_verdicts(trainer: Any) -> None:
    """Change the model in training: it says Yes where its checkpoint says No, and the reverse."""
    tokenizer = trainer.processing_class.tokenizer
    yes, no = (tokenizer(verdict)["input_ids"][0] for verdict in ("Yes", "No"))
    rows = trainer.model.get_output_embeddings().weight.data
    rows[[yes, no]] = rows[[no, yes]]


# Reward functions that runs name by their path


def distinct_tokens(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that differs between the completions of a random judge."""
    return [len(set(ids)) / 4 for ids in completion_ids]


def drawn_by_tokens(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that differs between all completions, whatever they are."""
    return [stable_hash("reward", *ids) % 1000 / 1000 for ids in completion_ids]


def undefined_in_one_process(item_id: list[str], **_: Any) -> list[float | None]:
    """NaN for the last completion of the last process, and None for its others."""
    last = int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1
    return [None] * (len(item_id) - 1) + [math.nan if last else None]


def alternating(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that differs in every group, whatever the completions say."""
    return [float(index % 2) for index in range(len(completion_ids))]


def by_position(item_id: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
    """0 for every second item; for the others a completion's position in its group.

    Each call writes its items to a file of its process in the folder that ``WITNESS`` names.
    """
    with Path(os.environ["WITNESS"], f"{os.environ['RANK']}.jsonl").open("a") as file:
        file.write(json.dumps({"items": item_id}) + "\n")
    return [
        0.0 if stable_hash("flat", item) % 2 else index % 4 / 4
        for index, item in enumerate(item_id)
    ]


def by_wording(prompts: list[Any], item_id: list[str], **_: Any) -> list[float]:
    """0; each call writes its items and their questions to the file that ``WITNESS`` names."""
    texts = [
        "".join(part.get("text") or "" for message in prompt for part in message["content"])
        for prompt in prompts
    ]
    with Path(os.environ["WITNESS"]).open("a", encoding="utf-8") as file:
        for item, text in zip(item_id, texts, strict=True):
            file.write(json.dumps([item, text.partition("\n")[0]]) + "\n")
    return [0.0] * len(item_id)


def interrupted(completion_ids: list[list[int]], trainer_state: Any, **_: Any) -> list[float]:
    """As :func:`distinct_tokens`; ``SIGNAL=number@step`` or ``crash@step`` interrupts the run."""
    what, _, step = os.environ.get("SIGNAL", "@-1").partition("@")
    if trainer_state.global_step == int(step):
        if what == "crash":
            raise RuntimeError("crash")
        os.kill(os.getpid(), int(what))
    return distinct_tokens(completion_ids)


def of_a_raw_column(
    completions: list[Any], text: list[str], item_id: list[str], unknown: Any = None, **_: Any
) -> list[float]:
    """A reward by the raw column ``text``, of which each item has another value."""
    assert len(set(zip(text, item_id, strict=True))) == len(set(text)) == len(set(item_id))
    return [stable_hash(value, n) % 1000 / 1000 for n, value in enumerate(text)]


def of_no_column(completions: list[Any], txet: list[str], **_: Any) -> list[float]:
    """Names a column that no data has."""
    return [0.0] * len(txet)
