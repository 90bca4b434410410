"""Validation during training: greedy verdicts of the model in training, scored by task.

The scorer, the metrics and the answering are those of evaluation; only the host differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from accelerate.utils import gather_object
from torch.distributed.fsdp import FSDPModule
from trl.distributed import DistributedBackend
from trl.models.utils import unwrap_model_for_generation

from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.scoring import score
from mtrl_judge.judge_tasks.spec import JudgeTask, Style
from mtrl_judge.judge_tasks.verdicts import read_confidence
from mtrl_judge.metrics.calibration import stated_calibration_error
from mtrl_judge.metrics.records import Record
from mtrl_judge.models.base_judge import WINDOW
from mtrl_judge.models.judge import Judge, unwrap_adapters
from mtrl_judge.models.pixels import fit_grid

from .checkpoints import WholeCheckpoints
from .kept_best import KeptBest
from .validation_items import validation_rows
from .weights import BaseWeights

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer

    from .settings import Settings


NOISE = "noise"
"""The figure of a validation that its gain over the kept best has to exceed."""


class Answer(NamedTuple):
    """What is known of the answer to one validation row."""

    record: Record
    correct: float | None
    confidence: float | None
    """As stated in the answer."""


@dataclass(frozen=True)
class Validation:
    """The validation rows of every task, and how they are answered."""

    tasks: Sequence[JudgeTask]
    rows: Sequence[Dataset]
    headline: str
    """The name of the tasks' mean score."""
    style: Style
    batch_size: int
    max_new_tokens: int

    @classmethod
    def load(cls, settings: Settings) -> Validation | None:
        """The validation that a run's settings describe; None where they ask for none.

        Raises:
            JudgeError: a task has no validation split, or no label in it.
        """
        arguments = settings.trainer
        if arguments.eval_strategy == "no" and not arguments.eval_on_start:
            return None
        chosen = [validation_rows(task, settings) for task in settings.tasks]
        return cls(
            settings.tasks,
            chosen,
            settings.headline,
            settings.style,
            arguments.per_device_eval_batch_size,
            settings.answer_tokens,
        )

    def run(self, trainer: Trainer) -> list[list[Answer]]:
        """The answers, by task and row.

        Each process gives its share; all get the same answers.
        """
        index = [(t, r) for t, rows in enumerate(self.rows) for r in range(len(rows))]
        share = share_of(len(index), trainer.args.world_size, trainer.args.process_index)
        answered = [index[number] for number in share]
        rows = [JudgeRow.from_doc(self.rows[t][r]) for t, r in answered]
        answer = self._by_vllm if getattr(trainer, "use_vllm", False) else self._by_transformers
        texts = answer(trainer, rows)
        local = []
        for row, text in zip(rows, texts, strict=True):
            verdict, correct, _ = score(row, text)
            record = Record(row.label, verdict.value, verdict.well_formed, row.pair_id, row.swapped)
            local.append(Answer(record, correct, read_confidence(text)))
        answers = dict(gather_object(list(zip(answered, local, strict=True))))
        return [[answers[t, r] for r in range(len(rows))] for t, rows in enumerate(self.rows)]

    def _by_transformers(self, trainer: Any, rows: Sequence[JudgeRow]) -> list[str]:
        with ready_to_generate(trainer) as model:
            return Judge(model, trainer.processing_class).judge(
                rows,
                self.style,
                batch_size=self.batch_size,
                max_new_tokens=self.max_new_tokens,
                # Sharded models run in lockstep, so all processes have as many batches.
                keep_pairs=trainer.args.world_size == 1,
            )

    def _by_vllm(self, trainer: Any, rows: Sequence[JudgeRow]) -> list[str]:
        """The answers of the engine that samples in training, with the weights of this step."""
        trainer.sync_sampler()
        judge = Judge(trainer.model, trainer.processing_class)
        image_processor = trainer.processing_class.image_processor
        texts: list[str] = []
        for start in range(0, len(rows), WINDOW):
            part = [
                judge.prompt(
                    render_messages(row, self.style),
                    [fit_grid(image, image_processor) for image in row.images],
                )
                for row in rows[start : start + WINDOW]
            ]
            completions = trainer.vllm_generation.greedy(
                [judge.inputs([prompt])["input_ids"][0].tolist() for prompt in part],
                [prompt.images for prompt in part],
                max_new_tokens=self.max_new_tokens,
                eos_ids=judge.eos_ids,
            )
            texts += map(judge.decode, completions)
        return texts

    def figures(self, answers: Sequence[Sequence[Answer]]) -> dict[str, float]:
        """The headline metric and the null rate of each task, and the mean of the headline metrics.

        In the style ``confidence`` also the calibration error of stated confidences, and how many
        state one, of each task.

        Args:
            answers: by task and row.
        """
        figures: dict[str, float] = {}
        scores = []
        for task, of_task in zip(self.tasks, answers, strict=True):
            summary = task.summarize([answer.record for answer in of_task])
            scores.append(float(summary[task.kind.headline] or 0.0))
            figures[f"{task.task}/{task.kind.headline}"] = scores[-1]
            figures[f"{task.task}/null_rate"] = float(summary["null_rate"] or 0.0)
            if self.style == "confidence":
                known = [
                    (answer.confidence, answer.correct)
                    for answer in of_task
                    if answer.confidence is not None and answer.correct is not None
                ]
                ece = stated_calibration_error([q for q, _ in known], [c for _, c in known])
                figures[f"{task.task}/stated_confidences"] = len(known) / len(of_task)
                if ece is not None:
                    figures[f"{task.task}/stated_ece"] = ece
        return {self.headline: sum(scores) / len(scores), **figures}

    @property
    def clusters(self) -> list[list[str]]:
        """The name of each row's cluster, by task and row."""
        columns = (rows.with_format(None) for rows in self.rows)
        return [
            [cluster or pair or item for cluster, pair, item in zip(*names, strict=True)]
            for names in ((c["cluster"][:], c["pair_id"][:], c["item_id"][:]) for c in columns)
        ]


