"""Log-probabilities of a judge's verdicts, in one forward pass without generation."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mtrl_judge.common.errors import JudgeError

from .packing import (
    Prefix,
    count_images,
    pack,
    packing_unsupported_reason,
    prefixes_of,
    unique_prefixes,
)

logger = logging.getLogger(__name__)

FLOAT_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def verdict_tokens(
    tokenizer: Any, verdicts: Sequence[str], end_ids: Sequence[int]
) -> list[list[int]]:
    """The token ids of each verdict as an answer.

    Where one verdict's tokens are a prefix of another's ("1" and "10"), all of them get an end
    token; without it the shorter one's probability would include the longer one's.

    Raises:
        JudgeError: two verdicts have the same tokens, or one has none or contains an end token.
    """
    tokens_V = [tokenizer(verdict, add_special_tokens=False)["input_ids"] for verdict in verdicts]
    for verdict, tokens in zip(verdicts, tokens_V, strict=True):
        if not tokens or tokenizer.unk_token_id in tokens or set(tokens) & set(end_ids):
            decoded = tokenizer.decode(tokens)
            problem = f"the tokenizer cannot represent {verdict!r} (it becomes {decoded!r})"
        elif tokens_V.count(tokens) > 1:
            same = [repr(v) for v, t in zip(verdicts, tokens_V, strict=True) if t == tokens]
            problem = f"{' and '.join(same)} have the same tokens"
        else:
            continue
        raise JudgeError(f"verdicts: {problem}; use scoring=generation, or other verdicts")
    ambiguous = any(longer[: len(tokens)] == tokens for tokens, longer in permutations(tokens_V, 2))
    return [[*tokens, end_ids[0]] if ambiguous else tokens for tokens in tokens_V]


def verdict_logps(
    model: Any,
    inputs: Mapping[str, Tensor],
    image_counts: Sequence[int],
    tokens_V: Sequence[Sequence[int]],
    end_ids: Sequence[int],
) -> Tensor:
    """The log-probability of each verdict after each prompt, B × V in float32.

    A prompt is read once for all verdicts. A model whose prompts cannot be packed reads it once for
    each distinct beginning, that is, verdict without its last token: once if all verdicts are
    single tokens.

    Args:
        model: a transformers model without wrapper, in evaluation mode.
        inputs: B prompts padded on the left, on the model's device.
        image_counts: number of images of each prompt.
        tokens_V: from :func:`verdict_tokens`.
        end_ids: tokens that end an answer; an end token in `tokens_V` stands for any of them.

    Raises:
        JudgeError: the model's log-probabilities are not finite.
    """
    reason = packing_unsupported_reason(model)
    with float32_logits(model):
        if reason is None:
            counts = count_images(model.config, inputs["input_ids"], image_counts)
            prefixes = prefixes_of(inputs, counts)
            logps_B_V = _packed_logps(model, prefixes, tokens_V, end_ids)
        else:
            _warn_unshared(reason)
            logps_B_V = _unpacked_logps(model, inputs, tokens_V, end_ids)
    require_finite(logps_B_V, model.dtype)
    return logps_B_V


def require_finite(logps: Tensor, dtype: torch.dtype) -> None:
    """
    Raises:
        JudgeError: log-probabilities, which a model has computed in `dtype`, are not finite.
    """
    if not logps.isfinite().all():
        raise JudgeError(
            f"the model's log-probabilities are not finite in {dtype}; "
            "use dtype=bfloat16 or dtype=float32"
        )


@cache  # once per reason
def _warn_unshared(reason: str) -> None:
    logger.warning("scoring=logprob: verdicts do not share their prompt's pass: %s", reason)


class _Float32Head(nn.Module):
    """An output embedding, with its adapters if any, that computes in float32.

    Its weights are converted anew for each pass, because they may be those of the input embedding.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, hidden: Tensor) -> Tensor:
        weights = {name: weight.float() for name, weight in self.head.named_parameters()}
        logits: Tensor = functional_call(self.head, weights, (hidden.float(),))
        return logits


@contextmanager
def float32_logits(model: Any) -> Iterator[None]:
    """Let a model compute logits in float32 from hidden states in its own dtype.

    A logit near 20 has steps of 0.125 in bfloat16, so verdicts that are not equally probable become
    so. What a family does to its logits afterwards, such as `final_logit_softcapping`, happens in
    float32 as well. Where the output embedding's weights cannot be converted, a warning says so
    and the logits are computed in the model's dtype.
    """
    head = model.get_output_embeddings()
    reason = _float32_unsupported_reason(head)
    if reason is not None:
        _warn_rounded(reason, model.dtype)
        yield
        return
    model.set_output_embeddings(_Float32Head(head))
    try:
        yield
    finally:
        model.set_output_embeddings(head)


