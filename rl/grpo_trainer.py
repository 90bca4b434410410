"""GRPO for a judge over many tasks: TRL's loop, with a group's shared work done once.

The file follows a generation batch in the order in which it runs:

1. prompts               :class:`PromptSampler`, ``_get_train_sampler``, ``_get_dataloader``
2. generation batch      ``_prepare_inputs``, ``_generate_and_score_completions``
3. generation            ``_generate``, ``_generate_single_turn``
4. zero-variance groups  ``_resample``, by their accuracy
5. rewards               ``_calculate_rewards``
6. log of each task      ``_log_tasks``
7. log-probabilities     ``_get_per_token_logps_and_entropies``
8. loss                  ``_compute_loss``, TRL's in passes of some tokens, with the β of the step

TRL repeats a prompt G times before anything else. So it decodes and preprocesses its images, runs
the vision tower and computes the prompt G times, in generation and in every forward and backward
pass. Here all of that happens once per prompt, with the same loss, gradients and samples.

Every override names the method of TRL 1.16 that it overrides (``GRPOTrainer``, in
trl/trainer/grpo_trainer.py) and why. Axis suffixes: N completions of all processes, G of a group,
M = N / G groups, F reward functions; B rows of this process, V tokens of the vocabulary.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from accelerate.utils import DistributedType, gather_object
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from trl import GRPOTrainer
from trl.data_utils import prepare_multimodal_messages
from trl.trainer.utils import (
    RepeatSampler,
    split_pixel_values_by_grid,
    split_tensor_dict,
    unsplit_pixel_values_by_grid,
)

from mtrl_judge.common.attributes import replaced_attribute
from mtrl_judge.common.errors import JudgeError
from mtrl_judge.models.image_dedup import deduplicate_images
from mtrl_judge.models.packed_attention import flash_unsupported_reason
from mtrl_judge.models.packing import (
    pack,
    packing_unsupported_reason,
    prefix_unsupported_reason,
    unique_prefixes,
)
from mtrl_judge.models.placeholders import placeholder_ids
from mtrl_judge.models.routing import routing_of
from mtrl_judge.models.shared_prefill import StaticDecoding, share_prefill
from mtrl_judge.models.transformers_judge import unwrap_adapters

from .balance import WorstTask
from .generation_batch import (
    forward_inputs,
    micro_batches,
    prompts_and_completions,
    rows_of,
    shuffle_groups,
)
from .graded_rewards import OF_VERDICTS
from .image_cache import DecodedOnce, processed_once
from .kl_schedule import ZERO, KLSchedule
from .passes import fill_passes, packed_groups, padded_rows, rows_of_passes, share_of_loss
from .perception import OUTAGE, OutageError
from .rewards import scores
from .sampler_check import SamplerCheck
from .self_check import (
    CHECKED_ROWS,
    Difference,
    check,
    check_generation,
    completed,
    rounded_otherwise,
    rounding,
)
from .validation import JudgeTraining
from .vllm_sampling import vllm_samples_as_trained
from .zero_variance import Bools, Floats, OtherPrompts, WellFormedRate, uninformative

logger = logging.getLogger(__name__)


class Rollouts(NamedTuple):
    """What ``GRPOTrainer._generate`` returns; lists have one entry per completion."""

    prompt_ids: list[Any]
    completion_ids: list[Any]
    tool_mask: Any
    completions: list[Any]
    logprobs: list[Any] | None
    extra_fields: dict[str, Any]
    images: list[Any] | None
    tool_images: list[Any]


class Judged(NamedTuple):
    """What is known of the completions of all processes; each array has N entries."""

    task_N: NDArray[np.str_]
    correct_N: Floats
    format_N: Floats
    null_N: Floats
    length_N: Floats


class PromptSampler(RepeatSampler):  # type: ignore[misc]  # TRL has no types
    """TRL's order of prompts (shuffled, each G times, a batch repeated per step) with two changes.

    Rows of a unit stay together. And the order of an epoch depends on nothing but seed and epoch,
    so a resumed run gets the prompts that an uninterrupted one would have got; TRL's sampler draws
    from a generator whose state is not saved.

    Args:
        rows: number of rows of the dataset; those of a unit are neighbors.
        unit: rows that belong together, such as the two orders of a pair.
        generations: completions per prompt.
        batch_size: different prompts in a generation batch, over all processes; a multiple of unit.
        named: ``repeat_count``, ``shuffle`` and ``seed`` of ``RepeatSampler``.
    """

    def __init__(
        self, rows: int, *, unit: int, generations: int, batch_size: int, **named: Any
    ) -> None:
        units = range(rows // unit)
        super().__init__(units, mini_repeat_count=1, batch_size=batch_size // unit, **named)
        self.unit, self.generations, self.epoch = unit, generations, 0

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


class JudgeGRPOTrainer(JudgeTraining, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPOTrainer for a judge.

    Where the model, an option or a micro-batch has nothing to share, TRL's own computation runs
    and the log says why, once.

    Args:
        kl_schedule: sets β at every step; None leaves it to TRL.
        worst_task: the tasks of a generation batch follow :class:`.balance.WorstTask`.
        resample_tries: how many times zero-variance groups are replaced by other prompts of their
            task, at most, before a step takes them as they are. This is DAPO's dynamic sampling
            (arXiv 2503.14476, section 3.2), which TRL does not have. 0 is off.
        keep_pairs: both orders of a pair come into the same generation batch; rows 2k and 2k + 1
            of the dataset belong together.
        share_prompt: False leaves the computation to TRL.
        share_prompt_check: compare the first micro-batch, and the first tokens of the first
            generation, with TRL's own, and stop if they differ.
        micro_batch_tokens: a micro-batch is computed in passes of up to so many tokens, with the
            loss and the gradients of the whole (:mod:`.passes`); None computes it at once.
    """

    processing_class: Any
    _buffered_inputs: Any
    _last_loaded_step: int

    def __init__(
        self,
        *arguments: Any,
        kl_schedule: KLSchedule | None = None,
        worst_task: bool = False,
        resample_tries: int = 0,
        keep_pairs: bool = False,
        share_prompt: bool = True,
        share_prompt_check: bool = True,
        micro_batch_tokens: int | None = None,
        **named: Any,
    ) -> None:
        self.kl_schedule, self._kls_of_step = kl_schedule, list[float]()
        self.resample_tries, self.keep_pairs = resample_tries, keep_pairs
        self.share_prompt, self.micro_batch_tokens = share_prompt, micro_batch_tokens
        self._checks_logps = self._checks_generation = share_prompt_check
        self._logged: set[str] = set()
        self._inputs: list[dict[str, Any]] = []
        self._of_step: tuple[Tensor, Judged] | None = None
        self.well_formed_rate = WellFormedRate()
        with vllm_samples_as_trained():
            super().__init__(*arguments, **named)
        if micro_batch_tokens and self.aux_loss_enabled:
            raise JudgeError(
                "micro_batch_tokens: the auxiliary loss of a mixture of experts is no sum over "
                "passes; expected router_aux_loss_coef: 0.0"
            )
        self.stateful = {**self.stateful, "well_formed_rate": self.well_formed_rate}
        unit = 2 if keep_pairs else 1
        self.balance: WorstTask | None = None
        if worst_task:
            tasks = self.train_dataset.with_format(None)["task"][:]
            self.balance = WorstTask(tasks, unit=unit, seed=self.args.seed)
            self.stateful = {**self.stateful, "balance": self.balance}
        if kl_schedule is not None:
            self.stateful = {**self.stateful, "beta": kl_schedule}
        inner = self._inner(self.model)
        self._never_sample(placeholder_ids(inner.config))
        self._routing = routing_of(inner)
        self._sampler_check = SamplerCheck()
        self._prefix_obstacle = prefix_unsupported_reason(inner)
        self._packing_obstacle = packing_unsupported_reason(inner)
        self._static = self._static_decoding()
        dataset, seed = self.train_dataset, self.args.seed
        self._other_prompts = OtherPrompts(dataset, unit, seed) if resample_tries else None

    # 1. Prompts

    def _get_train_sampler(self, dataset: Any = None) -> PromptSampler:
        """Overrides ``GRPOTrainer._get_train_sampler``: see :class:`PromptSampler`."""
        return PromptSampler(
            len(self.train_dataset if dataset is None else dataset),
            unit=2 if self.keep_pairs else 1,
            generations=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )

    def _get_dataloader(self, dataset: Any, *arguments: Any, **named: Any) -> Any:
        """Overrides ``Trainer._get_dataloader`` of transformers: each row is decoded once.

        With a balance the rows are read when the weights of their batch are known.
        """
        if self.balance is not None and isinstance(dataset, Dataset):
            dataset = [{}] * len(dataset)
        elif self.share_prompt and isinstance(dataset, Dataset):
            dataset = DecodedOnce(dataset, self.prompts)
        return super()._get_dataloader(dataset, *arguments, **named)

    # 2. The generation batch

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Overrides ``GRPOTrainer._prepare_inputs``: groups are shuffled instead of rows.

        The rest is TRL's. With rows shuffled one by one, a micro-batch would hold pieces of many
        groups and there would be no prompt to share. Only training comes here, because
        ``evaluate`` is ours.
        """
        if not self.share_prompt:
            return super()._prepare_inputs(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            batch = shuffle_groups(split_pixel_values_by_grid(batch), self.num_generations)
            parts = split_tensor_dict(batch, steps)
            self._buffered_inputs = [unsplit_pixel_values_by_grid(part) for part in parts]
        return self._buffered_inputs[self._step % steps]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Overrides ``GRPOTrainer._generate_and_score_completions``: images preprocessed once.

        It calls ``_generate`` and ``_calculate_rewards`` (below) and turns rewards into advantages.
        """
        if self.balance is not None:
            inputs = self._balanced(self.balance, len(inputs))
        self._inputs = inputs  # which _resample may replace
        once = self.share_prompt and not self._prefix_obstacle
        processor = self.processing_class
        config = self._inner(self.model).config
        with (
            processed_once(processor, config) if once else nullcontext(processor) as processor,
            replaced_attribute(self, "processing_class", processor),
        ):
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.use_vllm:
            self._check_sampler(output)
        return output

    def _balanced(self, balance: WorstTask, rows: int) -> list[dict[str, Any]]:
        """This process's rows of a generation batch, in the order of TRL's sampler."""
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        for task, weight, share in zip(
            balance.names, balance.weights(), balance.shares(), strict=True
        ):
            self._metrics["train"][f"{task}/weight"].append(float(weight))
            self._metrics["train"][f"{task}/share"].append(float(share))
        drawn = balance.draw(rows * processes // self.num_generations)
        places = range(process * rows, (process + 1) * rows)
        own = [drawn[place // self.num_generations] for place in places]
        read = {row: self.train_dataset[row] for row in dict.fromkeys(own)}
        return [dict(read[row]) for row in own]

    def _check_sampler(self, batch: dict[str, Any]) -> None:
        """Compare vLLM's log-probabilities of a generation batch with the trainer's."""
        ours_B_C, mask_B_C = batch.get("old_per_token_logps"), batch["completion_mask"].bool()
        rounded = None
        if ours_B_C is None or self._sampler_check.measures_rounding:
            rows = self.args.per_device_train_batch_size
            if self.micro_batch_tokens:
                rows = min(rows, CHECKED_ROWS)
            first = forward_inputs(_some_rows(batch, range(rows)))
            local = torch.tensor(self._rounding(self.model, first).mean, device=mask_B_C.device)
            rounded = float(self.accelerator.gather(local).max())  # all processes decide alike
            if ours_B_C is None:  # without importance sampling TRL does not compute them
                with torch.no_grad():
                    ours_B_C = self._stock_logps(self.model, **first)
        rows = len(ours_B_C)
        off_B_C = (ours_B_C - batch["sampling_per_token_logps"][:rows]).abs()
        # vLLM's NaN is a token without a value.
        off_N = off_B_C[mask_B_C[:rows] & ~off_B_C.isnan()]
        total = torch.stack([off_N.sum(), off_N.new_tensor(len(off_N))])
        summed, count = self.accelerator.reduce(total).tolist()
        self._sampler_check.add(summed / max(count, 1), rounded)

    # 3. Generation

    def _never_sample(self, tokens: list[int]) -> None:
        """Tokens that no completion contains, with either engine.

        TRL suppresses the image token alone, and only where transformers generates.
        """
        if self.use_vllm:
            engine, words = self.vllm_generation, self._tokenizer.convert_ids_to_tokens(tokens)
            given = engine.generation_kwargs
            engine.generation_kwargs = {
                **given,
                "bad_words": [*(given.get("bad_words") or ()), *words],
            }
            return
        given = self.generation_kwargs.get("suppress_tokens") or ()
        suppressed = sorted({*given, *tokens})
        self.generation_config.suppress_tokens = suppressed
        self.generation_kwargs["suppress_tokens"] = suppressed

    def _static_decoding(self) -> StaticDecoding | None:
        """With ``cache_implementation: static``, what all generations decode into.

        On a GPU, transformers compiles the decoding then, which TRL disables; without compilation a
        static cache has no advantage.
        """
        wanted = not self.use_vllm and self.args.cache_implementation == "static"
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        text = self._inner(self.model).config.get_text_config()
        other_layers = set(getattr(text, "layer_types", None) or ()) - {"full_attention"}
        if not (wanted and self.share_prompt) or sharded or self._prefix_obstacle or other_layers:
            return None
        # The cache itself is given to `generate`, which then refuses a name.
        self.generation_config.disable_compile = False
        self.generation_config.cache_implementation = None
        self.generation_kwargs["cache_implementation"] = None
        return StaticDecoding()

    def sampler_record(self) -> dict[str, Any]:
        """What samples completions, for the record of a run; for the main process."""
        if self.use_vllm:
            record: dict[str, Any] = self.vllm_generation.record
            return record
        dtype = str(self._compute_dtype(self.model)).removeprefix("torch.")
        return {"engine": "transformers", "version": transformers.__version__, "dtype": dtype}

    def sync_sampler(self) -> None:
        """Give vLLM the weights of this step, as TRL does before it generates."""
        if self.state.global_step != self._last_loaded_step:
            self.vllm_generation.sync_weights()
            self._last_loaded_step = self.state.global_step

    def _generate(self, prompts: list[Any]) -> Rollouts:
        """Overrides ``GRPOTrainer._generate``: zero-variance groups are replaced.

        Finding them takes the rewards, so these are already computed here;
        ``_calculate_rewards``, which TRL calls next, returns them.
        """
        rollouts = Rollouts(*super()._generate(prompts))
        if self.resample_tries:
            self._of_step = self._resample(prompts, rollouts)
        return rollouts

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, *arguments: Any, **named: Any
    ) -> Any:
        """Overrides ``GRPOTrainer._generate_single_turn``: a prompt's cache is computed once."""

        def stock() -> Any:
            return super(JudgeGRPOTrainer, self)._generate_single_turn(
                prompt_ids, images, *arguments, **named
            )

        if self.use_vllm:  # vLLM caches prefixes itself
            return stock()
        obstacles = (
            self._prefix_obstacle,
            "cache_implementation is set"
            if self.args.cache_implementation and self._static is None
            else None,
        )
        if not self._shares("generation", obstacles):
            return stock()
        counts = [len(row or ()) for row in images or [None] * len(prompt_ids)]
        inner, (embeddings, dtype) = self._inner(self.model), self._arithmetic(self.model)
        check = None
        if self._checks_generation:
            check = partial(check_generation, embeddings=embeddings, dtype=dtype)
        with share_prefill(inner, counts, check, self._static):
            answers = stock()
        self._checks_generation = False
        return answers

    # 4. Zero-variance groups

    def _resample(self, prompts: list[Any], rollouts: Rollouts) -> tuple[Tensor, Judged]:
        """Replace zero-variance groups, in place, until none is left or the tries are used up.

        Of a pair whose orders are kept together, both groups are replaced or none.

        Returns:
            rewards_N_F of what is kept, and what is known of it.
        """
        informative: dict[str, list[bool]] = defaultdict(list)  # of every group sampled, by task
        seen: set[tuple[str, str]] = set()
        resampled, fresh_M = 0, None
        for attempt in range(self.resample_tries + 1):
            rewards_N_F = self._finite_rewards(
                self._inputs, prompts, rollouts.completions, rollouts.completion_ids
            )
            judged = self._judged(self._inputs, rollouts.completions, rollouts.completion_ids)
            if attempt == 0:  # replacements would bias it
                self._observe(judged)
            zero_variance_M = self._zero_variance(judged, rewards_N_F)
            task_M = judged.task_N[:: self.num_generations]
            fresh_M = np.ones(len(task_M), bool) if fresh_M is None else fresh_M
            for task, flat in zip(task_M[fresh_M], zero_variance_M[fresh_M], strict=True):
                informative[task].append(not flat)
            if attempt == self.resample_tries:
                break
            fresh_M = self._replace(prompts, rollouts, task_M, zero_variance_M, seen, attempt)
            if not fresh_M.any():
                break
            resampled += int(fresh_M.sum())
            # What reward functions logged of the replaced completions.
            self._pending_metrics.clear()
            self._pending_extra_logs.clear()
        metrics = self._metrics["train"]
        metrics["resampled_groups"].append(resampled / len(zero_variance_M))
        for task, of_task in informative.items():
            metrics[f"{task}/informative_groups"].append(float(np.mean(of_task)))
        return rewards_N_F, judged

    def _replace(
        self,
        prompts: list[Any],
        rollouts: Rollouts,
        task_M: NDArray[np.str_],
        zero_variance_M: Bools,
        seen: set[tuple[str, str]],
        attempt: int,
    ) -> Bools:
        """Put other prompts and their completions in place of zero-variance groups.

        A new prompt is one of the same task, so that each task keeps its share, and of an item that
        this step has not seen; where a task has none left, its group stays. It depends on seed,
        step, attempt and group alone, so a resumed run gets the same. All processes draw for all,
        and generate for as many groups, because TRL gathers what it logs.

        Args:
            seen: the items of this step; those of this batch and of the new prompts are added.

        Returns:
            Which groups have been replaced, M.
        """
        assert self._other_prompts is not None
        width, unit = self.num_generations, self._other_prompts.unit
        items = [(row["task"], row["item_id"]) for row in self._inputs[::width]]
        seen.update(gather_object(items))
        rows: dict[int, int] = {}
        for first in np.flatnonzero(zero_variance_M.reshape(-1, unit).all(axis=1)) * unit:
            drawn = self._other_prompts.draw(task_M[first], seen, self._step, attempt, first)
            if drawn is not None:
                seen |= drawn[1]
                rows |= zip(range(first, first + unit), drawn[0], strict=True)
        replaced_M = np.isin(np.arange(len(task_M)), list(rows))
        replaced_P_M = replaced_M.reshape(self.accelerator.num_processes, -1)
        groups, process = replaced_P_M.shape[1], self.accelerator.process_index
        replaced = np.flatnonzero(replaced_P_M[process]).tolist()
        for group in replaced:
            row = self.train_dataset[rows[process * groups + group]]
            messages = prepare_multimodal_messages(row["prompt"], images=row["images"])
            for index in range(group * width, (group + 1) * width):
                self._inputs[index], prompts[index] = row, messages
        kept = [group for group in range(groups) if group not in replaced]
        generated = [*replaced, *kept][: int(replaced_P_M.sum(axis=1).max())]
        if not generated:
            return replaced_M
        indices = [group * width + k for group in generated for k in range(width)]
        fresh = Rollouts(*super()._generate([prompts[index] for index in indices]))
        for name in ("prompt_ids", "completion_ids", "completions", "logprobs", "images"):
            column, values = getattr(rollouts, name), getattr(fresh, name)
            if column is not None:
                for index, value in zip(indices[: len(replaced) * width], values, strict=False):
                    column[index] = value
        return replaced_M

    def _zero_variance(self, judged: Judged, rewards_N_F: Tensor) -> Bools:
        """Which groups teach nothing, M: see :func:`.zero_variance.uninformative`."""
        rate = self.well_formed_rate.now
        assert rate is not None
        rewarded_N = judged.correct_N
        of_verdicts = [f in OF_VERDICTS.values() for f in self.reward_funcs]
        if any(of_verdicts):  # its reward need not be how right a verdict is
            rewarded_N = rewards_N_F[:, of_verdicts.index(True)].nan_to_num().cpu().numpy()
        return uninformative(rewarded_N, judged.format_N, rate, self.num_generations)

    def _total(self, rewards_N_F: Tensor) -> Floats:
        """rewards_N, weighted; a function that does not apply to a row adds nothing to it."""
        weights_F = self.reward_weights.to(rewards_N_F.device)
        rewards_N: Floats = (rewards_N_F * weights_F).nansum(dim=1).cpu().numpy()
        return rewards_N

    # 5. Rewards

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[list[int]],
    ) -> Tensor:
        """Overrides ``GRPOTrainer._calculate_rewards``: logs every task, computes nothing twice."""
        of_step, self._of_step = self._of_step, None
        if of_step is None:
            rewards_N_F = self._finite_rewards(inputs, prompts, completions, completion_ids_list)
            judged = self._judged(inputs, completions, completion_ids_list)
            self._observe(judged)
        else:
            rewards_N_F, judged = of_step
        self._log_tasks(judged, rewards_N_F)
        return rewards_N_F

    def _judged(
        self, inputs: list[dict[str, Any]], completions: list[Any], completion_ids: list[Any]
    ) -> Judged:
        """What is known of the completions of all processes."""
        columns = ([row[name] for row in inputs] for name in ("kind", "label", "verdicts"))
        local = [
            (row["task"], s.correct or 0.0, s.format, s.verdict.value is None, len(ids))
            for row, s, ids in zip(
                inputs, scores(completions, *columns), completion_ids, strict=True
            )
        ]
        return Judged(*(np.array(column) for column in zip(*gather_object(local), strict=True)))

    def _observe(self, judged: Judged) -> None:
        """Learn from the first completions of a batch."""
        self.well_formed_rate.add(float(judged.format_N.mean()))
        if self.balance is not None:
            self.balance.observe_accuracy(judged.task_N.tolist(), judged.correct_N.tolist())

    def _finite_rewards(self, inputs: list[dict[str, Any]], *rollouts: Any) -> Tensor:
        """TRL's rewards_N_F, which are the same in all processes; so is the error.

        Raises:
            OutageError: the text judge that checks facts did not answer some process.
            JudgeError: a user's reward function returned NaN or infinity.
        """
        rewards_N_F: Tensor = super()._calculate_rewards(inputs, *rollouts)
        for column, function in enumerate(self.reward_funcs):
            if hasattr(function, "outage") and (rewards_N_F[:, column] == OUTAGE).any():
                raise OutageError(next(filter(None, gather_object([function.outage]))))
        if rewards_N_F.isinf().any():  # NaN is "does not apply"; see rewards.user_reward
            completion, function = rewards_N_F.isinf().nonzero()[0].tolist()
            items = gather_object([(row["task"], row["item_id"]) for row in inputs])
            task, item = items[completion]
            raise JudgeError(
                f"user_rewards: {self.reward_func_names[function]} returned NaN or infinity for a "
                f"completion of item {item} of {task}; expected a finite number, or None where the "
                "reward does not apply"
            )
        return rewards_N_F

    # 6. The log of each task

    def _log_tasks(self, judged: Judged, rewards_N_F: Tensor) -> None:
        zero_variance_M = self._zero_variance(judged, rewards_N_F)
        figures = {
            "reward": self._total(rewards_N_F),
            "accuracy": judged.correct_N,
            "format": judged.format_N,
            "null_rate": judged.null_N,
            "length": judged.length_N,
            "zero_variance_groups": zero_variance_M.repeat(self.num_generations),
        }
        metrics = self._metrics["train"]
        metrics["well_formed_rate"].append(self.well_formed_rate.now)
        for task in np.unique(judged.task_N):
            for name, values_N in figures.items():
                mean = float(values_N[judged.task_N == task].mean())
                metrics[f"{task}/{name}"].append(mean)
        if self.balance is not None:
            task_M = judged.task_N[:: self.num_generations]
            self.balance.observe_groups(task_M.tolist(), (~zero_variance_M).tolist())

    # 7. Log-probabilities

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        num_images: list[int] | None = None,
        num_tiles: list[int] | None = None,
        **fields: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Overrides ``GRPOTrainer._get_per_token_logps_and_entropies``: each prompt computed once.

        All log-probabilities come through here: those of the policy, with gradients, in the loss;
        those of the reference model and of the sampling policy before it.

        Returns:
            Log-probabilities and entropies, each B × C, and the auxiliary loss.
        """
        batch = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "logits_to_keep": logits_to_keep,
            "num_images": num_images,
            "num_tiles": num_tiles,
            **fields,
        }
        obstacles = self._obstacles(compute_aux_loss)
        what = "log-probabilities"
        if self.args.gradient_checkpointing:
            what += " under gradient checkpointing"
        if not self._shares(what, obstacles):
            size = self._stock_rows(batch) or batch_size
            wanted = {"compute_entropy": compute_entropy, "compute_aux_loss": compute_aux_loss}
            stock = super()._get_per_token_logps_and_entropies
            with self._routed_by_prompts(logits_to_keep):
                return stock(model, **batch, batch_size=size, **wanted)  # type: ignore[no-any-return]
        self._say_attention()
        passes = [list(range(len(input_ids)))]
        if batch_size is not None:  # without gradients, for the whole generation batch
            passes = self._passes(batch, batch_size)
        parts = []
        for part in micro_batches(batch, passes):
            parts.append(self._packed_logps(model, part))
            if self._checks_logps:
                self._checks_logps = False
                # Sharded models are run once for each row, so all processes must check as many.
                checked = range(-self._largest(-len(part["input_ids"])))
                (first,) = micro_batches(part, [checked])
                self._check_logps(model, first, parts[0][0][: len(checked)])
        order_B = torch.tensor([row for rows in passes for row in rows]).argsort()
        logps_B_C = torch.cat([logps for logps, _ in parts])[order_B]
        if not compute_entropy:
            return logps_B_C, None, None
        return logps_B_C, torch.cat([entropies for _, entropies in parts])[order_B], None

    def _obstacles(self, compute_aux_loss: bool) -> tuple[str | None, ...]:
        """Why log-probabilities are computed as in TRL."""
        return (
            self._packing_obstacle,
            "the auxiliary loss counts a prompt in every row" if compute_aux_loss else None,
            "tools write into completions" if self.tools else None,
        )

    def _passes(self, batch: dict[str, Any], size: int) -> list[list[int]]:
        """The rows of each forward pass: up to ``size``, or up to ``micro_batch_tokens`` tokens.

        All processes have as many passes.
        """
        rows = len(batch["input_ids"])
        if self.micro_batch_tokens is None:
            return [list(range(rows))[start : start + size] for start in range(0, rows, size)]
        if self.share_prompt and not any(self._obstacles(self.aux_loss_enabled)):
            groups = packed_groups(batch)
        else:
            groups = padded_rows(batch, self._largest(batch["input_ids"].shape[1]))
        passes = fill_passes(groups, self.micro_batch_tokens)
        return rows_of_passes(passes, self._largest(len(passes)))

    def _stock_rows(self, batch: dict[str, Any]) -> int | None:
        """How many rows TRL's own path computes at a time, where tokens limit them."""
        if self.micro_batch_tokens is None:
            return None
        width = self._largest(batch["input_ids"].shape[1])
        return max(1, self.micro_batch_tokens // width)

    def _largest(self, number: int) -> int:
        """The largest of all processes' numbers."""
        if self.accelerator.num_processes == 1:
            return number
        numbers = torch.tensor(number, device=self.accelerator.device)
        return int(self.accelerator.gather(numbers).max())

    def _stock_logps(self, model: Any, **batch: Any) -> Tensor:
        """Log-probabilities of a micro-batch as TRL computes them, B × C."""
        batch = {"batch_size": self._stock_rows(batch), **batch}
        with self._routed_by_prompts(batch["logits_to_keep"]):
            logps_B_C: Tensor = super()._get_per_token_logps_and_entropies(model, **batch)[0]
        return logps_B_C

    def _routed_by_prompts(self, answer_tokens: int) -> AbstractContextManager[None]:
        """Within the context, adapters choose by the tokens before so many of each row."""
        if self._routing is None:
            return nullcontext()
        return self._routing.answers_of(answer_tokens)

    def _rounding(self, model: Any, batch: dict[str, Any]) -> Difference:
        """What rounding does to the log-probabilities of a micro-batch: see :func:`rounding`."""
        return rounding(partial(self._stock_logps, model), batch, *self._arithmetic(model))

    @torch.no_grad()
    def _check_logps(self, model: Any, batch: dict[str, Any], ours_B_C: Tensor) -> None:
        stock, arithmetic = partial(self._stock_logps, model), self._arithmetic(model)
        otherwise_B_C = rounded_otherwise(stock, batch, *arithmetic)
        logps = (ours_B_C, stock(**batch), otherwise_B_C)
        check("log-probabilities of the first micro-batch", *logps, completed(batch), arithmetic[1])

    def _packed_logps(self, model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of a micro-batch in one forward pass, and entropies where given."""
        prefixes, completions = prompts_and_completions(batch)
        distinct, inverse = unique_prefixes(prefixes)
        groups = [
            [row for row, number in enumerate(inverse) if number == group]
            for group in range(len(distinct))
        ]
        inner = self._inner(model)
        packed = pack(
            inner,
            [prefixes[index] for index in distinct],
            [[completions[row] for row in group] for group in groups],
        )
        # Prompts too may share an image, as the two orders of a pair do.
        with self.accelerator.autocast(), deduplicate_images(inner):
            outputs = model(**packed.inputs, shift_labels=packed.labels_R_T, fused_lm_head=True)
        order_B = torch.tensor([row for group in groups for row in group]).argsort()

        def by_row(values_R_T: Tensor | None) -> Any:
            if values_R_T is None:
                return None
            values_N_C = packed.unpack(values_R_T)
            missing = batch["logits_to_keep"] - values_N_C.shape[1]
            return functional.pad(values_N_C, (0, missing))[order_B]

        return by_row(outputs.log_probs), by_row(outputs.entropy)

    # 8. The loss

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Overrides ``GRPOTrainer._compute_loss``: β follows its schedule, passes are of tokens."""
        if self.kl_schedule is None:
            return self._loss_by_passes(model, inputs)
        beta = self.kl_schedule.beta(self.state.global_step, self.state.max_steps)
        self.beta = beta or ZERO
        kls = self._metrics["train"]["kl"]  # over all processes
        before = len(kls)
        loss = self._loss_by_passes(model, inputs)
        self._metrics["train"]["beta"].append(beta)
        self._kls_of_step.append(fmean(kls[before:]))
        if self.accelerator.sync_gradients:  # the last micro-batch of the step
            self.kl_schedule.end_step(fmean(self._kls_of_step))
            self._kls_of_step.clear()
        return loss

    def _loss_by_passes(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """TRL's loss, with ``micro_batch_tokens`` pass by pass.

        The gradients of all passes but the last have been computed when it returns.
        """
        if self.micro_batch_tokens is None:
            return super()._compute_loss(model, inputs)  # type: ignore[no-any-return]
        passes = self._passes(forward_inputs(inputs), len(inputs["prompt_ids"]))
        mask_B_C = inputs["completion_mask"] * inputs.get("tool_mask", 1)

        stock_gather = self.accelerator.gather

        def gather(values: Tensor) -> Tensor:
            """TRL logs extremes over the rows of all processes, which here may have unequally many.

            It ignores NaN, as of a row without tokens.
            """
            if values.ndim and self.accelerator.num_processes > 1:
                values = self.accelerator.pad_across_processes(values, pad_index=math.nan)
            gathered: Tensor = stock_gather(values)
            return gathered

        def loss_of(rows: list[int]) -> Tensor:
            stock, part = super(JudgeGRPOTrainer, self)._compute_loss, _some_rows(inputs, rows)
            self._gather_head(model)  # again, after the backward pass before
            with replaced_attribute(self.accelerator, "gather", gather):
                loss: Tensor = stock(model, part)
            return share_of_loss(self.loss_type, mask_B_C, rows) * loss

        *others, last = passes
        done = []
        for rows in others:
            with self._accumulating(model) as options:
                loss = loss_of(rows)
                self.accelerator.backward(loss, **options)
                done.append(loss.detach())
        return loss_of(last) + sum(done)

    @contextmanager
    def _accumulating(self, model: Any) -> Iterator[dict[str, Any]]:
        """Within the context, a backward pass is not the step's last; its options for accelerate.

        As in ``Trainer._inner_training_loop`` and ``Trainer.training_step`` of transformers. DDP
        adds up gradients over processes in the last pass. FSDP does so in each, because it would
        otherwise keep them for the whole model.
        """
        state = self.accelerator.gradient_state
        last = state.sync_gradients
        state._set_sync_gradients(False)
        ddp = isinstance(model, DistributedDataParallel)
        deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        try:
            with model.no_sync() if ddp else nullcontext():
                yield {"scale_wrt_gas": False} if deepspeed else {}
        finally:
            state._set_sync_gradients(last)

    # What several steps use

    def _shares(self, what: str, obstacles: Sequence[str | None]) -> bool:
        """Whether this part of the step shares prompts; the log says so, or why not, once."""
        if not self.share_prompt:
            return False
        obstacle = next(filter(None, obstacles), None)
        how = f"as in TRL, because {obstacle}" if obstacle else "each prompt once"
        self._log_once(
            f"share_prompt: {what}: {how}", logging.WARNING if obstacle else logging.INFO
        )
        return obstacle is None

    def _say_attention(self) -> None:
        """Log, once, how attention over packed rows is computed."""
        config, dtype = (
            self._inner(self.model).config.get_text_config(),
            self._compute_dtype(self.model),
        )
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        reason = flash_unsupported_reason(self.accelerator.device, dtype, heads, groups, size)
        how = f"with a mask, because {reason}" if reason else "by flash kernels"
        self._log_once(f"share_prompt: attention: {how}", logging.INFO)

    def _log_once(self, line: str, level: int) -> None:
        if line not in self._logged and self.accelerator.is_main_process:
            logger.log(level, line)
        self._logged.add(line)

    def _inner(self, model: Any) -> Any:
        """The transformers model within wrappers and adapters."""
        return unwrap_adapters(self.accelerator.unwrap_model(model))

    def _arithmetic(self, model: Any) -> tuple[Any, torch.dtype]:
        """What :func:`rounding` needs to know: the input embeddings and the type."""
        return self._inner(model).get_input_embeddings(), self._compute_dtype(model)

    def _compute_dtype(self, model: Any) -> torch.dtype:
        """The least exact type that the model computes in."""
        mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}
        dtype: torch.dtype = self._inner(model).dtype
        if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32:
            dtype = torch.float16  # as many bits of mantissa as TF32
        return mixed.get(self.accelerator.mixed_precision, dtype)


def _some_rows(batch: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """Rows of a batch as TRL's loss takes it, where images of all rows are in one tensor."""
    chosen: dict[str, Any] = unsplit_pixel_values_by_grid(
        rows_of(split_pixel_values_by_grid(batch), list(rows))
    )
    return chosen
