"""A leaderboard as pictures, for files and for the report.

Names are text of others: nothing in them is read as a formula, and what no picture can hold is
replaced. The same leaderboard gives the same bytes.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import refuse_existing, whole_file
from mtrl_judge.metrics.calibration import ReliabilityBin, reliability_curve
from mtrl_judge.metrics.rates import Counts
from mtrl_judge.metrics.records import confusion

from .analyses import Confidence, confidences
from .board import Column, Leaderboard
from .formats import NONE
from .runs import Estimate, Judged
from .tables import task_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of Okabe and Ito's palette, which colour-blind people tell apart; places and words say the same.
BLUE, VERMILION = "#0072B2", "#B8500A"
INK, MUTED, GRID = "#1F2933", "#5B6770", "#E3E7EB"
LEAST, MOST = "#F4F8FB", "#62B6EA"  # of a confusion matrix; INK can be read on either
_PANELS_A_ROW = 3
_LABEL_LENGTH = 26
_MOST_PIXELS = 12_000  # a side of a PNG
_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"


class Plot(NamedTuple):
    """A picture of a leaderboard."""

    name: str
    """Of its files, without the ending."""
    alt: str
    """What it shows, for those who do not see it."""
    figure: Figure


def write_plots(board: Leaderboard, folder: Path, *, force: bool) -> list[Path]:
    """Draw what the leaderboard has figures for, each as PNG and SVG; gives the files.

    `scores`, a panel a task; `in_against_out` of distribution; `confusion` and `reliability`, a
    panel for each judge and task, the latter where there are probabilities or votes.

    Raises:
        JudgeError: a file is there and `force` is not set, or the leaderboard has no figures.
    """
    with _drawing():
        plots = [plot for plot in (scores(board), *_others(board)) if plot is not None]
        if not plots:
            raise JudgeError("nothing to draw: no judge has a value of the metric")
        files = {plot.name: [folder / f"{plot.name}.{form}" for form in FORMATS] for plot in plots}
        for file in (file for own in files.values() for file in own):
            refuse_existing(file, force)
        for plot in plots:
            for file in files[plot.name]:
                with whole_file(file, force) as part:
                    _save(plot.figure, part, file.suffix[1:])
    return [file for own in files.values() for file in own]


FORMATS = ("png", "svg")


def _others(board: Leaderboard) -> tuple[Plot | None, ...]:
    return in_against_out(board), confusion_matrices(board), reliability(board)


def inline_svg(plot: Plot, prefix: str) -> str:
    """The picture as an element of an HTML page.

    Args:
        prefix: of its ids, which no other picture of the page has.
    """
    import io

    with _drawing():
        file = io.BytesIO()
        _save(plot.figure, file, "svg")
    root = ElementTree.fromstring(file.getvalue())
    for parent in root.iter():
        for child in [c for c in parent if c.tag in (f"{_SVG}metadata", f"{_SVG}style")]:
            parent.remove(child)  # a style would be the whole page's
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.attrib = {
            name.removeprefix(_XLINK): _own(name.removeprefix(_XLINK), value, prefix)
            for name, value in element.attrib.items()
        }
    width, height = root.attrib.pop("width"), root.attrib.pop("height")
    root.attrib |= {
        "role": "img",
        "aria-label": plot.alt,
        "style": f"stroke-linejoin:round;stroke-linecap:butt;width:{width};aspect-ratio:"
        f"{width.removesuffix('pt')}/{height.removesuffix('pt')}",
    }
    return ElementTree.tostring(root, encoding="unicode")


def _own(name: str, value: str, prefix: str) -> str:
    """An attribute's value with the ids in it made the picture's own."""
    if name == "id":
        return prefix + value
    if name == "href":
        return value.replace("#", f"#{prefix}", 1)
    return value.replace("url(#", f"url(#{prefix}")


@contextmanager
def _drawing() -> Iterator[None]:
    """Text is text, and nothing depends on the day or on chance; for drawing as for saving."""
    from matplotlib import rc_context

    settings: dict[Any, Any] = {
        "text.parse_math": False,
        "text.usetex": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "mtrl-judge",
        "font.family": ["DejaVu Sans"],
        "font.size": 8.5,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "ytick.labelcolor": INK,
        "figure.facecolor": "white",
        "figure.constrained_layout.h_pad": 0.07,
    }
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _save(figure: Figure, to: object, form: str) -> None:
    dpi = min(160, _MOST_PIXELS / max(figure.get_size_inches()))
    about = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    figure.savefig(to, format=form, dpi=dpi, metadata=about)  # type: ignore[arg-type]


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def label(text: str, limit: int = _LABEL_LENGTH) -> str:
    """A name on one line, cut in its middle where it is long; ends tell runs apart.

    >>> label("a judge\\u2028of\\x00 mine"), label("0123456789", 5)
    ('a judge of\\ufffd mine', '01…89')
    """
    line = "".join(
        " "
        if unicodedata.category(c) in ("Zl", "Zp") or c in "\t\n\r"
        # Cs: a JSON file can hold half a surrogate pair; Cc: no XML may hold it.
        else "\ufffd"
        if unicodedata.category(c) in ("Cc", "Cs", "Cn")
        else c
        for c in text
    )
    line = " ".join(line.split())
    kept = limit // 2
    return line if len(line) <= limit else f"{line[: limit - kept - 1]}…{line[-kept:]}"


def metric_name(metric: str) -> str:
    """
    >>> metric_name("macro_f1"), metric_name("flip_rate")
    ('Macro-F1', 'flip rate')
    """
    return {"macro_f1": "Macro-F1", "cohen_kappa": "Cohen's κ"}.get(
        metric, metric.replace("_", " ")
    )


# Scores


def scores(board: Leaderboard, task: Column | None = None) -> Plot | None:
    """The metric of each judge with its interval, a panel a task; None where no judge has it.

    All panels have one scale, whichever are drawn.

    Args:
        task: draw this one only, and say nothing of what its marks mean.
    """
    with _drawing():
        return _scores(board, board.tasks if task is None else [task], told=task is None)


def _scores(board: Leaderboard, tasks: Sequence[Column], *, told: bool) -> Plot | None:
    tasks = [task for task in tasks if _values(task, board.metric)]
    if not tasks:
        return None
    names = [run.name for run in board.runs]
    columns = min(_PANELS_A_ROW, len(tasks))
    rows = -(-len(tasks) // columns)
    width = 1.75 + 2.45 * columns if told else 3.5
    figure = _figure(width, rows * (0.21 * len(names) + 0.62) + (0.35 if told else 0.1))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    labels = task_labels([task.name for task in board.tasks])
    low, high = _limits(board)
    for axes, task in zip(panels, tasks, strict=False):
        _scores_panel(axes, task, names, board.metric)
        name = label(labels[task.name])
        if told:
            axes.set_title(name, loc="left", fontsize=9, fontweight="bold")
            axes.set_title("OOD" if task.role == "ood" else "", loc="right", fontsize=7)
        else:
            name += " (OOD)" if task.role == "ood" else ""
            figure.suptitle(name, x=0.02, ha="left", fontsize=9, fontweight="bold")
    panels[0].set_yticks(range(len(names)), [label(name) for name in names])
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    panels[0].set_xlim(low, high)
    for place, axes in enumerate(panels):
        axes.set_visible(place < len(tasks))
        # Below the last panel of each column; a row can be cut short.
        axes.tick_params(labelbottom=place + columns >= len(tasks), length=0)
    if told:
        _foot(figure, scores_legend(board))
    alt = "; ".join(_told(labels[task.name], task, names, board.metric) for task in tasks)
    return Plot("scores", f"{metric_name(board.metric)}, dots with 95 % intervals. {alt}", figure)


def _scores_panel(axes: Axes, task: Column, names: Sequence[str], metric: str) -> None:
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if metric == "macro_f1" and task.constant is not None:
        axes.axvline(task.constant, color=VERMILION, linewidth=1, linestyle=(0, (3, 2)))
    some_beaten = any(rank > 1 for rank in task.ranks.values())
    for place, name in enumerate(names):
        estimate = task.estimates.get(name, {}).get(metric, Estimate(None))
        beaten = task.ranks.get(name, 1) > 1
        text = NONE if estimate.value is None else f"{estimate.value:.2f}"
        axes.annotate(
            text,
            (1.02, place),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=7.5,
            color=MUTED if beaten or estimate.value is None else INK,
            fontweight="bold" if some_beaten and not beaten else "normal",
            annotation_clip=False,
        )
        if estimate.value is None:
            continue
        if estimate.low is not None and estimate.high is not None:
            axes.hlines(place, estimate.low, estimate.high, color=BLUE, linewidth=1.6, alpha=0.75)
        face = "white" if beaten else BLUE
        axes.plot(estimate.value, place, "o", markersize=5, color=BLUE, markerfacecolor=face)


def scores_legend(board: Leaderboard) -> str:
    """What the marks of :func:`scores` mean."""
    tasks, parts = board.tasks, [metric_name(board.metric)]
    if any(e.low is not None for task in tasks for e in _values(task, board.metric)):
        parts.append("bars: 95 % intervals")
    if any(rank > 1 for task in tasks for rank in task.ranks.values()):
        parts.append("hollow: another is better beyond doubt")
    if any(task.role == "ood" for task in tasks):
        parts.append("OOD: out of distribution")
    if board.metric == "macro_f1" and any(task.constant is not None for task in tasks):
        parts.append("dashed: always the commoner verdict")
    return " · ".join(parts)


def _told(title: str, task: Column, names: Sequence[str], metric: str) -> str:
    known = {name: task.estimates.get(name, {}).get(metric) for name in names}
    values = [
        f"{label(name)} {each.value:.2f}"
        for name, each in known.items()
        if each is not None and each.value is not None
    ]
    return f"{label(title)}: {', '.join(values)}"


def _values(column: Column, metric: str) -> list[Estimate]:
    found = (rates.get(metric) for rates in column.estimates.values())
    return [each for each in found if each is not None and each.value is not None]


def _limits(board: Leaderboard) -> tuple[float, float]:
    """Of all values, intervals and constant judges, with some room."""
    ends = [end for c in board.tasks for each in _values(c, board.metric) for end in each]
    if board.metric == "macro_f1":
        ends += [column.constant for column in board.tasks]
    return _roomy([end for end in ends if end is not None])


def _roomy(ends: Sequence[float]) -> tuple[float, float]:
    room = max(0.04, 0.06 * (max(ends) - min(ends)))
    return min(ends) - room, max(ends) + room


# In against out of distribution


def in_against_out(board: Leaderboard) -> Plot | None:
    """The mean over training tasks against that over the others; None where a mean is missing."""
    means = {column.role: column.estimates for column in board.means}
    points: dict[str, tuple[Estimate, Estimate]] = {}
    for run in board.runs:
        own = [means.get(role, {}).get(run.name, {}).get(board.metric) for role in ("train", "ood")]
        inside, outside = own
        if inside is not None and outside is not None and None not in (inside[0], outside[0]):
            points[run.name] = (inside, outside)
    if not points:
        return None
    with _drawing():
        return _in_against_out(board, points)


def _in_against_out(board: Leaderboard, points: Mapping[str, tuple[Estimate, Estimate]]) -> Plot:
    figure = _figure(5.3, 3.5)
    figure.set_layout_engine("none")  # none of them leaves room for the names beside a square
    axes = figure.add_axes((0.11, 0.14, 0.54, 0.83))
    low, high = _roomy(
        [end for pair in points.values() for e in pair for end in e if end is not None]
    )
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)
    axes.axline((low, low), slope=1, color=MUTED, linewidth=1, linestyle=(0, (3, 2)))
    axes.annotate(
        "as good out of distribution as in it",
        (0.015, 0.03),
        xycoords="axes fraction",
        rotation=45,
        rotation_mode="anchor",
        fontsize=7,
        color=MUTED,
    )
    for inside, outside in points.values():
        x, y = inside.value, outside.value
        assert x is not None
        assert y is not None
        if inside.low is not None and inside.high is not None:
            axes.hlines(y, inside.low, inside.high, color=BLUE, linewidth=1.3, alpha=0.55)
        if outside.low is not None and outside.high is not None:
            axes.vlines(x, outside.low, outside.high, color=BLUE, linewidth=1.3, alpha=0.55)
        axes.plot(x, y, "o", markersize=5, color=BLUE)
    _name_points(axes, points, low, high)
    metric = metric_name(board.metric)
    axes.set_xlabel(f"{metric} in distribution, mean of tasks")
    axes.set_ylabel("out of distribution, mean of tasks")
    alt = "; ".join(
        f"{label(name)}: {inside.value:.2f} in, {outside.value:.2f} out of distribution"
        for name, (inside, outside) in points.items()
    )
    return Plot("in_against_out", f"Mean {metric} of each judge. {alt}", figure)


def _name_points(
    axes: Axes, points: Mapping[str, tuple[Estimate, Estimate]], low: float, high: float
) -> None:
    """Names to the right, in the order of their points, each with a thin line to its own."""
    ordered = sorted(points, key=lambda name: (points[name][1].value or 0.0, name))
    gap = min(0.065, 1 / len(ordered)) * (high - low)
    heights: list[float] = []
    for name in ordered:
        wanted = points[name][1].value or 0.0
        heights.append(max(wanted, heights[-1] + gap) if heights else max(wanted, low))
    top = high
    for place in reversed(range(len(heights))):
        heights[place] = min(heights[place], top)
        top = heights[place] - gap
    for name, height in zip(ordered, heights, strict=True):
        inside, outside = points[name]
        axes.annotate(
            label(name),
            xy=(inside.value or 0.0, outside.value or 0.0),
            xytext=(high + 0.05 * (high - low), height),
            textcoords="data",
            va="center",
            fontsize=8,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.5, "relpos": (0, 0.5)},
        )


# A panel for each judge and task


def confusion_of(judged: Judged) -> Counts | None:
    """Labels by verdicts, C × C1; None where the rows are not known."""
    rows = [record for record in judged.records if record.label is not None]
    if not rows:
        return None
    labels = [record.label for record in rows if record.label is not None]
    return confusion(labels, [record.verdict for record in rows], judged.about["verdicts"])


def confusion_matrices(board: Leaderboard) -> Plot | None:
    """Labels (down) by verdicts (across): counts, shaded by their share of the label."""
    found = {
        (run.name, task): (counts, judged.about["verdicts"])
        for run in board.runs
        for task, judged in run.tasks.items()
        if (counts := confusion_of(judged)) is not None
    }
    if not found:
        return None
    with _drawing():
        figure, panels = _grid(board, list(found))
        for key, axes in panels.items():
            _confusion_panel(axes, *found[key])
        _foot(figure, "labels down, verdicts across · shaded by the share of the label's row")
    return Plot("confusion", "Confusion matrices, labels by verdicts.", figure)


def _confusion_panel(axes: Axes, counts_C_C1: Counts, verdicts: Sequence[str]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    shares_C_C1 = counts_C_C1 / counts_C_C1.sum(axis=1, keepdims=True).clip(1)
    scale = LinearSegmentedColormap.from_list("scale", [LEAST, MOST])
    axes.pcolormesh(shares_C_C1, cmap=scale, vmin=0, vmax=1, edgecolor="white", linewidth=1)
    axes.invert_yaxis()
    size = min(8.0, 26 / len(verdicts))
    for (row, column), count in [(at, int(counts_C_C1[at])) for at in _places(counts_C_C1)]:
        axes.text(
            column + 0.5,
            row + 0.5,
            f"{count}",
            ha="center",
            va="center",
            fontsize=size,
        )
    names = [label(verdict, 9) for verdict in verdicts]
    axes.set_xticks([n + 0.5 for n in range(len(names) + 1)], [*names, "none"], fontsize=size * 0.8)
    axes.set_yticks([n + 0.5 for n in range(len(names))], names, fontsize=size * 0.8)
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(False)


def _places(counts: Counts) -> Iterator[tuple[int, int]]:
    rows, columns = counts.shape
    return ((row, column) for row in range(rows) for column in range(columns))


def reliability(board: Leaderboard) -> Plot | None:
    """Share that is right against confidence; None without probabilities and votes."""
    known = {(sure_judge(each), each.task): each for each in confidences(board.runs)}
    found = {key: curve for key, each in known.items() if (curve := reliability_curve(each.found))}
    if not found:
        return None
    with _drawing():
        figure, panels = _grid(board, list(found), shared=True)
        for key, axes in panels.items():
            _reliability_panel(axes, found[key])
        _foot(figure, "share right against confidence; dots by their rows; on the line: calibrated")
    told = (_reliability_told(*key, curve) for key, curve in found.items())
    return Plot("reliability", f"Reliability of confidence. {'; '.join(told)}", figure)


def reliability_of(confidence: Confidence) -> Plot | None:
    """The same of one judge on one task, who are not named in it; None without labeled rows."""
    curve = reliability_curve(confidence.found)
    if not curve:
        return None
    with _drawing():
        figure = _figure(2.1, 2.0)
        _reliability_panel(figure.subplots(), curve)
    told = _reliability_told(sure_judge(confidence), confidence.task, curve)
    return Plot("reliability", f"Reliability of confidence. {told}", figure)


def _reliability_told(judge: str, task: str, bins: Sequence[ReliabilityBin]) -> str:
    curve = (f"{b.accuracy:.0%} right at {b.confidence:.0%}" for b in bins)
    return f"{label(judge)}, {label(task)}: {', '.join(curve)}"


def sure_judge(confidence: Confidence) -> str:
    """The judge, and by what it is sure where that is not its probability."""
    if confidence.kind == "probability":
        return confidence.judge
    return f"{confidence.judge}, {confidence.kind}"


def _reliability_panel(axes: Axes, bins: Sequence[ReliabilityBin]) -> None:
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)))
    confidence = [each.confidence for each in bins]
    accuracy = [each.accuracy for each in bins]
    most = max(each.n for each in bins)
    sizes = [5 + 35 * each.n / most for each in bins]
    axes.plot(confidence, accuracy, color=BLUE, linewidth=1, alpha=0.6)
    axes.scatter(
        confidence,
        accuracy,
        s=sizes,
        color=BLUE,
        linewidth=0.5,
        edgecolor="white",
        zorder=3,
        clip_on=False,
    )
    axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal")
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=6.5)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=6.5)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _grid(
    board: Leaderboard, found: Sequence[tuple[str, str]], *, shared: bool = False
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """A panel for each (judge, task) that was found: a row a judge, a column a task."""
    judges = list(dict.fromkeys(judge for judge, _ in found))
    tasks = [column.name for column in board.tasks if any(column.name == t for _, t in found)]
    figure = _figure(max(3.8, 1.35 * len(tasks) + 1.1), 1.3 * len(judges) + 0.5)
    grid = figure.subplots(len(judges), len(tasks), squeeze=False, sharex=shared, sharey=shared)
    labels = task_labels([column.name for column in board.tasks])
    panels = {}
    for row, judge in enumerate(judges):
        for column, task in enumerate(tasks):
            axes = grid[row, column]
            if row == 0:
                axes.set_title(label(labels[task], 18), fontsize=8, fontweight="bold")
            if column == 0:
                name = _on_two_lines(judge)
                axes.set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center", labelpad=8)
            if (judge, task) in found:
                panels[judge, task] = axes
            else:
                _empty(axes)
    return figure, panels


def _empty(axes: Axes) -> None:
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelleft=False, labelbottom=False)
    axes.text(0.5, 0.5, NONE, transform=axes.transAxes, ha="center", va="center", color=MUTED)


def _on_two_lines(name: str) -> str:
    """Broken before a date or number in brackets, which tells runs of one model apart."""
    head, bracket, tail = label(name, 40).partition(" (")
    return f"{label(head, 20)}\n{bracket.strip()}{tail}" if bracket else label(head, 20)


def _foot(figure: Figure, text: str) -> None:
    figure.supxlabel(text, fontsize=7, color=MUTED, x=0.01, ha="left")
