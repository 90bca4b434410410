"""A loaded model and its processor as a judge: chat messages to prompts to greedy answers.

An answer is handed on whole, reasoning included, because the task's scorer reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from PIL import Image
from transformers import GenerationConfig

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.markup import JUDGE_TAGS, neutralize, special_token_pattern
from mtrl_judge.judge_tasks.prompts import render_messages

from .image_dedup import images_once
from .pixels import counts_pixels, fit_pixels, with_pixel_limits
from .verdict_logps import verdict_logps, verdict_tokens

if TYPE_CHECKING:
    from mtrl_judge.judge_tasks.rows import JudgeRow
    from mtrl_judge.judge_tasks.spec import Style


# Prompts whose pictures are held in memory at a time: enough to sort by length, while 512 pictures
# of a million pixels stay under 2 GB.
WINDOW = 512

# For the estimate of a prompt's length only: characters of English a token, and pixels a token of
# a 14-pixel patch merged two by two (Qwen2-VL; arXiv 2409.12191).
CHARACTERS_PER_TOKEN = 4
PIXELS_PER_TOKEN = 28 * 28


T = TypeVar("T")


@dataclass(frozen=True)
class Prompt:
    """A conversation made ready for the processor."""

    text: str  # the chat template's output
    images: list[Image.Image]
    length: float  # estimated tokens


@dataclass(frozen=True)
class Batch:
    """Prompts that are generated together, as the model takes them."""

    places: Sequence[int]  # where each prompt stood among all
    prompts: Sequence[Prompt]
    inputs: Mapping[str, torch.Tensor]


class Answer(NamedTuple):
    """What the model wrote about one prompt."""

    text: str
    input_tokens: int
    output_tokens: int  # its end token included


class Judge:
    """A judge around a model and a processor that are already loaded; cheap to construct.

    Args:
        model: an image-text-to-text model of transformers, or a PeftModel around one.
        processor: its processor, with a chat template; it is not changed.
        min_pixels: least width × height of each picture as the model sees it.
        max_pixels: most width × height; it wins over `min_pixels`.
        system_prompt: put before every conversation.

    Raises:
        JudgeError: neither model nor tokenizer names a token that ends an answer.
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
        self._counts_pixels = counts_pixels(processor.image_processor)
        if self._counts_pixels and (min_pixels or max_pixels):
            processor = with_pixel_limits(processor, min_pixels, max_pixels)
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.eos_ids = _eos_ids(model, self.tokenizer)
        special = _special_tokens(self.tokenizer)
        self._hidden_ids = {i for i, token in special.items() if token not in JUDGE_TAGS}
        self._markup = special_token_pattern(special.values())
        self._opening = (
            [{"role": "system", "content": [{"type": "text", "text": system_prompt}]}]
            if system_prompt
            else []
        )

    def judge(
        self, rows: Sequence[JudgeRow], style: Style, *, batch_size: int, max_new_tokens: int
    ) -> list[str]:
        """Answer rows greedily; the answers come back in the order of the rows.

        For a model that may be in training: it is left in the modes and with the generation
        settings that it has, whatever these are, and no random number is drawn.

        Args:
            rows: with their images.
            style: "reasoned" or "direct".
            batch_size: prompts generated together.
            max_new_tokens: where an answer is cut off.
        """
        prompts = (self.prompt(render_messages(row, style), row.images) for row in rows)
        texts: dict[int, str] = {}
        with _ready_to_judge(self.model):
            for batch in self.batches(prompts, batch_size):
                answers = self.answer(
                    batch.inputs, do_sample=False, num_beams=1, max_new_tokens=max_new_tokens
                )
                texts |= zip(batch.places, (answer.text for answer in answers), strict=True)
        return [texts[place] for place in range(len(rows))]

    def prompt(
        self, messages: Sequence[Mapping[str, Any]], images: Sequence[Image.Image]
    ) -> Prompt:
        """Write a conversation in the model's chat form, its texts unable to act as markup.

        Args:
            messages: `role` and `content`, a list of `{"type": "text", "text": …}` and, for each
                image in order, `{"type": "image"}`.
            images: of any size and mode.

        Raises:
            ValueError: places for images and images differ in number.
        """
        chat = [self._defused(message) for message in [*self._opening, *messages]]
        places = sum(part["type"] == "image" for message in chat for part in message["content"])
        if places != len(images):
            raise ValueError(f"{places} places for images in the messages, {len(images)} images")
        text = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        pictures = [self._picture(image) for image in images]
        pixels = sum(picture.width * picture.height for picture in pictures)
        length = len(text) / CHARACTERS_PER_TOKEN + pixels / PIXELS_PER_TOKEN
        return Prompt(text, pictures, length)

    def inputs(self, prompts: Sequence[Prompt]) -> Mapping[str, torch.Tensor]:
        """What the model takes for a batch, padded on the left; on the CPU.

        `input_ids` and `attention_mask` are B × T; the pictures' tensors are the family's own.
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

    def batches(self, prompts: Iterable[Prompt], batch_size: int) -> Iterator[Batch]:
        """Sort prompts by length within a window and cut them into batches, as they are asked for.

        Longest first: if memory does not suffice, it shows in the first batch. Where the cut would
        part two prompts that show the same pictures, as the two orders of a pair do, it comes one
        prompt earlier, because equal pictures of a batch pass the vision tower once.
        """
        for window in _chunks(enumerate(prompts), WINDOW):
            window.sort(key=lambda placed: -placed[1].length)
            while window:
                size = _whole_pairs([prompt for _, prompt in window[: batch_size + 1]], batch_size)
                places, batch = zip(*window[:size], strict=True)
                yield Batch(places, batch, self.inputs(batch))
                del window[:size]

    def answer(
        self, inputs: Mapping[str, torch.Tensor], *, until: Sequence[str] = (), **settings: Any
    ) -> list[Answer]:
        """Generate for one batch: B answers, in its order.

        Args:
            inputs: of :meth:`inputs`; moved to the model's device and type.
            until: strings that end an answer, which is cut before the first of them.
            settings: of a `GenerationConfig`. The model's own `generation_config` fills in what
                they leave open.
        """
        inputs = self._placed(inputs)
        pad = self.tokenizer.pad_token_id
        generation = GenerationConfig(
            **settings,
            eos_token_id=self.eos_ids,
            pad_token_id=self.eos_ids[0] if pad is None else pad,
            use_cache=True,
        )
        with images_once(_inner(self.model)):
            output_B_T = self.model.generate(**inputs, generation_config=generation)
        rows_B = output_B_T[:, inputs["input_ids"].shape[1] :].tolist()
        counts_B = inputs["attention_mask"].sum(dim=1).tolist()
        answers = []
        for row, count in zip(rows_B, counts_B, strict=True):
            tokens = _up_to_end(row, self.eos_ids)
            answers.append(Answer(_cut(self.decode(tokens), until), count, len(tokens)))
        return answers

    def verdict_logps(self, batch: Batch, verdicts: Sequence[str]) -> torch.Tensor:
        """The log-probability that the model answers a prompt with each verdict, B × V in float32.

        In one forward pass; nothing is generated.

        Args:
            batch: prompts that ask for the verdict alone.
            verdicts: as the prompts name them.

        Raises:
            JudgeError: the tokenizer cannot tell the verdicts apart, or the model computes no
                numbers.
        """
        tokens_V = verdict_tokens(self.tokenizer, verdicts, self.eos_ids)
        counts = [len(prompt.images) for prompt in batch.prompts]
        model = _inner(self.model)
        with images_once(model):
            return verdict_logps(model, self._placed(batch.inputs), counts, tokens_V, self.eos_ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of an answer's tokens: a judge's tags stay, the chat's markup goes."""
        shown = [token for token in tokens if token not in self._hidden_ids]
        text: str = self.tokenizer.decode(
            shown, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def _placed(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """On the model's device and, where they are no whole numbers, of its type."""
        return {
            name: value.to(
                self.model.device, self.model.dtype if value.is_floating_point() else None
            )
            for name, value in inputs.items()
        }

    def _defused(self, message: Mapping[str, Any]) -> dict[str, Any]:
        content = [
            {"type": "text", "text": neutralize(part["text"], self._markup)}
            if part["type"] == "text"
            else {"type": part["type"]}
            for part in message["content"]
        ]
        return {"role": message["role"], "content": content}

    def _picture(self, image: Image.Image) -> Image.Image:
        image = image.convert("RGB")
        if self._counts_pixels:
            return image
        return fit_pixels(image, self._min_pixels, self._max_pixels)


@contextmanager
def _ready_to_judge(model: Any) -> Iterator[None]:
    """Evaluation mode and no generation settings of the model's own; afterwards all as before.

    `generate` fills what its caller leaves open from the model's settings, such as a repetition
    penalty or forbidden words (transformers `_prepare_generation_config`). A PeftModel may hold
    settings beside its base model's.
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
        for module, own in settings:
            module.generation_config = own
        # From the outside in, because `train` reaches into a module's parts.
        for module, training in modes:
            if module.training != training:
                module.train(training)


def _inner(model: Any) -> Any:
    """The transformers model within adapters."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _whole_pairs(prompts: Sequence[Prompt], size: int) -> int:
    """How many of the prompts go into a batch: `size`, or one fewer if that keeps two together."""
    if size < 2 or len(prompts) <= size or not _same_pictures(*prompts[size - 1 :]):
        return size
    return size if _same_pictures(*prompts[size - 2 : size]) else size - 1


def _same_pictures(one: Prompt, other: Prompt) -> bool:
    """Whether two prompts show the same pictures, in whatever order."""
    if not one.images or one.length != other.length:
        return False
    own, theirs = (
        sorted((image.size, image.tobytes()) for image in prompt.images) for prompt in (one, other)
    )
    return own == theirs


def _special_tokens(tokenizer: Any) -> dict[int, str]:
    """Ids and texts of all tokens that a tokenizer treats as special."""
    added = {i: str(t) for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    named = tokenizer.all_special_ids
    return added | dict(zip(named, tokenizer.convert_ids_to_tokens(named), strict=True))


def _eos_ids(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end an answer: the checkpoint's own (one or several) and the tokenizer's."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    ids = [i for i in dict.fromkeys([tokenizer.eos_token_id, *ids]) if i is not None]
    if not ids:
        raise JudgeError(
            "tokenizer: it names no end-of-sequence token, so no answer would ever end"
        )
    return ids


def _up_to_end(row: Sequence[int], eos_ids: Sequence[int]) -> Sequence[int]:
    """The tokens of an answer, its end token included, the padding behind it not."""
    for place, token in enumerate(row):
        if token in eos_ids:
            return row[: place + 1]
    return row


def _cut(text: str, until: Sequence[str]) -> str:
    """The text up to the first of the stop strings."""
    for string in until:
        text = text.split(string, 1)[0]
    return text


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
