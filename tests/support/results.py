"""Result files as lmms-eval writes them, of judges that never ran."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

VERDICTS = ["Yes", "No"]
DATE = "20260102_030405"


def sample(number: int, label: str | None, verdict: str | None, **changes: Any) -> dict[str, Any]:
    """One row of a samples file; ``changes`` replace or add columns."""
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


def judged_rows(n: int, skill: float, seed: int, verdicts: Sequence[str] = VERDICTS) -> list[Any]:
    """Sample rows of one judge; the labels are the same for every judge of ``n`` rows."""
    labels, answers = Random(n), Random(f"{skill} {seed}")
    rows = []
    for number in range(n):
        label = labels.choice(verdicts)
        wrong = [verdict for verdict in verdicts if verdict != label]
        verdict = label if answers.random() < skill else answers.choice([*wrong, None])
        rows.append(sample(number, label, verdict))
    return rows


def judged_pairs(n: int, skill: float, seed: int) -> list[Any]:
    """Sample rows of both orders of ``n`` pairs."""
    labels, answers = Random(n), Random(f"{skill} {seed}")
    mirror = {"1": "2", "2": "1"}
    rows = []
    for number in range(n):
        straight = labels.choice(["1", "2"])
        for order, label in (("AB", straight), ("BA", mirror[straight])):
            verdict = label if answers.random() < skill else mirror[label]
            rows.append(sample(number, label, verdict, pair_id=f"pair {number}", order=order))
    return rows


def write_results(
    folder: Path,
    tasks: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    model: str = "owner/judge",
    date: str = DATE,
    about: Mapping[str, Mapping[str, Any]] | None = None,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    **changes: Any,
) -> Path:
    """Write the results file and the samples files of one run.

    Args:
        tasks: Sample rows by task. A task with ``ood`` in its name has that role; one whose rows
            have a ``pair_id`` is pairwise.
        about: By task, what replaces or extends ``metadata.judge``.
        metrics: By task, the metrics that lmms-eval reports.
        changes: Other top-level fields of the results file.

    Returns:
        The results file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    configs = {}
    for task, rows in tasks.items():
        paired = any(row.get("pair_id") for row in rows)
        judge = {
            "kind": "pairwise" if paired else "pointwise",
            "paired": paired,
            "role": "ood" if "ood" in task else "train",
            "verdicts": ["1", "2"] if paired else VERDICTS,
            "fingerprint": f"fingerprint of {task}",
            "data_fingerprint": f"data of {task}",
            "label_rule": {"column": "label"},
            "question": f"The question of {task}?",
            "instruction": "Think, then answer.",
            "style": "reasoned",
            "scoring": "generation",
            "source": "folder",
            **(about or {}).get(task, {}),
        }
        configs[task] = {"metadata": {"version": 1.0, "judge": judge}}
        # Text is not escaped, as in lmms-eval, except half a surrogate pair, which UTF-8 lacks.
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{date}_samples_{task}.jsonl").write_bytes(
            lines.encode("utf-8", "backslashreplace")
        )
    results = {
        "results": {
            task: {f"{name},none": value for name, value in values.items()}
            for task, values in (metrics or {}).items()
        },
        "configs": configs,
        "n-samples": {
            task: {"original": len(rows), "effective": len(rows)} for task, rows in tasks.items()
        },
        "model_name": model,
        "model_source": "mtrl_judge",
        "date": date,
        "lmms_eval_version": "0.7.3",
        **changes,
    }
    file = folder / f"{date}_results.json"
    file.write_text(json.dumps(results), encoding="utf-8")
    return file
