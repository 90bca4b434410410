"""``python -m benchmarks.leaderboard``: the cost of comparing judges. The last line is JSON.

- ``leaderboard_s``: seconds from lmms-eval's files of 8 models on 9 tasks of 2,700 items to the
  Markdown table, every rate with its interval from 10,000 resamples and all pairs compared.
- ``load_s``: the part of it that reads the files.
- ``peak_mib``: peak memory of the whole process.
- ``bootstrap_ratio``: Macro-F1 of resamples per second, relative to a loop of scikit-learn's
  ``f1_score`` over the same judges' verdicts.
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score

from mtrl_judge.leaderboard.board import build_leaderboard
from mtrl_judge.leaderboard.reading import load_runs
from mtrl_judge.leaderboard.runs import TaskResult
from mtrl_judge.leaderboard.tables import markdown
from mtrl_judge.leaderboard.view import build_view
from mtrl_judge.metrics.bootstrap import RESAMPLES, draw_rates, panel_of
from mtrl_judge.metrics.rates import RATES

MODELS, TASKS, ITEMS, OOD = 8, 9, 2_700, 3
LOOP = 200  # resamples of the loop
VERDICTS = ["Yes", "No"]
REASONING = "The image shows what the text says, but for one thing that is missing. " * 4


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for model in range(MODELS):
            write_run(Path(folder), model)
        started = time.perf_counter()
        runs = load_runs([Path(folder)])
        loaded = time.perf_counter()
        board = build_leaderboard(runs)
        markdown(build_view(board, full=False).tables)
        done = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    panel = [run.tasks["mtrl_judge_0"] for run in runs]
    figures = {
        "leaderboard_s": round(done - started, 2),
        "load_s": round(loaded - started, 2),
        "peak_mib": round(peak),
        "bootstrap_ratio": round(resamples_per_s(panel) / loop_resamples_per_s(panel)),
    }
    print(json.dumps(figures))


def write_run(folder: Path, model: int) -> None:
    """The files of one model, with an accuracy from 0.6 to 0.9."""
    output, date = folder / f"model-{model}", f"2026010{model + 1}_000000"
    output.mkdir()
    configs = {f"mtrl_judge_{task}": _config(task) for task in range(TASKS)}
    for task, name in enumerate(configs):
        draw = np.random.default_rng([model, task])
        labels_N = np.random.default_rng(task).random(ITEMS) < 0.4
        right_N = draw.random(ITEMS) < 0.6 + 0.3 * model / MODELS
        with (output / f"{date}_samples_{name}.jsonl").open("w", encoding="utf-8") as lines:
            for item in range(ITEMS):
                label = VERDICTS[int(labels_N[item])]
                verdict = VERDICTS[int(labels_N[item] == right_N[item])]
                lines.write(json.dumps(_sample(item, label, verdict)) + "\n")
    results = {
        "configs": configs,
        "n-samples": {name: {"effective": ITEMS} for name in configs},
        "model_name": f"owner/model-{model}",
        "date": date,
    }
    (output / f"{date}_results.json").write_text(json.dumps(results), encoding="utf-8")


def _config(task: int) -> dict[str, object]:
    metadata = {
        "kind": "pointwise",
        "role": "ood" if task >= TASKS - OOD else "train",
        "verdicts": VERDICTS,
        "paired": False,
        "fingerprint": str(task),
    }
    return {"metadata": {"judge": metadata}}


def _sample(item: int, label: str, verdict: str) -> dict[str, object]:
    """A sample as long as lmms-eval writes it."""
    return {
        "item_id": str(item),
        "pair_id": None,
        "order": None,
        "label": label,
        "verdict": verdict,
        "well_formed": True,
        "text": f"<think>{REASONING}</think><answer>{verdict}</answer>",
        "macro_f1": [label, verdict, True],
        "input": REASONING * 3,
    }


def resamples_per_s(panel: list[TaskResult]) -> float:
    """Each Macro-F1 of one judge in one resample counts as one."""
    started = time.perf_counter()
    clusters = [sample.cluster for sample in panel[0].samples]
    judges = panel_of("task", [result.records for result in panel], clusters, VERDICTS)
    draw_rates([judges], [{"macro_f1": RATES["macro_f1"]}])
    return len(panel) * RESAMPLES / (time.perf_counter() - started)


def loop_resamples_per_s(panel: list[TaskResult]) -> float:
    draw = np.random.default_rng(0)
    labels_N = np.array([record.label for record in panel[0].records])
    verdicts_N = np.array([record.verdict for record in panel[0].records])
    started = time.perf_counter()
    for _ in range(LOOP):
        rows = draw.integers(ITEMS, size=ITEMS)
        f1_score(labels_N[rows], verdicts_N[rows], labels=VERDICTS, average="macro")
    return LOOP / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
