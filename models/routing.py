"""Which of its factors an adapter uses for a prompt: chosen once, from the prompt's tokens alone.

A prompt's answers all use the factors of their prompt (:mod:`.mixlora`). Which tokens are the
prompt's is found in every forward pass: those before the last generation prompt of the chat
template, such as ``<|im_start|>assistant``. So an answer, a cache, padding and other rows change
nothing, whichever way a model is called:

- rows of prompts, or of prompts with answers, padded on either side;
- packed rows (:mod:`.packing`), of which each holds the answers of one or several prompts;
- decoding: what was chosen when the prompt was read stays with the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .packed_attention import LAYOUT, Layout

_ROUTES = "mtrl_judge_routes"  # attribute of a cache


class Routes:
    """The M prompts of a forward pass over R rows of T tokens, and what was chosen for them.

    Args:
        weights: of each token in the mean over its prompt: R × T where each row has one prompt,
            M × R · T for packed rows.
        prompt_R_T: the prompt of each token of packed rows; None where row n belongs to prompt n.
    """

    def __init__(self, weights: Tensor, prompt_R_T: Tensor | None = None) -> None:
        self.weights, self.prompt_R_T = weights, prompt_R_T
        self.gates: dict[int, Tensor] = {}
        """M × E for each layer, by its number; of passes without gradients."""

    def means(self, hidden_R_T_D: Tensor) -> Tensor:
        """The mean over each prompt's tokens, M × D."""
        weights = self.weights.to(hidden_R_T_D.dtype)
        if self.prompt_R_T is not None:
            return weights @ hidden_R_T_D.flatten(0, 1)
        return torch.bmm(weights[:, None], hidden_R_T_D)[:, 0]

    def spread(self, gates_M_E: Tensor) -> Tensor:
        """The gates of each token, R × T × E or R × 1 × E."""
        if self.prompt_R_T is None:
            return gates_M_E[:, None]
        return functional.embedding(self.prompt_R_T, gates_M_E)

    def rows(self, rows: Tensor) -> Routes:
        """For decoding: these rows of a cache, each as often as it is named."""
        chosen = Routes(self.weights[rows])
        chosen.gates = {layer: gates_M_E[rows] for layer, gates_M_E in self.gates.items()}
        return chosen


