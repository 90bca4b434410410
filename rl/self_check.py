"""Our log-probabilities held against TRL's own, once per run.

Both compute the same numbers, so they may differ by rounding only. How much that is depends on the
model and its weights: a deep one in bfloat16 may round by 0.1 nats and more. So it is measured, by
TRL's own computation with other roundings: in another batch shape, where sums are added up in
another order, and with the tokens' embeddings changed in the last place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from mtrl_judge.models.packing import pad_left, take_rows

from .agreement import raise_in_all

logger = logging.getLogger(__name__)

Logps: TypeAlias = Callable[..., Tensor]
CHECKED_ROWS = 16


class Difference(NamedTuple):
    """How far two computations of the same log-probabilities are from each other, in nats."""

    mean: float
    """The mean absolute difference over the completions' tokens."""
    row: float
    """The greatest of its means over the tokens of one completion."""


# How many times as far as rounding is too far; the measurements are in docs/shared-prompt.md. The
# rounding of one row varies more than the mean, because a completion may have a single token.
MARGIN = Difference(mean=2, row=5)
# Of a logit from 32 to 64, which is much, in float32. A log-softmax subtracts about the greatest
# logit, so one rounding may be the difference of every token, where those measured cancel.
LAST_PLACE = 2.0**-18
AGREE = (
    "share_prompt: %s agree with TRL's up to %.2g in the mean and %.2g in the "
    "worst row; rounding: %.2g and %.2g"
)


def difference(ours_B_C: Tensor, theirs_B_C: Tensor, mask_B_C: Tensor) -> Difference:
    """The difference over the tokens that the mask keeps; 0 if it keeps none.

    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> difference(torch.ones(2, 2), torch.tensor([[1.0, 2.0], [3.0, 9.0]]), mask)
    Difference(mean=1.0, row=2.0)
    """
    off_B_C = (ours_B_C.float() - theirs_B_C.float()).abs().masked_fill(~mask_B_C, 0)
    tokens_B = mask_B_C.sum(dim=1)
    mean = off_B_C.sum() / tokens_B.sum().clamp(min=1)
    return Difference(float(mean), float((off_B_C.sum(dim=1) / tokens_B.clamp(min=1)).max()))


def rounding(
    logps: Logps, batch: Mapping[str, Any], embeddings: nn.Module, dtype: torch.dtype
) -> Difference:
    """What rounding does to log-probabilities: how far the same ones, rounded otherwise, are.

    Args: as those of :func:`rounded_otherwise`.
    """
    with torch.no_grad():
        otherwise_B_C = rounded_otherwise(logps, batch, embeddings, dtype)
        return difference(otherwise_B_C, logps(**batch), completed(batch))


def rounded_otherwise(
    logps: Logps, batch: Mapping[str, Any], embeddings: nn.Module, dtype: torch.dtype
) -> Tensor:
    """The same log-probabilities, B × C, from each row alone, with more padding, and perturbed.

    Args:
        logps: B × C log-probabilities, given the fields of ``batch`` and perhaps ``batch_size``,
            as TRL's ``_get_per_token_logps_and_entropies`` returns them.
        batch: ``input_ids``, ``attention_mask``, ``logits_to_keep`` and what else it takes.
        embeddings: the model's input embeddings.
        dtype: the least exact type of the computation.
    """
    with perturbed(embeddings, dtype):
        return logps(**pad_left(batch), batch_size=1)


