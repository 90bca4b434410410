"""``mtrl-judge tasks``: the shipped judge tasks and their cards."""

from __future__ import annotations

from typing import Any

from mtrl_judge.common.files import json_text
from mtrl_judge.judge_tasks.loading import load_shipped_tasks
from mtrl_judge.judge_tasks.spec import JudgeTask


def as_json() -> str:
    return json_text([_summary(task) for task in load_shipped_tasks()])


def as_table() -> str:
    """One line per task."""
    from tabulate import tabulate

    lines = [
        {
            **{key: summary[key] for key in ("task", "kind", "role", "dimension")},
            "verdicts": _in_short(summary["verdicts"]),
            "dataset": summary["dataset"] or "not on the hub",
            "gated": "yes" if summary["card"]["gated"] else "no",
        }
        for summary in map(_summary, load_shipped_tasks())
    ]
    return tabulate(lines, headers="keys")


def _in_short(verdicts: list[str]) -> str:
    many = len(verdicts) > 4
    return f"{verdicts[0]} … {verdicts[-1]}" if many else " / ".join(verdicts)


def as_cards() -> str:
    """What users should know before they use the data of each task."""
    return "\n\n".join(map(_card, load_shipped_tasks()))


def _summary(task: JudgeTask) -> dict[str, Any]:
    return {
        "task": task.task,
        "kind": task.judge.kind,
        "role": task.judge.role,
        "dimension": task.judge.dimension,
        "verdicts": list(task.judge.verdicts),
        "dataset": task.dataset_path,
        "splits": list(task.splits),
        "card": task.judge.card.model_dump(mode="json"),
    }


def _card(task: JudgeTask) -> str:
    card = task.judge.card
    lines = [
        ("license", card.license),
        ("terms", "must be accepted on the hub" if card.gated else "none to accept"),
        ("url", card.url),
        ("revision", task.revision or "not pinned"),
        ("items", ", ".join(f"{split} {n:,}" for split, n in card.expects.items())),
        ("against training", card.forbids_training),
        *(("known problem", problem) for problem in card.known_problems),
        ("citation", card.citation),
    ]
    return "\n".join([task.task, *(f"  {name + ':':18}{text}" for name, text in lines if text)])
