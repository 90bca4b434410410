"""Each image of a generation batch decoded once and preprocessed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset
from transformers.image_utils import make_flat_list_of_images

from mtrl_judge.common.attributes import replaced_attribute
from mtrl_judge.models.packing import TYPES, count_images, join_images, split_images, unique

from .mixed_prompts import MixedPrompts


class DecodedOnce(Dataset[dict[str, Any]]):
    """A dataset whose rows are read once per generation batch.

    TRL asks for every prompt G times, and for the whole batch again in each of the steps that
    train on it.

    Args:
        prompts: what chooses the wordings of the rows, which are others in each epoch.
    """

    def __init__(self, rows: Any, prompts: MixedPrompts | None = None) -> None:
        self._rows, self._prompts = rows, prompts
        self._known: tuple[int, list[int]] = 0, []  # an epoch and the indices of a batch
        self._read: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        epoch = 0 if self._prompts is None else self._prompts.epoch
        if (epoch, indices) != self._known:
            distinct = list(dict.fromkeys(indices))
            self._read = dict(zip(distinct, self._rows.__getitems__(distinct), strict=True))
            self._known = epoch, list(indices)
        return [dict(self._read[index]) for index in indices]


@contextmanager
def processed_once(processor: Any, config: Any) -> Iterator[Any]:
    """A stand-in for a processor that processes rows of the same text and images once.

    Its outputs equal the processor's own to the last bit.

    Args:
        config: of the model.
    """
    cached = _ImagesOnce(processor.image_processor)
    with replaced_attribute(processor, "image_processor", cached):
        yield _RowsOnce(processor, config)


class _RowsOnce:
    """A processor that is given equal rows once; everything else is the processor's own."""

    # What a processor returns for a row's text; everything else is for its images.
    TEXT = ("input_ids", "attention_mask", *TYPES)

    def __init__(self, processor: Any, config: Any) -> None:
        self._processor, self._config = processor, config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def apply_chat_template(self, conversation: Any, **named: Any) -> Any:
        if not named.get("tokenize") or not isinstance(conversation[0], list):
            return self._processor.apply_chat_template(conversation, **named)
        keys, image_counts = zip(*map(_conversation_key, conversation), strict=True)
        distinct, inverse = unique(keys)
        output = self._processor.apply_chat_template([conversation[k] for k in distinct], **named)
        return self._repeat(output, inverse, [image_counts[k] for k in distinct])

    def __call__(self, text: Any = None, images: Any = None, **named: Any) -> Any:
        if images is None or isinstance(text, str):
            return self._processor(text=text, images=images, **named)
        images_B = [row or [] for row in images]
        keys = [(t, tuple(map(id, row))) for t, row in zip(text, images_B, strict=True)]
        distinct, inverse = unique(keys)
        output = self._processor(
            text=[text[k] for k in distinct], images=[images[k] for k in distinct], **named
        )
        return self._repeat(output, inverse, [len(images_B[k]) for k in distinct])

    def _repeat(
        self, output: Any, inverse: Sequence[int], image_counts: Sequence[int]
    ) -> dict[str, Any]:
        """The output for the distinct rows as the output for all rows."""
        text = {name: values for name, values in output.items() if name in self.TEXT}
        images = {name: values for name, values in output.items() if name not in self.TEXT}
        counts = count_images(self._config, text["input_ids"], image_counts)
        pieces = split_images(images, counts)
        repeated = {
            name: values[list(inverse)]
            if isinstance(values, Tensor)
            else [values[k] for k in inverse]
            for name, values in text.items()
        }
        return {**repeated, **join_images(pieces[k] for k in inverse)}


class _ImagesOnce:
    """An image processor that remembers its output for the last images."""

    def __init__(self, image_processor: Any) -> None:
        self._image_processor = image_processor
        # Kept, so that no other image gets the id of one of them.
        self._images: Any = None
        self._key: tuple[Any, ...] = ()
        self._output: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._image_processor, name)

    def __call__(self, images: Any, return_tensors: Any = None, **named: Any) -> Any:
        if named.get("crop_to_patches"):  # TRL counts the tiles of all rows' images (InternVL)
            flat = make_flat_list_of_images(images)
            distinct, inverse = unique([*map(id, flat)])
            if len(distinct) < len(flat):
                output = self([flat[k] for k in distinct], return_tensors, **named)
                pieces = split_images(output, [1] * len(distinct))
                return join_images(pieces[k] for k in inverse)
        key = (_ids(images), repr(named))
        # Other outputs than tensors may be changed by the caller.
        tensors = self._output is not None and all(
            isinstance(values, Tensor) for values in self._output.values()
        )
        if key != self._key or not tensors:
            self._output = self._image_processor(images, return_tensors=return_tensors, **named)
            self._images, self._key = images, key
        return self._output


def _ids(images: Any) -> Any:
    return tuple(map(_ids, images)) if isinstance(images, list | tuple) else id(images)


def _conversation_key(messages: Sequence[Mapping[str, Any]]) -> tuple[Any, int]:
    """A key that equal conversations share, images compared by identity; and the images' number."""
    images: list[Any] = []
    texts = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            images += [part["image"] for part in content if part["type"] == "image"]
            content = [part.get("text") for part in content]
        texts.append({**message, "content": content})
    return (repr(texts), tuple(map(id, images))), len(images)
