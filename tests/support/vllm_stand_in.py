"""What vLLM does with a prompt, for machines without it: transformers behind vLLM's interface.

Like vLLM 0.31, it loads its own weights and processor from the checkpoint, replaces the first image
token of each image by as many as its own processor makes of the image, keeps the features of images
it has seen until it is told to forget them, and computes float32 checkpoints in bfloat16 unless a
data type is given.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

DISTRIBUTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass
class SamplingParams:
    """The fields of vLLM's that are used here; others are refused."""

    n: int = 1
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 16
    logprobs: int | None = None
    bad_words: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)


class LLM:
    """vLLM's ``LLM`` for a Qwen-VL checkpoint.

    Args:
        model: the checkpoint's folder.
    """

    made: list[LLM]
    """All of them, the newest last; emptied by :func:`vllm_stand_in`."""

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        mm_processor_kwargs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        self.processor = AutoProcessor.from_pretrained(model)
        if mm_processor_kwargs:
            self.processor.image_processor.size = mm_processor_kwargs["size"]
        kind = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
        self.model = AutoModelForImageTextToText.from_pretrained(model, dtype=kind).eval()
        self.model.generation_config.suppress_tokens = None
        self.read: list[list[int]] = []
        """The tokens of all prompts, expanded."""
        self.sampling: list[SamplingParams] = []
        self._features: dict[Any, Any] = {}
        self._tower = self.model.model.visual
        self._see = self._tower.forward
        # TRL reaches the weights through these.
        runner = SimpleNamespace(model=self)
        worker = SimpleNamespace(model_runner=runner)
        self.model_executor = SimpleNamespace(driver_worker=worker)
        self.llm_engine = self
        LLM.made.append(self)

    def generate(
        self, prompts: Sequence[dict[str, Any]], sampling_params: SamplingParams, use_tqdm: bool
    ) -> list[Any]:
        self.sampling.append(sampling_params)
        return [self._answer(prompt, sampling_params) for prompt in prompts]

    def load_weights(self, weights: Sequence[tuple[str, torch.Tensor]]) -> None:
        own = dict(self.model.named_parameters())
        for name, values in weights:
            own[name].data.copy_(values)

    def reset_prefix_cache(self) -> None:
        pass  # prefixes are not kept here

    def reset_encoder_cache(self) -> None:
        self._features.clear()

    def sleep(self, level: int) -> None:
        assert level == 2
        for parameter in self.model.parameters():
            parameter.data.fill_(torch.nan)

    def wake_up(self, tags: Sequence[str]) -> None:
        pass

    @torch.no_grad()
    def _answer(self, prompt: dict[str, Any], sampling: SamplingParams) -> Any:
        data = prompt.get("multi_modal_data", {}).get("image", [])
        images = data if isinstance(data, list) else [data]
        ids, fields = self._expanded(prompt["prompt_token_ids"], images)
        self.read.append(ids)
        key = tuple((image.size, image.tobytes()) for image in images)

        def see(*arguments: Any, **named: Any) -> Any:
            if key not in self._features:
                self._features[key] = self._see(*arguments, **named)
            kept = self._features[key]
            return type(kept)(**kept)  # transformers splits the features in place

        self._tower.forward = see
        tokenizer, sampled = self.processor.tokenizer, sampling.temperature > 0
        bad = [token for word in sampling.bad_words for token in tokenizer.encode(word)]
        own_ends = self.model.generation_config.eos_token_id
        ends = own_ends if isinstance(own_ends, list) else [own_ends]
        output = self.model.generate(
            **fields,
            generation_config=GenerationConfig(
                do_sample=sampled,
                temperature=sampling.temperature if sampled else None,
                top_k=0 if sampled else None,
                max_new_tokens=sampling.max_tokens,
                suppress_tokens=bad or None,
                eos_token_id=[*ends, *sampling.stop_token_ids],
                pad_token_id=tokenizer.pad_token_id,
                output_scores=True,
                return_dict_in_generate=True,
            ),
        )
        tokens = output.sequences[0, fields["input_ids"].shape[1] :].tolist()
        logps = [
            float(scores[0].float().log_softmax(dim=-1)[token])
            for token, scores in zip(tokens, output.scores, strict=True)
        ]
        logprobs = [
            {token: SimpleNamespace(logprob=logp, rank=1)}
            for token, logp in zip(tokens, logps, strict=True)
        ]
        completion = SimpleNamespace(token_ids=tokens, logprobs=logprobs)
        return SimpleNamespace(prompt_token_ids=ids, outputs=[completion])

    def _expanded(
        self, given: Sequence[int], images: Sequence[Any]
    ) -> tuple[list[int], dict[str, Any]]:
        """The tokens that the model reads, and its inputs.

        Image tokens that are left over stay in the prompt and have no features, as in vLLM; to
        transformers they are given as padding, because it would refuse them.
        """
        token, merge = self.processor.image_token_id, self.processor.image_processor.merge_size
        pixels = dict(self.processor.image_processor(images, return_tensors="pt")) if images else {}
        counts = [int(grid.prod()) // merge**2 for grid in pixels.get("image_grid_thw", [])]
        ids: list[int] = []
        placed: list[int] = []  # 1 where an image's feature goes
        for one in given:
            seen = one == token and bool(counts)
            count = counts.pop(0) if seen else 1
            ids += [one] * count
            placed += [int(seen)] * count
        pad = self.processor.tokenizer.pad_token_id
        fitting = [pad if i == token and not p else i for i, p in zip(ids, placed, strict=True)]
        fields = {
            "input_ids": torch.tensor([fitting]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
            "mm_token_type_ids": torch.tensor([placed]),
            **pixels,
        }
        if images:
            fields["pixel_values"] = fields["pixel_values"].to(self.model.dtype)
        return ids, fields


@contextmanager
def vllm_stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[LLM]]:
    """Within the context, TRL finds a vLLM; yields the engines that it makes."""
    from trl.generation import vllm_generation

    from mtrl_judge.rl import packages

    def find(name: str) -> Any:
        return name == "vllm" or find_spec(name)

    LLM.made = []
    before = {name: os.environ.get(name) for name in DISTRIBUTED}  # which TRL sets for vLLM
    with monkeypatch.context() as patch:
        module = ModuleType("vllm")
        vars(module).update(__version__="stand-in", __spec__=ModuleSpec("vllm", None))
        patch.setitem(sys.modules, "vllm", module)
        patch.setattr(packages, "find_spec", find)
        patch.setattr(vllm_generation, "is_vllm_available", lambda: True)
        patch.setattr(vllm_generation, "LLM", LLM, raising=False)
        patch.setattr(vllm_generation, "SamplingParams", SamplingParams, raising=False)
        try:
            yield LLM.made
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
