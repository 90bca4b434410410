"""What judges on every engine share: conversations to prompts, prompts to batches, tokens to text.

An engine computes what a model answers: :class:`.transformers_judge.TransformersJudge` with
transformers, :class:`.vllm_judge.VLLMJudge` with vLLM and :class:`.openai_judge.OpenAIJudge` by a
server.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.hashing import digest, stable_hash
from mtrl_judge.common.markup import JUDGE_TAGS, neutralize, special_token_pattern
from mtrl_judge.judge_tasks.prompts import render_messages

from .pixels import DEFAULT_MAX_PIXELS, fit_pixels, supports_pixel_limits, with_pixel_limits
from .token_budget import TokenBudget

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

    indices: Sequence[int]  # of the prompts, in the order given to `BaseJudge.batches`
    prompts: Sequence[Prompt]
    inputs: Any  # what the engine reads


class Answer(NamedTuple):
    """What the model generated for one prompt."""

    text: str
    input_tokens: int
    output_tokens: int  # including the end token


class VerdictLogps(NamedTuple):
    """How probable each of V verdicts is as the answer to each of B prompts."""

    logps_B_V: torch.Tensor  # in float32
    input_tokens_B: Sequence[int]
    upper_bounds_B_V: torch.Tensor | None = None
    """Where a verdict is only known to be at most that probable; None is nowhere."""
    failures_B: Sequence[str | None] | None = None
    """Instead of an answer, the text about a request that failed; None is no failure."""


class BaseJudge(ABC):
    """A judge on any engine."""

    _processor_limits_pixels = False
    _min_pixels: int | None
    _max_pixels: int
    images_seen = images_scaled_down = 0

    @property
    @abstractmethod
    def min_and_max_pixels(self) -> tuple[int | str | None, int]:
        """The bounds on width × height of each image as the model sees it; None for no bound."""

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

        Args:
            rows: with their images.
            style: "reasoned", "direct" or "confidence".
            batch_size: prompts generated together.
            max_new_tokens: where an answer is truncated.
            keep_pairs: as for :meth:`batches`.
        """
        prompts = (self.prompt(render_messages(row, style), row.prompt_images) for row in rows)
        texts: dict[int, str] = {}
        for batch in self.batches(prompts, batch_size, keep_pairs=keep_pairs):
            answers = self.generate(
                batch, do_sample=False, num_beams=1, max_new_tokens=max_new_tokens
            )
            texts |= zip(batch.indices, (answer.text for answer in answers), strict=True)
        return [texts[index] for index in range(len(rows))]

    def recorded(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a generation as results record them."""
        return dict(settings)

    @abstractmethod
    def prompt(
        self, messages: Sequence[Mapping[str, Any]], images: Sequence[Image.Image]
    ) -> Prompt:
        """Prepare a conversation; markup in its texts is neutralized.

        Args:
            messages: `role` and `content`, a list of `{"type": "text", "text": …}` and, for each
                image in order, `{"type": "image"}`.
            images: of any size and mode.

        Raises:
            ValueError: the number of image parts and of images differ.
        """

    def _fit(self, image: Image.Image) -> Image.Image:
        """Resize an image, unless the processor does so; a huge one always, to save memory."""
        self.images_seen += 1
        self.images_scaled_down += image.width * image.height > self._max_pixels
        return self._resized(image)

    def _resized(self, image: Image.Image) -> Image.Image:
        if self._processor_limits_pixels:
            return fit_pixels(image, None, max(self._max_pixels, DEFAULT_MAX_PIXELS))
        return fit_pixels(image, self._min_pixels, self._max_pixels)

    def batches(
        self,
        prompts: Iterable[Prompt],
        batch_size: int | TokenBudget,
        *,
        answer_tokens: int = 0,
        answers: int = 1,
        keep_pairs: bool = True,
    ) -> Iterator[Batch]:
        """Sort prompts by length within a window and cut them into batches, lazily.

        The longest come first, so a lack of memory shows in the first batch.

        Args:
            batch_size: prompts of a batch, or the tokens that fit.
            answer_tokens: of the longest answer, which count towards a budget.
            answers: to each prompt, which count towards a budget with a copy of the prompt each.
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
                if isinstance(size, TokenBudget):
                    size = size.rows(answers * (window[0][1].length + answer_tokens))
                if keep_pairs:
                    size = _batch_size([prompt for _, prompt in window[: size + 1]], size)
                indices, batch = zip(*window[:size], strict=True)
                yield Batch(indices, batch, self.inputs(batch))
                del window[:size]

    def halves(self, batch: Batch) -> Iterator[Batch]:
        """A batch of several prompts as two batches."""
        middle = len(batch.prompts) // 2
        for part in (slice(None, middle), slice(middle, None)):
            prompts = batch.prompts[part]
            yield Batch(batch.indices[part], prompts, self.inputs(prompts))

    @abstractmethod
    def inputs(self, prompts: Sequence[Prompt]) -> Any:
        """What the engine reads for B prompts."""

    @abstractmethod
    def generate(self, batch: Batch, *, until: Sequence[str] = (), **settings: Any) -> list[Answer]:
        """Generate the answers to B prompts, in the order of the batch.

        Args:
            batch: from :meth:`batches`.
            until: stop strings; an answer is cut before the first of them.
            settings: of a `GenerationConfig` of transformers.
        """

    @abstractmethod
    def sample(
        self,
        batch: Batch,
        samples: int,
        seed: int,
        *,
        until: Sequence[str] = (),
        **settings: Any,
    ) -> list[list[Answer]]:
        """Sample K answers to each of B prompts, in the order of the batch.

        They depend on the seed, the prompt and the settings, not on the rest of the batch, up to
        what rounding there changes.

        Args:
            samples: K.
            until: as for :meth:`generate`.
            settings: as for :meth:`generate`, with `do_sample`.
        """

    @abstractmethod
    def verdict_logps(
        self, batch: Batch, verdicts: Sequence[str], end: str | None = None
    ) -> VerdictLogps:
        """The log-probability of each verdict as what follows each prompt.

        Args:
            batch: prompts after which the verdict comes next.
            verdicts: as the prompts name them.
            end: what is written after a verdict; None is the end of the answer. It decides only
                where one verdict begins like another.

        Raises:
            JudgeError: the tokenizer cannot represent or distinguish the verdicts, or the
                log-probabilities are not finite.
        """

    @abstractmethod
    def continued(self, batch: Batch, texts: Sequence[str]) -> Batch:
        """The prompts of a batch, each continued by the beginning of an answer."""


class TokenizingJudge(BaseJudge):
    """A judge that tokenizes its prompts, without its model.

    Args:
        processor: the model's processor, with a chat template; it is not modified.
        eos_token_id: end tokens that the checkpoint names besides its tokenizer's.
        min_pixels: lower bound of width × height of each image as the model sees it.
        max_pixels: upper bound; it wins over `min_pixels`. By default the processor's own, but at
            most DEFAULT_MAX_PIXELS.
        system_prompt: prepended to every conversation.

    Raises:
        JudgeError: neither checkpoint nor tokenizer defines an end token.
    """

    def __init__(
        self,
        processor: Any,
        *,
        eos_token_id: int | Sequence[int] | None,
        min_pixels: int | None,
        max_pixels: int | None,
        system_prompt: str | None,
    ) -> None:
        self._processor_limits_pixels = supports_pixel_limits(processor.image_processor)
        if max_pixels is None:
            default = DEFAULT_MAX_PIXELS
            if self._processor_limits_pixels:
                default = min(default, processor.image_processor.size["longest_edge"])
            max_pixels = max(default, min_pixels or 0)
        self._min_pixels, self._max_pixels = min_pixels, max_pixels
        if self._processor_limits_pixels:
            processor = with_pixel_limits(processor, min_pixels, max_pixels)
        self.processor = processor
        self.tokenizer = processor.tokenizer
        # A checkpoint may have several end tokens, of which its tokenizer names only one.
        configured = [eos_token_id] if isinstance(eos_token_id, int) else eos_token_id or ()
        ids = dict.fromkeys([self.tokenizer.eos_token_id, *configured])
        self.eos_ids = [token for token in ids if token is not None]
        if not self.eos_ids:
            raise JudgeError("tokenizer: no end-of-sequence token, so no answer would ever end")
        special = _special_tokens(self.tokenizer)
        self._hidden_ids = {i for i, token in special.items() if token not in JUDGE_TAGS}
        self._markup = tokenizer_markup(self.tokenizer)
        self._system_messages = system_messages(system_prompt)

    @property
    def min_and_max_pixels(self) -> tuple[int | None, int]:
        """The bounds on width × height of each image as the model sees it; None for no bound."""
        if not self._processor_limits_pixels:
            return self._min_pixels, self._max_pixels
        size = self.processor.image_processor.size
        return size["shortest_edge"], size["longest_edge"]

    def prompt(
        self, messages: Sequence[Mapping[str, Any]], images: Sequence[Image.Image]
    ) -> Prompt:
        """As :meth:`BaseJudge.prompt`, rendered with the chat template."""
        chat = [*self._system_messages, *messages]
        text = chat_text(self.processor, chat, self._markup, len(images))
        rgb = [self._fit(image.convert("RGB")) for image in images]
        return Prompt(text, rgb, estimated_length(text, rgb))

    def continued(self, batch: Batch, texts: Sequence[str]) -> Batch:
        """The prompts of a batch, each continued by the beginning of an answer."""
        prompts = [*map(self.continued_prompt, batch.prompts, texts)]
        return Batch(batch.indices, prompts, self.inputs(prompts))

    def continued_prompt(self, prompt: Prompt, text: str) -> Prompt:
        """A prompt continued by the beginning of an answer."""
        length = prompt.length + len(text) / CHARACTERS_PER_TOKEN
        return replace(prompt, text=prompt.text + neutralize(text, self._markup), length=length)

    def end_ids(self, end: str | None) -> list[int]:
        """The tokens with which `end` may begin; of None, the end tokens."""
        if end is None:
            return self.eos_ids
        ids: list[int] = self.tokenizer(end, add_special_tokens=False)["input_ids"]
        return ids[:1]

    def answer(self, row: Sequence[int], input_tokens: int, until: Sequence[str]) -> Answer:
        """The answer in generated tokens: up to the first end token, and before a stop string."""
        end = next((n for n, token in enumerate(row, 1) if token in self.eos_ids), len(row))
        text = self.decode(row[:end])
        for string in until:
            text = text.split(string, 1)[0]
        return Answer(text, input_tokens, end)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of an answer's tokens: judge tags stay, other special tokens are dropped."""
        kept = [token for token in tokens if token not in self._hidden_ids]
        text: str = self.tokenizer.decode(
            kept, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text


def system_messages(system_prompt: str | None) -> list[dict[str, Any]]:
    """What a conversation begins with; nothing without a system prompt."""
    if not system_prompt:
        return []
    return [{"role": "system", "content": [{"type": "text", "text": system_prompt}]}]


def tokenizer_markup(tokenizer: Any) -> re.Pattern[str]:
    """What a tokenizer would take for more than text."""
    return special_token_pattern(_special_tokens(tokenizer).values())


def chat_text(
    processor: Any, messages: Iterable[Mapping[str, Any]], markup: re.Pattern[str], images: int
) -> str:
    """A conversation as the chat template writes it, up to where the answer begins.

    Args:
        markup: what no text of the messages may act as.
        images: their number, for a check.
    """
    chat = neutral_messages(messages, markup, images)
    text: str = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return text


def neutral_messages(
    messages: Iterable[Mapping[str, Any]], markup: re.Pattern[str], images: int
) -> list[dict[str, Any]]:
    """Messages without the images themselves and without markup in their texts.

    Raises:
        ValueError: the number of image parts is not `images`.
    """
    chat = [
        {
            "role": message["role"],
            "content": [
                {"type": "text", "text": neutralize(part["text"], markup)}
                if part["type"] == "text"
                else {"type": part["type"]}
                for part in message["content"]
            ],
        }
        for message in messages
    ]
    parts = sum(part["type"] == "image" for message in chat for part in message["content"])
    if parts != images:
        raise ValueError(f"{parts} image parts in the messages, but {images} images")
    return chat


def estimated_length(text: str, images: Sequence[Image.Image]) -> float:
    """The tokens of a prompt, by estimate."""
    pixels = sum(image.width * image.height for image in images)
    return len(text) / CHARACTERS_PER_TOKEN + pixels / PIXELS_PER_TOKEN


def prompt_seed(seed: int, prompt: Prompt) -> int:
    """The seed of a prompt's samples, below 2³¹: equal prompts have equal ones."""
    images = [digest([repr(i.size).encode(), i.tobytes()]) for i in prompt.images]
    return stable_hash("samples", seed, prompt.text, *images) % 2**31


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