def _float32_unsupported_reason(head: nn.Module | None) -> str | None:
    if head is None:
        return "the model has no output embedding of its own"
    weights = list(head.parameters())
    # Quantized and sharded weights are buffers, other subclasses of Tensor, or have other dtypes.
    if not weights or any(
        type(weight) is not nn.Parameter or weight.dtype not in FLOAT_DTYPES for weight in weights
    ):
        return "the output embedding is quantized or sharded"
    if any(weight.is_meta or weight.numel() == 0 for weight in weights):
        return "the output embedding is offloaded"
    return None


@cache  # once per reason
def _warn_rounded(reason: str, dtype: torch.dtype) -> None:
    logger.warning("scoring=logprob: logits are rounded to %s: %s", dtype, reason)


def _packed_logps(
    model: Any,
    prefixes: Sequence[Prefix],
    tokens_V: Sequence[Sequence[int]],
    end_ids: Sequence[int],
) -> Tensor:
    """The verdicts as continuations of their prompt; equal prompts of the batch are read once."""
    device = prefixes[0].ids_P.device
    distinct, inverse = unique_prefixes(prefixes)
    verdicts = [torch.tensor(tokens, device=device) for tokens in tokens_V]
    packed = pack(model, [prefixes[index] for index in distinct], [verdicts] * len(distinct))
    hidden_R_T_H = model.base_model(**packed.inputs, use_cache=False).last_hidden_state
    # Logits only where a verdict's token is predicted: the vocabulary is the largest axis.
    labels_R_T = packed.labels_R_T.to(hidden_R_T_H.device)
    needed_R_T = labels_R_T >= 0
    logits_A_K = model.get_output_embeddings()(hidden_R_T_H[needed_R_T])
    logps_R_T = torch.zeros(labels_R_T.shape, device=logits_A_K.device)
    logps_R_T[needed_R_T] = _label_logps(logits_A_K, labels_R_T[needed_R_T], end_ids)
    logps_M_V = packed.unpack(logps_R_T.to(device)).sum(dim=1).view(len(distinct), -1)
    return logps_M_V[inverse]


def _label_logps(logits_A_K: Tensor, labels_A: Tensor, end_ids: Sequence[int]) -> Tensor:
    """The log-probability of each label, A; an end token's is that of all end tokens together."""
    logps_A_K = logits_A_K.float().log_softmax(dim=-1)
    labels_A = labels_A.to(logps_A_K.device)
    ends_E = torch.tensor(end_ids, device=labels_A.device)
    label_logps_A = logps_A_K.gather(1, labels_A[:, None])[:, 0]
    end_logps_A = logps_A_K[:, ends_E].logsumexp(dim=1)
    return torch.where(torch.isin(labels_A, ends_E), end_logps_A, label_logps_A)


def _unpacked_logps(
    model: Any,
    inputs: Mapping[str, Tensor],
    tokens_V: Sequence[Sequence[int]],
    end_ids: Sequence[int],
) -> Tensor:
    """One forward pass for each distinct beginning, a verdict's tokens without the last.

    The batch is padded anew on the right, where padding neither shifts positions nor is seen.
    """
    mask_B_T = inputs["attention_mask"].bool()
    lengths_B = mask_B_T.sum(dim=1)
    pad_id = model.config.get_text_config().pad_token_id or 0
    logps: dict[tuple[int, ...], Tensor] = {}  # verdict's tokens -> B
    for beginning in dict.fromkeys(tuple(tokens[:-1]) for tokens in tokens_V):
        n = len(beginning)
        appended = {"input_ids": beginning, "attention_mask": [1] * n}
        repadded = dict(inputs)
        for name, values_B_T in inputs.items():
            if values_B_T.shape == mask_B_T.shape:
                more = values_B_T.new_tensor(appended.get(name, [0] * n))
                rows = zip(values_B_T, mask_B_T, strict=True)
                repadded[name] = nn.utils.rnn.pad_sequence(
                    [torch.cat([row_T[mask_T], more]) for row_T, mask_T in rows],
                    batch_first=True,
                    padding_value=pad_id if name == "input_ids" else 0,
                )
        # The logits that predict the beginning's tokens and the one after it, S = n + 1.
        offsets_S = torch.arange(n + 1, device=mask_B_T.device)
        columns_B_S = lengths_B[:, None] - 1 + offsets_S
        keep = {}
        if "logits_to_keep" in inspect.signature(model.forward).parameters:
            keep["logits_to_keep"], columns_B_S = torch.unique(columns_B_S, return_inverse=True)
        logits_B_T_K = model(**repadded, use_cache=False, **keep).logits
        rows_B_1 = torch.arange(len(columns_B_S))[:, None]
        logits_B_S_K = logits_B_T_K[rows_B_1, columns_B_S.to(logits_B_T_K.device)]
        for tokens in tokens_V:
            if tuple(tokens[:-1]) == beginning:
                parts = [
                    _label_logps(logits_B_S_K[:, step], torch.full_like(lengths_B, token), end_ids)
                    for step, token in enumerate(tokens)
                ]
                logps[tuple(tokens)] = torch.stack(parts).sum(dim=0)
    return torch.stack([logps[tuple(tokens)] for tokens in tokens_V], dim=1)
