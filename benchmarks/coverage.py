"""``python -m benchmarks.coverage``: coverage of intervals, false alarms and power of the gate.

Two judges of known rates are simulated again and again. Every cell of :data:`CELLS` (number of rows
and clusters, prevalence of the first verdict, recalls, dependence within clusters) has a row in the
table: for each rate, how often the printed interval contains the true value. Two judges of equal
rates also give the coverage of the difference. The last line is one JSON object:

- ``worst``: the three lowest coverages, each with its cell, its rate, the mean width of the
  interval and how many intervals were printed
- ``below``: rates in a cell with a coverage more than two Monte Carlo standard errors below .93
- ``widest``: the three highest coverages with the width, which discreteness and few clusters cost
- ``gate``: how often a judge that is no worse fails the gate over nine tasks of 160 rows, for equal
  judges and for judges of equal Macro-F1 that err differently, and the power for a drop of .10 of
  one task among the nine, with the drop that the gate itself calls detectable

Options: ``--samples`` per cell (default 2000, about 25 minutes on one core), ``--draws`` per
interval (500; the gate has 2,000, as its p-values need a finer scale), ``--cells`` and ``--gate``
to run only one of the two parts.
"""

from __future__ import annotations

import argparse
import json
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from mtrl_judge.leaderboard.compare import ALPHA
from mtrl_judge.metrics.bootstrap import Panel, draw_rates, estimate, information, spread_factor
from mtrl_judge.metrics.rates import (
    PAIR_RATES,
    RATES,
    TIE_RATES,
    Counts,
    PairCount,
    Rate,
    Tally,
    class_rates,
)
from mtrl_judge.metrics.significance import detectable_difference, holm, randomization_p_value

CLASSES = ("Yes", "No")
NULL = 2  # the column of a missing verdict
NULL_RATE = 0.02
SAME_LUCK = 0.5  # share of rows on which the two judges' luck is the same
NOMINAL = 0.93
CHUNKS, MANY = 50, 20_000  # samples of so many rows from which the true rates are computed
GATE_TASKS, GATE_ROWS, GATE_DRAWS, DROP = 9, 160, 2000, 0.10


class Cell(NamedTuple):
    """What is simulated."""

    rows: int
    clusters: int
    prevalence: float = 0.5
    recalls: tuple[float, float] = (0.8, 0.8)
    dependence: float = 0.0
    """Correlation of the correctness of two rows in a cluster."""
    label_dependence: float = 0.0
    """The same of labels."""
    uneven: bool = False
    """Clusters of very different sizes."""
    pairs: bool = False
    """Rows are both orders of rows / 2 pairs."""
    first_slot: float = 0.0
    """Share of verdicts that name the first slot whatever is shown."""
    fixed_labels: bool = False

    def __str__(self) -> str:
        defaults = self._field_defaults
        parts = [f"n={self.rows}", f"K={self.clusters}"]
        parts += [
            f"{name}={value}"
            for name, value in self._asdict().items()
            if name in defaults and value != defaults[name]
        ]
        return " ".join(parts)


