"""TRL's trainers with what a judge over many tasks needs.

Both validate by Macro-F1 and keep whole checkpoints; GRPO also mixes the tasks in an order that a
resumed run repeats, logs every task by itself, and draws groups without spread again where asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from trl import SFTTrainer
from trl.data_utils import prepare_multimodal_messages
from trl.trainer.utils import RepeatSampler

from mtrl_judge.common.hashing import stable_hash

from .checkpoints import WholeCheckpoints
from .rewards import scores
from .shared_prompt_trainer import SharedPromptGRPOTrainer
from .validation import Validation

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.floating[Any]]

# What `_generate` of TRL 1.16 returns, in its order; each is a list with one entry a completion.
_PROMPT_IDS, _COMPLETION_IDS, _, _COMPLETIONS, _LOGPROBS, _, _IMAGES, _ = range(8)


class _JudgeTraining(WholeCheckpoints):
    """Validation in place of the loss on an evaluation set."""

    validation: Validation

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Macro-F1 of the tasks and their mean, by which the best checkpoint is chosen."""
        figures = self.validation.run(self)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        with _evaluating(self.model):
            self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """TRL keeps the figures of training and of evaluation apart by the model's mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


class JudgeSFTTrainer(_JudgeTraining, SFTTrainer):  # type: ignore[misc]  # TRL has no types
    """SFT of a judge: the answer's tokens are learnt, the verdicts validated."""

    def __init__(self, *arguments: Any, validation: Validation, **named: Any) -> None:
        self.validation = validation
        super().__init__(*arguments, **named)


class Rollout(NamedTuple):
    """One completion of a step, for the log."""

    task: str
    null: bool
    correct: float
    format: float
    length: int


