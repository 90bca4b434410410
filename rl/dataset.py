"""Judge tasks as one TRL dataset: prompts, images, labels, and a balance between the tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.prompts import gold_answer, render_messages
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import LoadedSplit, load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask, SplitName, Style

from .mixed_prompts import MixedPrompts
from .rejection_sampling import RowKey, read_answers
from .rewards import ALWAYS_GIVEN, COLUMNS, named_columns

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

    from .arguments import JudgeArguments
    from .settings import Settings

Fit: TypeAlias = Callable[["Image.Image"], "Image.Image"]
Balance: TypeAlias = Literal["proportional", "uniform", "worst_task"] | float | Mapping[str, float]


def training_set(
    settings: Settings,
    loaded: Sequence[LoadedSplit],
    fit: Fit | None = None,
    prompts: MixedPrompts | None = None,
) -> Dataset:
    """The dataset of a run, from the training splits of its tasks.

    Args:
        fit: resizes its images.
        prompts: chooses the wordings (:func:`.mixed_prompts.mixed_prompts`).
    """
    return build_dataset(
        settings.tasks,
        style=settings.style,
        balance=settings.judge.balance,
        answers=settings.answer_files() or settings.method == "sft",
        keep_pairs=settings.judge.consistency_weight > 0,
        seed=settings.trainer.seed,
        loaded=loaded,
        fit=fit,
        raw_columns=raw_columns(settings.judge, loaded),
        prompts=prompts,
    )


def raw_columns(judge: JudgeArguments, loaded: Sequence[LoadedSplit]) -> list[str]:
    """The raw columns that ``user_rewards`` read, beside what every reward function gets.

    Raises:
        JudgeError: a function names a column that no task's data has.
    """
    raws = [split.rows.raw for split in loaded]
    available = {name for raw in raws for name in raw.column_names}
    found: set[str] = set()
    for path in judge.user_rewards or {}:
        named = named_columns(path)
        for name in named.required:
            if name not in available:
                tasks = ", ".join(raw.task.task for raw in raws)
                columns = ", ".join(sorted(available - {*ALWAYS_GIVEN}))
                raise JudgeError(
                    f"user_rewards: {path}: parameter {name!r} is no column of the data of "
                    f"{tasks}; available: {', '.join(ALWAYS_GIVEN)}; of the data: {columns}"
                )
        found |= {*named.required, *named.optional} & available
    return sorted(found)


def require_facts(judge: JudgeArguments, loaded: Sequence[LoadedSplit]) -> None:
    """Refuse a reward for facts where no item has any that count.

    Raises:
        JudgeError: as said.
    """
    rows = sum(split.rows.facts.rows for split in loaded if split.rows.facts is not None)
    if judge.perception_weight and not rows:
        tasks = ", ".join(split.rows.raw.task.task for split in loaded)
        raise JudgeError(
            f"perception_weight: no training item of {tasks} has a fact that its prompt does not "
            "mention; name a column in judge.facts or write <data root>/<task>/facts.jsonl "
            "(`mtrl-judge data facts`)"
        )


def build_dataset(
    tasks: Sequence[JudgeTask],
    split: SplitName = "train",
    style: Style = "reasoned",
    *,
    balance: Balance = "proportional",
    answers: bool | Sequence[Path] = False,
    keep_pairs: bool = False,
    seed: int = 0,
    root: Path | None = None,
    loaded: Sequence[LoadedSplit] | None = None,
    fit: Fit | None = None,
    raw_columns: Sequence[str] = (),
    prompts: MixedPrompts | None = None,
) -> Dataset:
    """The labeled rows of all tasks: prompt, images, task, kind, item_id, label, verdicts,
    pair_id, swapped, facts.

    Prompt and images are made when a row is read, so images stay encoded on disk until the step
    that needs them, and a row that is read several times at once is decoded once.

    Args:
        balance: how often each task occurs: ``proportional`` to its rows, ``uniform``, a
            temperature T (rows to the power of 1/T: 1 is proportional, larger is more even), or a
            weight per task. The dataset has as many rows as the tasks together; a task with too
            few rows repeats them in a new order, of a task with too many some are left out. With
            ``worst_task`` it has every row, and :mod:`.balance` draws from them.
        answers: also ``completion``, the correct answer as the assistant's turn, for SFT. Files of
            answers (:func:`.rejection_sampling.read_answers`) are what to learn from instead; of
            the rows, only those that they answer are in the dataset, once for each answer.
        keep_pairs: rows 2k and 2k + 1 belong together; of a pair they are its two orders.
        loaded: the splits of the tasks, where they have been loaded already.
        fit: resizes an image that is read.
        raw_columns: columns of the raw data that a row also has when it is read, None where its
            task has no such column.
        prompts: chooses the wording of each row that is read; by default it is the question.

    Raises:
        JudgeError: a task is out of distribution or has no labels, the split is a test split, the
            weights do not name the tasks, or reasoned answers are wanted and a task has no
            reasoning.
    """
    from datasets import Dataset

    _refuse_unusable(tasks, split, style, answers is True)
    loaded = loaded or [load_rows(task, split, root) for task in tasks]
    sources = [
        labeled_rows(task, split, rows.rows.dataset)
        for task, rows in zip(tasks, loaded, strict=True)
    ]
    given = None if isinstance(answers, bool) else read_answers(answers)
    answered = [None if given is None else _answered(rows, given) for rows in sources]
    sizes = {
        task.task: len(rows) if texts is None else len(texts)
        for task, rows, texts in zip(tasks, sources, answered, strict=True)
    }
    if not sum(sizes.values()):
        files = "" if isinstance(answers, bool) else ", ".join(map(str, answers))
        raise JudgeError(f"answers: {files}: no answer to a training row of these tasks")
    counts = balanced_counts(sizes, balance)
    refs: dict[str, list[Any]] = {"source": [], "row": []}
    for source, task in enumerate(tasks):
        unit = 2 if keep_pairs and task.paired else 1  # both orders of a pair are neighboring rows
        count = counts[task.task] // 2 * 2 if keep_pairs else counts[task.task]
        units = _epochs(sizes[task.task] // unit, count // unit, f"{seed}/{task.task}")
        numbers = [number * unit + offset for number in units for offset in range(unit)]
        texts = answered[source]
        if texts is not None:
            refs.setdefault("answer", []).extend(texts[number][1] for number in numbers)
            numbers = [texts[number][0] for number in numbers]
        refs["row"] += numbers
        refs["source"] += [source] * count
    bare = [rows.with_format(None) for rows in sources]
    for name in COLUMNS:
        columns = [rows[name][:] for rows in bare]
        refs[name] = [columns[s][r] for s, r in zip(refs["source"], refs["row"], strict=True)]
    dataset = Dataset.from_dict(refs)
    raws = [rows.rows.raw for rows in loaded]
    as_labeled = answers is True
    dataset.set_transform(
        _PromptOnAccess(sources, raws, style, as_labeled, fit, raw_columns, prompts)
    )
    return dataset


def labeled_rows(task: JudgeTask, split: SplitName, rows: Dataset) -> Dataset:
    """The rows of a split that have a label; the others can be neither learned nor scored.

    Raises:
        JudgeError: no row has one.
    """
    labels = rows.with_format(None)["label"][:]
    labeled = [number for number, label in enumerate(labels) if label is not None]
    if not labeled:
        raise JudgeError(
            f"{task.path}: no row of its {split} split has a label; check judge.label, and the data"
        )
    return rows.select(labeled)


def balanced_counts(sizes: Mapping[str, int], balance: Balance) -> dict[str, int]:
    """Rows of each task in the dataset; they add up to the rows there are.

    >>> balanced_counts({"a": 900, "b": 100}, "uniform")
    {'a': 500, 'b': 500}
    >>> balanced_counts({"a": 900, "b": 100}, 2.0)
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
    if balance in ("proportional", "worst_task"):
        return sizes
    if balance == "uniform":
        return dict.fromkeys(sizes, 1.0)
    if isinstance(balance, Mapping):
        for name in balance.keys() ^ sizes.keys():
            hint = did_you_mean(name, sizes)
            raise JudgeError(f"balance: {name}: expected one weight for each task; {hint}")
        if min(balance.values()) < 0 or sum(balance.values()) <= 0:
            raise JudgeError("balance: expected weights from 0 up, not all 0")
        return balance
    if isinstance(balance, str) or balance <= 0:
        raise JudgeError(f"balance: is {balance!r}; expected a temperature above 0")
    return {name: size ** (1 / balance) for name, size in sizes.items()}


