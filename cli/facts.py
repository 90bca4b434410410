"""``mtrl-judge data facts``: what items show, from the reasoning of a judge that was right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mtrl_judge.common.errors import JudgeError

from .options import AllowLocalFiles, DataRoot, OneTask, echo, use_data_root


def facts(
    task: OneTask,
    results: Annotated[
        Path, typer.Option("--from", help="Results of one judge: a file, or its folder.")
    ],
    data_root: DataRoot = None,
    allow_local_files: AllowLocalFiles = False,
) -> None:
    """Collect facts for training from a stronger judge's reasoning on items it judged correctly.

    Each sentence becomes a fact in the task's facts.jsonl in the data root. Items that have facts
    there keep them. Evaluation reads the test split; for facts of training items, evaluate with a
    data root whose test.parquet has their rows.
    """
    from mtrl_judge.data.collected_facts import collect_facts
    from mtrl_judge.judge_tasks.loading import find_task
    from mtrl_judge.leaderboard.reading import load_runs

    use_data_root(data_root)
    judge_task = find_task(task)
    runs = load_runs([results])
    if len(runs) != 1:
        listed = ", ".join(run.name for run in runs)
        raise JudgeError(f"--from: {results} has {len(runs)} runs ({listed}); name the file of one")
    result = runs[0].tasks.get(judge_task.task)
    if result is None or not result.samples:
        raise JudgeError(f"--from: {results} has no samples of {judge_task.task}")
    collected = collect_facts(
        judge_task,
        (
            (s.item_id, s.record.label is not None and s.record.verdict == s.record.label, s.text)
            for s in result.samples
        ),
    )
    echo(
        f"{collected.file}: facts of {collected.written} items added, of {collected.kept} kept; "
        f"{collected.wrong} answers were wrong or have no sentence to use. "
        f"{collected.training_items} of {collected.of_training_items} training items have facts"
    )
