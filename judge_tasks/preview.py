"""Rows as a judge sees them, for checking a task by eye: as text, or as a page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from PIL import Image

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.files import refuse_existing, whole_folder, write_text

from .prompts import render_messages
from .rows import JudgeRow
from .sources import load_rows
from .spec import STYLES, JudgeTask

PAGE = "preview.html"


class Seen(NamedTuple):
    """What a model gets of a prompt."""

    text: str
    """As its chat template writes it."""
    sizes: Sequence[tuple[int, int]]
    """Width and height of each image as the model sees it, in pixels."""
    tokens: int
    image_tokens: int | None
    """Of these; None if the processor does not tell."""


View: TypeAlias = Callable[[Sequence[Mapping[str, Any]], Sequence[Image.Image]], Seen]
"""From messages and their images, in order, to what a model sees."""


class ShownRow(NamedTuple):
    """A row of a preview."""

    title: str
    messages: Sequence[Mapping[str, Any]]
    images: Sequence[Image.Image]
    """As they are in the data, in the order of their places in the messages."""
    files: Sequence[str]
    """Their names."""
    seen: Seen | None


class Preview(NamedTuple):
    """Rows, and remarks on the split that they are from."""

    title: str
    rows: Sequence[ShownRow]
    remarks: Sequence[str]


def write_preview(
    task: JudgeTask,
    folder: Path,
    *,
    n: int,
    split: str | None = None,
    style: str | None = None,
    view: View | None = None,
    html: bool = False,
    force: bool | None = None,
) -> str:
    """Render the first ``n`` rows of a split, and write their images into a folder.

    Args:
        split: default: the split that is evaluated.
        style: default: the task's.
        view: of a model, to add what it sees.
        html: write everything into one page in the folder instead.
        force: replace an existing folder.

    Returns:
        Labels and prompts, with the path of each image in its place in the prompt; or the path of
        the page.

    Raises:
        JudgeError: the split or style does not exist, the data cannot be loaded, or the folder
            exists.
    """
    split = split or task.evaluation_split
    if split not in task.splits:
        raise JudgeError(f"--split: no split {split!r}; {did_you_mean(split, task.splits)}")
    style = style or task.judge.style
    if style not in STYLES:
        raise JudgeError(f"--style: no style {style!r}; {did_you_mean(style, STYLES)}")
    refuse_existing(folder, force)
    preview = _read(task, n, split, style, view)
    with whole_folder(folder) as part:
        if html:
            write_text(part / PAGE, _page(preview))
            return str(folder / PAGE)
        for row in preview.rows:
            for image, name in zip(row.images, row.files, strict=True):
                image.save(part / name)
    return _text(preview, folder)


def _read(task: JudgeTask, n: int, split: Any, style: Any, view: View | None) -> Preview:
    rows, record = load_rows(task, split)
    shown = []
    for index in range(min(n, len(rows.dataset))):
        row = JudgeRow.from_doc(rows.dataset[index])
        swapped = " (swapped)" if row.swapped else ""
        messages, images = render_messages(row, style), list(row.prompt_images)
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", row.item_id)
        shown.append(
            ShownRow(
                f"{row.item_id}{swapped} · label {row.label}",
                messages,
                images,
                [f"{index:03d}-{name}-{position}.png" for position in range(len(images))],
                None if view is None else view(messages, images),
            )
        )
    remarks = [
        f"left out: item {item}, whose image cannot be decoded: {reason}"
        for item, reason in record["undecodable"].items()
    ]
    remarks.append(
        f"{record['rows']} rows of {task.task} {split} from {record['source']} "
        f"({record['location']}), fingerprint {record['fingerprint']}"
    )
    return Preview(f"{task.task}, {split} split, style {style}", shown, remarks)


def _text(preview: Preview, folder: Path) -> str:
    lines = []
    for row in preview.rows:
        lines.append(f"── {row.title}")
        images = iter(zip(row.images, row.files, strict=True))
        for message in row.messages:
            for piece in message["content"]:
                if piece["type"] == "text":
                    lines.append(piece["text"])
                else:
                    image, name = next(images)
                    lines.append(f"[{folder / name}, {image.width}×{image.height}]")
        if row.seen is not None:
            lines += ["", "with the chat template:", row.seen.text, *_figures(row)]
        lines.append("")
    return "\n".join([*lines, *preview.remarks])


def _figures(row: ShownRow) -> list[str]:
    """The sizes of a row's images before and after resizing, and its tokens."""
    assert row.seen is not None
    lines = [
        f"image {number}: {image.width}×{image.height}, seen as {width}×{height}"
        for number, (image, (width, height)) in enumerate(
            zip(row.images, row.seen.sizes, strict=True), 1
        )
    ]
    of_images = row.seen.image_tokens
    part = "" if of_images is None else f", {of_images:,} of them of images"
    return [*lines, f"tokens: {row.seen.tokens:,}{part}"]


def _page(preview: Preview) -> str:
    """One page that loads nothing and runs nothing; the template escapes all text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    environment.filters |= {"address": _address, "figures": _figures}
    page: str = environment.get_template("preview.html.jinja").render(preview=preview)
    return page


def _address(image: Image.Image) -> str:
    """An image as an address in a page."""
    file = io.BytesIO()
    image.save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