class Routing:
    """Knows, for all adapted layers of a model, the routes of the forward pass that is running.

    Args:
        model: a transformers model without wrapper.
        end_of_prompt: the tokens that stand between a prompt and its answer, from
            :func:`end_of_prompt`; to be set before the first forward pass.
    """

    def __init__(self, model: Any, end_of_prompt: Sequence[int] = ()) -> None:
        self.end_of_prompt = tuple(end_of_prompt)
        self._answer_tokens = 0
        self._now: Routes | None = None
        self._of_gradients: Routes | None = None
        self._decoding = False
        model.base_model.register_forward_pre_hook(self._begin, with_kwargs=True)
        model.base_model.register_forward_hook(self._end)

    def gates(self, layer: int, hidden_R_T_D: Tensor, router_E_D: Tensor, chosen: int) -> Tensor:
        """How much each token uses of each of a layer's E factors, R × T × E or R × 1 × E.

        For every prompt, ``chosen`` factors have gates above 0: their scores' softmax, times
        ``chosen``, so that the mean of these gates is one. It is computed in float32, because a
        choice amplifies rounding.
        """
        routes = self._now
        if routes is None:
            raise RuntimeError("an adapted layer was called outside its model's forward pass")
        if self._decoding:
            return routes.spread(routes.gates[layer])
        with torch.autocast(hidden_R_T_D.device.type, enabled=False):
            scores_M_E = routes.means(hidden_R_T_D.float()) @ router_E_D.float().T
            best = scores_M_E.topk(chosen)
            weights = best.values.softmax(dim=-1) * chosen
            gates_M_E = torch.zeros_like(scores_M_E).scatter(-1, best.indices, weights)
        if not torch.is_grad_enabled():
            routes.gates[layer] = gates_M_E
        return routes.spread(gates_M_E)

    @contextmanager
    def answers_of(self, tokens: int) -> Iterator[None]:
        """Within the context, the last ``tokens`` of each row are an answer, whatever they say."""
        before, self._answer_tokens = self._answer_tokens, tokens
        try:
            yield
        finally:
            self._answer_tokens = before

    def _begin(self, _: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Before a forward pass of the model."""
        ids_R_T = named["input_ids"] if "input_ids" in named else arguments[0]
        cache = named.get("past_key_values")
        self._decoding = cache is not None and cache.get_seq_length() > 0
        if self._decoding:
            self._now = getattr(cache, _ROUTES)
        else:
            self._now = self._routes(ids_R_T, named.get("attention_mask"))

    def _end(self, _: Any, __: tuple[Any, ...], output: Any) -> None:
        """After a forward pass of the model.

        Gradient checkpointing computes layers again in the backward pass, when passes without
        gradients may have come in between.
        """
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            setattr(cache, _ROUTES, self._now)
        if torch.is_grad_enabled():
            self._of_gradients = self._now
        else:
            self._now, self._decoding = self._of_gradients, False

    def _routes(self, ids_R_T: Tensor, mask: Any) -> Routes:
        layout = _layout_of(mask)
        if layout is not None:
            return self._packed(ids_R_T, layout)
        width = ids_R_T.shape[1]
        ends_R = self._ends(ids_R_T[:, : width - self._answer_tokens])
        routed_R_T = torch.arange(width, device=ids_R_T.device) < ends_R[:, None]
        if isinstance(mask, Tensor) and mask.dim() == 2:
            routed_R_T = routed_R_T & mask.bool()
        return Routes(routed_R_T / routed_R_T.sum(dim=1, keepdim=True))

    def _packed(self, ids_R_T: Tensor, layout: Layout) -> Routes:
        ids_S = ids_R_T.flatten()
        weights_M_S = torch.zeros(len(layout.prompts), len(ids_S), device=ids_S.device)
        prompt_S = torch.zeros_like(ids_S)
        for number, ((start, length), spans) in enumerate(
            zip(layout.prompts, layout.continuations, strict=True)
        ):
            end = int(self._ends(ids_S[None, start : start + length]))
            weights_M_S[number, start : start + end] = 1 / end
            for place, tokens in ((start, length), *spans):
                prompt_S[place : place + tokens] = number
        return Routes(weights_M_S, prompt_S.view_as(ids_R_T))

    def _ends(self, ids_R_T: Tensor) -> Tensor:
        """Where each row's last generation prompt begins, R."""
        sought = torch.tensor(self.end_of_prompt, device=ids_R_T.device)
        if not len(sought):
            raise RuntimeError("end_of_prompt is not set")
        windows = ids_R_T.unfold(1, min(len(sought), ids_R_T.shape[1]), 1)
        found = torch.zeros_like(ids_R_T[:, :1], dtype=torch.bool)
        if windows.shape[-1] == len(sought):
            found = (windows == sought).all(dim=-1)
        places = torch.arange(found.shape[1], device=ids_R_T.device)
        ends_R = torch.where(found, places, 0).amax(dim=1)
        if not bool((ends_R > 0).all()):
            raise ValueError(
                "adapter: mixlora chooses by a prompt's tokens, and a prompt has no "
                f"generation prompt of the chat template (tokens {list(self.end_of_prompt)})"
            )
        return ends_R


def _layout_of(mask: Any) -> Layout | None:
    if isinstance(mask, dict):
        return next(filter(None, map(_layout_of, mask.values())), None)
    return getattr(mask, LAYOUT, None)


def repeat_routes(cache: Any, other: Any, rows: Tensor) -> None:
    """Give a cache the routes of these rows of another; nothing where that has none.

    Args:
        cache: may be the same.
        other: as a model with a :class:`Routing` filled it.
    """
    routes = getattr(other, _ROUTES, None)
    if routes is not None:
        setattr(cache, _ROUTES, routes.rows(rows))


def routing_of(model: Any) -> Routing | None:
    """The routing that a model's adapted layers share; None where they have none.

    Args:
        model: with or without wrappers.
    """
    found = (getattr(module, "routing", None) for module in model.modules())
    return next((routing for routing in found if isinstance(routing, Routing)), None)


def end_of_prompt(processor: Any) -> list[int]:
    """The tokens of the chat template's generation prompt, without the last.

    The last may become one token with the beginning of an answer, and packed rows repeat it.
    """
    messages = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    ids = [
        processor.tokenizer(
            processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=added),
            add_special_tokens=False,
        )["input_ids"]
        for added in (False, True)
    ]
    without, with_prompt = ids
    shared = next(
        (n for n, (a, b) in enumerate(zip(without, with_prompt, strict=False)) if a != b),
        min(len(without), len(with_prompt)),
    )
    return list(with_prompt[shared:-1])
