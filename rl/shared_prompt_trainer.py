"""GRPO that does a group's shared work once: the same loss, gradients and samples, earlier.

TRL repeats a prompt G times before anything else and so decodes and preprocesses its images, runs
the vision tower and reads the prompt G times, in generation and in every forward and backward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional
from trl import GRPOTrainer
from trl.trainer.utils import (
    split_pixel_values_by_grid,
    split_tensor_dict,
    unsplit_pixel_values_by_grid,
)

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.models.image_dedup import deduplicate_images
from mtrl_judge.models.packing import (
    Prefix,
    join_images,
    pack,
    packing_unsupported_reason,
    prefix_unsupported_reason,
    split_images,
    unique_prefixes,
    use_packed_attention,
)
from mtrl_judge.models.shared_prefill import share_prefill

from .image_cache import DecodedOnce, processed_once

logger = logging.getLogger(__name__)


class Tolerance(NamedTuple):
    """By how much two ways to compute the same may differ."""

    mean: float
    """Of the completions' log-probabilities, and"""
    most: float
    """the greatest."""
    next: float
    """Of the log-probabilities of all possible next tokens in the mean, unlikely ones included."""


# What roundings do, with room to spare; a wrong position or mask is off by 0.1 and more.
TOLERANCES = {
    torch.float32: Tolerance(1e-4, 1e-2, 1e-3),
    torch.float16: Tolerance(1e-2, 0.5, 0.05),
    torch.bfloat16: Tolerance(5e-2, 2.0, 0.2),
}