def _refuse_unusable(
    tasks: Sequence[JudgeTask], split: SplitName, style: Style, answers: bool
) -> None:
    ood = [task.task for task in tasks if task.judge.role != "train"]
    if ood:
        raise JudgeError(f"out of distribution, never trained on: {', '.join(ood)}")
    if split == "test":
        names = ", ".join(task.task for task in tasks)
        raise JudgeError(f"the test split is never trained on: {names}")
    if answers and style != "direct":
        require_reasoning(tasks)


def require_reasoning(tasks: Sequence[JudgeTask]) -> None:
    """
    Raises:
        JudgeError: a task's data has no reasoning to learn from.
    """
    lacking = [str(task.path) for task in tasks if task.judge.reasoning is None]
    if lacking:
        raise JudgeError(
            f"style: reasoned answers cannot be learned from {', '.join(lacking)}: no "
            "judge.reasoning names a column with the reasoning; add it, give answers, or use "
            "style: direct"
        )


def _epochs(size: int, count: int, seed: str) -> list[int]:
    """``count`` row numbers: all rows in a hashed order, then all again in another."""
    numbers: list[int] = []
    epoch = 0
    while len(numbers) < count:
        numbers += sorted(range(size), key=lambda row: stable_hash(seed, epoch, row))
        epoch += 1
    return numbers[:count]


