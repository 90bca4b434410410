"""A run's ``log.jsonl`` as a plot, by task: the score in validation, what the verdicts rest on, and
the reward in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import read_json_lines, whole_file
from mtrl_judge.leaderboard.formats import metric_name

# The palette of Okabe and Ito, distinguishable for color-blind readers; black is for the mean.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
MEAN = "mean"
_SHARE_SMOOTHED = 0.2

Points = list[tuple[int, float]]


def learning_curve(log: Path, out: Path) -> None:
    """Plot each task's validation score and reward, and their means, over steps.

    Between them, on the same steps, are the share of the most frequent verdict and, for tasks with
    facts, that of the facts stated: a score that rises while the facts fall is no better judge. The
    reward is a running mean over a fifth of the steps. The log of an SFT run has no rewards;
    the loss is plotted instead.

    Args:
        log: ``log.jsonl`` of a run.
        out: the PNG file to write; an existing one is replaced.

    Raises:
        JudgeError: the log cannot be read or has no figures.
    """
    lines = [line for _, line in read_json_lines(log)]
    names = dict.fromkeys(name for line in lines for name in line)
    # Of what validation logs, the mean score alone has no task in its name.
    means = (name for name in names if name.startswith("eval_") and "/" not in name)
    headline = next(means, "eval_macro_f1").removeprefix("eval_")
    validation = series(lines, "eval_", f"/{headline}", mean=f"eval_{headline}")
    figure = "reward" if "reward" in names else "loss"
    training = series(lines, "", f"/{figure}", mean=figure)
    steps = max((step for points in training.values() for step, _ in points), default=0)
    window = max(1, round(_SHARE_SMOOTHED * steps))
    title = f"{figure} in training" + (f" (mean over {window} steps)" if window > 1 else "")
    panels = [
        (f"{metric_name(headline)} in validation", validation, 1),
        ("share of the most frequent verdict in validation", verdict_shares(lines), 1),
        ("share of the facts stated in validation", series(lines, "eval_", "/facts_rate"), 1),
        (title, {name: smoothed(points, window) for name, points in training.items()}, window),
    ]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        raise JudgeError(f"{log}: contains no figures to plot; a run logs some at each step")
    _plot(panels, out)


def series(
    lines: Sequence[Mapping[str, Any]], prefix: str, suffix: str, *, mean: str | None = None
) -> dict[str, Points]:
    """The points of each figure named ``prefix``task``suffix``, by short name, and of ``mean``.

    >>> series([{"step": 3, "a/reward": 0.5, "reward": 0.7}], "", "/reward", mean="reward")
    {'a': [(3, 0.5)], 'mean': [(3, 0.7)]}
    """
    points: dict[str, Points] = {}
    for line in lines:
        for name, value in line.items():
            is_task = name.startswith(prefix) and name.endswith(suffix)
            if value is None or not (is_task or name == mean):
                continue
            task = name.removeprefix(prefix).removesuffix(suffix).removeprefix("mtrl_judge_")
            points.setdefault(MEAN if name == mean else task, []).append((line["step"], value))
    return {name: points[name] for name in sorted(points, key=lambda name: (name == MEAN, name))}


def verdict_shares(lines: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """The share of each task's most frequent verdict, by short name.

    >>> verdict_shares([{"step": 3, "eval_a/share_Yes": 0.25, "eval_a/share_No": 0.7}])
    {'a': [(3, 0.7)]}
    """
    largest = []
    for line in lines:
        shares: dict[str, float] = {}
        for name, value in line.items():
            task, found, _ = name.partition("/share_")
            if found and name.startswith("eval_") and value is not None:
                shares[task] = max(value, shares.get(task, 0.0))
        largest.append({"step": line.get("step"), **{f"{t}/share": v for t, v in shares.items()}})
    return series(largest, "eval_", "/share")


def smoothed(points: Points, window: int) -> Points:
    """Each value as the mean of the values in the ``window`` steps up to its own.

    >>> smoothed([(1, 0.0), (2, 1.0), (9, 5.0)], 2)
    [(1, 0.0), (2, 0.5), (9, 5.0)]
    """
    return [
        (step, float(np.mean([v for s, v in points if step - window < s <= step])))
        for step, _ in points
    ]


def _plot(panels: Sequence[tuple[str, dict[str, Points], int]], out: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    tasks = sorted({name for _, lines, _ in panels for name in lines} - {MEAN})
    styles = dict(zip(tasks, cycle([(c, d) for d in DASHES for c in COLORS]), strict=False))
    figure = Figure(figsize=(8, 3.6 * len(panels)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
    for axes, (title, lines, window) in zip(grid[:, 0], panels, strict=True):
        # The legend lists the lines from top to bottom, as they end.
        for name, points in sorted(lines.items(), key=lambda line: -line[1][-1][1]):
            color, dash = styles.get(name, ("black", "-"))
            axes.plot(
                *zip(*points, strict=True),
                label=f"{name} {points[-1][1]:.2f}",
                color=color,
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
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
    with whole_file(out) as part:
        figure.savefig(part, format="png")