@contextmanager
def perturbed(embeddings: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within the context, the embeddings of tokens are changed in the last place of a type.

    Another batch shape alone may leave every sum as it is, depending on the kernels.
    """

    def change(_: nn.Module, __: Any, output_B_T_D: Tensor) -> Tensor:
        factors_D = torch.full(output_B_T_D.shape[-1:], 1 + torch.finfo(dtype).eps)
        factors_D[::2] = 1 - torch.finfo(dtype).eps
        return (output_B_T_D.float() * factors_D.to(output_B_T_D.device)).to(output_B_T_D.dtype)

    hook = embeddings.register_forward_hook(change)
    try:
        yield
    finally:
        hook.remove()


def completed(batch: Mapping[str, Any]) -> Tensor:
    """Which places of a batch's B × C hold a token of a completion."""
    mask_B_C: Tensor = batch["attention_mask"][:, -batch["logits_to_keep"] :].bool()
    return mask_B_C


def check_generation(
    ours_B_V: Tensor,
    inputs: dict[str, Any],
    image_counts: Sequence[int],
    stock: Callable[[dict[str, Any]], Tensor],
    embeddings: nn.Module,
    dtype: torch.dtype,
) -> None:
    """:func:`check` the logits of first tokens, for up to CHECKED_ROWS rows.

    Their mean over the vocabulary is subtracted. A log-softmax would subtract about the greatest
    logit, and so its rounding, a single number per row, would be the difference of every token.

    Args:
        ours_B_V: logits of the first tokens.
        inputs: the arguments of ``generate``.
        image_counts: number of images of each row.
        stock: the logits that transformers computes by itself, given such arguments.
    """
    rows = _spread(len(ours_B_V))
    chosen = inputs if len(rows) == len(ours_B_V) else take_rows(inputs, rows, image_counts)
    stock_B_V = stock(chosen)
    with perturbed(embeddings, dtype):
        alone = [stock(pad_left(take_rows(inputs, [row], image_counts))) for row in rows]
    logits = (ours_B_V[rows], stock_B_V, torch.cat(alone))
    floats = (rows_V.float() for rows_V in logits)
    ours, theirs, otherwise = (rows_V - rows_V.mean(dim=-1, keepdim=True) for rows_V in floats)
    everything = torch.ones_like(ours, dtype=torch.bool)
    check("logits of the first generated tokens", ours, theirs, otherwise, everything, dtype)


def _spread(rows: int) -> list[int]:
    """Indices of up to CHECKED_ROWS of the rows, the first and the last among them.

    >>> _spread(3), _spread(31)[:4], _spread(31)[-1]
    ([0, 1, 2], [0, 2, 4, 6], 30)
    """
    count = min(rows, CHECKED_ROWS)
    return [index * (rows - 1) // max(count - 1, 1) for index in range(count)]


def check(
    where: str,
    ours_B_C: Tensor,
    theirs_B_C: Tensor,
    otherwise_B_C: Tensor,
    mask_B_C: Tensor,
    dtype: torch.dtype,
) -> None:
    """Stop the run where our log-probabilities differ from TRL's by clearly more than rounding.

    Every process must call this: if they differ in one, all stop.

    Args:
        where: which log-probabilities.
        theirs_B_C: TRL's own.
        otherwise_B_C: TRL's own, :func:`rounded_otherwise`.
        mask_B_C: which of them are compared.
        dtype: the least exact type of the computation.

    Raises:
        JudgeError: they differ by more, or are not finite.
    """
    found = difference(ours_B_C, theirs_B_C, mask_B_C)
    rounded = difference(otherwise_B_C, theirs_B_C, mask_B_C)
    # The numbers may be near 0, and yet they are differences of logits, rounded like those.
    last_place = max(torch.finfo(dtype).eps, LAST_PLACE)
    if all(
        value <= margin * (limit + last_place)
        for value, margin, limit in zip(found, MARGIN, rounded, strict=True)
    ):
        logger.info(AGREE, where, *found, *rounded)
        fault = None
    else:
        fault = (
            f"share_prompt: {where} differ from TRL's by {found.mean:.2g} in the "
            f"mean and {found.row:.2g} in the worst row, but TRL's own, rounded otherwise, by "
            f"{rounded.mean:.2g} and {rounded.row:.2g} ({dtype}); train with --share_prompt "
            "false, and please report the model"
        )
    raise_in_all(fault)
