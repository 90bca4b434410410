"""A loaded model and its processor as a judge: chat messages to prompts to greedy answers.

Answers are returned whole, reasoning included, because the task's scorer reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.markup import CLOSED_ANSWER, OPEN_ANSWER, opened_answer
from mtrl_judge.judge_tasks.prompts import render_messages

from .base_judge import Answer, Batch, Prompt, TokenizingJudge, VerdictLogps, prompt_seed
from .image_dedup import deduplicate_images
from .packing import count_images, prefix_unsupported_reason
from .pixels import fit_grid, has_grid
from .seeded_sampling import SeededSampling
from .shared_prefill import prefill_copies
from .verdict_logps import verdict_logps, verdict_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from mtrl_judge.judge_tasks.rows import JudgeRow
    from mtrl_judge.judge_tasks.spec import Style

logger = logging.getLogger(__name__)


class TransformersJudge(TokenizingJudge):
    """A judge around a model and a processor that are already loaded; cheap to construct.

    Args:
        model: an image-text-to-text model of transformers, or a PeftModel around one.
        processor: its processor, with a chat template; it is not modified.
        min_pixels: lower bound of width × height of each image as the model sees it.
        max_pixels: as for :class:`.base_judge.TokenizingJudge`.
        system_prompt: prepended to every conversation.

    Raises:
        JudgeError: neither model nor tokenizer defines an end token.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        system_prompt: str | None = None,
    ) -> None:
        super().__init__(
            processor,
            eos_token_id=model.generation_config.eos_token_id,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            system_prompt=system_prompt,
        )
        self.model = model
        self.preprocessing_device = model.device

    def judge(
        self,
        rows: Sequence[JudgeRow],
        style: Style,
        *,
        batch_size: int,
        max_new_tokens: int,
        keep_pairs: bool = True,
    ) -> list[str]:
        """As :meth:`BaseJudge.judge`, also with a model in training.

        Its modes and generation settings are restored afterwards, and no random number is drawn.
        """
        with _evaluation_mode(self.model):
            return super().judge(
                rows,
                style,
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                keep_pairs=keep_pairs,
            )

    def verdict_probabilities(
        self, rows: Sequence[JudgeRow], texts: Sequence[str], style: Style, *, batch_size: int
    ) -> list[tuple[float, ...]]:
        """The probability of each of a row's verdicts after the reasoning of its answer.

        One forward pass over prompt and reasoning; nothing is generated. In the direct style there
        is no reasoning, and the verdict comes after the prompt. The probabilities of a row are
        among its verdicts: they add up to 1.

        Args:
            rows: with their images; their verdicts may differ.
            texts: the rows' answers, as :meth:`judge` returns them.

        Raises:
            JudgeError: as :meth:`BaseJudge.verdict_logps`.
        """
        reasoned = style != "direct"
        verdicts = list(dict.fromkeys(verdict for row in rows for verdict in row.verdicts))
        prompts = (
            self.continued_prompt(
                self.prompt(render_messages(row, style), row.prompt_images),
                opened_answer(text.split(OPEN_ANSWER, 1)[0]) if reasoned else "",
            )
            for row, text in zip(rows, texts, strict=True)
        )
        found: dict[int, tuple[float, ...]] = {}
        with _evaluation_mode(self.model), torch.no_grad():
            for batch in self.batches(prompts, batch_size):
                scored = self.verdict_logps(batch, verdicts, CLOSED_ANSWER if reasoned else None)
                for index, logps_V in zip(batch.indices, scored.logps_B_V, strict=True):
                    own = [verdicts.index(verdict) for verdict in rows[index].verdicts]
                    found[index] = tuple(logps_V[own].double().softmax(dim=0).tolist())
        return [found[index] for index in range(len(rows))]

    def encode_image(self, image: Image.Image) -> NDArray[Any]:
        """An image as the vision tower sees it: the mean of its features, D, in float32.

        It is encoded by itself, so that its vector does not depend on others.

        Raises:
            JudgeError: the model has no vision tower that can be asked for features alone.
        """
        features = getattr(unwrap_adapters(self.model), "get_image_features", None)
        if features is None:
            raise JudgeError(
                f"encoder: judge: {type(self.model).__name__} gives no features of images; use a "
                "model of sentence-transformers, or tfidf"
            )
        image_processor = self.processor.image_processor
        fitted = fit_grid(self._resized(image.convert("RGB")), image_processor)
        inputs = image_processor(images=[fitted], return_tensors="pt").to(self.model.device)
        known = signature(features).parameters
        with _evaluation_mode(self.model), torch.inference_mode():
            found = features(**{name: value for name, value in inputs.items() if name in known})
        found = getattr(found, "pooler_output", found)
        if not isinstance(found, torch.Tensor):
            found = torch.cat([part.reshape(-1, part.shape[-1]) for part in found])
        vector: NDArray[Any] = found.reshape(-1, found.shape[-1]).float().mean(dim=0).cpu().numpy()
        return vector

    def inputs(self, prompts: Sequence[Prompt]) -> Mapping[str, torch.Tensor]:
        """The model's inputs for B prompts, padded on the left to T tokens.

        `input_ids` and `attention_mask` are B × T; the image tensors depend on the family. Images
        of a family that fits them to a grid are normalized and cut into patches on the
        preprocessing device, the model's; 8 images of a megapixel become 150 MB of patches. They
        are resized on the CPU, because a GPU rounds pixels differently. All others are preprocessed
        on the CPU.
        """
        image_processor = self.processor.image_processor
        images = [
            [fit_grid(image, image_processor, once=True) for image in prompt.images]
            for prompt in prompts
        ]
        fitted = {"device": self.preprocessing_device, "do_resize": False}
        bos = self.tokenizer.bos_token
        inputs: Mapping[str, torch.Tensor] = self.processor(
            text=[prompt.text for prompt in prompts],
            images=images if any(images) else None,
            images_kwargs=fitted if has_grid(image_processor) else {},
            padding=True,
            padding_side="left",
            return_tensors="pt",
            # Where the chat template writes the BOS token, the tokenizer must not add another.
            add_special_tokens=bos is None or not prompts[0].text.startswith(bos),
        )
        return inputs

    def generate(self, batch: Batch, *, until: Sequence[str] = (), **settings: Any) -> list[Answer]:
        """As :meth:`BaseJudge.generate`.

        The model's own `generation_config` fills in what the settings leave open.
        """
        inputs = self._to_model(batch.inputs)
        pad = self.tokenizer.pad_token_id
        generation = GenerationConfig(
            **settings,
            eos_token_id=self.eos_ids,
            pad_token_id=self.eos_ids[0] if pad is None else pad,
            use_cache=True,
        )
        with deduplicate_images(unwrap_adapters(self.model)):
            output_B_T = self.model.generate(**inputs, generation_config=generation)
        rows_B = output_B_T[:, inputs["input_ids"].shape[1] :].tolist()
        counts_B = inputs["attention_mask"].sum(dim=1).tolist()
        return [self.answer(row, count, until) for row, count in zip(rows_B, counts_B, strict=True)]

    def sample(
        self,
        batch: Batch,
        samples: int,
        seed: int,
        *,
        until: Sequence[str] = (),
        **settings: Any,
    ) -> list[list[Answer]]:
        """As :meth:`BaseJudge.sample`, from one prefill of each prompt.

        Of families whose prompts cannot be shared (:func:`.packing.prefix_unsupported_reason`),
        each answer reads its prompt.

        Raises:
            JudgeError: beams are requested.
        """
        if settings.get("num_beams", 1) > 1:
            raise JudgeError("num_beams: not with samples; leave it out of generation_kwargs")
        seeds_B = [prompt_seed(seed, prompt) for prompt in batch.prompts]
        model = unwrap_adapters(self.model)
        inputs, counts_B = self._to_model(batch.inputs), [len(p.images) for p in batch.prompts]
        input_tokens_B = inputs["attention_mask"].sum(dim=1).tolist()
        longest = settings["max_new_tokens"]
        reason = prefix_unsupported_reason(model)
        with deduplicate_images(model):
            if reason is None:
                counts_B = count_images(model.config, inputs["input_ids"], counts_B)
                rows = prefill_copies(model, inputs, counts_B, samples, longest)
            else:
                _warn_unshared(reason)
                copies = [prompt for prompt in batch.prompts for _ in range(samples)]
                rows = self._to_model(self.inputs(copies))
            start = rows["input_ids"].shape[1]
            draw = SeededSampling(seeds_B, samples, longest, start, settings)
            pad = self.tokenizer.pad_token_id
            generation = GenerationConfig(
                # Drawn by the processor, which leaves one token to choose.
                do_sample=False,
                max_new_tokens=longest,
                repetition_penalty=settings.get("repetition_penalty", 1.0),
                eos_token_id=self.eos_ids,
                pad_token_id=self.eos_ids[0] if pad is None else pad,
                use_cache=True,
            )
            output_R_T = self.model.generate(
                **rows, generation_config=generation, logits_processor=LogitsProcessorList([draw])
            )
        drawn = iter(output_R_T[:, start:].tolist())
        return [
            [self.answer(next(drawn), count, until) for _ in range(samples)]
            for count in input_tokens_B
        ]

    def verdict_logps(
        self, batch: Batch, verdicts: Sequence[str], end: str | None = None
    ) -> VerdictLogps:
        """As :meth:`BaseJudge.verdict_logps`, in one forward pass."""
        end_ids = self.end_ids(end)
        tokens_V = verdict_tokens(self.tokenizer, verdicts, end_ids)
        image_counts = [len(prompt.images) for prompt in batch.prompts]
        inputs, model = self._to_model(batch.inputs), unwrap_adapters(self.model)
        with deduplicate_images(model):
            logps_B_V = verdict_logps(model, inputs, image_counts, tokens_V, end_ids)
        return VerdictLogps(logps_B_V.cpu(), batch.inputs["attention_mask"].sum(dim=1).tolist())

    def _to_model(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The inputs on the model's device, floating-point ones in its dtype."""
        device, dtype = self.model.device, self.model.dtype
        return {
            name: value.to(device, dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }


def unwrap_adapters(model: Any) -> Any:
    """The transformers model inside a PeftModel; any other model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@cache  # once per reason
def _warn_unshared(reason: str) -> None:
    logger.warning("samples: the answers to a prompt do not share its prefill: %s", reason)


@contextmanager
def _evaluation_mode(model: Any) -> Iterator[None]:
    """Evaluation mode and neutral generation settings within the context.

    `generate` fills what its caller leaves open from the model's settings, such as a repetition
    penalty or forbidden words (transformers `GenerationMixin._prepare_generation_config`). A
    PeftModel may hold settings besides its base model's.
    """
    modes = [(module, module.training) for module in model.modules()]
    settings = [
        (module, module.generation_config)
        for module in model.modules()
        if "generation_config" in vars(module)
    ]
    try:
        model.eval()
        for module, _ in settings:
            module.generation_config = GenerationConfig()
        yield
    finally:
        for module, generation_config in settings:
            module.generation_config = generation_config
        # From the outermost module inwards, because `train` sets a module's children as well.
        for module, training in modes:
            if module.training != training:
                module.train(training)
