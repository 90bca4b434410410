"""Request bodies: what they may say, and the items in them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any, Literal, NoReturn

from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mtrl_judge.common.errors import shortened
from mtrl_judge.judge_tasks.images import FORMATS, encoded, open_image
from mtrl_judge.judge_tasks.spec import JudgeTask

from .limits import Limits
from .single_items import Item, TaskItems

_MAX_ERRORS = 5


class RequestError(Exception):
    """A request that is not answered; the text says what to change.

    Args:
        status: of the HTTP response.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ItemBody(_Body):
    """One item; images are data URLs or base64."""

    images: list[str] = []
    texts: list[str] = []
    context: dict[str, Any] = {}


class JudgeBody(ItemBody):
    """The body of ``POST /judge``: one item, or several of the same task in ``items``."""

    task: str | None = None
    question: str | None = None
    verdicts: list[str] | None = None
    items: list[ItemBody] | None = Field(None, min_length=1)


class ImageUrl(BaseModel):
    url: str


class Part(BaseModel):
    type: Literal["text", "image_url"]
    text: str = ""
    image_url: ImageUrl | None = None


class Message(BaseModel):
    role: str
    content: str | list[Part]


class ChatBody(BaseModel):
    """The body of ``POST /v1/chat/completions``; what a judge does not use is ignored."""

    model: str
    messages: list[Message]
    task: str | None = None
    context: dict[str, Any] = {}
    verdicts: list[str] | None = None
    n: int | None = None
    stream: bool | None = None


def parse(body: bytes, kind: type[JudgeBody] | type[ChatBody]) -> Any:
    """A body as its model.

    Raises:
        RequestError: 400, it is not such JSON.
    """
    try:
        value = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        found = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RequestError(400, f"the body is not JSON: {found}") from None
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)
        ]
        more = [f"and {len(faults) - _MAX_ERRORS} more"] if len(faults) > _MAX_ERRORS else []
        raise RequestError(400, "; ".join([*faults[:_MAX_ERRORS], *more])) from None


def items_of_judge(body: JudgeBody, tasks: Mapping[str, JudgeTask], limits: Limits) -> list[Item]:
    """The items of ``POST /judge``.

    Raises:
        RequestError: 400, they are not what the task expects; 413, too many or too large.
    """
    parts: list[ItemBody] = [body] if body.items is None else body.items
    if body.items is not None and (body.images or body.texts or body.context):
        raise RequestError(400, "items: with it, images, texts and context stand in each item")
    if len(parts) > limits.items:
        found = f"items: found {len(parts)}; expected at most {limits.items} in a request"
        raise RequestError(413, found)
    if (body.task is None) == (body.question is None):
        raise RequestError(400, "task, question: expected one of the two")
    if body.question is not None and body.verdicts is None:
        raise RequestError(400, 'verdicts: missing; a question needs them, such as ["Yes", "No"]')
    if body.task is not None and body.verdicts is not None:
        raise RequestError(400, "verdicts: those of a task are in its YAML")
    asked = body.question if body.task is None else _known(body.task, tasks)
    assert asked is not None
    return [_item(asked, part, body.verdicts, limits) for part in parts]


def item_of_chat(
    body: ChatBody, judge: str, tasks: Mapping[str, JudgeTask], limits: Limits
) -> Item:
    """The item of ``POST /v1/chat/completions``.

    The images and texts of the user's message are those of the item, and the task makes the prompt
    of them. The task is the field ``task``, or the name of the model; without a task, the text is a
    free question.

    Raises:
        RequestError: as :func:`items_of_judge`; 404, the model is neither the judge nor a task.
    """
    if body.stream:
        raise RequestError(400, "stream: not supported; a verdict is one piece")
    if body.n not in (None, 1):
        raise RequestError(400, f"n: found {body.n}; expected 1")
    if [message.role for message in body.messages] != ["user"]:
        raise RequestError(
            400, "messages: expected one message of the user; the task makes the prompt of it"
        )
    content = body.messages[0].content
    parts = [Part(type="text", text=content)] if isinstance(content, str) else content
    part = ItemBody(
        images=[each.image_url.url for each in parts if each.image_url is not None],
        texts=[each.text for each in parts if each.type == "text"],
        context=body.context,
    )
    if body.task is None and body.model == judge:
        question = "\n".join(part.texts)
        if body.verdicts is None:
            raise RequestError(
                400, "task: missing; name the task, or give the verdicts of a free question"
            )
        return _item(question, ItemBody(images=part.images), body.verdicts, limits)
    if body.verdicts is not None:
        raise RequestError(400, "verdicts: those of a task are in its YAML")
    if body.task is None and body.model not in tasks:
        known = ", ".join([judge, *tasks])
        raise RequestError(404, f"model: found {shortened(body.model, 100)!r}; known: {known}")
    return _item(_known(body.task or body.model, tasks), part, None, limits)


def _known(name: str, tasks: Mapping[str, JudgeTask]) -> JudgeTask:
    if name not in tasks:
        found = f"task: found {shortened(name, 100)!r}; this judge serves {', '.join(tasks)}"
        raise RequestError(400, found)
    return tasks[name]


def _item(
    asked: str | JudgeTask, part: ItemBody, verdicts: list[str] | None, limits: Limits
) -> Item:
    images = [_image(image, limits) for image in part.images]
    context = dict(part.context)
    if isinstance(asked, JudgeTask):
        for name in TaskItems(asked).image_columns:
            if name in context:
                context[name] = _images_in(context[name], limits)
    return Item(asked, images, part.texts, context, verdicts)


def _images_in(value: Any, limits: Limits) -> Any:
    """The value of a column with images, which may be in lists."""
    if isinstance(value, str):
        return _image(value, limits)
    if isinstance(value, list):
        return [_images_in(each, limits) for each in value]
    if isinstance(value, dict):  # parts of texts and images; the paths say which are images
        is_image = {name: str(each).startswith("data:image/") for name, each in value.items()}
        return {n: _images_in(v, limits) if is_image[n] else v for n, v in value.items()}
    return value


def _image(text: str, limits: Limits) -> bytes:
    """The bytes of an image, whose size is known before it is decoded."""
    too_large = f"expected at most {limits.image_pixels:,} pixels"
    try:
        data = encoded(text)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
        if width * height <= limits.image_pixels:
            open_image(data)
    except Image.DecompressionBombError:
        raise RequestError(413, f"images: a decompression bomb; {too_large}") from None
    except UnidentifiedImageError:  # whose message has an address in memory
        raise RequestError(400, "images: not an image of a known format") from None
    except Exception as error:  # noqa: BLE001  parsers of hostile images raise anything
        found = str(error) or type(error).__name__
        raise RequestError(400, f"images: {found}; expected a data URL or base64") from None
    if width * height > limits.image_pixels:
        raise RequestError(413, f"images: {width} × {height} pixels; {too_large}")
    return data


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
