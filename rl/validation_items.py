"""Which items of a task's validation split a run validates on."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask

from .dataset import labeled_rows

if TYPE_CHECKING:
    from datasets import Dataset

    from .demonstrations import TrainingDemonstrations
    from .settings import Settings


def validation_rows(
    task: JudgeTask, settings: Settings, demonstrations: TrainingDemonstrations | None = None
) -> Dataset:
    """The rows of up to ``validation_items`` items of a task, which the seed chooses.

    Args:
        demonstrations: what their prompts show beside them.

    Raises:
        JudgeError: the task has no validation split, or no label in it.
    """
    loaded = load_rows(task, "validation", settings.data_root)
    if demonstrations is not None:
        loaded = demonstrations.attach(loaded)
    rows = labeled_rows(task, "validation", loaded.rows.dataset)
    return choose_items(rows, settings.judge.validation_items, settings.trainer.seed)


def choose_items(rows: Dataset, items: int, seed: int) -> Dataset:
    """The rows of up to ``items`` items, whatever the order; more items include fewer.

    Each class of labels (:meth:`.Kind.label_class`) has the share that it has in the split, up to
    one item. A pair is one item, with the label of its first order.
    """
    columns = rows.with_format(None)
    labels: dict[str, str] = {}
    names = ("item_id", "swapped", "kind", "label", "verdicts")
    for item, swapped, kind, label, verdicts in zip(*(columns[n] for n in names), strict=True):
        if not swapped or item not in labels:
            labels[item] = KINDS[kind].label_class(label, verdicts)
    of_label: defaultdict[str, list[str]] = defaultdict(list)
    for item in sorted(labels, key=lambda item: stable_hash("validation", seed, item)):
        of_label[labels[item]].append(item)
    # The k-th of n items stands at (k + ½) / n, so each beginning has all labels in proportion.
    placed = sorted(
        ((k + 0.5) / len(members), label, item)
        for label, members in of_label.items()
        for k, item in enumerate(members)
    )
    kept = {item for _, _, item in placed[:items]}
    return rows.select([number for number, item in enumerate(columns["item_id"]) if item in kept])