class JudgeTraining(WholeCheckpoints):
    """What both trainers share: validation by verdicts, whole checkpoints, FSDP2's output layer.

    Args:
        validation: None for a trainer that does not validate.
        checkpoint_card: see :class:`.checkpoints.WholeCheckpoints`.
        base_weights: likewise.
    """

    model: Any  # Trainer's own
    log: Any

    def __init__(
        self,
        *arguments: Any,
        validation: Validation | None = None,
        checkpoint_card: Mapping[str, Any] = {},
        base_weights: BaseWeights | None = None,
        **named: Any,
    ) -> None:
        self.validation, self.checkpoint_card = validation, checkpoint_card
        self.base_weights = base_weights
        self._records: list[list[Record]] = []
        super().__init__(*arguments, **named)
        if validation is not None:
            self.kept_best = KeptBest(validation.tasks)
            self.stateful = {**self.stateful, "kept_best": self.kept_best}

    def compute_loss(self, model: Any, *arguments: Any, **named: Any) -> Any:
        """Overrides both trainers' method: FSDP2 gathers the weights of the output layer.

        TRL multiplies with them in place of the layer's forward pass, which is where FSDP would
        gather them (``add_fused_lm_head`` in trl/trainer/utils.py). What TRL gathers instead, by
        ``DTensor.full_tensor``, gets no gradients from other processes.
        """
        head = unwrap_adapters(self.accelerator.unwrap_model(model)).get_output_embeddings()
        if isinstance(head, FSDPModule):
            head.unshard()
        return super().compute_loss(model, *arguments, **named)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Overrides ``Trainer.evaluate`` (transformers/trainer.py): verdicts instead of a loss.

        Their mean score chooses the best checkpoint. The rest is what ``Trainer.evaluate`` does
        with its figures.
        """
        assert self.validation is not None
        training, answers = self.model.training, self.validation.run(self)
        figures = self.validation.figures(answers)
        self._records = [[answer.record for answer in of_task] for of_task in answers]
        noise = self.kept_best.noise(self._records, self.validation.clusters)
        if noise is not None:
            figures[NOISE] = noise
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self.model.eval()  # GRPOTrainer.log keeps validation and training apart by this mode
        self.log(dict(metrics))
        self.model.train(training)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Overrides ``Trainer._determine_best_metric``: a gain has to exceed noise."""
        kept, name = self.state.best_metric, self.args.metric_for_best_model
        ours = self.validation is not None and name == f"eval_{self.validation.headline}"
        if ours and kept is not None and abs(metrics[name] - kept) <= metrics[f"eval_{NOISE}"]:
            return False
        is_best: bool = super()._determine_best_metric(metrics, trial)
        if is_best:
            self.kept_best.keep(self._records)
        return is_best


def share_of(rows: int, processes: int, process: int) -> list[int]:
    """The rows that a process answers; all have as many.

    >>> [share_of(5, 2, process) for process in (0, 1)]
    [[0, 2, 4], [1, 3, 0]]
    """
    steps = -(-rows // processes)
    return [(step * processes + process) % rows for step in range(steps)]


@contextmanager
def ready_to_generate(trainer: Any) -> Iterator[Any]:
    """The model in training, its weights gathered on each process (DeepSpeed ZeRO-3, FSDP)."""
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
