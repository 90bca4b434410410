"""A loaded model and its processor as a judge: chat messages to prompts to greedy answers.

Answers are returned whole, reasoning included, because the task's scorer reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from transformers import GenerationConfig

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.markup import JUDGE_TAGS, neutralize, special_token_pattern
from mtrl_judge.judge_tasks.prompts import render_messages

from .image_dedup import deduplicate_images
from .pixels import fit_pixels, supports_pixel_limits, with_pixel_limits
from .verdict_logps import verdict_logps, verdict_tokens

if TYPE_CHECKING:
    from mtrl_judge.judge_tasks.rows import JudgeRow
    from mtrl_judge.judge_tasks.spec import Style


# Prompts whose images are in memory at a time: enough to sort by length, while 512 images of a
# million pixels stay under 2 GB.
WINDOW = 512

# For the estimate of a prompt's length only: characters of English per token, and pixels per token
# with patches of 14 pixels merged two by two (Qwen2-VL, arXiv 2409.12191).
CHARACTERS_PER_TOKEN = 4
PIXELS_PER_TOKEN = 28 * 28


@dataclass(frozen=True)
class Prompt:
    """A conversation ready for the processor."""

    text: str  # the chat template's output
    images: list[Image.Image]
    length: float  # estimated tokens


@dataclass(frozen=True)
class Batch:
    """Prompts that are processed together."""

    indices: Sequence[int]  # of the prompts, in the order given to `Judge.batches`
    prompts: Sequence[Prompt]
    inputs: Mapping[str, torch.Tensor]


class Answer(NamedTuple):
    """What the model generated for one prompt."""

    text: str
    input_tokens: int
    output_tokens: int  # including the end token


class Judge:
    """A judge around a model and a processor that are already loaded; cheap to construct.

    Args:
        model: an image-text-to-text model of transformers, or a PeftModel around one.
        processor: its processor, with a chat template; it is not modified.
        min_pixels: lower bound of width × height of each image as the model sees it.
        max_pixels: upper bound; it wins over `min_pixels`.
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
        self.model = model
        self._min_pixels, self._max_pixels = min_pixels, max_pixels
        self._processor_limits_pixels = supports_pixel_limits(processor.image_processor)
        if self._processor_limits_pixels and (min_pixels or max_pixels):
            processor = with_pixel_limits(processor, min_pixels, max_pixels)
        self.processor = processor
        self.tokenizer = processor.tokenizer
        # A checkpoint may have several end tokens, of which its tokenizer names only one.
        configured = model.generation_config.eos_token_id
        configured = configured if isinstance(configured, list) else [configured]
        ids = dict.fromkeys([self.tokenizer.eos_token_id, *configured])
        self.eos_ids = [token for token in ids if token is not None]
        if not self.eos_ids:
            raise JudgeError("tokenizer: no end-of-sequence token, so no answer would ever end")
        special = _special_tokens(self.tokenizer)
        self._hidden_ids = {i for i, token in special.items() if token not in JUDGE_TAGS}
        self._markup = special_token_pattern(special.values())
        self._system_messages: list[dict[str, Any]] = []
        if system_prompt:
            content = [{"type": "text", "text": system_prompt}]
            self._system_messages.append({"role": "system", "content": content})

    def judge(
        self,
        rows: Sequence[JudgeRow],
        style: Style,
        *,
        batch_size: int,
        max_new_tokens: int,
        keep_pairs: bool = True,
    ) -> list[str]:
        """Answer rows greedily; answers are in the order of the rows.

        The model may be in training: its modes and generation settings are restored afterwards,
        and no random number is drawn.

        Args:
            rows: with their images.
            style: "reasoned" or "direct".
            batch_size: prompts generated together.
            max_new_tokens: where an answer is truncated.
            keep_pairs: as for :meth:`batches`.
        """
        prompts = (self.prompt(render_messages(row, style), row.images) for row in rows)
        texts: dict[int, str] = {}
        with _evaluation_mode(self.model):
            for batch in self.batches(prompts, batch_size, keep_pairs=keep_pairs):
                answers = self.generate(
                    batch, do_sample=False, num_beams=1, max_new_tokens=max_new_tokens
                )
                texts |= zip(batch.indices, (answer.text for answer in answers), strict=True)
        return [texts[index] for index in range(len(rows))]

    def prompt(
        self, messages: Sequence[Mapping[str, Any]], images: Sequence[Image.Image]
    ) -> Prompt:
        """Render a conversation with the chat template; markup in its texts is neutralized.

        Args:
            messages: `role` and `content`, a list of `{"type": "text", "text": …}` and, for each
                image in order, `{"type": "image"}`.
            images: of any size and mode.

        Raises:
            ValueError: the number of image parts and of images differ.
        """
        chat = [
            {
                "role": message["role"],
                "content": [
                    {"type": "text", "text": neutralize(part["text"], self._markup)}
                    if part["type"] == "text"
                    else {"type": part["type"]}
                    for part in message["content"]
                ],
            }
            for message in (*self._system_messages, *messages)
        ]
        parts = sum(part["type"] == "image" for message in chat for part in message["content"])
        if parts != len(images):
            raise ValueError(f"{parts} image parts in the messages, but {len(images)} images")
        text = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        rgb = [image.convert("RGB") for image in images]
        if not self._processor_limits_pixels:
            rgb = [fit_pixels(image, self._min_pixels, self._max_pixels) for image in rgb]
        pixels = sum(image.width * image.height for image in rgb)
        length = len(text) / CHARACTERS_PER_TOKEN + pixels / PIXELS_PER_TOKEN
        return Prompt(text, rgb, length)

    def inputs(self, prompts: Sequence[Prompt]) -> Mapping[str, torch.Tensor]:
        """The model's inputs for B prompts, padded on the left to T tokens; on the CPU.

        `input_ids` and `attention_mask` are B × T; the image tensors depend on the family.
        """
        images = [prompt.images for prompt in prompts]
        bos = self.tokenizer.bos_token
        inputs: Mapping[str, torch.Tensor] = self.processor(
            text=[prompt.text for prompt in prompts],
            images=images if any(images) else None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            # Where the chat template writes the BOS token, the tokenizer must not add another.
            add_special_tokens=bos is None or not prompts[0].text.startswith(bos),
        )
        return inputs

    def batches(
        self, prompts: Iterable[Prompt], batch_size: int, *, keep_pairs: bool = True
    ) -> Iterator[Batch]:
        """Sort prompts by length within a window and cut them into batches, lazily.

        The longest come first, so a lack of memory shows in the first batch.

        Args:
            keep_pairs: a batch is one prompt shorter where that keeps two prompts with the same
                images together, such as the two orders of a pair, because equal images of a batch
                pass the vision tower once. Otherwise the number of batches depends on the number
                of prompts alone.
        """
        numbered = enumerate(prompts)
        while window := list(islice(numbered, WINDOW)):
            window.sort(key=lambda item: -item[1].length)
            while window:
                size = batch_size
                if keep_pairs:
                    size = _batch_size([prompt for _, prompt in window[: size + 1]], size)
                indices, batch = zip(*window[:size], strict=True)
                yield Batch(indices, batch, self.inputs(batch))
                del window[:size]

    def generate(self, batch: Batch, *, until: Sequence[str] = (), **settings: Any) -> list[Answer]:
        """Generate the answers to B prompts, in the order of the batch.

        Args:
            batch: from :meth:`batches`.
            until: stop strings; an answer is cut before the first of them.
            settings: of a `GenerationConfig`. The model's own `generation_config` fills in what
                they leave open.
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
        answers = []
        for row, count in zip(rows_B, counts_B, strict=True):
            end = next((n for n, token in enumerate(row, 1) if token in self.eos_ids), len(row))
            text = self.decode(row[:end])
            for string in until:
                text = text.split(string, 1)[0]
            answers.append(Answer(text, count, end))
        return answers

    def verdict_logps(self, batch: Batch, verdicts: Sequence[str]) -> torch.Tensor:
        """The log-probability of each verdict as the answer to each prompt, B × V in float32.

        Computed in one forward pass; nothing is generated.

        Args:
            batch: prompts that ask for the verdict alone.
            verdicts: as the prompts name them.

        Raises:
            JudgeError: the tokenizer cannot represent or distinguish the verdicts, or the
                log-probabilities are not finite.
        """
        tokens_V = verdict_tokens(self.tokenizer, verdicts, self.eos_ids)
        image_counts = [len(prompt.images) for prompt in batch.prompts]
        inputs, model = self._to_model(batch.inputs), unwrap_adapters(self.model)
        with deduplicate_images(model):
            return verdict_logps(model, inputs, image_counts, tokens_V, self.eos_ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of an answer's tokens: judge tags stay, other special tokens are dropped."""
        kept = [token for token in tokens if token not in self._hidden_ids]
        text: str = self.tokenizer.decode(
            kept, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def _to_model(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The inputs on the model's device, floating-point ones in its dtype."""
        device, dtype = self.model.device, self.model.dtype
        return {
            name: value.to(device, dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }


def unwrap_adapters(model: Any) -> Any:
    """The transformers model inside a PeftModel; any other model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


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


def _batch_size(prompts: Sequence[Prompt], size: int) -> int:
    """How many of the prompts go into a batch: `size`, or one fewer to keep a pair together."""
    cuts_pair = len(prompts) > size > 1 and _same_images(*prompts[size - 1 :])
    return size - 1 if cuts_pair and not _same_images(*prompts[size - 2 : size]) else size


def _same_images(first: Prompt, second: Prompt) -> bool:
    """Whether two prompts show the same images, in any order."""
    if not first.images or first.length != second.length:
        return False
    ours, theirs = (
        sorted((image.size, image.tobytes()) for image in prompt.images)
        for prompt in (first, second)
    )
    return ours == theirs


def _special_tokens(tokenizer: Any) -> dict[int, str]:
    """Ids and texts of all tokens that a tokenizer treats as special."""
    added = {i: str(t) for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    ids = tokenizer.all_special_ids
    return added | dict(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True))
