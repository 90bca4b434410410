"""A leaderboard as one HTML file that needs nothing beside it.

All that is data is escaped by the template; the page runs one script, named by its hash in the
page's own security policy, and may load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import whole_file
from mtrl_judge.metrics.rates import higher_is_better

from .analyses import confidences
from .board import OVERALL, Column, Leaderboard
from .formats import NONE, shown
from .plots import (
    LEAST,
    MOST,
    Plot,
    confusion_of,
    in_against_out,
    inline_svg,
    metric_name,
    reliability_of,
    scores,
    scores_legend,
    sure_judge,
)
from .runs import Estimate, Judged
from .samples import TaskItems, items_to_read
from .tables import CONSTANT, ROLE_NAMES, comparison_table, task_labels

MOST_BYTES = 10_000_000
"""What the file stays below; pictures are left out before texts are cut short."""
_IMAGE_MARKUP = 160  # bytes of a picture's element beside its address
# Characters of a text that are shown, and items a task: the first that leave room for the rest.
_LENGTHS = ((6_000, 20), (2_000, 20), (600, 20), (300, 10), (200, 3), (0, 0))
_SIDE_BY_SIDE = 3  # judges up to which the table has a line a task, as in tables
# Control characters but tabs and ends of lines, and halves of surrogate pairs.
_UNREADABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)_(\d\d)(\d\d)\d\d")


class Cell(NamedTuple):
    """A cell of a table of figures."""

    text: str
    interval: str = ""
    number: float | None = None
    """To sort by."""
    rank: int | None = None
    best: bool = False


class Line(NamedTuple):
    """A line of a table of figures."""

    name: str
    cells: Sequence[Cell]
    kind: str = ""


class Cut(NamedTuple):
    """A text with its middle left out."""

    head: str
    left_out: int
    tail: str


def write_report(
    board: Leaderboard,
    sections: Sequence[tuple[str, str, pd.DataFrame]],
    out: Path,
    *,
    force: bool,
    include: Sequence[Path] = (),
) -> None:
    """Write the report of a leaderboard, under 10 MB.

    Args:
        sections: further tables, each with its title and a note.
        include: folders with YAMLs of tasks of one's own, whose pictures are to be shown.

    Raises:
        JudgeError: a file is there and `force` is not set; one of `include` is not there; or there
            are so many judges and tasks that the tables alone are too much for one file.
    """
    with whole_file(out, force) as part:
        part.write_bytes(render_report(board, sections, include=include).encode("utf-8"))


def render_report(
    board: Leaderboard,
    sections: Sequence[tuple[str, str, pd.DataFrame]],
    *,
    include: Sequence[Path] = (),
    most_bytes: int = MOST_BYTES,
) -> str:
    """The report as text; see :func:`write_report`."""
    template = _environment().get_template("report.html.jinja")
    found = items_to_read(board.runs, [task.name for task in board.tasks], include=include)
    values = _values(board, sections)
    for length, most in _LENGTHS:
        kept = [task._replace(items=task.items[:most]) for task in found]
        page = template.render(values, **_items_shown(kept, frozenset(), length))
        room = most_bytes - len(page.encode("utf-8"))
        if room > 0:
            return template.render(values, **_items_shown(kept, _affordable(kept, room), length))
    raise JudgeError(
        f"a report of {len(board.runs)} judges on {len(board.tasks)} tasks is over "
        f"{most_bytes / 1e6:.0f} MB without any item; choose some of the tasks (--tasks)"
    )


def _affordable(tasks: Sequence[TaskItems], room: int) -> frozenset[tuple[str, str]]:
    """The items whose pictures fit: the first of each task, then the second of each, …"""
    shown: set[tuple[str, str]] = set()
    for place in range(max((len(task.items) for task in tasks), default=0)):
        for task in tasks:
            if place >= len(task.items):
                continue
            item = task.items[place]
            pictures = [p for view in item.views for p in view.pictures]
            room -= sum(len(picture) + _IMAGE_MARKUP for picture in pictures)
            if room < 0:
                return frozenset(shown)
            if pictures:
                shown.add((task.task, item.item_id))
    return frozenset(shown)


def _items_shown(
    tasks: Sequence[TaskItems], pictured: frozenset[tuple[str, str]], length: int
) -> dict[str, Any]:
    having = sum(any(v.pictures for v in item.views) for task in tasks for item in task.items)
    return {
        "items": tasks,
        "pictured": pictured,
        "length": length,
        "pictures_left_out": having - len(pictured),
    }


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
        finalize=_finalize,
    )
    environment.filters["cut"] = cut
    environment.filters["breakable"] = breakable
    return environment


def _finalize(value: object) -> object:
    return readable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def readable(text: str) -> str:
    """Text that a page can hold: characters that are none, or that only control, are marked.

    >>> readable("a\\r\\nb\\x00\\ud800")
    'a\\nb\\ufffd\\ufffd'
    """
    return _UNREADABLE.sub("\ufffd", text.replace("\r\n", "\n"))


def cut(text: str, length: int) -> Cut:
    """The text, its middle left out where it is longer; reasons begin it and verdicts end it.

    >>> cut("0123456789", 6)
    Cut(head='0123', left_out=4, tail='89')
    """
    if len(text) <= length:
        return Cut(text, 0, "")
    tail = length // 3
    return Cut(text[: length - tail], len(text) - length, text[len(text) - tail :])


def _the_same(values: Iterable[object]) -> bool:
    return len(set(values)) == 1


def breakable(name: str) -> Markup:
    """A name that may go on in a new line after what parts it.

    >>> breakable("owner/a<b")
    Markup('owner/<wbr>a&lt;b')
    """
    return Markup("<wbr>").join(re.split(r"(?<=[/_-])", readable(name)))


# What the template is given


def _values(
    board: Leaderboard, sections: Sequence[tuple[str, str, pd.DataFrame]]
) -> dict[str, Any]:
    folder = Path(__file__).parent
    script = (folder / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    head, lines = _score_lines(board)
    labels = task_labels([task.name for task in board.tasks])
    in_out = in_against_out(board)
    return {
        "style": Markup((folder / "report.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": digest,
        "board": board,
        "metric": metric_name(board.metric),
        "labels": labels,
        "role_names": ROLE_NAMES,
        "headlines": list(_headlines(board)),
        "sample": any(each.about.get("source") == "sample" for each in _all_judged(board)),
        "dates": [_date(run.date) for run in board.runs],
        "judges": _lines_of(_judges(board)),
        "data": _lines_of(_data(board)),
        "versions": _versions(board),
        "score_head": head,
        "score_lines": lines,
        "compared": any(len(column.ranks) > 1 for column in board.tasks),
        "intervals": any(_has_interval(column, board.metric) for column in board.tasks),
        "summary_head": _summary_head(board),
        "summary_lines": _summary_lines(board),
        "dots": [_inline(scores(board, task), f"s{n}-") for n, task in enumerate(board.tasks)],
        "dots_legend": scores_legend(board),
        "in_out": _inline(in_out, "io-"),
        "comparisons": _comparisons(board),
        "confusions": [_confusions(board, task) for task in board.tasks],
        "disagreements": _disagreements(board),
        "reliabilities": [
            (sure_judge(each), labels[each.task], _inline(reliability_of(each), f"r{n}-"))
            for n, each in enumerate(confidences(board.runs))
        ],
        "sections": [(title, note, _text_table(table)) for title, note, table in sections],
        "number_of": {run.name: n for n, run in enumerate(board.runs)},
    }


def _inline(plot: Plot | None, prefix: str) -> Markup | None:
    # Of an XML serialiser, which has escaped the names.
    return None if plot is None else Markup(inline_svg(plot, prefix))


def _all_judged(board: Leaderboard) -> list[Judged]:
    return [judged for run in board.runs for judged in run.tasks.values()]


def _headlines(board: Leaderboard) -> Iterable[tuple[str, str, str, list[str], bool]]:
    """For each role: what it is, the judge with the best mean, that mean, who ties with it, and
    whether that was tested."""
    more_is_better = higher_is_better(board.metric)
    if more_is_better is None:
        return
    for mean in board.means:
        known = {
            run.name: own
            for run in board.runs
            if (own := mean.estimates.get(run.name, {}).get(board.metric)) and own.value is not None
        }
        if not known:
            continue
        sign = 1 if more_is_better else -1
        best = max(known, key=lambda name: sign * (known[name].value or 0.0))
        ties = [name for name, rank in mean.ranks.items() if rank == 1 and name != best]
        yield ROLE_NAMES[mean.role], best, shown(known[best]), ties, bool(mean.ranks)


def _judges(board: Leaderboard) -> list[dict[str, str]]:
    return [
        {
            "judge": run.name,
            "model": run.model,
            "backend": run.backend or NONE,
            "evaluated": _date(run.date),
            "style": _said(run.tasks.values(), "style"),
            "verdicts by": _said(run.tasks.values(), "scoring"),
            "perturbation": _said(run.tasks.values(), "perturbation"),
        }
        for run in board.runs
    ]


def _lines_of(table: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """As :func:`_text_table`; pandas takes no half of a surrogate pair, which results can have."""
    return {"head": list(table[0]), "lines": [list(line.values()) for line in table]}


def _date(date: str) -> str:
    """
    >>> _date("20260102_030405"), _date("yesterday")
    ('2026-01-02 03:04', 'yesterday')
    """
    parts = _DATE.fullmatch(date)
    return "{}-{}-{} {}:{}".format(*parts.groups()) if parts else date


def _said(judged: Iterable[Judged], field: str) -> str:
    values = dict.fromkeys(str(j.about[field]) for j in judged if j.about.get(field) is not None)
    return ", ".join(values) or NONE


def _data(board: Leaderboard) -> list[dict[str, str]]:
    lines = []
    for task in board.tasks:
        judged = [run.tasks[task.name] for run in board.runs if task.name in run.tasks]
        # A folder's place is a path of the machine that judged; a hub's is a name.
        on_hub = (each.about for each in judged if each.about.get("source") == "hub")
        places = dict.fromkeys(str(about["location"]) for about in on_hub if "location" in about)
        n = dict.fromkeys(f"{each.n:,}" for each in judged if each.n is not None)
        lines.append(
            {
                "task": task.name,
                "role": ROLE_NAMES[task.role],
                "asks of": _said(judged, "dimension"),
                "verdicts": ", ".join(map(str, judged[0].about["verdicts"])),
                "source": " ".join([_said(judged, "source"), *places]),
                "revision": _said(judged, "revision"),
                "split": _said(judged, "split"),
                "fingerprint": _said(judged, "fingerprint"),
                "labeled rows": ", ".join(n) or NONE,
            }
        )
    return lines


def _versions(board: Leaderboard) -> dict[str, str]:
    found: dict[str, dict[str, None]] = {}
    for judged in _all_judged(board):
        for name, version in (judged.about.get("versions") or {}).items():
            found.setdefault(str(name), {})[str(version)] = None
    return {name: ", ".join(versions) for name, versions in found.items()}


def _has_interval(column: Column, metric: str) -> bool:
    return any(
        rates.get(metric, Estimate(None)).low is not None for rates in column.estimates.values()
    )


# Tables of figures


def _cell(estimate: Estimate | None, *, signed: bool = False, **about: Any) -> Cell:
    value, _, interval = shown(estimate, signed=signed).partition(" ")
    return Cell(value, interval, None if estimate is None else estimate.value, **about)


def _score_lines(board: Leaderboard) -> tuple[list[str], list[Line]]:
    """The metric of every judge on every task, a line a judge; of few judges, a line a task."""
    labels = task_labels([task.name for task in board.tasks])
    columns: list[tuple[str, Column]] = []
    for mean in board.means:
        columns += [(labels[task.name], task) for task in board.tasks if task.role == mean.role]
        columns.append((f"mean {ROLE_NAMES[mean.role]}", mean))
    names = [run.name for run in board.runs]
    constant = board.metric == "macro_f1"
    lines = [
        Line(name, [_score(column, name, board.metric) for _, column in columns]) for name in names
    ]
    if constant:
        own = [_cell(Estimate(column.constant)) for _, column in columns]
        lines.append(Line(CONSTANT, own, "constant"))
    head = [title for title, _ in columns]
    if board.drops:
        head.append("drop")
        lines = [
            line._replace(cells=[*line.cells, _cell(board.drops.get(line.name), signed=True)])
            for line in lines
        ]
    if len(names) > _SIDE_BY_SIDE:
        return head, lines
    kinds = ["mean" if title.startswith("mean ") or title == "drop" else "" for title in head]
    turned = [
        Line(title, [line.cells[place] for line in lines], kind)
        for place, (title, kind) in enumerate(zip(head, kinds, strict=True))
    ]
    return [line.name for line in lines], turned


def _score(column: Column, judge: str, metric: str) -> Cell:
    rank = column.ranks.get(judge) if len(column.ranks) > 1 else None
    return _cell(column.estimates.get(judge, {}).get(metric), rank=rank, best=rank == 1)


_SUMMARY: Mapping[str, str] = {
    OVERALL: "accuracy, all rows",
    "null_rate": "no verdict",
    "flip_rate": "flipped",
}


def _summary_columns(board: Leaderboard) -> list[tuple[Column, str, str]]:
    """Each role with its rates that any judge has."""
    names = {board.metric: f"{metric_name(board.metric)}, mean of tasks", **_SUMMARY}
    return [
        (mean, rate, title)
        for mean in board.means
        for rate, title in names.items()
        if any(own.get(rate, Estimate(None)).value is not None for own in mean.estimates.values())
    ]


def _summary_head(board: Leaderboard) -> list[tuple[str, list[str]]]:
    """Each role with the titles of its columns."""
    columns = _summary_columns(board)
    groups = [
        (ROLE_NAMES[mean.role], [title for own, _, title in columns if own is mean])
        for mean in board.means
    ]
    return [group for group in groups if group[1]]


def _summary_lines(board: Leaderboard) -> list[Line]:
    columns = _summary_columns(board)
    return [
        Line(
            run.name,
            [
                *(_cell(mean.estimates.get(run.name, {}).get(rate)) for mean, rate, _ in columns),
                *([_cell(board.drops.get(run.name), signed=True)] if board.drops else []),
            ],
        )
        for run in board.runs
    ]


def _comparisons(board: Leaderboard) -> list[tuple[str, int, dict[str, Any]]]:
    """For each task and mean: its name, how many pairs differ, and the table of its pairs.

    Where two judges are compared, all in one, without a name.
    """
    labels = task_labels([task.name for task in board.tasks])
    table, found, start = comparison_table(board).table.rename(index=labels), [], 0
    if len(board.runs) == 2 and len(table):
        return [("", 0, _text_table(table))]
    for column in (*board.tasks, *board.means):
        own = table.iloc[start : start + len(column.comparisons)]
        start += len(own)
        if len(own):
            differing = sum(each.differs for each in column.comparisons)
            found.append((str(own.index[0]), differing, _text_table(own.set_index("judges"))))
    return found


def _text_table(table: pd.DataFrame) -> dict[str, Any]:
    """A table's head and lines as text, its index as their first column."""

    def text(value: Any) -> str:
        if isinstance(value, tuple):
            return ", ".join(map(text, value))
        return (
            NONE if pd.isna(value) else f"{value:.3f}" if isinstance(value, float) else str(value)
        )

    name = table.index.name
    return {
        "head": ["" if name is None else text(name), *map(text, table.columns)],
        "lines": [
            [text(index), *map(text, row)]
            for index, row in zip(
                table.index, table.itertuples(index=False, name=None), strict=True
            )
        ],
    }


