"""Sampling by vLLM from what is trained: the same tokens, pixels, weights and data type.

TRL 1.16 gives vLLM prompts whose image tokens are already expanded, and vLLM expands them once more
(huggingface/trl#6294; #6718 is open). After each change of the weights it resets vLLM's cache of
prefixes, but not that of image features (#7198; #7200 is open). And it tells vLLM neither the data
type nor the limits on pixels, so vLLM takes the checkpoint's. Such a run looks healthy and learns
nothing.

:class:`VLLMSampler` does all four, and stops the run where vLLM reads other prompts than the
trainer. Where TRL does the same, nothing changes twice: a prompt without expanded tokens stays as
it is, a cache that is reset again is empty, and TRL's own arguments of ``LLM`` override ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from PIL import Image
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from mtrl_judge.common.attributes import replaced_attribute
from mtrl_judge.common.errors import JudgeError
from mtrl_judge.models.pixels import pixel_limits

from .agreement import raise_in_all
from .recipes import as_shell, vllm_server_command

# Pixels of a side: the features of a larger probe would be more than 100 MB.
LARGEST_PROBE = 1536


class VLLMSampler(VLLMGeneration):  # type: ignore[misc]  # TRL has no types
    """TRL's use of vLLM; the trainer constructs it within :func:`vllm_samples_as_trained`.

    Args:
        named: of TRL's class.

    Raises:
        JudgeError: a server counts image tokens otherwise than the trainer, or computes in another
            data type.
    """

    def __init__(self, **named: Any) -> None:
        self.dtype = str(compute_dtype(named["model"], named["accelerator"]))
        self.dtype = self.dtype.removeprefix("torch.")
        super().__init__(**named)

    def _init_vllm(self) -> None:
        """Overrides ``VLLMGeneration._init_vllm``: data type and limits on pixels are passed on."""
        if self.mode == "server":
            super()._init_vllm()
            if self.accelerator.is_main_process:
                check_server(self.vllm_client, self.processing_class, self.dtype, self.command)
            return
        options: dict[str, Any] = {
            "dtype": self.dtype,
            # The commit that the trainer has loaded; None for a folder.
            "revision": getattr(self.model.config, "_commit_hash", None),
        }
        limits = pixel_limits(self.processing_class)
        if limits is not None:
            options["mm_processor_kwargs"] = limits
        engine = partial(vllm_generation.LLM, **options)
        with replaced_attribute(vllm_generation, "LLM", engine):
            super()._init_vllm()

    @property
    def record(self) -> dict[str, Any]:
        """What samples, for the record of a run."""
        if self.mode == "server":
            version = self.vllm_client._get(f"{self.vllm_client.base_url}/version")["version"]
        else:
            import vllm  # its distribution has other names on other devices

            version = vllm.__version__
        return {"engine": "vllm", "mode": self.mode, "version": version, "dtype": self.dtype}

    @property
    def command(self) -> str:
        """The command that starts a server for this run."""
        return as_shell(
            vllm_server_command(
                self.model.name_or_path,
                dtype=self.dtype,
                max_model_length=self.max_model_length,
                processor_options=pixel_limits(self.processing_class),
            )
        )

    def sync_weights(self) -> None:
        """Overrides ``VLLMGeneration.sync_weights``: image features of old weights are dropped."""
        super().sync_weights()
        if self.mode == "colocate":
            self.llm.llm_engine.reset_encoder_cache()
        elif self.accelerator.is_main_process:
            client = self.vllm_client
            client.session.post(f"{client.base_url}/reset_encoder_cache").raise_for_status()

    def generate(
        self,
        prompts: list[list[int]],
        images: list[list[Any] | None] | None,
        num_generations: int,
        profiler: Any = None,
    ) -> tuple[Any, ...]:
        """Overrides ``VLLMGeneration.generate``: vLLM gets one token per image and expands it.

        A server gets the expanded tokens, as it needs them: it takes tokens and features apart.

        Raises:
            JudgeError: in all processes, vLLM has expanded a prompt of one to other tokens.
        """
        if self.mode == "server":
            answer: tuple[Any, ...] = super().generate(prompts, images, num_generations, profiler)
            return answer
        token = self.processing_class.image_token_id
        images_B = images or [None] * len(prompts)
        collapsed = [
            collapse_images(ids, token, len(own or ()))
            for ids, own in zip(prompts, images_B, strict=True)
        ]
        read, *rest = super().generate(collapsed, images, num_generations, profiler)
        other = next((p for p in zip(prompts, read, strict=True) if list(p[0]) != list(p[1])), None)
        fault = None
        if other is not None:
            (ours, ours_images), (theirs, theirs_images) = (
                (len(ids), list(ids).count(token)) for ids in other
            )
            fault = (
                f"vLLM reads another prompt than the trainer: {theirs} tokens, {theirs_images} of "
                f"them for images, instead of {ours} and {ours_images}. Train with --use_vllm "
                "false, and please report the model and the versions of vLLM and transformers"
            )
        raise_in_all(fault)
        return prompts, *rest

    def _place_features(self, features: Any, prompt_ids: list[int]) -> Any:
        """Overrides ``VLLMGeneration._place_features``: a server's features must fit the tokens.

        A server answers in silence where it has more features than places.
        """
        placed = super()._place_features(features, prompt_ids)
        if placed is not None:
            ours, theirs = (
                [image["length"] for image in source["mm_placeholders"]["image"]]
                for source in (placed, features)
            )
            if ours != theirs:
                raise JudgeError(other_image_tokens(ours, theirs, self.command))
        return placed

    def greedy(
        self,
        prompts: list[list[int]],
        images: list[list[Image.Image]],
        *,
        max_new_tokens: int,
        eos_ids: list[int],
    ) -> list[list[int]]:
        """The greedy completion of each prompt, its end token included; for validation.

        Every process calls it, with equally many prompts.

        Args:
            prompts: their tokens, with image tokens expanded.
            images: of each prompt.
            eos_ids: tokens that end an answer.
        """
        settings = {
            "temperature": 0.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "max_completion_length": max_new_tokens,
            "structured_outputs_regex": None,
            "generation_kwargs": {"stop_token_ids": eos_ids},
        }
        with ExitStack() as stack:
            for name, value in settings.items():
                stack.enter_context(replaced_attribute(self, name, value))
            given: list[list[Any] | None] | None = [*images] if any(images) else None
            completions: list[list[int]] = self.generate(prompts, given, 1)[1]
        return [list(ids) for ids in completions]


@contextmanager
def vllm_samples_as_trained() -> Iterator[None]:
    """Within the context, a ``GRPOTrainer`` that uses vLLM constructs a :class:`VLLMSampler`."""
    with replaced_attribute(grpo_trainer, "VLLMGeneration", VLLMSampler):
        yield


def compute_dtype(model: Any, accelerator: Any) -> torch.dtype:
    """What a model in training computes in."""
    mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype: torch.dtype = mixed.get(accelerator.mixed_precision, model.dtype)
    return dtype


def collapse_images(ids: Sequence[int], image_token: int, images: int) -> list[int]:
    """A prompt in which each image is one token again.

    >>> collapse_images([1, 9, 9, 9, 2, 9, 3], image_token=9, images=2)
    [1, 9, 2, 9, 3]
    >>> collapse_images([1, 9, 9, 9, 9, 3], image_token=9, images=2)  # next to each other
    [1, 9, 9, 3]

    Raises:
        JudgeError: it cannot be told how many images each run of image tokens stands for.
    """
    starts = {
        number
        for number, token in enumerate(ids)
        if token == image_token and (number == 0 or ids[number - 1] != image_token)
    }
    if len(starts) not in (images, min(images, 1)):
        raise JudgeError(
            f"use_vllm: a prompt has {images} images in {len(starts)} runs of image tokens; "
            "expected a chat template that puts text between all images or between none"
        )
    each = 1 if len(starts) == images else images
    collapsed: list[int] = []
    for number, token in enumerate(ids):
        if token != image_token:
            collapsed.append(token)
        elif number in starts:
            collapsed += [token] * each
    return collapsed


def check_server(client: Any, processor: Any, dtype: str, command: str) -> None:
    """Compare a vLLM server with the trainer: the tokens of a small and a large image; data type.

    Args:
        client: TRL's ``VLLMClient``.
        dtype: of the trainer, such as ``bfloat16``.
        command: what starts the right server.

    Raises:
        JudgeError: they differ.
    """
    theirs = str(client.get_server_info()["model_config"]["dtype"]).removeprefix("torch.")
    if theirs != dtype:
        raise JudgeError(
            f"vLLM's server computes in {theirs}, the trainer in {dtype}. {_restart(command)}"
        )
    images = [Image.new("RGB", (side, side), "gray") for side in _probe_sides(processor)]
    features = client.image_features([[image] for image in images])
    counts = [f["mm_placeholders"]["image"][0]["length"] for f in features]
    expected = [image_tokens(processor, image) for image in images]
    if counts != expected:
        raise JudgeError(other_image_tokens(expected, counts, command))


def image_tokens(processor: Any, image: Image.Image) -> int:
    """The number of tokens that a processor makes of an image."""
    inputs = processor(text=[processor.image_token], images=[[image]], return_tensors="pt")
    return int((inputs["input_ids"] == processor.image_token_id).sum())


def other_image_tokens(ours: Sequence[int], theirs: Sequence[int], command: str) -> str:
    """What to say where a server counts image tokens otherwise than the trainer."""
    return (
        f"vLLM's server makes {' and '.join(map(str, theirs))} tokens of images of which the "
        f"trainer makes {' and '.join(map(str, ours))}: it limits pixels otherwise. "
        f"{_restart(command)}"
    )


def _restart(command: str) -> str:
    return (
        f"Start it with the options of this command, besides those for your devices:\n  {command}"
    )


def _probe_sides(processor: Any) -> tuple[int, int]:
    """Sides of a square below and of one above a processor's limits on pixels."""
    limits = pixel_limits(processor)
    if limits is None:
        return 64, LARGEST_PROBE // 2
    size = limits["size"]
    smallest = math.isqrt(size["shortest_edge"]) // 2
    return max(1, smallest), min(LARGEST_PROBE, math.isqrt(size["longest_edge"]) * 5 // 4)
