"""Plots and pages for all readers: of bounded size, in dark mode, with colors that differ."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from support.results import judged_rows, write_results

import mtrl_judge.leaderboard as leaderboard
from mtrl_judge.leaderboard.board import Leaderboard, build_leaderboard
from mtrl_judge.leaderboard.plots import (
    BLUE,
    DARK,
    IN_THE_DARK,
    INK,
    LIGHT,
    MUTED,
    PAPER,
    VERMILION,
    confusion_plot,
    data_address,
    generalization_plot,
    score_plot,
)
from mtrl_judge.leaderboard.reading import load_runs

STYLES = Path(leaderboard.__file__).parent
# Machado, Oliveira and Fernandes 2009, at full severity: what colors look like, in linear RGB.
SIGHTS = {
    "trichromacy": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = [
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
]
WHITE = [0.95047, 1, 1.08883]


def linear(color: str) -> np.ndarray:
    """A color as linear RGB."""
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def mixed(color: str, share: float, with_: str) -> str:
    """As CSS mixes in sRGB."""
    pairs = [(int(color[i : i + 2], 16), int(with_[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


def contrast(text: str, background: str) -> float:
    """Of WCAG 2."""
    low, high = sorted(float(linear(color) @ TO_XYZ[1]) for color in (text, background))
    return (high + 0.05) / (low + 0.05)


def difference(first: str, second: str) -> float:
    """The smallest CIELAB distance (1976) that any of the sights leaves."""

    def lab(color: str, sight: object) -> np.ndarray:
        x, y, z = TO_XYZ @ np.clip(np.array(sight) @ linear(color), 0, 1) / WHITE
        f = [np.cbrt(v) if v > 216 / 24389 else (24389 / 27 * v + 16) / 116 for v in (x, y, z)]
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    return min(
        float(np.linalg.norm(lab(first, sight) - lab(second, sight))) for sight in SIGHTS.values()
    )


def palettes() -> Iterator[object]:
    """The colors of each page, light and dark, by variable."""
    for file in ("report.css", "bundle.css"):
        blocks = re.findall(r":root \{(.*?)\}", (STYLES / file).read_text(), re.DOTALL)
        for mode, block in zip(("light", "dark"), blocks, strict=True):
            found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})\b", block))
            yield pytest.param(found, id=f"{file}-{mode}")


@pytest.mark.parametrize("color", palettes())
def test_text_of_a_page_is_readable(color: dict[str, str]) -> None:
    texts = ("ink", "muted", "accent", "good", "bad", "odd")
    grounds = ("page", "card", "soft")
    pairs = [(color[text], color[ground]) for text in texts for ground in grounds]
    soft = [name for name in ("good", "bad", "odd", "warn") if name in color]
    pairs += [(color[name], color[f"{name}-soft"]) for name in soft]
    pairs += [(color["card"], color["accent"])]  # a button
    if "accent-soft" in color:  # a selected row, and what a search finds
        pairs += [(color[text], color["accent-soft"]) for text in ("ink", "muted")]
        pairs += [(color["ink"], color["found"])]
    if "share-all" in color:
        cells = [mixed(color["share-all"], n / 10, color["share-none"]) for n in range(11)]
        pairs += [(color["ink"], cell) for cell in cells]
    assert min(contrast(*pair) for pair in pairs) >= 4.5


@pytest.mark.parametrize("color", palettes())
def test_right_wrong_and_missing_differ_for_color_blind_readers(color: dict[str, str]) -> None:
    """They also differ by a mark. 2.3 is a just noticeable difference."""
    assert (
        min(difference(color[a], color[b]) for a, b in combinations(("good", "bad", "odd"), 2)) > 30
    )


@pytest.mark.parametrize("dark", [False, True])
def test_plots_are_readable_and_differ_for_color_blind_readers(dark: bool) -> None:
    blue, vermilion, ink, muted, paper = (
        IN_THE_DARK[color] if dark else color for color in (BLUE, VERMILION, INK, MUTED, PAPER)
    )
    assert min(contrast(text, paper) for text in (ink, muted, blue, vermilion)) >= 4.5
    assert min(difference(*pair) for pair in combinations((blue, vermilion, muted), 2)) > 20
    assert min(contrast(INK, mixed(DARK, n / 10, LIGHT)) for n in range(11)) >= 4.5


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    """Twelve judges on 13 tasks, one of them with ten verdicts, and two cells without a result."""
    folder = tmp_path_factory.mktemp("many")
    ten = [str(n) for n in range(1, 11)]
    for judge in range(12):
        tasks = {f"task_{n:02d}": judged_rows(6, 0.7, 12 * n + judge) for n in range(11)}
        tasks["task_ood"] = judged_rows(6, 0.6, judge)
        tasks["task_ten"] = judged_rows(30, 0.6, judge, ten)
        if judge < 2:
            del tasks[f"task_{judge:02d}"]
        about = {"task_ten": {"verdicts": ten}}
        write_results(folder / str(judge), tasks, model=f"owner/judge-{judge}", about=about)
    return build_leaderboard(load_runs([folder]), resamples=100)


def test_a_grid_fits_a_page_and_says_what_it_leaves_out(board: Leaderboard) -> None:
    plot = confusion_plot(board)
    assert plot is not None
    width, height = plot.figure.get_size_inches()
    assert width < 9.5
    assert height < 12
    said = " ".join(text.get_text() for text in plot.figure.texts).replace("\n", " ")
    found = re.search(r"shown: (\d+) of 12 judges and (\d+) of 13 tasks; the tables of", said)
    assert found
    judges, tasks = map(int, found.groups())
    missing = said.count("–")
    assert len(plot.figure.axes) + missing == judges * tasks
    assert missing <= 2


def test_at_most_one_panel_is_empty_and_has_the_legend(board: Leaderboard) -> None:
    plot = score_plot(board)
    assert plot is not None
    empty = [axes for axes in plot.figure.axes if not axes.axison]
    (legend,) = [text.get_text() for axes in empty for text in axes.texts]
    assert legend.splitlines()[0] == "Macro-F1"


def test_a_page_shows_plots_in_the_dark(board: Leaderboard) -> None:
    """Each color of a plot has one for the dark."""
    style = (STYLES / "report.css").read_text()
    assert style.count(f"--card: {IN_THE_DARK[PAPER].lower()}") == 1
    for plot in (score_plot(board), generalization_plot(board)):
        assert plot is not None
        svg = base64.b64decode(data_address(plot).partition(",")[2]).decode()
        rules = re.search(r"@media screen and \(prefers-color-scheme: dark\) \{.*\}", svg)
        assert rules
        used = set(
            re.findall(r"(?:fill|stroke): (#\w+)", " ".join(re.findall(r' style="(.*?)"', svg)))
        )
        assert used <= {color.lower() for color in IN_THE_DARK}
        assert all(f"fill: {color}" in rules[0] for color in used)
