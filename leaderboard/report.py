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
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.metrics.rates import higher_is_better

from .board import Leaderboard
from .formats import ROLE_NAMES, format_date, format_estimate, metric_names
from .plots import (
    Plot,
    data_address,
    generalization_plot,
    reliability_plot,
    score_plot,
)
from .samples import select_items
from .tables import cell_parts
from .view import SIDE_BY_SIDE, View, confusion_tables, data_table, model_table

MAX_BYTES = 10_000_000
"""The size limit of the file; images are left out before texts are truncated."""
# Characters shown of a text, items of a task, and how many of these have images. The first line
# with which the report is small enough is used.
_LIMITS = (
    (6_000, 20, 20),
    (6_000, 20, 5),
    (2_000, 20, 2),
    (600, 20, 1),
    (300, 10, 0),
    (200, 3, 0),
    (0, 0, 0),
)
# Control characters except tab and newline, and unpaired surrogates.
_UNREADABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def render_report(
    board: Leaderboard,
    view: View,
    *,
    digits: int = 3,
    include: Sequence[Path] = (),
    with_items: bool = True,
    max_bytes: int = MAX_BYTES,
) -> str:
    """The report of a leaderboard as HTML of at most `max_bytes`.

    Args:
        view: all tables of the board.
        with_items: show items, with texts and images that may not be published.
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
    tasks = [task.name for task in board.tasks] if with_items else []
    all_items = select_items(board.runs, tasks, include=include)
    for length, n_items, n_images in _LIMITS:
        items = [task._replace(items=task.items[:n_items]) for task in all_items]
        page = template.render(values, items=items, length=length, n_images=n_images)
        if len(page.encode("utf-8")) <= max_bytes:
            return page
    raise JudgeError(
        f"the report of {len(board.runs)} judges on {len(board.tasks)} tasks exceeds "
        f"{max_bytes / 1e6:.0f} MB even without items; select fewer tasks with --tasks"
    )


def readable(text: str) -> str:
    r"""Text with the characters marked that a page cannot hold or that only control.

    >>> readable("a\r\nb\x00\ud800")
    'a\nb\ufffd\ufffd'
    """
    return _UNREADABLE.sub("\ufffd", text.replace("\r\n", "\n"))


def truncated(text: str, length: int) -> tuple[str, int, str]:
    """Text with its middle left out if it is too long; reasoning begins it and a verdict ends it.

    >>> truncated("0123456789", 6)
    ('0123', 4, '89')
    """
    if len(text) <= length:
        return text, 0, ""
    tail = length // 3
    return text[: length - tail], len(text) - length, text[len(text) - tail :]


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
        "metric": metric_names(board.metrics),
        "labels": view.labels,
        "headlines": list(_headlines(board)),
        "is_sample": any(result.metadata.get("source") == "sample" for result in results),
        "dates": sorted(format_date(run.date) for run in board.runs),
        "score_plot": _image(score_plot(board)),
        "generalization_plot": _image(generalization_plot(board)),
        "reliability_plot": _image(reliability_plot(board, view.confidences)),
        "confusions": {task.name: confusion_tables(board, task.name) for task in board.tasks},
        "judge_numbers": {run.name: n for n, run in enumerate(board.runs)},
    }


def _image(plot: Plot | None) -> dict[str, str] | None:
    return plot and {"src": data_address(plot), "alt": plot.alt}


def _headlines(board: Leaderboard) -> Iterator[dict[str, Any]]:
    """For each role, the judge with the best mean, and which others do not rank below it."""
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
                "ties": [
                    name for name, rank in mean.ranks.items() if rank.best == 1 and name != best
                ],
                "tested": bool(mean.ranks),
            }
