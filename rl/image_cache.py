"""Each picture of a generation batch is decoded once and preprocessed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from mtrl_judge.models.packing import join_images, split_images


class DecodedOnce(Dataset[dict[str, Any]]):
    """A dataset of which a generation batch's rows are read once.

    TRL asks for every prompt G times, and for the whole batch again in each step that works off
    what was generated from it.
    """

    def __init__(self, rows: Any) -> None:
        self._rows = rows
        self._places: list[int] = []
        self._read: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]]:
        if places != self._places:
            own = list(dict.fromkeys(places))
            self._read = dict(zip(own, self._rows.__getitems__(own), strict=True))
            self._places = list(places)
        return [dict(self._read[place]) for place in places]


@contextmanager
def processed_once(processor: Any) -> Iterator[Any]:
    """A stand-in for a processor that processes rows of the same text and pictures once.

    What it returns is the processor's own to the last bit.
    """
    image_processor = processor.image_processor
    processor.image_processor = _ImagesOnce(image_processor)
    try:
        yield _RowsOnce(processor)
    finally:
        processor.image_processor = image_processor


class _RowsOnce:
    """A processor that takes equal rows together; what else it is asked for is the processor's."""

    # What a processor returns of a row's text; everything else is of its images.
    TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def apply_chat_template(self, conversation: Any, **named: Any) -> Any:
        if not named.get("tokenize") or not isinstance(conversation[0], list):
            return self._processor.apply_chat_template(conversation, **named)
        keys, pictures = zip(*(_conversation(each) for each in conversation), strict=True)
        own, index = _own(keys)
        found = self._processor.apply_chat_template([conversation[k] for k in own], **named)
        return self._spread(found, index, [pictures[k] for k in own])

    def __call__(self, text: Any = None, images: Any = None, **named: Any) -> Any:
        if images is None or isinstance(text, str):
            return self._processor(text=text, images=images, **named)
        pictures = [own or [] for own in images]
        keys = [(t, tuple(map(id, own))) for t, own in zip(text, pictures, strict=True)]
        own, index = _own(keys)
        found = self._processor(
            text=[text[k] for k in own], images=[images[k] for k in own], **named
        )
        return self._spread(found, index, [len(pictures[k]) for k in own])

    def _spread(self, found: Any, index: Sequence[int], counts: Sequence[int]) -> dict[str, Any]:
        text = {name: values for name, values in found.items() if name in self.TEXT}
        pieces = split_images({k: v for k, v in found.items() if k not in text}, counts)
        spread = {
            name: values[list(index)] if isinstance(values, Tensor) else [values[k] for k in index]
            for name, values in text.items()
        }
        return {**spread, **join_images(pieces[k] for k in index)}


class _ImagesOnce:
    """An image processor that remembers what it made of the last images."""

    def __init__(self, image_processor: Any) -> None:
        self._image_processor = image_processor
        # Held, so that no other picture gets the address of one of them.
        self._images: Any = None
        self._key: tuple[Any, ...] = ()
        self._found: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._image_processor, name)

    def __call__(self, images: Any, return_tensors: Any = None, **named: Any) -> Any:
        key = (_ids(images), repr(named))
        tensors = self._found is not None and all(
            isinstance(values, Tensor) for values in self._found.values()
        )
        if key != self._key or not tensors:
            self._found = self._image_processor(images, return_tensors=return_tensors, **named)
            self._images, self._key = images, key
        return self._found


def _ids(images: Any) -> Any:
    return tuple(map(_ids, images)) if isinstance(images, list | tuple) else id(images)


def _conversation(messages: Sequence[Mapping[str, Any]]) -> tuple[Any, int]:
    """What tells a conversation from others, its pictures by their identity, and their number."""
    pictures = [
        part["image"]
        for message in messages
        for part in message["content"]
        if not isinstance(message["content"], str) and part["type"] == "image"
    ]
    texts = [
        {
            **message,
            "content": message["content"]
            if isinstance(message["content"], str)
            else [part.get("text") for part in message["content"]],
        }
        for message in messages
    ]
    return (repr(texts), tuple(map(id, pictures))), len(pictures)


def _own(keys: Sequence[Any]) -> tuple[list[int], list[int]]:
    """The place of each different key's first one, and for each key which of them it is.

    >>> _own("abab")
    ([0, 1], [0, 1, 0, 1])
    """
    numbers: dict[Any, int] = {}
    own = []
    for place, key in enumerate(keys):
        if key not in numbers:
            numbers[key] = len(numbers)
            own.append(place)
    return own, [numbers[key] for key in keys]
