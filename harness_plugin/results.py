"""lmms-eval's result and sample files to a table."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from mtrl_judge.judge_tasks.errors import JudgeError

from .evaluate import RESULTS_SUFFIX, results_files

_SHOWN = ("macro_f1", "constant_macro_f1", "accuracy", "null_rate", "flip_rate")


def newest_results(folder: Path) -> Path:
    """The results file that lmms-eval wrote last under a folder.

    Raises:
        JudgeError: there is none.
    """
    files = results_files(folder)
    if not files:
        raise JudgeError(f"{folder}: no lmms-eval results (*{RESULTS_SUFFIX}) in it")
    return files[-1]


def results_table(results: Path) -> pd.DataFrame:
    """One line a judge task of one run, training tasks first.

    Columns: task, role, macro_f1, constant_macro_f1 (of always answering the commoner verdict),
    accuracy, null_rate, flip_rate, n (rows judged), source, fingerprint (of the rows).

    Raises:
        JudgeError: the file has no judge task.
    """
    run = json.loads(results.read_text(encoding="utf-8"))
    lines = []
    for task, config in run["configs"].items():
        judge = (config.get("metadata") or {}).get("judge")
        if judge is None:
            continue
        metrics = {key.removesuffix(",none"): value for key, value in run["results"][task].items()}
        lines.append(
            {
                "task": task,
                "role": judge["role"],
                **{name: metrics.get(name) for name in _SHOWN},
                "n": run["n-samples"][task]["effective"],
                "source": judge["source"],
                "fingerprint": judge["fingerprint"],
            }
        )
    if not lines:
        raise JudgeError(f"{results}: no judge task in it")
    table = pd.DataFrame(lines)
    return table.sort_values(["role", "task"], ascending=[False, True], ignore_index=True)
