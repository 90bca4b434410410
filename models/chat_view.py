"""What a model sees of a prompt: its chat template, sizes of images and tokens. No weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from mtrl_judge.judge_tasks.preview import Seen

from .base_judge import chat_text, system_messages, tokenizer_markup
from .checkpoint import load_processor, read_checkpoint_card
from .pixels import (
    DEFAULT_MAX_PIXELS,
    fit_pixels,
    grid_size,
    has_grid,
    supports_pixel_limits,
    with_pixel_limits,
)


class ChatView:
    """A model's processor, used as the ``transformers`` engine uses it by default.

    Args:
        pretrained: a checkpoint folder or a hub id.
        system_prompt: as for an evaluation.

    Raises:
        JudgeError: the processor does not load, or the checkpoint's card has faults.
    """

    def __init__(self, pretrained: str, system_prompt: str | None = None) -> None:
        self.style: str | None = read_checkpoint_card(pretrained).get("style")
        """That the judge was trained in, if its card names one."""
        processor = load_processor(pretrained)
        if supports_pixel_limits(processor.image_processor):
            most = min(DEFAULT_MAX_PIXELS, processor.image_processor.size["longest_edge"])
            processor = with_pixel_limits(processor, None, most)
        self._processor = processor
        self._markup = tokenizer_markup(processor.tokenizer)
        self._system_messages = system_messages(system_prompt)

    def __call__(
        self, messages: Sequence[Mapping[str, Any]], images: Sequence[Image.Image]
    ) -> Seen:
        """A conversation with its images, in order, as the model gets it."""
        chat = [*self._system_messages, *messages]
        text = chat_text(self._processor, chat, self._markup, len(images))
        fitted = [fit_pixels(image.convert("RGB"), None, DEFAULT_MAX_PIXELS) for image in images]
        tokens = self._processor(text=[text], images=[fitted], return_tensors="pt")["input_ids"][0]
        of_images = getattr(self._processor, "image_token_id", None)
        return Seen(
            text=text,
            sizes=[self._size(image) for image in fitted],
            tokens=len(tokens),
            image_tokens=None if of_images is None else int((tokens == of_images).sum()),
        )

    def _size(self, image: Image.Image) -> tuple[int, int]:
        """Width and height after the processor's own resizing, where that is known."""
        image_processor = self._processor.image_processor
        if not has_grid(image_processor):
            return image.size
        return grid_size(*image.size, image_processor)
