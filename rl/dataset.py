"""Judge tasks as one TRL dataset: prompts, pictures, labels, and a balance between the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.judge_tasks.prompts import gold_answer, render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import LoadedSplit, load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask, SplitName, Style

if TYPE_CHECKING:
    from datasets import Dataset

Balance: TypeAlias = Literal["proportional", "uniform"] | float | Mapping[str, float]


def build_dataset(
    tasks: Sequence[JudgeTask],
    split: SplitName = "train",
    style: Style = "reasoned",
    *,
    balance: Balance = "proportional",
    answers: bool = False,
    neighbours: bool = False,
    seed: int = 0,
    root: Path | None = None,
    loaded: Sequence[LoadedSplit] | None = None,
) -> Dataset:
    """The labeled rows of all tasks: prompt, images, task, kind, item_id, label, verdicts.

    Prompt and pictures are made when a row is read, so pictures stay encoded on disk until the
    step that needs them, and a row that is read several times at once is decoded once.

    Args:
        balance: how often each task occurs: ``proportional`` to its rows, ``uniform``, a
            temperature T (rows to the power of 1/T: 1 is proportional, larger is more even), or a
            weight a task. The dataset has as many rows as the tasks together; what a task has too
            few of comes again in a new order, what it has too many of is left out.
        answers: also ``completion``, the assistant's turn that is right, for SFT.
        neighbours: rows 2k and 2k + 1 belong together: of a pair they are its two orders.
        loaded: the splits of the tasks, where they have been loaded already.

    Raises:
        JudgeError: a task is out of distribution or has no labels, a test split is asked for, the
            weights do not name the tasks, or reasoned answers are asked for and a task has no
            reasoning.
    """
    from datasets import Dataset

    _refuse_evaluation_data(tasks, split)
    if answers and style == "reasoned":
        _refuse_without_reasoning(tasks)
    splits = loaded or [load_rows(task, split, root) for task in tasks]
    sources = [labeled(each.rows.dataset) for each in splits]
    for task, rows in zip(tasks, sources, strict=True):
        refuse_unlabeled(task, split, rows)
    sizes = {task.task: len(rows) for task, rows in zip(tasks, sources, strict=True)}
    counts = counts_of(sizes, balance)
    refs: dict[str, list[Any]] = {"source": [], "row": []}
    for number, task in enumerate(tasks):
        width = 2 if neighbours and task.paired else 1  # to_rows puts a pair's orders side by side
        count = counts[task.task] // 2 * 2 if neighbours else counts[task.task]
        units = _epochs(sizes[task.task] // width, count // width, f"{seed}/{task.task}")
        refs["row"] += [unit * width + place for unit in units for place in range(width)]
        refs["source"] += [number] * count
    bare = [rows.with_format(None) for rows in sources]
    for name in ("task", "kind", "item_id", "label", "verdicts", "pair_id", "swapped"):
        columns = [rows[name][:] for rows in bare]
        refs[name] = [columns[s][r] for s, r in zip(refs["source"], refs["row"], strict=True)]
    dataset = Dataset.from_dict(refs)
    dataset.set_transform(_PromptOnAccess(sources, style, answers))
    return dataset


def labeled(rows: Dataset) -> Dataset:
    """The rows that have a label; nothing can be learnt or scored from the others."""
    labels = rows.with_format(None)["label"][:]
    return rows.select([number for number, label in enumerate(labels) if label is not None])


def refuse_unlabeled(task: JudgeTask, split: SplitName, rows: Dataset) -> None:
    """Raise JudgeError where no row is left after :func:`labeled`."""
    if not len(rows):
        raise JudgeError(
            f"{task.path}: no row of its {split} split has a label; check judge.label, and the data"
        )


def counts_of(sizes: Mapping[str, int], balance: Balance) -> dict[str, int]:
    """Rows of each task in the dataset; they add up to the rows there are.

    >>> counts_of({"a": 900, "b": 100}, "uniform")
    {'a': 500, 'b': 500}
    >>> counts_of({"a": 900, "b": 100}, 2.0)
    {'a': 750, 'b': 250}
    """
    weights = _weights(sizes, balance)
    total = sum(sizes.values())
    shares = {name: total * weight / sum(weights.values()) for name, weight in weights.items()}
    counts = {name: int(share) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: (counts[name] - shares[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def _weights(sizes: Mapping[str, int], balance: Balance) -> Mapping[str, float]:
    if balance == "proportional":
        return sizes
    if balance == "uniform":
        return dict.fromkeys(sizes, 1.0)
    if isinstance(balance, Mapping):
        for name in balance.keys() ^ sizes.keys():
            hint = did_you_mean(name, sizes)
            raise JudgeError(f"balance: {name}: give each task one weight; {hint}")
        if min(balance.values()) < 0 or sum(balance.values()) <= 0:
            raise JudgeError("balance: weights are numbers from 0 up, not all 0")
        return balance
    if isinstance(balance, str) or balance <= 0:
        known = "proportional, uniform, a temperature above 0, or a weight for each task"
        raise JudgeError(f"balance: is {balance!r}; would be right: {known}")
    return {name: size ** (1 / balance) for name, size in sizes.items()}


def _refuse_evaluation_data(tasks: Sequence[JudgeTask], split: SplitName) -> None:
    ood = [task.task for task in tasks if task.judge.role != "train"]
    if ood:
        raise JudgeError(f"out of distribution, never trained on: {', '.join(ood)}")
    if split == "test":
        names = ", ".join(task.task for task in tasks)
        raise JudgeError(f"the test split is never trained on: {names}")


def _refuse_without_reasoning(tasks: Sequence[JudgeTask]) -> None:
    lacking = [str(task.path) for task in tasks if task.judge.reasoning is None]
    if lacking:
        raise JudgeError(
            f"style: reasoned answers cannot be learnt from {', '.join(lacking)}: no "
            "judge.reasoning names a column with the reasoning; add it, or use style: direct"
        )


def _epochs(size: int, count: int, seed: str) -> list[int]:
    """``count`` row numbers: all of them in a hashed order, then all again in another."""
    numbers: list[int] = []
    epoch = 0
    while len(numbers) < count:
        numbers += sorted(range(size), key=lambda row: stable_hash(seed, epoch, row))
        epoch += 1
    return numbers[:count]


class _PromptOnAccess:
    """Makes the prompt and decodes the pictures of the rows that are read."""

    def __init__(self, sources: Sequence[Dataset], style: Style, answers: bool) -> None:
        self.sources = sources
        self.style = style
        self.answers = answers

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if "source" not in batch or "row" not in batch:
            return batch
        refs = list(zip(batch["source"], batch["row"], strict=True))
        rows = {ref: JudgeRow.from_doc(self.sources[ref[0]][ref[1]]) for ref in dict.fromkeys(refs)}
        made: dict[str, list[Any]] = {
            "prompt": [render_messages(rows[ref], self.style) for ref in refs],
            "images": [list(rows[ref].images) for ref in refs],
        }
        if self.answers:
            made["completion"] = [self._answer(rows[ref]) for ref in refs]
        kept = {name: values for name, values in batch.items() if name not in ("source", "row")}
        return {**made, **kept}

    def _answer(self, row: JudgeRow) -> list[dict[str, Any]]:
        text = gold_answer(str(row.label), self.style, row.reasoning or "")
        return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
