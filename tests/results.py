"""lmms-eval's files of judges that never were, for tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

VERDICTS = ["Yes", "No"]


def judged_rows(n: int, skill: float, seed: int, verdicts: Sequence[str] = VERDICTS) -> list[Any]:
    """Sample rows of one judge; the labels are the same for every judge of `n` rows."""
    labels, draw = Random(n), Random(f"{skill} {seed}")
    rows = []
    for number in range(n):
        label = labels.choice(verdicts)
        others = [verdict for verdict in verdicts if verdict != label]
        verdict = label if draw.random() < skill else draw.choice([*others, None])
        rows.append(sample(number, label, verdict))
    return rows


def judged_pairs(n: int, skill: float, seed: int) -> list[Any]:
    """Both orders of `n` pairs."""
    labels, draw = Random(n), Random(f"{skill} {seed}")
    rows = []
    for number in range(n):
        straight = labels.choice(["1", "2"])
        for order in ("AB", "BA"):
            mirrored = {"1": "2", "2": "1"}[straight]
            label = straight if order == "AB" else mirrored
            verdict = label if draw.random() < skill else {"1": "2", "2": "1"}[label]
            changes = {"pair_id": f"pair {number}", "order": order}
            rows.append(sample(number, label, verdict, **changes))
    return rows


def sample(number: int, label: str | None, verdict: str | None, **changes: Any) -> dict[str, Any]:
    row = {
        "item_id": f"item {number:05d}",
        "pair_id": None,
        "order": None,
        "label": label,
        "verdict": verdict,
        "well_formed": verdict is not None,
        "text": f"<think>It is {number}.</think><answer>{verdict}</answer>",
    }
    return {**row, **changes}


def write_results(
    folder: Path,
    tasks: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    model: str = "owner/judge",
    date: str = "20260102_030405",
    about: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """The results and samples of a run; tasks whose name has `ood` are of that role.

    Args:
        tasks: sample rows by task.
        about: by task, what its metadata says otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    configs = {}
    for task, rows in tasks.items():
        paired = any(row.get("pair_id") for row in rows)
        judge = {
            "role": "ood" if "ood" in task else "train",
            "verdicts": ["1", "2"] if paired else VERDICTS,
            "paired": paired,
            "fingerprint": f"print of {task}",
            "style": "reasoned",
            "source": "folder",
            **(about or {}).get(task, {}),
        }
        configs[task] = {"metadata": {"judge": judge}}
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{date}_samples_{task}.jsonl").write_text(lines, encoding="utf-8")
    results = {
        "configs": configs,
        "n-samples": {task: {"effective": len(rows)} for task, rows in tasks.items()},
        "model_name": model,
        "date": date,
        "lmms_eval_version": "0.7.3",
    }
    file = folder / f"{date}_results.json"
    file.write_text(json.dumps(results), encoding="utf-8")
    return file
