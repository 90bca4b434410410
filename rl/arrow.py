"""``python -m mtrl_judge.rl.arrow RUN … --out FOLDER``: the adapters of several runs as one judge.

The runs trained LoRA adapters (``use_peft: true``) from one base model, each on a task of its own.
Their adapters are composed by Arrow (:mod:`mtrl_judge.models.arrow`); nothing is trained.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.exits import exits_with_message
from mtrl_judge.common.files import read_json, whole_folder
from mtrl_judge.common.plain_yaml import yaml_mapping
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD
from mtrl_judge.models.checkpoint import ARROW, BASE

from .checkpoints import write_card
from .finished_run import JUDGE
from .model import ADAPTER
from .run_record import RECIPE_FILE

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def compose(runs: Sequence[Path], out: Path) -> Path:
    """Write the judge that Arrow makes of the runs' adapters; its folder.

    Args:
        runs: their folders; finished.
        out: the judge's folder, to be made.

    Raises:
        JudgeError: a run has no adapter, cannot be composed, or has another base model.
    """
    from mtrl_judge.models.checkpoint import load_model, load_processor

    bases, cards = set(), []
    for run in runs:
        recipe = yaml_mapping(run / RECIPE_FILE) if (run / ADAPTER).is_dir() else None
        if recipe is None or recipe.get("adapter", "lora") != "lora":
            raise JudgeError(f"{run}: has no LoRA adapter; expected a finished run with use_peft")
        bases.add((str(recipe["model_name_or_path"]), recipe.get("model_revision", "main")))
        cards.append(read_json(run / JUDGE / CHECKPOINT_CARD))
    styles = {card["style"] for card in cards}
    if len(bases) > 1 or len(styles) > 1:
        found = ", ".join(sorted([*(base for base, _ in bases), *styles]))
        raise JudgeError(f"arrow: expected runs of one base model and style; found {found}")
    ((base, revision),) = bases
    model = load_model(base, revision=revision)
    with whole_folder(out) as part:
        model.save_pretrained(part / BASE)
        for name in ("config.json", "generation_config.json"):
            if (part / BASE / name).is_file():
                shutil.copy(part / BASE / name, part)
        load_processor(str(runs[0] / JUDGE)).save_pretrained(part)
        for number, run in enumerate(runs):
            folder = part / ARROW / str(number)
            folder.mkdir(parents=True)
            for name in _ADAPTER_FILES:
                shutil.copy(run / ADAPTER / name, folder)
        tasks = sorted({task for card in cards for task in card["tasks"]})
        write_card(part, {**cards[0], "tasks": tasks, "composed_by": "arrow"})
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="mtrl_judge.rl.arrow", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    given = parser.parse_args(arguments)
    with exits_with_message():
        print(compose(given.runs, given.out))


if __name__ == "__main__":
    main()
