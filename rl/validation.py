"""Validation during training: greedy verdicts of the model in training, scored by task.

The scorer, the metrics and the answering are those of evaluation; only the host differs.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from accelerate.utils import gather_object
from torch.distributed.fsdp import FSDPModule
from trl.distributed import DistributedBackend
from trl.models.utils import unwrap_model_for_generation

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.judge_tasks.facts import check_facts
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.scoring import score
from mtrl_judge.judge_tasks.spec import JudgeTask, Style
from mtrl_judge.judge_tasks.verdicts import read_confidence, read_reasoning
from mtrl_judge.metrics.calibration import stated_calibration_error
from mtrl_judge.metrics.perception import PERCEPTION_RATES, distinct_ngrams
from mtrl_judge.metrics.records import Record
from mtrl_judge.models.base_judge import WINDOW
from mtrl_judge.models.pixels import fit_grid
from mtrl_judge.models.transformers_judge import TransformersJudge, unwrap_adapters

from .checkpoints import WholeCheckpoints
from .kept_best import KeptBest
from .mixed_prompts import MixedPrompts
from .validation_intervals import validation_intervals
from .validation_items import validation_rows
from .weights import BaseWeights

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer

    from .demonstrations import TrainingDemonstrations
    from .settings import Settings


NOISE = "noise"
"""The figure of a validation that its gain over the kept best has to exceed."""


AUC_ITEMS = 64
"""Items of a task for which the verdicts' probabilities are computed, in each process: for a small
judge the pass takes as long as its answer."""
logger = logging.getLogger(__name__)
_Probabilities: TypeAlias = tuple[float, ...] | None
_Answered: TypeAlias = tuple[list[str], Sequence[_Probabilities]]
"""The texts of rows and, where they are known, the probabilities of their verdicts."""


class Answer(NamedTuple):
    """What is known of the answer to one validation row."""

    record: Record
    correct: float | None
    confidence: float | None
    """As stated in the answer."""
    reasoning: str = ""


@cache  # once per reason
def _warn_without_probabilities(reason: str) -> None:
    logger.warning("validation: no AUC: %s", reason)


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
    def load(
        cls, settings: Settings, demonstrations: TrainingDemonstrations | None = None
    ) -> Validation | None:
        """The validation that a run's settings describe; None where they ask for none.

        Args:
            demonstrations: what its prompts show beside the items.

        Raises:
            JudgeError: a task has no validation split, or no label in it.
        """
        arguments = settings.trainer
        if arguments.eval_strategy == "no" and not arguments.eval_on_start:
            return None
        chosen = [validation_rows(task, settings, demonstrations) for task in settings.tasks]
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
        texts, probabilities = answer(trainer, rows)
        local = [
            self._answer(row, text, known)
            for row, text, known in zip(rows, texts, probabilities, strict=True)
        ]
        answers = dict(gather_object(list(zip(answered, local, strict=True))))
        return [[answers[t, r] for r in range(len(rows))] for t, rows in enumerate(self.rows)]

    def _answer(self, row: JudgeRow, text: str, probabilities: _Probabilities) -> Answer:
        scored, reasoning, facts = score(row, text), read_reasoning(text), None
        if row.facts and self.style != "direct":
            facts = check_facts(reasoning, row.facts).counts
        record = Record(
            row.label,
            scored.verdict.value,
            scored.verdict.well_formed,
            row.pair_id,
            row.swapped,
            facts=facts,
            probabilities=probabilities,
        )
        return Answer(record, scored.correct, read_confidence(text), reasoning)

    def _by_transformers(self, trainer: Any, rows: Sequence[JudgeRow]) -> _Answered:
        with ready_to_generate(trainer) as model:
            judge = TransformersJudge(model, trainer.processing_class)
            texts = judge.judge(
                rows,
                self.style,
                batch_size=self.batch_size,
                max_new_tokens=self.max_new_tokens,
                # Sharded models run in lockstep, so all processes have as many batches.
                keep_pairs=trainer.args.world_size == 1,
            )
            # Sharded models compute only as a whole, which this pass takes apart.
            sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
            return texts, [None] * len(rows) if sharded else self._probabilities(judge, rows, texts)

    def _probabilities(
        self, judge: TransformersJudge, rows: Sequence[JudgeRow], texts: Sequence[str]
    ) -> list[_Probabilities]:
        """Of the verdicts after the reasoning, for up to AUC_ITEMS items of each task."""
        ids: defaultdict[str, set[str]] = defaultdict(set)
        for row in rows:
            ids[row.task].add(row.item_id)
        kept = {
            task: set(sorted(of_task, key=lambda item: stable_hash("auc", item))[:AUC_ITEMS])
            for task, of_task in ids.items()
        }
        chosen = [
            n
            for n, row in enumerate(rows)
            if row.item_id in kept[row.task] and KINDS[row.kind].counted
        ]
        found: list[_Probabilities] = [None] * len(rows)
        if not chosen:
            return found
        try:
            known = judge.verdict_probabilities(
                [rows[n] for n in chosen],
                [texts[n] for n in chosen],
                self.style,
                batch_size=self.batch_size,
            )
        except JudgeError as error:
            _warn_without_probabilities(str(error))
            return found
        for n, probabilities in zip(chosen, known, strict=True):
            found[n] = probabilities
        return found

    def _by_vllm(self, trainer: Any, rows: Sequence[JudgeRow]) -> _Answered:
        """The answers of the engine that samples in training, with the weights of this step."""
        trainer.sync_sampler()
        judge = TransformersJudge(trainer.model, trainer.processing_class)
        image_processor = trainer.processing_class.image_processor
        texts: list[str] = []
        for start in range(0, len(rows), WINDOW):
            part = [
                judge.prompt(
                    render_messages(row, self.style),
                    [fit_grid(image, image_processor) for image in row.prompt_images],
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
        return texts, [None] * len(rows)

    def label_shares(self) -> dict[str, float]:
        """The share of the most frequent class of labels of each task."""
        shares = {}
        for task, rows in zip(self.tasks, self.rows, strict=True):
            labels = rows.with_format(None)["label"][:]
            verdicts = task.judge.verdicts
            counts = Counter(task.kind.label_class(label, verdicts) for label in labels)
            shares[task.task] = max(counts.values()) / counts.total()
        return shares

    def figures(self, answers: Sequence[Sequence[Answer]]) -> dict[str, float]:
        """The figures of each task, and the mean of their headline metrics.

        A task's figures are its headline metric, the null rate, the share of each verdict, the
        distinct n-grams of its reasoning, and the rates of
        :data:`~mtrl_judge.metrics.perception.PERCEPTION_RATES` that it has; in the style
        ``confidence`` also the calibration error of stated confidences, and how many state one.

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
            summary["distinct_ngrams"] = distinct_ngrams(answer.reasoning for answer in of_task)
            summary |= _verdict_shares(task, [answer.record for answer in of_task])
            shares = (f"share_{verdict}" for verdict in task.judge.verdicts)
            for name in (*shares, *PERCEPTION_RATES, "distinct_ngrams"):
                if (value := summary.get(name)) is not None:
                    figures[f"{task.task}/{name}"] = float(value)
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
        prompts: chooses the wordings of the training set, in each epoch others.
    """

    model: Any  # Trainer's own
    log: Any

    def __init__(
        self,
        *arguments: Any,
        validation: Validation | None = None,
        checkpoint_card: Mapping[str, Any] = {},
        base_weights: BaseWeights | None = None,
        prompts: MixedPrompts | None = None,
        **named: Any,
    ) -> None:
        self.validation, self.checkpoint_card = validation, checkpoint_card
        self.base_weights, self.prompts = base_weights, prompts
        self._records: list[list[Record]] = []
        super().__init__(*arguments, **named)
        if validation is not None:
            self.kept_best = KeptBest(validation.tasks)
            self.stateful = {**self.stateful, "kept_best": self.kept_best}

    def _run_epoch(self, **named: Any) -> None:
        """Overrides ``Trainer._run_epoch`` (transformers/trainer.py): each has its wordings."""
        if self.prompts is not None:
            self.prompts.epoch = named["epoch"]
        super()._run_epoch(**named)

    def compute_loss(self, model: Any, *arguments: Any, **named: Any) -> Any:
        """Overrides both trainers' method: FSDP2 gathers the output layer's weights."""
        self._gather_head(model)
        return super().compute_loss(model, *arguments, **named)

    def _gather_head(self, model: Any) -> None:
        """Let FSDP2 gather the weights of the output layer, until the next backward pass.

        TRL multiplies with them in place of the layer's forward pass, which is where FSDP would
        gather them (``add_fused_lm_head`` in trl/trainer/utils.py). What TRL gathers instead, by
        ``DTensor.full_tensor``, gets no gradients from other processes.
        """
        head = unwrap_adapters(self.accelerator.unwrap_model(model)).get_output_embeddings()
        if isinstance(head, FSDPModule):
            head.unshard()

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

    def best_intervals(self) -> dict[str, dict[str, Any]]:
        """The rows and intervals of the validation that chose the weights, by task; empty if there
        was none, or if this process validated nothing (:func:`.validation_intervals`)."""
        if self.validation is None or not self._records:
            return {}
        kept = self.kept_best.kept(self._records)
        if kept is None:
            return {}
        return validation_intervals(self.validation.tasks, kept, self.validation.clusters)

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


def _verdict_shares(task: JudgeTask, records: Sequence[Record]) -> dict[str, float]:
    """The share of rows with each of the task's verdicts, or with a verdict of its class."""
    verdicts = task.judge.verdicts
    counts = Counter(
        task.kind.label_class(record.verdict, verdicts)
        for record in records
        if record.verdict is not None
    )
    return {f"share_{verdict}": counts[verdict] / len(records) for verdict in verdicts}


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
