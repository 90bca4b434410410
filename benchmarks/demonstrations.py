"""``python -m benchmarks.demonstrations``: none, random and retrieved demonstrations.

Evaluates judges on the same test items without demonstrations, with k drawn at random and with the
k most similar ones, balanced by label. ``--base`` first trains two judges from a base model, one
whose training prompts show retrieved demonstrations and one whose prompts show none, in the direct
style, so that both differ in nothing else. What is finished in the folder is not done again.

Prints a table, and one JSON object last: for each judge and kind of demonstrations the headline
metric of each task, what was excluded, and the share of missing verdicts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from mtrl_judge.experiments.launch import remove_results, run_command, run_lmms_eval
from mtrl_judge.harness_plugin.prompt_style import DEMONSTRATIONS_VARIABLE
from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD
from mtrl_judge.leaderboard.reading import complete_run
from mtrl_judge.leaderboard.runs import Run
from mtrl_judge.rl.model import JUDGE
from mtrl_judge.rl.settings import as_flags


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--judge", action="append", default=[], metavar="NAME=CHECKPOINT")
    parser.add_argument("--base", type=Path, help="also train two judges from this checkpoint")
    parser.add_argument("--recipe", default="tiny_cpu", help="of the training (GRPO)")
    parser.add_argument("--max_steps", type=int, help="of the training (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", default="mtrl_judge_seetrue,mtrl_judge_unsafebench")
    parser.add_argument("--data_root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--by", default="image,text")
    parser.add_argument("--encoder", default="judge")
    parser.add_argument("--limit", type=int, help="test rows of each task")
    given = parser.parse_args()
    by = given.by.split(",")
    tasks = given.tasks.split(",")
    retrieved = {"k": given.k, "by": by, "encoder": given.encoder, "stratify": "label"}
    kinds: dict[str, Mapping[str, Any]] = {
        "none": {"k": 0},
        "random": {"k": given.k},
        "retrieved": retrieved,
    }
    judges = dict(pair.split("=", 1) for pair in given.judge)
    if given.base is not None:
        judges["base"] = str(given.base)
        for name, shown in (("trained", kinds["none"]), ("trained with", retrieved)):
            judges[name] = str(train(given, tasks, name, shown))
    figures = {
        name: {kind: evaluated(given, name, path, kind, shown) for kind, shown in kinds.items()}
        for name, path in judges.items()
    }
    rows = [
        [name, kind, *(of_task[task]["score"] for task in tasks)]
        for name, of_kind in figures.items()
        for kind, of_task in of_kind.items()
    ]
    print(tabulate(rows, headers=["judge", "demonstrations", *tasks], floatfmt=".3f"))
    print(json.dumps({"k": given.k, "by": by, "encoder": given.encoder, "judges": figures}))


def train(
    given: argparse.Namespace, tasks: Sequence[str], name: str, shown: Mapping[str, Any]
) -> Path:
    """The judge of a training whose prompts show these demonstrations."""
    folder: Path = given.out / name.replace(" ", "_")
    if not (folder / JUDGE / CHECKPOINT_CARD).is_file():
        values = {
            "recipe": given.recipe,
            "model_name_or_path": str(given.base),
            "output_dir": str(folder),
            "data_root": str(given.data_root),
            "tasks": [*tasks],
            "style": "direct",
            "seed": given.seed,
            "demonstrations": dict(shown),
            "resume": folder.exists(),
        }
        if given.max_steps is not None:
            values["max_steps"] = given.max_steps
        command = [sys.executable, "-m", "mtrl_judge", "train", "grpo", *as_flags(values)]
        run_command(f"training {name}", command, log=given.out / f"{folder.name}.log")
    return folder / JUDGE


def evaluated(
    given: argparse.Namespace, name: str, path: str, kind: str, shown: Mapping[str, Any]
) -> dict[str, Any]:
    """The figures of a judge with one kind of demonstrations, by task."""
    folder = given.out / "evaluations" / name.replace(" ", "_") / kind
    run = complete_run(folder, given.tasks.split(","), samples=True)
    if run is None:
        remove_results(folder)
        limit = [] if given.limit is None else ["--limit", str(given.limit)]
        (run,) = run_lmms_eval(
            "mtrl_judge",
            given.tasks,
            output_path=folder,
            style="direct",
            flags=["--model_args", f"pretrained={path}", "--batch_size", "16", *limit],
            environment={
                DATA_ROOT_VARIABLE: str(given.data_root.resolve()),
                DEMONSTRATIONS_VARIABLE: json.dumps(shown),
            },
            log=folder.parent / f"{kind}.log",
            name=f"{name}, {kind}",
            resume=True,
        )
    return {task: figures_of(run, task) for task in run.tasks}


def figures_of(run: Run, name: str) -> dict[str, Any]:
    result, task = run.tasks[name], find_task(name)
    summary = task.summarize([sample.record for sample in result.samples])
    demonstrated = result.metadata.get("demonstrated") or {}
    return {
        "score": summary[task.kind.headline],
        "n": result.n,
        "null_rate": summary.get("null_rate"),
        "excluded": demonstrated.get("excluded", {}),
        "selection": demonstrated.get("fingerprint"),
    }


if __name__ == "__main__":
    main()