class SharedPromptGRPOTrainer(GRPOTrainer):  # type: ignore[misc]  # TRL has no types
    """TRL's GRPOTrainer with the work that a group shares done once.

    Where the model, an option or a micro-batch offers nothing to share it is TRL's own, and the log
    says why, once.

    Args:
        share_prompt: False is TRL's own in all.
        share_prompt_check: compare the first micro-batch, and the first tokens of the first
            generation, with TRL's own, and stop if they differ.
    """

    processing_class: Any
    _buffered_inputs: Any

    def __init__(
        self,
        *arguments: Any,
        share_prompt: bool = True,
        share_prompt_check: bool = True,
        **named: Any,
    ) -> None:
        self._share_prompt = share_prompt
        self._checks_logps = self._checks_generation = share_prompt_check
        self._told: set[str] = set()
        super().__init__(*arguments, **named)
        inner = _inner(self.accelerator, self.model)
        self._against_prefix = prefix_unsupported_reason(inner)
        self._against_packing = packing_unsupported_reason(inner)
        if share_prompt:
            for model in filter(None, (self.model, self.ref_model)):
                use_packed_attention(_inner(self.accelerator, model))

    def _shares(self, what: str, against: Sequence[str | None]) -> bool:
        """Whether this part of the step shares prompts; the log says so, or why not, once."""
        if not self._share_prompt:
            return False
        reason = next(filter(None, against), None)
        line = f"share_prompt: {what} "
        line += f"as TRL does it, because {reason}" if reason else "read each prompt once"
        if line not in self._told and self.accelerator.is_main_process:
            logger.log(logging.WARNING if reason else logging.INFO, line)
        self._told.add(line)
        return reason is None

    # Decoding and preprocessing

    def _get_dataloader(self, dataset: Any, *arguments: Any, **named: Any) -> Any:
        if self._share_prompt and isinstance(dataset, Dataset):
            dataset = DecodedOnce(dataset)
        return super()._get_dataloader(dataset, *arguments, **named)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self._share_prompt or self._against_prefix:
            return super()._generate_and_score_completions(inputs)  # type: ignore[no-any-return]
        processor = self.processing_class
        with processed_once(processor) as self.processing_class:
            try:
                output: dict[str, Any] = super()._generate_and_score_completions(inputs)
            finally:
                self.processing_class = processor
        return output

    # Generation

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, *arguments: Any, **named: Any
    ) -> Any:
        def stock() -> Any:
            return super(SharedPromptGRPOTrainer, self)._generate_single_turn(
                prompt_ids, images, *arguments, **named
            )

        if self.use_vllm:  # which has a cache of prefixes
            return stock()
        against = (
            self._against_prefix,
            "continuous batching is on" if self.use_transformers_continuous_batching else None,
            "cache_implementation is set" if self.args.cache_implementation else None,
        )
        if not self._shares("generation", against):
            return stock()
        counts = [len(own or ()) for own in images or [None] * len(prompt_ids)]
        check = self._compare_generation if self._checks_generation else None
        with share_prefill(_inner(self.accelerator, self.model), counts, check):
            answers = stock()
        self._checks_generation = False
        return answers

    def _compare_generation(self, ours_B_V: Tensor, theirs_B_V: Tensor) -> None:
        ours, theirs = (each.float().log_softmax(dim=-1) for each in (ours_B_V, theirs_B_V))
        mean = float((ours - theirs).abs().mean())
        dtype = self._computed_in(self.model)
        self._judge_difference("of the first generated tokens", dtype, next=mean)

    # The order of a generation batch

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """As TRL's, but groups stay together when the batch is shuffled and cut."""
        generate_every = self.args.steps_per_generation * self.num_iterations
        if not self._share_prompt or not self.model.training:
            return super()._prepare_inputs(generation_batch)
        if self._step % generate_every == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            batch = shuffle_groups(split_pixel_values_by_grid(batch), self.num_generations)
            self._buffered_inputs = [
                unsplit_pixel_values_by_grid(part)
                for part in split_tensor_dict(batch, self.args.steps_per_generation)
            ]
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    # Log-probabilities

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
        **fields: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As TRL's: log-probabilities and entropies, each B × C, and the auxiliary loss."""
        stock = super()._get_per_token_logps_and_entropies
        asked = {"compute_entropy": compute_entropy, "compute_aux_loss": compute_aux_loss}
        against = (
            self._against_packing,
            "the auxiliary loss counts a prompt in every row" if compute_aux_loss else None,
            "tools write into completions" if self.tools else None,
        )
        what = "log-probabilities"
        if self.args.gradient_checkpointing:
            what += " under gradient checkpointing"
        if not self._shares(what, against):
            return stock(  # type: ignore[no-any-return]
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size=batch_size,
                num_images=num_images,
                **asked,
                **fields,
            )
        rows = _Rows(input_ids, attention_mask, logits_to_keep, num_images, fields)
        size = batch_size or len(rows)
        parts = [
            self._share(model, rows, slice(start, start + size))
            for start in range(0, len(rows), size)
        ]
        logps = torch.cat([part[0] for part in parts])
        if self._checks_logps:
            self._checks_logps = False
            with torch.no_grad():
                theirs = stock(model, **rows.stock(slice(0, size)), **asked)[0]
            completed = attention_mask[:size, -logits_to_keep:].bool()
            differences = (parts[0][0].detach() - theirs)[completed].abs()
            if differences.numel():
                self._judge_difference(
                    "of the first micro-batch",
                    self._computed_in(model),
                    mean=float(differences.mean()),
                    most=float(differences.max()),
                )
        entropies = torch.cat([part[1] for part in parts]) if compute_entropy else None
        return logps, entropies, None

    def _share(self, model: Any, rows: _Rows, part: slice) -> tuple[Tensor, Tensor]:
        """Log-probabilities of some rows in one forward pass, and entropies where it has them."""
        prefixes, completions = rows.prefixes(part), rows.completions(part)
        distinct, inverse = unique_prefixes(prefixes)
        groups = [
            [row for row, number in enumerate(inverse) if number == group]
            for group in range(len(distinct))
        ]
        inner = _inner(self.accelerator, model)
        packed = pack(
            inner,
            [prefixes[index] for index in distinct],
            [[completions[row] for row in group] for group in groups],
        )
        # Prompts too may share an image, as the two orders of a pair do.
        with self.accelerator.autocast(), deduplicate_images(inner):
            outputs = model(**packed.inputs, shift_labels=packed.labels_R_T, fused_lm_head=True)
        back_B = torch.tensor([row for group in groups for row in group]).argsort()

        def as_asked(values_R_T: Tensor | None) -> Any:
            if values_R_T is None:
                return None
            values_N_C = packed.unpack(values_R_T)
            missing = rows.logits_to_keep - values_N_C.shape[1]
            return functional.pad(values_N_C, (0, missing))[back_B]

        return as_asked(outputs.log_probs), as_asked(outputs.entropy)

    def _computed_in(self, model: Any) -> torch.dtype:
        """The least exact type that the model computes in."""
        mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}
        own: torch.dtype = _inner(self.accelerator, model).dtype
        if own == torch.float32 and torch.backends.cuda.matmul.allow_tf32:
            own = torch.float16  # as many bits as TF32
        return mixed.get(self.accelerator.mixed_precision, own)

    def _judge_difference(self, where: str, dtype: torch.dtype, **found: float) -> None:
        """Stop the run where more than roundings differ; NaN is more."""
        allowed = {name: getattr(TOLERANCES[dtype], name) for name in found}
        shown = ", ".join(f"{name} {value:.2g}" for name, value in found.items())
        if all(value <= allowed[name] for name, value in found.items()):
            logger.info("share_prompt: log-probabilities %s as TRL's own but for %s", where, shown)
            return
        limits = ", ".join(f"{name} {value:g}" for name, value in allowed.items())
        raise JudgeError(
            f"share_prompt: log-probabilities {where} differ from TRL's own: {shown} (roundings in "
            f"{dtype}: {limits}); train with --share_prompt false, and please report the model"
        )


