"""The leaderboard's plots, as files and for the report.

Names come from others: nothing in them is parsed as a formula, and characters that no image can
hold are replaced. The same leaderboard gives the same bytes.
"""

from __future__ import annotations

import base64
import io
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import refuse_existing, whole_file
from mtrl_judge.metrics.bootstrap import Estimate
from mtrl_judge.metrics.calibration import ReliabilityBin, reliability_curve
from mtrl_judge.metrics.rates import Counts, Rates

from .analyses import Confidence, confidences
from .board import Column, Leaderboard
from .formats import NONE, format_number, metric_name, metric_names, one_line, task_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
# From Okabe and Ito's colorblind-safe palette; position and text always say the same as color.
BLUE, VERMILION = "#0072B2", "#B8500A"
INK, MUTED, GRID, PAPER = "#1F2933", "#5B6770", "#E3E7EB", "#FFFFFF"
LIGHT, DARK = "#F4F8FB", "#62B6EA"  # of a confusion matrix; INK is readable on both
IN_THE_DARK = {
    BLUE: "#7CC4F2",
    VERMILION: "#F0A06A",
    INK: "#E4E8EC",
    MUTED: "#A7B1BB",
    GRID: "#343D47",
    PAPER: "#1C2229",
}
"""What a page in dark mode shows in place of each color of a plot; the last is its `--card`."""
# An image evaluates media queries itself. Text never gets into a style attribute.
_DARK_RULES = "".join(
    f'[style*="{part}: {light.lower()}"] {{{part}: {dark} !important}}'
    for light, dark in IN_THE_DARK.items()
    for part in ("fill", "stroke")
)
_DARK_STYLE = f"@media screen and (prefers-color-scheme: dark) {{{_DARK_RULES}}}"
_MAX_PIXELS = 12_000  # per side of a PNG
_DASHED: Any = (0, (3, 2))
_FOOTER: dict[str, Any] = {"fontsize": 7, "color": MUTED, "linespacing": 1.3}
_SETTINGS: dict[Any, Any] = {
    "text.parse_math": False,
    "text.usetex": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "mtrl-judge",
    "pdf.fonttype": 42,  # TrueType: journals refuse type 3, and text can be searched
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "figure.constrained_layout.h_pad": 0.07,
}


class Plot(NamedTuple):
    """A plot of a leaderboard."""

    name: str
    """Of its files, without the suffix."""
    alt: str
    """What it shows, for readers who cannot see it."""
    figure: Figure


@contextmanager
def _style() -> Iterator[None]:
    """For drawing as for saving: text is text, and nothing depends on the date or on chance."""
    from matplotlib import rc_context

    with rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


@_style()
def write_plots(board: Leaderboard, folder: Path, *, force: bool) -> list[Path]:
    """Draw every plot that the leaderboard has data for in all formats, and return the files.

    `scores` has a panel for each task; `in_against_out` of distribution; `confusion` and
    `reliability` (with probabilities or votes) have a panel for each judge and task.

    Raises:
        JudgeError: a file exists and `force` is not set, or there is nothing to draw.
    """
    drawn = (
        score_plot(board),
        generalization_plot(board),
        confusion_plot(board),
        reliability_plot(board, confidences(board.runs)),
    )
    files = {
        folder / f"{plot.name}.{form}": plot
        for plot in drawn
        if plot is not None
        for form in FORMATS
    }
    if not files:
        raise JudgeError("nothing to draw: no judge has a value of the metric")
    for file in files:
        refuse_existing(file, force)
    for file, plot in files.items():
        with whole_file(file) as part:
            _save(plot.figure, part, file.suffix[1:])
    return list(files)


@_style()
def data_address(plot: Plot) -> str:
    """A plot as the address of an image in a page that loads nothing; dark where the page is."""
    file = io.BytesIO()
    _save(plot.figure, file, "svg")
    # The first style is matplotlib's own; in text, "<" is escaped.
    svg = file.getvalue().replace(b"</style>", _DARK_STYLE.encode("ascii") + b"</style>", 1)
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")


