"""The leaderboard as one self-contained HTML file.

The template escapes all text. The page runs one script, allowed by its hash in the page's own
content security policy, and cannot load anything.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.metrics.rates import higher_is_better

from .board import Column, Leaderboard
from .formats import ROLE_NAMES, format_date, format_estimate, metric_name
from .plots import (
    SCORE_LEGEND,
    Plot,
    confidence_title,
    confusion_of,
    data_address,
    generalization_plot,
    reliability_plot,
    score_plot,
)
from .samples import TaskItems, select_items
from .tables import cell_parts
from .view import SIDE_BY_SIDE, View, data_table, model_table

MAX_BYTES = 10_000_000
"""The size limit of the file; images are left out before texts are truncated."""
_IMAGE_MARKUP = 160  # bytes of an image element besides its address
# (characters shown of a text, items of a task): the first pair that fits is used.
_LIMITS = ((6_000, 20), (2_000, 20), (600, 20), (300, 10), (200, 3), (0, 0))
# Control characters except tab and newline, and unpaired surrogates.
_UNREADABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Truncated(NamedTuple):
    """A text with its middle left out."""

    head: str
    left_out: int
    tail: str


def render_report(
    board: Leaderboard,
    view: View,
    *,
    digits: int = 3,
    include: Sequence[Path] = (),
    max_bytes: int = MAX_BYTES,
) -> str:
    """The report of a leaderboard as HTML of at most `max_bytes`.

    Args:
        view: all tables of the board.
        include: folders with YAMLs of tasks that are not shipped, so that their images are shown.

    Raises:
        JudgeError: a path in `include` does not exist, or the tables alone exceed the limit.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
        finalize=lambda v: v if isinstance(v, Markup) or not isinstance(v, str) else readable(v),
    )
    environment.filters |= {
        "breakable": breakable,
        "parts": cell_parts,
        "truncated": truncated,
        "zip": zip,
    }
    template = environment.get_template("report.html.jinja")
    values = {**_values(board, view), "digits": digits}
    all_items = select_items(board.runs, [task.name for task in board.tasks], include=include)

    def render(tasks: Sequence[TaskItems], length: int, with_images: frozenset[Any]) -> str:
        n = sum(any(order.images for order in item.orders) for task in tasks for item in task.items)
        return template.render(
            values,
            items=tasks,
            length=length,
            with_images=with_images,
            images_left_out=n - len(with_images),
        )

    for length, n_items in _LIMITS:
        tasks = [task._replace(items=task.items[:n_items]) for task in all_items]
        room = max_bytes - len(render(tasks, length, frozenset()).encode("utf-8"))
        if room > 0:
            return render(tasks, length, _items_with_images(tasks, room))
    raise JudgeError(
        f"the report of {len(board.runs)} judges on {len(board.tasks)} tasks exceeds "
        f"{max_bytes / 1e6:.0f} MB even without items; select fewer tasks with --tasks"
    )


def _items_with_images(tasks: Sequence[TaskItems], room: int) -> frozenset[tuple[str, str]]:
    """The items whose images fit: the first of each task, then the second of each, …"""
    chosen: set[tuple[str, str]] = set()
    for index in range(max((len(task.items) for task in tasks), default=0)):
        for task in tasks:
            for item in task.items[index : index + 1]:
                images = [image for order in item.orders for image in order.images]
                room -= sum(len(image) + _IMAGE_MARKUP for image in images)
                if room < 0:
                    return frozenset(chosen)
                if images:
                    chosen.add((task.task, item.item_id))
    return frozenset(chosen)


def readable(text: str) -> str:
    r"""Text with the characters marked that a page cannot hold or that only control.

    >>> readable("a\r\nb\x00\ud800")
    'a\nb\ufffd\ufffd'
    """
    return _UNREADABLE.sub("\ufffd", text.replace("\r\n", "\n"))


def truncated(text: str, length: int) -> Truncated:
    """Text with its middle left out if it is too long; reasoning begins it and a verdict ends it.

    >>> truncated("0123456789", 6)
    Truncated(head='0123', left_out=4, tail='89')
    """
    if len(text) <= length:
        return Truncated(text, 0, "")
    tail = length // 3
    return Truncated(text[: length - tail], len(text) - length, text[len(text) - tail :])


def breakable(name: str) -> Markup:
    """A name in which a line may break after a separator.

    >>> breakable("owner/a<b")
    Markup('owner/<wbr>a&lt;b')
    """
    return Markup("<wbr>").join(re.split(r"(?<=[/_-])", readable(name)))


def _values(board: Leaderboard, view: View) -> dict[str, Any]:
    """The variables of the template."""
    folder = Path(__file__).parent
    script = (folder / "report.js").read_text(encoding="utf-8")
    results = [result for run in board.runs for result in run.tasks.values()]
    return {
        "style": Markup((folder / "report.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        "board": board,
        "view": view,
        "models": model_table(board.runs),
        "data": data_table(board.runs),
        "many_judges": len(board.runs) > SIDE_BY_SIDE,
        "metric": metric_name(board.metric),
        "labels": view.labels,
        "headlines": list(_headlines(board)),
        "is_sample": any(result.metadata.get("source") == "sample" for result in results),
        "dates": sorted(format_date(run.date) for run in board.runs),
        "score_plots": [_image(score_plot(board, task)) for task in board.tasks],
        "score_legend": SCORE_LEGEND,
        "generalization_plot": _image(generalization_plot(board)),
        "confusions": [(view.labels[task.name], _confusions(board, task)) for task in board.tasks],
        "reliability_plots": [
            (
                confidence_title(confidence),
                view.labels[confidence.result.task],
                _image(reliability_plot(board, [confidence], named=False)),
            )
            for confidence in view.confidences
        ],
        "judge_numbers": {run.name: n for n, run in enumerate(board.runs)},
    }


def _image(plot: Plot | None) -> dict[str, str] | None:
    return plot and {"src": data_address(plot), "alt": plot.alt}


def _headlines(board: Leaderboard) -> Iterator[dict[str, Any]]:
    """For each role, the judge with the best mean, and who does not differ significantly."""
    if higher_is_better(board.metric) is None:
        return
    sign = 1 if higher_is_better(board.metric) else -1
    for mean in board.means:
        values = {run.name: mean.estimate(run.name, board.metric).value for run in board.runs}
        known = {name: sign * value for name, value in values.items() if value is not None}
        if known:
            best = max(known, key=lambda name: known[name])
            yield {
                "role": ROLE_NAMES[mean.role],
                "best": best,
                "value": format_estimate(mean.estimate(best, board.metric)),
                "ties": [name for name, rank in mean.ranks.items() if rank == 1 and name != best],
                "tested": bool(mean.ranks),
            }


def _confusions(board: Leaderboard, task: Column) -> list[tuple[str, list[str], list[list[int]]]]:
    """For each judge: its name, the verdicts, and the rows of its confusion matrix."""
    return [
        (run.name, list(map(str, run.tasks[task.name].verdicts)), counts_C_C1.tolist())
        for run in board.runs
        if task.name in run.tasks
        and (counts_C_C1 := confusion_of(run.tasks[task.name])) is not None
    ]