class _Rows:
    """What TRL asks log-probabilities for: B rows of a prompt, padded left, and a completion."""

    def __init__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        num_images: list[int] | None,
        fields: dict[str, Any],
    ) -> None:
        self.ids_B_T, self.mask_B_T = input_ids, attention_mask
        self.logits_to_keep, self.num_images = logits_to_keep, num_images
        given = {name: value for name, value in fields.items() if value is not None}
        self.types_B_T = given.pop("mm_token_type_ids", None)
        self.images_B = split_images(given, num_images or [0] * len(input_ids))

    def __len__(self) -> int:
        return len(self.ids_B_T)

    def prefixes(self, part: slice) -> list[Prefix]:
        prompt = slice(None, -self.logits_to_keep)
        places = range(len(self))[part]
        found = []
        for place in places:
            mask = self.mask_B_T[place, prompt].bool()
            types = None if self.types_B_T is None else self.types_B_T[place, prompt][mask]
            ids = self.ids_B_T[place, prompt][mask]
            found.append(Prefix(ids, types, self.images_B[place]))
        return found

    def completions(self, part: slice) -> list[Tensor]:
        own = slice(-self.logits_to_keep, None)
        return [
            ids[own][mask[own].bool()]
            for ids, mask in zip(self.ids_B_T[part], self.mask_B_T[part], strict=True)
        ]

    def stock(self, part: slice) -> dict[str, Any]:
        """These rows as TRL takes them."""
        given: dict[str, Any] = {
            "input_ids": self.ids_B_T[part],
            "attention_mask": self.mask_B_T[part],
            "logits_to_keep": self.logits_to_keep,
            **join_images(self.images_B[part]),
        }
        if self.num_images is not None:
            given["num_images"] = self.num_images[part]
        if self.types_B_T is not None:
            given["mm_token_type_ids"] = self.types_B_T[part]
        return given


def _inner(accelerator: Any, model: Any) -> Any:
    """The transformers model within wrappers and adapters."""
    model = accelerator.unwrap_model(model)
    return model.get_base_model() if hasattr(model, "peft_config") else model


def shuffle_groups(batch: dict[str, Any], generations: int) -> dict[str, Any]:
    """Shuffle the groups of a generation batch, the rows of each still neighbours."""
    rows = len(batch["prompt_ids"])
    if rows % generations:  # a group may span processes
        generations = 1
    # TRL shuffles rows; as many numbers are drawn here, so that the next samples are the same.
    groups = torch.randperm(rows).div(generations, rounding_mode="floor").tolist()
    order = torch.tensor(list(dict.fromkeys(groups)))
    places = (order[:, None] * generations + torch.arange(generations)).flatten()

    def shuffled(values: Any) -> Any:
        if isinstance(values, Tensor):
            return values[places] if values.ndim else values
        return None if values is None else [values[place] for place in places]

    return {name: shuffled(values) for name, values in batch.items()}