class JudgeGRPOTrainer(_JudgeTraining, SharedPromptGRPOTrainer):
    """GRPO of a judge.

    Args:
        resample_tries: how often groups whose rewards are all alike are replaced by other prompts
            before the step takes them as they are. TRL has no dynamic sampling (DAPO, arXiv
            2503.14476, section 3.2). 0 is never.
        keep_pairs: both orders of a pair come into the same generation batch; rows 2k and 2k + 1
            of the dataset belong together.
    """

    def __init__(
        self,
        *arguments: Any,
        validation: Validation,
        resample_tries: int = 0,
        keep_pairs: bool = False,
        **named: Any,
    ) -> None:
        self.validation = validation
        self.resample_tries, self.keep_pairs = resample_tries, keep_pairs
        self._inputs: list[dict[str, Any]] = []
        self._rewards_of_step: torch.Tensor | None = None
        super().__init__(*arguments, **named)

    def _get_train_sampler(self, dataset: Any = None) -> PromptSampler:
        return PromptSampler(
            len(self.train_dataset if dataset is None else dataset),
            unit=2 if self.keep_pairs else 1,
            prompts=self.args.generation_batch_size // self.num_generations,
            generations=self.num_generations,
            repeats=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )

    # Dynamic sampling

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._inputs = inputs
        return super()._generate_and_score_completions(inputs)

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        rollouts: tuple[Any, ...] = super()._generate(prompts)
        if not self.resample_tries or not self.model.training:
            return rollouts
        rewards_N_F = self._reward_functions(prompts, rollouts)
        drawn_again = 0
        for attempt in range(self.resample_tries):
            flat_M = self._without_spread(rewards_N_F)
            if not flat_M.any():
                break
            drawn_again += int(flat_M.sum())
            self._replace(prompts, rollouts, flat_M, attempt)
            self._pending_metrics.clear()
            self._pending_extra_logs.clear()
            rewards_N_F = self._reward_functions(prompts, rollouts)
        self._metrics["train"]["groups_drawn_again"].append(drawn_again / len(flat_M))
        self._rewards_of_step = rewards_N_F
        return rollouts

    def _reward_functions(self, prompts: list[Any], rollouts: tuple[Any, ...]) -> torch.Tensor:
        """rewards_N_F over all processes, N completions by F functions."""
        rewards_N_F: torch.Tensor = super()._calculate_rewards(
            self._inputs, prompts, rollouts[_COMPLETIONS], rollouts[_COMPLETION_IDS]
        )
        return rewards_N_F

    def _without_spread(self, rewards_N_F: torch.Tensor) -> Bools:
        """flat_M: which of the M groups of all processes have rewards that are all alike."""
        rewards_M_G = self._weighted(rewards_N_F).reshape(-1, self.num_generations)
        # Not by the standard deviation: twenty times 0.9 in float32 have one of 6e-8.
        flat_M: Bools = np.isclose(np.ptp(rewards_M_G, axis=1), 0)
        return flat_M

    def _weighted(self, rewards_N_F: torch.Tensor) -> Floats:
        """The reward of each completion, N; a function that does not apply adds nothing."""
        weights_F = self.reward_weights.to(rewards_N_F.device)
        rewards_N: Floats = (rewards_N_F * weights_F).nansum(dim=1).cpu().numpy()
        return rewards_N

    def _replace(
        self, prompts: list[Any], rollouts: tuple[Any, ...], flat_M: Bools, attempt: int
    ) -> None:
        """Put other prompts and their completions in the place of this process's flat groups.

        Which prompt comes is decided by seed, step and place, so that a resumed run draws the same.
        Every process generates for as many groups, because TRL gathers what it logs.
        """
        flat_P_M = flat_M.reshape(self.accelerator.num_processes, -1)
        first = self.accelerator.process_index * flat_P_M.shape[1]
        flat = np.flatnonzero(flat_P_M[self.accelerator.process_index]).tolist()
        width = self.num_generations
        for group in flat:
            draw = stable_hash("draw again", self.args.seed, self._step, attempt, first + group)
            row = self.train_dataset[draw % len(self.train_dataset)]
            messages = prepare_multimodal_messages(row["prompt"], images=row["images"])
            for place in range(group * width, (group + 1) * width):
                self._inputs[place], prompts[place] = row, messages
        others = [group for group in range(flat_P_M.shape[1]) if group not in flat]
        asked = [*flat, *others][: int(flat_P_M.sum(axis=1).max())]
        places = [group * width + k for group in asked for k in range(width)]
        fresh = super()._generate([prompts[place] for place in places])
        for column in (_PROMPT_IDS, _COMPLETION_IDS, _COMPLETIONS, _LOGPROBS, _IMAGES):
            if rollouts[column] is not None:
                for place, value in zip(places[: len(flat) * width], fresh[column], strict=False):
                    rollouts[column][place] = value

    # The log

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        rewards_N_F, self._rewards_of_step = self._rewards_of_step, None
        if rewards_N_F is None:
            rewards_N_F = super()._calculate_rewards(
                inputs, prompts, completions, completion_ids_list
            )
        scored = scores(
            completions, *([row[name] for row in inputs] for name in ("kind", "label", "verdicts"))
        )
        own = [
            Rollout(row["task"], s.verdict.value is None, s.correct or 0.0, s.format, len(ids))
            for row, s, ids in zip(inputs, scored, completion_ids_list, strict=True)
        ]
        self._log_tasks(gather_object(own), rewards_N_F)
        return rewards_N_F

    def _log_tasks(self, rollouts_N: Sequence[Rollout], rewards_N_F: torch.Tensor) -> None:
        rewards_N = self._weighted(rewards_N_F)
        flat_N = self._without_spread(rewards_N_F).repeat(self.num_generations)
        tasks_N = np.array([rollout.task for rollout in rollouts_N])
        figures: Mapping[str, Any] = {
            "reward": rewards_N,
            "accuracy": np.array([rollout.correct for rollout in rollouts_N]),
            "format": np.array([rollout.format for rollout in rollouts_N]),
            "null_rate": np.array([rollout.null for rollout in rollouts_N]),
            "length": np.array([rollout.length for rollout in rollouts_N]),
            "groups_without_spread": flat_N,
        }
        for task in np.unique(tasks_N):
            for name, values_N in figures.items():
                value = float(values_N[tasks_N == task].mean())
                self._metrics["train"][f"{task}/{name}"].append(value)


class PromptSampler(RepeatSampler):  # type: ignore[misc]  # TRL has no types
    """TRL's order (tasks mixed, each prompt once a generation and row), with two differences.

    Rows that belong together stay together, and each epoch has an order of its own that only the
    seed and the epoch decide: a resumed run meets the prompts that an unbroken one would have met.

    Args:
        rows: how many rows the dataset has; those of a unit are neighbours.
        unit: rows that belong together, such as the two orders of a pair.
        prompts: different prompts in a generation batch, over all processes; a multiple of unit.
        generations: completions a prompt.
        repeats: how often a generation batch is gone through.
    """

    def __init__(
        self,
        rows: int,
        *,
        unit: int,
        prompts: int,
        generations: int,
        repeats: int,
        shuffle: bool,
        seed: int,
    ) -> None:
        super().__init__(
            range(rows // unit),
            mini_repeat_count=1,
            batch_size=prompts // unit,
            repeat_count=repeats,
            shuffle=shuffle,
            seed=seed,
        )
        self.unit, self.generations = unit, generations
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's data loader when an epoch begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed(self.seed + self.epoch)
        for number in super().__iter__():
            for row in range(number * self.unit, (number + 1) * self.unit):
                yield from [row] * self.generations

    def __len__(self) -> int:
        return int(super().__len__()) * self.unit * self.generations
