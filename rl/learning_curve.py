"""A run's ``log.jsonl`` as a picture: Macro-F1 in validation and reward in training, by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import read_json_lines, whole_file

# Okabe and Ito's palette, which colour-blind people tell apart; black is kept for the mean.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
MEAN = "mean"
_SHARE_SMOOTHED = 0.2
_LABEL_HEIGHT = 0.055  # of the axes

Points = list[tuple[int, float]]


def learning_curve(log: Path, out: Path) -> None:
    """Draw validation Macro-F1 by task and their mean, and the reward by task, over steps.

    The reward is a running mean over a fifth of the steps. A log without rewards, of SFT, has the
    loss in their place.

    Args:
        log: ``log.jsonl`` of a run.
        out: the PNG file to write; one that is there is replaced.

    Raises:
        JudgeError: the log cannot be read or has no figures.
    """
    lines = _read(log)
    validation = series(lines, "eval_", "/macro_f1", mean="eval_macro_f1")
    reward = series(lines, "", "/reward", mean="reward")
    loss = series(lines, "", "/loss", mean="loss")
    panels = [("Macro-F1 in validation", validation, 1)]
    steps = max((step for points in (reward or loss).values() for step, _ in points), default=0)
    window = max(1, round(_SHARE_SMOOTHED * steps))
    title = f"{'reward' if reward else 'loss'} in training"
    title += f" (mean over {window} steps)" if window > 1 else ""
    panels.append((title, reward or loss, window))
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        raise JudgeError(f"{log}: has no figures to draw; a run writes some at each logged step")
    _draw(panels, out)


def series(
    lines: Sequence[Mapping[str, Any]], prefix: str, suffix: str, *, mean: str
) -> dict[str, Points]:
    """The points of each figure named ``prefix``task``suffix``, by short name, and of ``mean``.

    >>> series([{"step": 3, "a/reward": 0.5, "reward": 0.7}], "", "/reward", mean="reward")
    {'a': [(3, 0.5)], 'mean': [(3, 0.7)]}
    """
    found: dict[str, Points] = {}
    for line in lines:
        for name, value in line.items():
            is_task = name.startswith(prefix) and name.endswith(suffix)
            if value is None or not (is_task or name == mean):
                continue
            task = name.removeprefix(prefix).removesuffix(suffix).removeprefix("mtrl_judge_")
            found.setdefault(MEAN if name == mean else task, []).append((line["step"], value))
    return {name: found[name] for name in sorted(found, key=lambda name: (name == MEAN, name))}


def smoothed(points: Points, window: int) -> Points:
    """Each value as the mean of the values in the ``window`` steps up to its own.

    >>> smoothed([(1, 0.0), (2, 1.0), (9, 5.0)], 2)
    [(1, 0.0), (2, 0.5), (9, 5.0)]
    """
    return [
        (step, float(np.mean([v for s, v in points if step - window < s <= step])))
        for step, _ in points
    ]


def spaced(heights: Sequence[float], gap: float) -> list[float]:
    """The heights moved apart, in their order, until neighbours are ``gap`` from one another.

    >>> spaced([0.5, 0.5], 0.25)
    [0.375, 0.625]
    """
    order = sorted(range(len(heights)), key=heights.__getitem__)
    clusters: list[list[int]] = []

    def centre(cluster: list[int]) -> float:
        return sum(heights[i] for i in cluster) / len(cluster)

    for place in order:
        clusters.append([place])
        while len(clusters) > 1 and (
            centre(clusters[-1]) - centre(clusters[-2])
            < gap * (len(clusters[-1]) + len(clusters[-2])) / 2
        ):
            last = clusters.pop()
            clusters[-1] += last
    moved = list(heights)
    for cluster in clusters:
        lowest = centre(cluster) - gap * (len(cluster) - 1) / 2
        for number, place in enumerate(cluster):
            moved[place] = lowest + gap * number
    return moved


def _read(log: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_json_lines(log)]


def _draw(panels: Sequence[tuple[str, dict[str, Points], int]], out: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = sorted({name for _, lines, _ in panels for name in lines} - {MEAN})
    styles = dict(zip(names, cycle([(c, d) for d in DASHES for c in COLOURS]), strict=False))
    figure = Figure(figsize=(8, 3.6 * len(panels)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, lines, window) in zip(
        figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels, strict=True
    ):
        for name, points in lines.items():
            colour, dash = styles.get(name, ("black", "-"))
            steps, values = zip(*smoothed(points, window), strict=True)
            axes.plot(
                steps,
                values,
                color=colour,
                linestyle=dash,
                linewidth=2.6 if name == MEAN else 1.3,
                marker="o" if len(points) < 40 and window == 1 else None,
                markersize=3,
            )
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        _label(
            axes, {name: smoothed(points, window)[-1][1] for name, points in lines.items()}, styles
        )
    with whole_file(out, force=True) as part:
        figure.savefig(part, format="png")


def _label(axes: Any, ends: Mapping[str, float], styles: Mapping[str, Any]) -> None:
    """Each line's name beside its end, so that no legend needs to be matched by colour."""
    low, high = axes.get_ylim()
    heights = spaced([(end - low) / (high - low) for end in ends.values()], _LABEL_HEIGHT)
    for (name, end), height in zip(ends.items(), heights, strict=True):
        axes.annotate(
            f"{name} {end:.2f}",
            xy=(1.02, height),
            xycoords="axes fraction",
            va="center",
            fontsize=8,
            fontweight="bold" if name == MEAN else "normal",
            color=styles.get(name, ("black", "-"))[0],
        )
