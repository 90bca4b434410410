"""``mtrl-judge tasks``: the shipped judge tasks and their cards."""

from __future__ import annotations

from typing import Any

from mtrl_judge.judge_tasks.loading import load_shipped_tasks
from mtrl_judge.judge_tasks.spec import Card, JudgeTask


def as_objects() -> list[dict[str, Any]]:
    """A JSON object a task."""
    return [
        {
            "task": task.task,
            "kind": task.judge.kind,
            "role": task.judge.role,
            "dimension": task.judge.dimension,
            "verdicts": list(task.judge.verdicts),
            "dataset": task.dataset_path,
            "splits": list(task.splits),
            "card": task.judge.card.model_dump(mode="json"),
        }
        for task in load_shipped_tasks()
    ]


def as_table() -> str:
    """A line a task."""
    from tabulate import tabulate

    lines = [
        {
            "task": task.task,
            "kind": task.judge.kind,
            "role": task.judge.role,
            "dimension": task.judge.dimension,
            "verdicts": " / ".join(task.judge.verdicts),
            "dataset": task.dataset_path or "bring your own",
            "gated": "yes" if task.judge.card.gated else "no",
        }
        for task in load_shipped_tasks()
    ]
    return tabulate(lines, headers="keys")


def as_cards() -> str:
    """A block a task: what must be known before its data is used."""
    return "\n\n".join(map(_card, load_shipped_tasks()))


def _card(task: JudgeTask) -> str:
    card: Card = task.judge.card
    lines = [
        ("license", card.license),
        ("terms", "to accept on the hub" if card.gated else "none to accept"),
        ("address", card.url),
        ("revision", task.revision or "not pinned"),
        ("items", ", ".join(f"{split} {n:,}" for split, n in card.expects.items())),
        ("against training", card.forbids_training),
        *(("known problem", problem) for problem in card.known_problems),
        ("to cite", card.citation),
    ]
    return "\n".join([task.task, *(f"  {name + ':':18}{text}" for name, text in lines if text)])
