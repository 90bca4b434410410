"""Rows as a judge sees them, for checking a task by eye."""

from __future__ import annotations

import re
from pathlib import Path

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.files import refuse_existing, whole_folder

from .prompts import render_messages
from .rows import JudgeRow
from .sources import load_rows
from .spec import STYLES, JudgeTask


def write_preview(
    task: JudgeTask, folder: Path, *, n: int, split: str | None = None, style: str | None = None
) -> str:
    """Render the first ``n`` rows of a split, and write their images into a new folder.

    Args:
        split: default: the split that is evaluated.
        style: default: the task's.

    Returns:
        Labels and prompts, with the path of each image in its place in the prompt.

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
    refuse_existing(folder)
    rows, record = load_rows(task, split)
    lines = []
    with whole_folder(folder) as part:
        for index in range(min(n, len(rows.dataset))):
            row = JudgeRow.from_doc(rows.dataset[index])
            swapped = " (swapped)" if row.swapped else ""
            lines.append(f"── {row.item_id}{swapped} · label {row.label}")
            images = iter(enumerate(row.prompt_images))
            for message in render_messages(row, style):
                for piece in message["content"]:
                    if piece["type"] == "text":
                        lines.append(piece["text"])
                        continue
                    position, image = next(images)
                    name = re.sub(r"[^A-Za-z0-9_-]+", "_", row.item_id)
                    file = f"{index:03d}-{name}-{position}.png"
                    image.save(part / file)
                    lines.append(f"[{folder / file}, {image.width}×{image.height}]")
            lines.append("")
    for item, reason in record["undecodable"].items():
        lines.append(f"left out: item {item}, whose image cannot be decoded: {reason}")
    lines.append(
        f"{record['rows']} rows of {task.task} {split} from {record['source']} "
        f"({record['location']}), fingerprint {record['fingerprint']}"
    )
    return "\n".join(lines)