class _PromptOnAccess:
    """Renders the prompts and decodes the images of the rows that are read."""

    def __init__(
        self,
        sources: Sequence[Dataset],
        raws: Sequence[RawSplit],
        style: Style,
        answers: bool,
        fit: Fit | None,
        raw_columns: Sequence[str],
        prompts: MixedPrompts | None,
    ) -> None:
        self.sources, self.raws, self.raw_columns = sources, raws, raw_columns
        self.prompts = prompts
        self.style, self.answers, self.fit = style, answers, fit

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if "source" not in batch or "row" not in batch:
            return batch  # a column was read on its own
        refs = list(zip(batch.pop("source"), batch.pop("row"), strict=True))
        docs = {ref: self.sources[ref[0]][ref[1]] for ref in dict.fromkeys(refs)}
        rows = {ref: self._row(ref[0], doc) for ref, doc in docs.items()}
        images = {
            ref: [self.fit(image) if self.fit else image for image in row.prompt_images]
            for ref, row in rows.items()
        }
        made: dict[str, list[Any]] = {
            "prompt": [render_messages(rows[ref], self.style) for ref in refs],
            "images": [list(images[ref]) for ref in refs],
        }
        if "answer" in batch:
            made["completion"] = list(map(_turn, batch.pop("answer")))
        elif self.answers:
            made["completion"] = [self._answer(rows[ref]) for ref in refs]
        for name in self.raw_columns:
            cells = {
                ref: self._cell(ref[0], doc["source_index"], name) for ref, doc in docs.items()
            }
            made[name] = [cells[ref] for ref in refs]
        return {**made, **batch}

    def _row(self, source: int, doc: Mapping[str, Any]) -> JudgeRow:
        row = JudgeRow.from_doc(doc)
        return row if self.prompts is None else self.prompts.apply(row, doc, self.raws[source])

    def _cell(self, source: int, index: int, name: str) -> Any:
        raw = self.raws[source]
        return raw.cell(index, name) if name in raw.column_names else None

    def _answer(self, row: JudgeRow) -> list[dict[str, Any]]:
        verdict = KINDS[row.kind].gold(str(row.label), row.verdicts)
        return _turn(gold_answer(verdict, self.style, row.reasoning or ""))


def _turn(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def _answered(rows: Dataset, answers: Mapping[RowKey, Sequence[str]]) -> list[tuple[int, str]]:
    """The number of a row and a text for each answer to one of the rows."""
    about = rows.with_format(None)
    keys = map(RowKey, about["task"][:], about["item_id"][:], about["swapped"][:])
    return [(number, text) for number, key in enumerate(keys) for text in answers.get(key, ())]
