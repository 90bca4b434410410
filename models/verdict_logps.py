"""How likely a model is to answer with each verdict: one forward pass, nothing generated."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtrl_judge.common.errors import JudgeError

from .packing import Prefix, pack, same_prompts, split_images, why_not

logger = logging.getLogger(__name__)
_told: set[str] = set()


def verdict_tokens(
    tokenizer: Any, verdicts: Sequence[str], eos_ids: Sequence[int]
) -> list[list[int]]:
    """The token ids of each verdict as an answer.

    Where one verdict's tokens begin another's, an end token closes all of them: without it the
    shorter would count what the longer begins with as its own.

    Raises:
        JudgeError: two verdicts have the same tokens, or one has none or ends the answer.
    """
    tokens_V = [tokenizer(verdict, add_special_tokens=False)["input_ids"] for verdict in verdicts]
    for verdict, tokens in zip(verdicts, tokens_V, strict=True):
        if not tokens or tokenizer.unk_token_id in tokens or set(tokens) & set(eos_ids):
            written = tokenizer.decode(tokens)
            raise JudgeError(
                f"verdicts: the model's tokenizer cannot write {verdict!r}, only {written!r}; "
                "use scoring=generation, or other verdicts"
            )
        twins = [v for v, other in zip(verdicts, tokens_V, strict=True) if other == tokens]
        if len(twins) > 1:
            raise JudgeError(
                f"verdicts: {' and '.join(map(repr, twins))} have the same tokens; "
                "use scoring=generation, or other verdicts"
            )
    begun = any(one != other and other[: len(one)] == one for one in tokens_V for other in tokens_V)
    return [[*tokens, eos_ids[0]] if begun else tokens for tokens in tokens_V]


def verdict_logps(
    model: Any,
    inputs: Mapping[str, Tensor],
    counts: Sequence[int],
    tokens_V: Sequence[Sequence[int]],
    eos_ids: Sequence[int],
) -> Tensor:
    """The log-probability of each verdict after each prompt, B × V in float32.

    A prompt is read once for all verdicts. A model that `shared_prompt` does not take reads it once
    for each way in which verdicts begin: once if all are of a single token.

    Args:
        model: of transformers, without a wrapper, in evaluation mode.
        inputs: B prompts padded on the left, as the model takes them, on its device.
        counts: images of each prompt.
        tokens_V: of :func:`verdict_tokens`.
        eos_ids: what ends an answer; an end token in `tokens_V` stands for any of them.

    Raises:
        JudgeError: the model's numbers are not finite.
    """
    reason = why_not(model)
    if reason is None:
        logps_B_V = _packed(model, inputs, counts, tokens_V, eos_ids)
    else:
        if reason not in _told:
            _told.add(reason)
            logger.warning(
                "scoring=logprob: prompts are not shared by verdicts, because %s", reason
            )
        logps_B_V = _plain(model, inputs, tokens_V, eos_ids)
    if not logps_B_V.isfinite().all():
        raise JudgeError(
            f"the model's log-probabilities are not finite in {model.dtype}; "
            "would be right: dtype=bfloat16 or dtype=float32"
        )
    return logps_B_V


def _packed(
    model: Any,
    inputs: Mapping[str, Tensor],
    counts: Sequence[int],
    tokens_V: Sequence[Sequence[int]],
    eos_ids: Sequence[int],
) -> Tensor:
    ids_B_T, mask_B_T = inputs["input_ids"], inputs["attention_mask"].bool()
    types_B_T = inputs.get("mm_token_type_ids")
    text = ("input_ids", "attention_mask", "mm_token_type_ids")
    images_B = split_images({k: v for k, v in inputs.items() if k not in text}, counts)
    prefixes = [
        Prefix(ids[mask], None if types_B_T is None else types_B_T[place][mask], images)
        for place, (ids, mask, images) in enumerate(zip(ids_B_T, mask_B_T, images_B, strict=True))
    ]
    first = same_prompts(prefixes)
    own = sorted(set(first))
    verdicts = [torch.tensor(tokens, device=ids_B_T.device) for tokens in tokens_V]
    packed = pack(model, [prefixes[k] for k in own], [verdicts] * len(own))
    hidden_R_T_H = model.base_model(**packed.inputs, use_cache=False).last_hidden_state
    # Only where a verdict's token is foretold: the vocabulary is the widest axis there is.
    labels_R_T = packed.labels_R_T.to(hidden_R_T_H.device)
    asked_R_T = labels_R_T >= 0
    logits_A_K = model.get_output_embeddings()(hidden_R_T_H[asked_R_T])
    values_R_T = torch.zeros(labels_R_T.shape, device=logits_A_K.device)
    values_R_T[asked_R_T] = _logps(logits_A_K, labels_R_T[asked_R_T], eos_ids)
    logps_M_V = packed.unpack(values_R_T.to(ids_B_T.device)).sum(dim=1).view(len(own), -1)
    return logps_M_V[[own.index(k) for k in first]]


def _logps(logits_A_K: Tensor, labels_A: Tensor, eos_ids: Sequence[int]) -> Tensor:
    """The log-probability of each label, A; that of an end token is that of ending in any way."""
    logps_A_K = logits_A_K.float().log_softmax(dim=-1)
    labels_A = labels_A.to(logps_A_K.device)
    ends = torch.tensor(eos_ids, device=labels_A.device)
    own_A = logps_A_K.gather(1, labels_A[:, None])[:, 0]
    ended_A = logps_A_K[:, ends].logsumexp(dim=1)
    return torch.where(torch.isin(labels_A, ends), ended_A, own_A)


def _plain(
    model: Any,
    inputs: Mapping[str, Tensor],
    tokens_V: Sequence[Sequence[int]],
    eos_ids: Sequence[int],
) -> Tensor:
    """One pass of the model for each beginning, a verdict's tokens without the last."""
    lengths_B = inputs["attention_mask"].sum(dim=1)
    prompts = torch.arange(len(lengths_B), device=lengths_B.device)
    found: dict[int, Tensor] = {}
    for beginning in dict.fromkeys(tuple(tokens[:-1]) for tokens in tokens_V):
        logits_B_S_K = _logits(model, inputs, lengths_B, beginning)
        for place, tokens in enumerate(tokens_V):
            if tuple(tokens[:-1]) != beginning:
                continue
            logps_S_B = [
                _logps(logits_B_S_K[:, step], torch.full_like(prompts, token), eos_ids)
                for step, token in enumerate(tokens)
            ]
            found[place] = torch.stack(logps_S_B).sum(dim=0)
    return torch.stack([found[place] for place in range(len(tokens_V))], dim=1)