CELLS = (
    # Independent rows.
    *(
        Cell(n, n, 0.5, (recall, recall))
        for n in (20, 50, 160, 729)
        for recall in (0.5, 0.8, 0.95, 0.99)
    ),
    *(
        Cell(n, n, prevalence, recalls)
        for n in (50, 160, 729)
        for prevalence in (0.05, 0.2)
        for recalls in ((0.8, 0.95), (0.99, 0.99))
        if n * prevalence > 5
    ),
    Cell(50, 50, 0.5, (0.95, 0.8), fixed_labels=True),
    Cell(160, 160, 0.2, (0.95, 0.8), fixed_labels=True),
    # Clusters.
    *(Cell(160, clusters, 0.5, (0.9, 0.8), 0.2, 0.2) for clusters in (2, 5, 8, 10, 20, 50)),
    *(Cell(160, clusters, 0.5, (0.95, 0.95)) for clusters in (5, 10, 20, 80)),
    *(Cell(729, clusters, 0.3, (0.9, 0.95), 0.3) for clusters in (10, 20, 50, 200)),
    *(Cell(729, clusters, 0.5, (0.99, 0.99)) for clusters in (20, 200)),
    Cell(160, 40, 0.5, (0.8, 0.8), 0.2, uneven=True),
    Cell(729, 100, 0.2, (0.8, 0.95), 0.2, 0.3, uneven=True),
    # Both orders of pairs.
    *(
        Cell(n, n // 2, 0.8, (recall, recall), 0.3, pairs=True)
        for n in (40, 160, 728)
        for recall in (0.5, 0.8, 0.95)
    ),
    Cell(160, 80, 0.9, (0.7, 0.7), 0.3, pairs=True, first_slot=0.4),
    Cell(160, 20, 0.8, (0.9, 0.9), 0.3, pairs=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=500)
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--cells", action="store_true", help="only the coverage")
    part.add_argument("--gate", action="store_true", help="only the gate")
    settings = parser.parse_args()
    figures: dict[str, Any] = {}
    if not settings.gate:
        covered = [
            interval for cell in CELLS for interval in cover(cell, settings.samples, settings.draws)
        ]
        names = dict.fromkeys(interval.rate for interval in covered)
        known = {(str(i.cell), i.rate): f"{i.coverage:.3f}" for i in covered}
        rows = [
            [str(cell), *(known.get((str(cell), name), "") for name in names)] for cell in CELLS
        ]
        print(tabulate(rows, headers=["cell", *names], disable_numparse=True))
        covered.sort(key=lambda interval: interval.coverage)
        figures = {
            "cells": len(CELLS),
            "samples": settings.samples,
            "intervals": len(covered),
            "worst": [interval.figures() for interval in covered[:3]],
            "below": sum(interval.is_low for interval in covered),
            "widest": [interval.figures() for interval in covered[-3:]],
        }
    if not settings.cells:
        figures["gate"] = gate(settings.samples, GATE_DRAWS)
    print(json.dumps(figures))


class Coverage(NamedTuple):
    """Of the intervals of one rate in one cell."""

    cell: Cell
    rate: str
    printed: int
    coverage: float
    width: float

    @property
    def is_low(self) -> bool:
        return self.coverage < NOMINAL - 2 * sqrt(NOMINAL * (1 - NOMINAL) / self.printed)

    def figures(self) -> dict[str, object]:
        return {
            "cell": str(self.cell),
            "rate": self.rate,
            "coverage": round(self.coverage, 3),
            "width": round(self.width, 3),
            "printed": self.printed,
        }


def cover(cell: Cell, samples: int, draws: int, seed: int = 0) -> list[Coverage]:
    """The coverage of each rate whose interval is printed in most samples of a cell."""
    others = {*TIE_RATES, *(() if cell.pairs else PAIR_RATES)}
    rates = {name: rate for name, rate in RATES.items() if name not in others}
    rates |= {name: rate for name, rate in class_rates(CLASSES).items() if name.endswith("_Yes")}
    everything = cell._replace(rows=MANY, clusters=MANY * cell.clusters // cell.rows, uneven=False)
    rng = np.random.default_rng(seed)
    counts_F = sum(simulate(everything, rng).sum(axis=0)[0] for _ in range(CHUNKS))
    population = Tally.of(np.asarray(counts_F), len(CLASSES))
    truth = {name: float(rate(population)) for name, rate in rates.items()}
    differences = {"macro_f1", "accuracy"}
    truth |= {f"difference of {name}": 0.0 for name in differences}
    hits, widths, printed = (dict.fromkeys(truth, 0.0) for _ in range(3))
    for sample in range(samples):
        counts_K_M_F = simulate(cell, rng)
        fixed = cell.fixed_labels or cell.pairs
        panel = Panel("t", range(len(counts_K_M_F)), Tally.of(counts_K_M_F, len(CLASSES)), fixed)
        supported = information(panel.tallies)
        observed = Tally.of(counts_K_M_F.sum(axis=0), len(CLASSES))
        (drawn,) = draw_rates([panel], [rates], resamples=draws, seed=sample)
        for name, rate in rates.items():
            value_M, clusters = rate(observed), supported.of_rate(name, CLASSES)
            intervals = {name: (value_M[0], drawn[name][:, 0])}
            if name in differences:
                difference_B = drawn[name][:, 0] - drawn[name][:, 1]
                intervals[f"difference of {name}"] = value_M[0] - value_M[1], difference_B
            for title, (value, draws_B) in intervals.items():
                found = estimate(None if np.isnan(value) else float(value), draws_B, clusters)
                if found.low is not None and found.high is not None:
                    printed[title] += 1
                    hits[title] += found.low <= truth[title] <= found.high
                    widths[title] += found.high - found.low
    return [
        Coverage(cell, title, int(n), hits[title] / n, widths[title] / n)
        for title, n in printed.items()
        if n > samples / 2
    ]


def simulate(cell: Cell, rng: np.random.Generator) -> Counts:
    """The counts of two judges of the same rates, K × 2 × F."""
    rows_N_2 = _rows(cell, rng)
    n, orders = rows_N_2.shape
    clusters = min(cell.clusters, n)
    if clusters == n:
        cluster_N = np.arange(n)
    elif cell.uneven:
        cluster_N = rng.choice(clusters, n, p=rng.dirichlet(np.ones(clusters)))
    else:
        cluster_N = np.arange(n) % clusters
    share_K = _beta(cell.prevalence, cell.label_dependence, clusters, rng)
    label_N = (rng.random(n) >= share_K[cluster_N]).astype(np.int64)
    if cell.fixed_labels:
        label_N = (np.arange(n) >= round(n * cell.prevalence)).astype(np.int64)
        rng.shuffle(label_N)
    # The second order of a pair has the other label.
    label_N_O = np.abs(label_N[:, None] - np.arange(orders))
    # Pairs of one cluster share nothing, but the two orders of a pair do.
    of = np.arange(n) if cell.pairs else cluster_N
    skill_K_C = np.stack([_beta(r, cell.dependence, n, rng) for r in cell.recalls], axis=1)
    skill_N_O = np.take_along_axis(skill_K_C[of], label_N_O, axis=1)
    luck_M_N_O = rng.random((2, n, orders))
    luck_M_N_O[1] = np.where(rng.random((n, orders)) < SAME_LUCK, luck_M_N_O[0], luck_M_N_O[1])
    verdict_M_N_O = np.where(luck_M_N_O < skill_N_O, label_N_O, 1 - label_N_O)
    verdict_M_N_O[rng.random(verdict_M_N_O.shape) < cell.first_slot] = 0
    verdict_M_N_O[rng.random(verdict_M_N_O.shape) < NULL_RATE] = NULL
    counts_K_M_F = np.stack(
        [_counts(cluster_N, label_N_O, verdict_N_O, cell.pairs) for verdict_N_O in verdict_M_N_O],
        axis=1,
    )
    return counts_K_M_F[counts_K_M_F.any(axis=(1, 2))]


def _rows(cell: Cell, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.zeros((cell.rows // 2, 2) if cell.pairs else (cell.rows, 1), dtype=np.int64)


def _beta(mean: float, correlation: float, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    if correlation == 0:
        return np.full(n, mean)
    size = (1 - correlation) / correlation
    return rng.beta(mean * size, (1 - mean) * size, n)


def _counts(
    cluster_N: NDArray[np.int64],
    label_N_O: NDArray[np.int64],
    verdict_N_O: NDArray[np.int64],
    pairs: bool,
) -> Counts:
    clusters = int(cluster_N.max()) + 1

    def total(values_N: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(cluster_N, values_N, minlength=clusters)

    cell_N_O = label_N_O * (NULL + 1) + verdict_N_O
    columns = [total((cell_N_O == cell).sum(axis=1)) for cell in range(2 * (NULL + 1))]
    columns.append(total((verdict_N_O != NULL).sum(axis=1)))  # well-formed
    of_pairs = [np.zeros(clusters) for _ in PairCount]
    if pairs:
        judged_N = (verdict_N_O != NULL).all(axis=1)
        of_pairs[PairCount.JUDGED] = total(judged_N)
        of_pairs[PairCount.FLIPPED] = total(judged_N & (verdict_N_O[:, 0] == verdict_N_O[:, 1]))
        of_pairs[PairCount.LABELED] = total(np.ones(len(cluster_N)))
        of_pairs[PairCount.BOTH_RIGHT] = total((verdict_N_O == label_N_O).all(axis=1))
        of_pairs[PairCount.SLOTS] = total((verdict_N_O != NULL).sum(axis=1))
        of_pairs[PairCount.FIRST_SLOT] = total((verdict_N_O == 0).sum(axis=1))
    return np.stack([*columns, *of_pairs], axis=-1).astype(np.int64)


# The gate


def gate(samples: int, draws: int) -> dict[str, object]:
    equal = ((0.8, 0.8), (0.8, 0.8))
    differently = ((0.9, 0.7), (0.7, 0.9))
    dropped = ((0.75, 0.75), (0.85, 0.85))
    rng = np.random.default_rng(1)
    found, detectable = power(dropped, samples, draws, rng)
    return {
        "tasks": GATE_TASKS,
        "rows": GATE_ROWS,
        "false_alarms": false_alarms(equal, samples, draws, rng),
        "false_alarms_other_errors": false_alarms(differently, samples, draws, rng),
        f"power_for_{DROP:.2f}": found,
        "detectable": detectable,
    }


def false_alarms(
    recalls: tuple[tuple[float, float], tuple[float, float]],
    samples: int,
    draws: int,
    rng: np.random.Generator,
) -> float:
    """How often a gate over nine tasks fails a judge whose Macro-F1 has not changed."""
    alarms = 0
    for _ in range(samples):
        p_values = [_p_value(_two_judges(recalls, rng), draws, rng) for _ in range(GATE_TASKS)]
        alarms += min(holm(p_values)) < ALPHA
    return round(alarms / samples, 4)


def power(
    recalls: tuple[tuple[float, float], tuple[float, float]],
    samples: int,
    draws: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """How often the drop on one task is found among eight without, and the mean detectable drop."""
    found, detectable = 0, 0.0
    rate: dict[str, Rate] = {"macro_f1": RATES["macro_f1"]}
    for sample in range(samples):
        panel = _two_judges(recalls, rng)
        # The other tasks have larger p-values, nearly always: then Holm multiplies by their number.
        found += GATE_TASKS * _p_value(panel, draws, rng) < ALPHA
        (drawn,) = draw_rates([panel], [rate], resamples=draws, seed=sample)
        clusters = information(panel.tallies).clusters
        error = float((drawn["macro_f1"][:, 0] - drawn["macro_f1"][:, 1]).std())
        detectable += detectable_difference(
            error * spread_factor(clusters), clusters, alpha=ALPHA, tests=GATE_TASKS, one_sided=True
        )
    return round(found / samples, 3), round(detectable / samples, 3)


def _two_judges(
    recalls: tuple[tuple[float, float], tuple[float, float]], rng: np.random.Generator
) -> Panel:
    """Two judges of the same rows whose luck is partly the same; the first may be worse."""
    n = GATE_ROWS
    label_N = rng.integers(0, 2, n)
    luck_M_N = rng.random((2, n))
    luck_M_N[1] = np.where(rng.random(n) < SAME_LUCK, luck_M_N[0], luck_M_N[1])
    skill_M_N = np.array(recalls)[:, label_N]
    verdict_M_N = np.where(luck_M_N < skill_M_N, label_N, 1 - label_N)
    counts = [_counts(np.arange(n), label_N[:, None], v[:, None], False) for v in verdict_M_N]
    return Panel("t", range(n), Tally.of(np.stack(counts, axis=1), len(CLASSES)))


def _p_value(panel: Panel, draws: int, rng: np.random.Generator) -> float:
    p_value = randomization_p_value(
        [panel],
        RATES["macro_f1"],
        one_sided=True,
        resamples=draws,
        seed=int(rng.integers(2**32)),
    )
    assert p_value is not None  # there are 160 clusters
    return p_value


if __name__ == "__main__":
    main()