def _save(figure: Figure, target: Any, form: str) -> None:
    dpi = min(160, _MAX_PIXELS / max(figure.get_size_inches()))
    left_out = {
        "png": ["Software"],
        "svg": ["Date", "Creator"],
        "pdf": ["CreationDate", "Creator", "Producer"],
    }
    figure.savefig(target, format=form, dpi=dpi, metadata=dict.fromkeys(left_out[form]))


def _lines(text: str, width: float) -> list[str]:
    """A footer in lines of at most so many inches."""
    return textwrap.wrap(text, int(width * 72 / (0.6 * _FOOTER["fontsize"])))


def _values(estimates: Sequence[Estimate]) -> Rates:
    """Value, low and high, 3 × N; nan where unknown."""
    return np.array([astuple(estimate) for estimate in estimates], dtype=float).T


def _limits(values: Rates) -> tuple[float, float]:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = max(0.04, 0.06 * (high - low))
    return low - margin, high + margin


# Scores


@_style()
def score_plot(board: Leaderboard) -> Plot | None:
    """The metric of each judge with its interval, a panel for each task; None without values."""
    from matplotlib.figure import Figure

    tasks = [column for column in board.tasks if column.scores_of(column.metric)]
    if not tasks:
        return None
    names = [run.name for run in board.runs]
    # At most one panel is empty; the legend goes there.
    n_columns = min(2 if len(tasks) % 3 == 1 else 3, len(tasks))
    n_rows = -(-len(tasks) // n_columns)
    legend = _score_legend(board, tasks)
    width, height = 1.75 + 2.45 * n_columns, n_rows * (0.21 * len(names) + 0.62)
    has_empty = len(tasks) < n_rows * n_columns
    lines = legend if has_empty else _lines(" · ".join(legend), width)
    figure = Figure(
        figsize=(width, height + (0 if has_empty else 0.1 + 0.13 * len(lines))),
        layout="constrained",
    )
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel()
    labels = task_labels([column.name for column in board.tasks])
    for axes, column in zip(panels, tasks, strict=False):
        _score_panel(axes, column, names)
        title = one_line(labels[column.name], 26)
        axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
        beside = [metric_name(column.metric)] if len(board.metrics) > 1 else []
        beside += ["OOD"] if column.role == "ood" else []
        axes.set_title(" · ".join(beside), loc="right", fontsize=7)
    scores = [s.estimate for column in tasks for s in column.scores_of(column.metric).values()]
    baselines = [Estimate(column.majority) for column in tasks]
    panels[0].set_yticks(range(len(names)), [one_line(name, 26) for name in names])
    panels[0].set(ylim=(len(names) - 0.4, -0.6), xlim=_limits(_values([*scores, *baselines])))
    for index, axes in enumerate(panels):
        # Tick labels go below the last panel of each column; the last row can be shorter.
        axes.tick_params(labelbottom=index + n_columns >= len(tasks), length=0)
    if has_empty:
        panels[-1].set_axis_off()
        place: Any = {"va": "top", "transform": panels[-1].transAxes, "in_layout": False}
        panels[-1].text(0, 1, "\n".join(lines), **_FOOTER, **place)
    else:
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", **_FOOTER)
    return Plot("scores", f"{metric_names(board.metrics)} of each judge with its interval", figure)


def _score_legend(board: Leaderboard, tasks: Sequence[Column]) -> list[str]:
    """What the marks mean that the plot has."""
    scores = [s.estimate for column in tasks for s in column.scores_of(column.metric).values()]
    beaten = any(rank.best > 1 for column in tasks for rank in column.ranks.values())
    meanings = {
        metric_names(board.metrics): True,
        "bars: 95 % intervals": any(estimate.low is not None for estimate in scores),
        "hollow: another judge ranks above": beaten,
        "dashed: majority-class baseline": any(column.majority is not None for column in tasks),
        "OOD: out of distribution": any(column.role == "ood" for column in tasks),
    }
    return [meaning for meaning, present in meanings.items() if present]


def _score_panel(axes: Axes, task: Column, names: Sequence[str]) -> None:
    axes.grid(axis="x")
    axes.spines[["top", "right", "left"]].set_visible(False)
    if task.majority is not None:
        axes.axvline(task.majority, color=VERMILION, linewidth=1, linestyle=_DASHED)
    value_J, low_J, high_J = _values([task.estimate(name, task.metric) for name in names])
    beaten = [name in task.ranks and task.ranks[name].best > 1 for name in names]
    axes.hlines(range(len(names)), low_J, high_J, color=BLUE, linewidth=1.6, alpha=0.75)
    faces = [PAPER if b else BLUE for b in beaten]
    axes.scatter(value_J, range(len(names)), s=25, edgecolors=BLUE, facecolors=faces, zorder=3)
    for index, value in enumerate(value_J.tolist()):
        axes.annotate(
            format_number(value, 2),
            (1.02, index),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=7.5,
            color=MUTED if beaten[index] else INK,
            fontweight="bold" if any(beaten) and not beaten[index] else "normal",
            annotation_clip=False,
        )


# In against out of distribution


@_style()
def generalization_plot(board: Leaderboard) -> Plot | None:
    """Each judge's mean in distribution against its mean out of distribution; None without both."""
    from matplotlib.figure import Figure

    judges = [run.name for run in board.runs if run.name in board.gaps]
    if not judges:
        return None
    side, left, bottom, line = 3.3, 0.6, 0.6, 0.16
    n_lines = -(-len(judges) // 2)
    width, height = left + side + 0.15, 0.1 + side + bottom + line * n_lines
    figure = Figure(figsize=(width, height))
    below = height - 0.1 - side
    axes = figure.add_axes((left / width, below / height, side / width, side / height))
    x_J, y_J = (_values([mean.estimate(j, board.metric) for j in judges]) for mean in board.means)
    low, high = _limits(np.stack([x_J, y_J]))
    metric = metric_name(board.metric)
    axes.set(
        xlim=(low, high),
        ylim=(low, high),
        xlabel=f"{metric} in distribution, mean of tasks",
        ylabel="out of distribution, mean of tasks",
    )
    axes.grid()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)
    axes.axline((low, low), slope=1, color=MUTED, linewidth=1, linestyle=_DASHED)
    diagonal: Any = {"rotation": 45, "rotation_mode": "anchor", "fontsize": 7, "color": MUTED}
    axes.text(0.015, 0.045, "no generalization gap", transform=axes.transAxes, **diagonal)
    axes.hlines(y_J[0], x_J[1], x_J[2], color=BLUE, linewidth=1.3, alpha=0.55)
    axes.vlines(x_J[0], y_J[1], y_J[2], color=BLUE, linewidth=1.3, alpha=0.55)
    for number, (name, x, y) in enumerate(zip(judges, x_J[0], y_J[0], strict=True), 1):
        axes.plot(x, y, "o", markersize=5, color=BLUE)
        axes.annotate(str(number), (x, y), (4, 4), textcoords="offset points", fontsize=7)
        # Below the square, because the names of similar judges would cover each other in it.
        column, row = divmod(number - 1, n_lines)
        place = (0.1 + column * width / 2) / width, (below - bottom - row * line) / height
        figure.text(*place, f"{number}  {one_line(name, 24)}", fontsize=7.5)
    return Plot("in_against_out", f"Mean {metric} of each judge in and out of distribution", figure)


# A panel for each judge and task


@_style()
def confusion_plot(board: Leaderboard) -> Plot | None:
    """Labels (rows) by verdicts (columns): counts, shaded by their share of the label."""
    matrices = {
        (run.name, task): (counts_C_C1, result.verdicts)
        for run in board.runs
        for task, result in run.tasks.items()
        if (counts_C_C1 := result.confusion).any()
    }
    if not matrices:
        return None
    sizes = {}
    for (_, task), (counts_C_C1, _) in matrices.items():
        n_rows, n_columns = counts_C_C1.shape
        cell = min(max(0.2, 0.46 - 0.03 * n_rows), _WIDEST / n_columns)
        sizes[task] = (cell * n_columns, cell * n_rows)
    footer = "labels in rows, verdicts in columns · shaded by the share of the row"
    figure, panels = _grid(board, sizes, list(matrices), footer)
    for key, axes in panels.items():
        _confusion_panel(axes, *matrices[key], cell=sizes[key[1]][1] / len(matrices[key][1]))
    return Plot("confusion", "Confusion matrices, labels by verdicts", figure)


def _confusion_panel(axes: Axes, counts_C_C1: Counts, verdicts: Sequence[str], cell: float) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    shares_C_C1 = counts_C_C1 / counts_C_C1.sum(axis=1, keepdims=True).clip(1)
    colors = LinearSegmentedColormap.from_list("shares", [LIGHT, DARK])
    axes.pcolormesh(shares_C_C1, cmap=colors, vmin=0, vmax=1, edgecolor=PAPER, linewidth=1)
    axes.invert_yaxis()
    points = 72 * cell
    if points >= 12:  # smaller counts cannot be read
        for (row, column), count in np.ndenumerate(counts_C_C1):
            if count or len(verdicts) <= 3:
                # Four digits fit.
                size = min(8.0, points / (0.64 * max(3, len(str(count)))))
                center = (column + 0.5, row + 0.5)
                axes.text(*center, str(count), ha="center", va="center", fontsize=size)
    size = min(6.5, max(5, 0.3 * points))
    length = max(3, int(points / (0.6 * size)))
    names = [one_line(verdict, length) for verdict in verdicts]
    upright = max(map(len, names)) <= 2
    axes.set_xticks([n + 0.5 for n in range(len(names) + 1)], [*names, "none"], fontsize=size)
    axes.set_yticks(
        [n + 0.5 for n in range(len(names))],
        names,
        fontsize=size,
        rotation=0 if upright else 90,
        va="center",
    )
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(False)


@_style()
def reliability_plot(board: Leaderboard, known: Sequence[Confidence]) -> Plot | None:
    """Accuracy against confidence, a panel for each judge and task; None without labeled rows."""
    curves = {
        (confidence.title, confidence.result.task): curve
        for confidence in known
        if (curve := reliability_curve(confidence.predictions))
    }
    if not curves:
        return None
    footer = "accuracy against confidence; dots sized by rows; on the line: calibrated"
    sizes = {task: (1.15, 1.15) for _, task in curves}
    figure, panels = _grid(board, sizes, list(curves), footer)
    for key, axes in panels.items():
        _reliability_panel(axes, curves[key])
    return Plot("reliability", "Accuracy against confidence", figure)


def _reliability_panel(axes: Axes, bins: Sequence[ReliabilityBin]) -> None:
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=_DASHED)
    confidence = [bin_.confidence for bin_ in bins]
    accuracy = [bin_.accuracy for bin_ in bins]
    largest = max(bin_.n for bin_ in bins)
    axes.plot(confidence, accuracy, color=BLUE, linewidth=1, alpha=0.6)
    axes.scatter(
        confidence,
        accuracy,
        s=[5 + 35 * bin_.n / largest for bin_ in bins],
        color=BLUE,
        linewidth=0.5,
        edgecolor=PAPER,
        zorder=3,
        clip_on=False,
    )
    axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal")
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=6)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=6)
    axes.grid()
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(False)