def _logits(
    model: Any, inputs: Mapping[str, Tensor], lengths_B: Tensor, beginning: Sequence[int]
) -> Tensor:
    """Logits behind each prompt and behind each token of the beginning, B × S × K.

    Padded on the right, where padding shifts no position and no token sees it.
    """
    mask_B_T = inputs["attention_mask"]
    pad = model.config.get_text_config().pad_token_id
    behind = {"input_ids": beginning, "attention_mask": [1] * len(beginning)}
    moved = {
        name: _moved(
            value,
            mask_B_T.bool(),
            behind.get(name, [0] * len(beginning)),
            padding=(pad or 0) if name == "input_ids" else 0,
        )
        if value.shape == mask_B_T.shape
        else value
        for name, value in inputs.items()
    }
    columns_B_S = lengths_B[:, None] - 1 + torch.arange(len(beginning) + 1, device=lengths_B.device)
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        logits_B_T_K: Tensor = model(**moved, use_cache=False).logits
    else:
        kept, columns_B_S = torch.unique(columns_B_S, return_inverse=True)
        logits_B_T_K = model(**moved, use_cache=False, logits_to_keep=kept).logits
    rows_B_1 = torch.arange(len(columns_B_S))[:, None]
    return logits_B_T_K[rows_B_1, columns_B_S.to(logits_B_T_K.device)]


def _moved(values_B_T: Tensor, mask_B_T: Tensor, behind: Sequence[int], *, padding: int) -> Tensor:
    """Without the padding on the left, with further values behind, padded on the right."""
    more = values_B_T.new_tensor(behind)
    rows = [torch.cat([own[mask], more]) for own, mask in zip(values_B_T, mask_B_T, strict=True)]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)