# Confusion and disagreement


def _confusions(board: Leaderboard, task: Column) -> list[tuple[str, list[str], list[list[Any]]]]:
    """For each judge: its name, the verdicts, and rows of counts, each with its shade."""
    found = []
    for run in board.runs:
        judged = run.tasks.get(task.name)
        counts_C_C1 = None if judged is None else confusion_of(judged)
        if judged is None or counts_C_C1 is None:
            continue
        rows = [
            [(int(count), _shade(count / max(1, row_C1.sum()))) for count in row_C1]
            for row_C1 in counts_C_C1
        ]
        found.append((run.name, list(map(str, judged.about["verdicts"])), rows))
    return found


def _shade(share: float) -> str:
    """
    >>> _shade(0.0) == LEAST.lower(), _shade(1.0) == MOST.lower()
    (True, True)
    """
    ends = [[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in (LEAST, MOST)]
    mixed = (round(a + share * (b - a)) for a, b in zip(*ends, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _disagreements(board: Leaderboard) -> list[Line]:
    """For each task of two judges or more: rows, and how many of them all or some have right."""
    lines = []
    labels = task_labels([task.name for task in board.tasks])
    for task in board.tasks:
        judged = [run.tasks[task.name] for run in board.runs if task.name in run.tasks]
        known = [each for each in judged if each.records]
        if len(known) < 2 or not _the_same(each.rows for each in known):
            continue
        rows_N = list(zip(*(each.records for each in known), strict=True))
        same = sum(_the_same(record.verdict for record in row) for row in rows_N)
        labeled = [row for row in rows_N if row[0].label is not None]
        right_N = [sum(record.verdict == record.label for record in row) for row in labeled]
        cells = [
            Cell(f"{len(rows_N):,}", number=len(rows_N)),
            _share(same, len(rows_N)),
            _share(len(rows_N) - same, len(rows_N)),
            _share(right_N.count(len(known)), len(labeled)),
            _share(right_N.count(0), len(labeled)),
        ]
        lines.append(Line(labels[task.name], cells))
    return lines


def _share(count: int, of: int) -> Cell:
    return Cell(f"{count:,}", f"{count / of:.0%}" if of else "", count)
