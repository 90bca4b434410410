"""``mtrl-judge preview``: items as a judge sees them."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.files import refuse_existing, whole_folder
from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.judge_tasks.spec import SPLITS, STYLES


def preview(name: str, *, n: int, split: str | None, style: str | None, out: Path | None) -> None:
    """Print the first ``n`` rows of a split and write their pictures.

    Raises:
        JudgeError: no such task, split or style, or the data is not to be had.
    """
    task = find_task(name)
    split_name = next((s for s in SPLITS if s == (split or task.evaluation_split)), None)
    if split_name is None or split_name not in task.splits:
        raise JudgeError(f"--split: no split {split!r}; {did_you_mean(split, task.splits)}")
    style_name = next((s for s in STYLES if s == (style or task.judge.style)), None)
    if style_name is None:
        raise JudgeError(f"--style: no style {style!r}; {did_you_mean(style, STYLES)}")
    folder = out or Path(f"preview-{task.task}")
    refuse_existing(folder)
    rows, record = load_rows(task, split_name)
    with whole_folder(folder) as part:
        for index in range(min(n, len(rows.dataset))):
            row = JudgeRow.from_doc(rows.dataset[index])
            typer.echo(f"── {row.item_id}{' (swapped)' if row.swapped else ''} · label {row.label}")
            pictures = iter(enumerate(row.images))
            for message in render_messages(row, style_name):
                for piece in message["content"]:
                    if piece["type"] == "text":
                        typer.echo(piece["text"])
                        continue
                    place, picture = next(pictures)
                    file = f"{index:03d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', row.item_id)}-{place}.png"
                    picture.save(part / file)
                    typer.echo(f"[{folder / file}, {picture.width}×{picture.height}]")
            typer.echo("")
    for item, why in record["undecodable"].items():
        typer.echo(f"left out: item {item}, whose image does not decode: {why}")
    typer.echo(
        f"{record['rows']} rows of {task.task} {split_name} from {record['source']} "
        f"({record['location']}), fingerprint {record['fingerprint']}"
    )
