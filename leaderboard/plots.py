"""The leaderboard's plots, as files and for the report.

Names come from others: nothing in them is parsed as a formula, and characters that no image can
hold are replaced. The same leaderboard gives the same bytes.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
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
from .formats import NONE, format_number, metric_name, one_line, task_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
# From Okabe and Ito's colorblind-safe palette; position and text always say the same as color.
BLUE, VERMILION = "#0072B2", "#B8500A"
INK, MUTED, GRID = "#1F2933", "#5B6770", "#E3E7EB"
LIGHT, DARK = "#F4F8FB", "#62B6EA"  # of a confusion matrix; INK is readable on both
_PANELS_PER_ROW = 3
SCORE_LEGEND = (
    "bars: 95 % intervals · hollow: another judge ranks above · "
    "dashed: majority-class baseline · OOD: out of distribution"
)
_MAX_PIXELS = 12_000  # per side of a PNG
_DASHED: Any = (0, (3, 2))
_SETTINGS: dict[Any, Any] = {
    "text.parse_math": False,
    "text.usetex": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "mtrl-judge",
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
    "figure.facecolor": "white",
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
    """Draw every plot that the leaderboard has data for as PNG and SVG, and return the files.

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
    """A plot as the address of an image in a page that loads nothing."""
    file = io.BytesIO()
    _save(plot.figure, file, "svg")
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _save(figure: Figure, target: Any, form: str) -> None:
    dpi = min(160, _MAX_PIXELS / max(figure.get_size_inches()))
    metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    figure.savefig(target, format=form, dpi=dpi, metadata=metadata)


def _figure(width: float, height: float, footer: str = "") -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if footer:
        figure.supxlabel(footer, fontsize=7, color=MUTED, x=0.01, ha="left")
    return figure


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
    tasks = [column for column in board.tasks if column.scores_of(board.metric)]
    if not tasks:
        return None
    names = [run.name for run in board.runs]
    n_columns = min(_PANELS_PER_ROW, len(tasks))
    n_rows = -(-len(tasks) // n_columns)
    height = n_rows * (0.21 * len(names) + 0.62) + 0.35
    footer = f"{metric_name(board.metric)} · {SCORE_LEGEND}"
    figure = _figure(1.75 + 2.45 * n_columns, height, footer)
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel()
    labels = task_labels([column.name for column in board.tasks])
    for axes, column in zip(panels, tasks, strict=False):
        _score_panel(axes, column, names, board.metric)
        title = one_line(labels[column.name], 26)
        axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
        axes.set_title("OOD" if column.role == "ood" else "", loc="right", fontsize=7)
    scores = [s.estimate for column in tasks for s in column.scores_of(board.metric).values()]
    baselines = [Estimate(column.majority) for column in tasks]
    panels[0].set_yticks(range(len(names)), [one_line(name, 26) for name in names])
    panels[0].set(ylim=(len(names) - 0.4, -0.6), xlim=_limits(_values([*scores, *baselines])))
    for index, axes in enumerate(panels):
        axes.set_visible(index < len(tasks))
        # Tick labels go below the last panel of each column; the last row can be shorter.
        axes.tick_params(labelbottom=index + n_columns >= len(tasks), length=0)
    return Plot("scores", f"{metric_name(board.metric)} of each judge with its interval", figure)


def _score_panel(axes: Axes, task: Column, names: Sequence[str], metric: str) -> None:
    axes.grid(axis="x")
    axes.spines[["top", "right", "left"]].set_visible(False)
    if task.majority is not None:
        axes.axvline(task.majority, color=VERMILION, linewidth=1, linestyle=_DASHED)
    value_J, low_J, high_J = _values([task.estimate(name, metric) for name in names])
    beaten = [name in task.ranks and task.ranks[name].best > 1 for name in names]
    axes.hlines(range(len(names)), low_J, high_J, color=BLUE, linewidth=1.6, alpha=0.75)
    faces = ["white" if b else BLUE for b in beaten]
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
    judges = [run.name for run in board.runs if run.name in board.gaps]
    if not judges:
        return None
    figure = _figure(5.3, max(3.5, 0.2 * len(judges)))
    axes = figure.subplots()
    x_J, y_J = (_values([mean.estimate(j, board.metric) for j in judges]) for mean in board.means)
    low, high = _limits(np.stack([x_J, y_J]))
    metric = metric_name(board.metric)
    axes.set(
        xlim=(low, high),
        ylim=(low, high),
        aspect="equal",
        xlabel=f"{metric} in distribution, mean of tasks",
        ylabel="out of distribution, mean of tasks",
    )
    axes.grid()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)
    axes.axline((low, low), slope=1, color=MUTED, linewidth=1, linestyle=_DASHED)
    diagonal: Any = {"rotation": 45, "rotation_mode": "anchor", "fontsize": 7, "color": MUTED}
    axes.text(0.015, 0.03, "no generalization gap", transform=axes.transAxes, **diagonal)
    axes.hlines(y_J[0], x_J[1], x_J[2], color=BLUE, linewidth=1.3, alpha=0.55)
    axes.vlines(x_J[0], y_J[1], y_J[2], color=BLUE, linewidth=1.3, alpha=0.55)
    for number, (name, x, y) in enumerate(zip(judges, x_J[0], y_J[0], strict=True), 1):
        label = f"{number}  {one_line(name, 26)}"
        axes.plot(x, y, "o", markersize=5, color=BLUE, label=label)
        axes.annotate(str(number), (x, y), (4, 4), textcoords="offset points", fontsize=7)
    # Beside the square, because the names of similar judges would cover each other in it.
    figure.legend(loc="outside right upper", frameon=False, handlelength=0.5, fontsize=8)
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
    footer = "labels in rows, verdicts in columns · shaded by the share of the row"
    figure, panels = _grid(board, list(matrices), footer)
    for key, axes in panels.items():
        _confusion_panel(axes, *matrices[key])
    return Plot("confusion", "Confusion matrices, labels by verdicts", figure)


