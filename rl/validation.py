"""Validation while training: greedy verdicts of the model in training, Macro-F1 by task.

The scorer, the metrics and the answering are those of evaluation; only the host differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.scoring import score
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask, Style
from mtrl_judge.metrics.records import Record
from mtrl_judge.models.judge import Judge

from .dataset import labeled, refuse_unlabeled

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer

MEAN = "macro_f1"


@dataclass(frozen=True)
class Validation:
    """The validation rows of every task, and how they are answered."""

    tasks: Sequence[JudgeTask]
    rows: Sequence[Dataset]
    style: Style
    batch_size: int
    max_new_tokens: int

    @classmethod
    def load(
        cls,
        tasks: Sequence[JudgeTask],
        style: Style,
        *,
        items: int,
        batch_size: int,
        max_new_tokens: int,
        seed: int = 0,
        root: Path | None = None,
    ) -> Validation:
        """Choose up to ``items`` items a task by the seed; a pair is one item in two rows.

        Raises:
            JudgeError: a task has no validation split, or no label in it.
        """
        chosen = []
        for task in tasks:
            rows = labeled(load_rows(task, "validation", root).rows.dataset)
            refuse_unlabeled(task, "validation", rows)
            chosen.append(_choose(rows, items, seed))
        return cls(tasks, chosen, style, batch_size, max_new_tokens)

    def run(self, trainer: Trainer) -> dict[str, float]:
        """Macro-F1 of each task and, as ``macro_f1``, their mean; null rate of each task.

        Each process answers its share; all get the same figures.
        """
        from accelerate.utils import gather_object

        processes, process = trainer.args.world_size, trainer.args.process_index
        places = [(t, r) for t, rows in enumerate(self.rows) for r in range(len(rows))]
        own = [places[place] for place in share_of(len(places), processes, process)]
        rows = [JudgeRow.from_doc(self.rows[t][r]) for t, r in own]
        with ready_to_generate(trainer) as model:
            texts = Judge(model, trainer.processing_class).judge(
                rows, self.style, batch_size=self.batch_size, max_new_tokens=self.max_new_tokens
            )
        records = [_record(row, text) for row, text in zip(rows, texts, strict=True)]
        return self._figures(dict(gather_object(list(zip(own, records, strict=True)))))

    def _figures(self, records: dict[tuple[int, int], Record]) -> dict[str, float]:
        figures: dict[str, float] = {}
        for number, task in enumerate(self.tasks):
            own = [record for (task_number, _), record in records.items() if task_number == number]
            summary = task.summarize(own)
            figures[f"{task.task}/macro_f1"] = float(summary["macro_f1"] or 0.0)
            figures[f"{task.task}/null_rate"] = float(summary["null_rate"] or 0.0)
        scores = [value for name, value in figures.items() if name.endswith("/macro_f1")]
        return {MEAN: sum(scores) / len(scores), **figures}


def share_of(rows: int, processes: int, process: int) -> list[int]:
    """The rows that a process answers. Sharded models run in step, so all have as many.

    >>> [share_of(5, 2, process) for process in (0, 1)]
    [[0, 2, 4], [1, 3, 0]]
    """
    steps = -(-rows // processes)
    return [(step * processes + process) % rows for step in range(steps)]


def _choose(rows: Dataset, items: int, seed: int) -> Dataset:
    ids = rows.with_format(None)["item_id"][:]
    kept = set(sorted(set(ids), key=lambda item: stable_hash("validation", seed, item))[:items])
    return rows.select([number for number, item in enumerate(ids) if item in kept])


def _record(row: JudgeRow, text: str) -> Record:
    verdict = score(row, text).verdict
    return Record(row.label, verdict.value, verdict.well_formed, row.pair_id, row.swapped)


@contextmanager
def ready_to_generate(trainer: Any) -> Iterator[Any]:
    """The model in training, its weights whole on each process (DeepSpeed ZeRO-3, FSDP)."""
    import torch
    from trl.distributed import DistributedBackend
    from trl.models.utils import unwrap_model_for_generation

    backend = DistributedBackend(trainer.accelerator)
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
        ) as model,
        torch.no_grad(),
        backend.summon_full_params(trainer.model_wrapped, recurse=False),
    ):
        yield model