# Inches. With its margins, a grid is at most as large as a page.
_PAGE_WIDTH, _PAGE_HEIGHT = 9.2, 11.2
_WIDEST = 7.0  # panel
_GAP_X, _GAP_Y, _TITLE, _MARGIN = 0.3, 0.25, 0.28, 0.08


def _grid(
    board: Leaderboard,
    sizes: Mapping[str, tuple[float, float]],
    keys: Sequence[tuple[str, str]],
    footer: str,
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """A panel for each (judge, task) of `keys`: a row for each judge, a column for each task.

    Tasks that do not fit beside each other continue in further rows. Judges and tasks for which the
    page has no room are left out, the last of the leaderboard first, and the footer says so.

    Panels are placed by hand: matplotlib's layouts draw every panel twice and leave gaps where a
    panel is missing.

    Args:
        sizes: width and height of a task's panels in inches.
    """
    from matplotlib.figure import Figure

    judges = list(dict.fromkeys(judge for judge, _ in keys))
    bands = _bands({task.name: sizes[task.name] for task in board.tasks if task.name in sizes})
    n_judges = max(1, int((_PAGE_HEIGHT - _TITLE) // (sizes[bands[0][0]][1] + _GAP_Y)))
    shown = judges[:n_judges]
    heights = [_TITLE + len(shown) * (sizes[band[0]][1] + _GAP_Y) for band in bands]
    bands = [band for n, band in enumerate(bands) if n == 0 or sum(heights[: n + 1]) < _PAGE_HEIGHT]
    n_tasks = sum(map(len, bands))
    if len(shown) < len(judges) or n_tasks < len(sizes):
        footer += (
            f" · shown: {len(shown)} of {len(judges)} judges and {n_tasks} of {len(sizes)} tasks; "
            "the tables of the HTML report have all"
        )
    names = {judge: _name_lines(judge) for judge in shown}
    widest = max(_text_width(line, 8) for lines in names.values() for line in lines)
    left = _MARGIN + widest + _GAP_X
    width = left + max(sum(sizes[task][0] + _GAP_X for task in band) for band in bands)
    width = max(width, 2.4)
    lines = _lines(footer, width - 2 * _MARGIN)
    height = sum(heights[: len(bands)]) + 0.13 * len(lines) + 2 * _MARGIN
    figure = Figure(figsize=(width, height))

    def at(x: float, y: float) -> tuple[float, float]:
        return x / width, 1 - y / height

    labels = task_labels([column.name for column in board.tasks])
    panels, top = {}, _MARGIN
    for band in bands:
        panel_width, panel_height = sizes[band[0]]
        columns = {task: left + n * (panel_width + _GAP_X) for n, task in enumerate(band)}
        for task, x in columns.items():
            title = one_line(labels[task], int((panel_width + 0.25) * 13))
            center: Any = {"ha": "center", "va": "center"}
            figure.text(
                *at(x + panel_width / 2, top + 0.1),
                title,
                fontsize=8,
                fontweight="bold",
                **center,
            )
        top += _TITLE - 0.06
        for judge in shown:
            middle = top + panel_height / 2
            name_at = at(left - _GAP_X + 0.04, middle)
            figure.text(*name_at, "\n".join(names[judge]), fontsize=8, ha="right", va="center")
            for task, x in columns.items():
                if (judge, task) in keys:
                    corner = at(x, top + panel_height)
                    size = (panel_width / width, panel_height / height)
                    panels[judge, task] = figure.add_axes((*corner, *size))
                else:
                    figure.text(*at(x + panel_width / 2, middle), NONE, color=MUTED, **center)
            top += panel_height + _GAP_Y
        top += 0.06
    figure.text(*at(_MARGIN, height - _MARGIN), "\n".join(lines), va="bottom", **_FOOTER)
    return figure, panels


def _name_lines(judge: str) -> list[str]:
    """A judge's name in lines of about 20 characters, broken after a separator.

    The date or number in parentheses that distinguishes runs of one model has its own line.
    """
    head, parenthesis, tail = one_line(judge, 60).partition(" (")
    lines, rest = [], one_line(head, 38)
    while len(rest) > 20:
        end = max((rest.rfind(separator, 5, 20) for separator in "-_/ ."), default=-1)
        end = 20 if end < 0 else end + 1
        lines.append(rest[:end])
        rest = rest[end:]
    return [*lines, rest, *([f"({tail}"] if parenthesis else [])]


def _bands(sizes: Mapping[str, tuple[float, float]]) -> list[list[str]]:
    """Tasks beside each other, with panels of one size, as evenly as possible."""
    bands = []
    for size, tasks in groupby(sorted(sizes, key=lambda task: sizes[task]), sizes.__getitem__):
        names = list(tasks)
        fit = max(1, int((_PAGE_WIDTH - 1.6) // (size[0] + _GAP_X)))
        n_bands = -(-len(names) // fit)
        length = -(-len(names) // n_bands)
        bands += [names[start : start + length] for start in range(0, len(names), length)]
    return bands


def _text_width(text: str, size: float) -> float:
    """Inches that a line of text takes."""
    from matplotlib.textpath import TextPath

    return max(0.0, float(TextPath((0, 0), text, size=size).get_extents().width) / 72)