def _confusion_panel(axes: Axes, counts_C_C1: Counts, verdicts: Sequence[str]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    shares_C_C1 = counts_C_C1 / counts_C_C1.sum(axis=1, keepdims=True).clip(1)
    colors = LinearSegmentedColormap.from_list("shares", [LIGHT, DARK])
    axes.pcolormesh(shares_C_C1, cmap=colors, vmin=0, vmax=1, edgecolor="white", linewidth=1)
    axes.invert_yaxis()
    size = min(8.0, 26 / len(verdicts))
    for row, counts_C1 in enumerate(counts_C_C1.tolist()):
        for column, count in enumerate(counts_C1):
            center = (column + 0.5, row + 0.5)
            axes.text(*center, str(count), ha="center", va="center", fontsize=size)
    names = [one_line(verdict, 9) for verdict in verdicts]
    axes.set_xticks([n + 0.5 for n in range(len(names) + 1)], [*names, "none"], fontsize=size * 0.8)
    axes.set_yticks([n + 0.5 for n in range(len(names))], names, fontsize=size * 0.8)
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
    figure, panels = _grid(board, list(curves), footer, shared=True)
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
        edgecolor="white",
        zorder=3,
        clip_on=False,
    )
    axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal")
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=6.5)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=6.5)
    axes.grid()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _grid(
    board: Leaderboard, keys: Sequence[tuple[str, str]], footer: str, *, shared: bool = False
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """A panel for each (judge, task): a row for each judge, a column for each task."""
    judges = list(dict.fromkeys(judge for judge, _ in keys))
    tasks = [column.name for column in board.tasks if any(column.name == t for _, t in keys)]
    figure = _figure(max(3.8, 1.35 * len(tasks) + 1.1), 1.3 * len(judges) + 0.5, footer)
    grid = figure.subplots(len(judges), len(tasks), squeeze=False, sharex=shared, sharey=shared)
    labels = task_labels([column.name for column in board.tasks])
    for axes, task in zip(grid[0], tasks, strict=True):
        axes.set_title(one_line(labels[task], 18), fontsize=8, fontweight="bold")
    panels = {}
    for row, judge in zip(grid, judges, strict=True):
        # Broken before the date or number in parentheses that distinguishes runs of one model.
        head, parenthesis, tail = one_line(judge, 40).partition(" (")
        name = one_line(head, 20) + (f"\n({tail}" if parenthesis else "")
        row[0].set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center", labelpad=8)
        for axes, task in zip(row, tasks, strict=True):
            if (judge, task) in keys:
                panels[judge, task] = axes
            else:
                axes.spines[:].set_visible(False)
                axes.tick_params(length=0, labelleft=False, labelbottom=False)
                dash: Any = {"transform": axes.transAxes, "ha": "center", "va": "center"}
                axes.text(0.5, 0.5, NONE, color=MUTED, **dash)
    return figure, panels
