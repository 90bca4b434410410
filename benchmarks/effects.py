"""How often the intervals of an experiment's effects contain the truth.

``python -m benchmarks.effects`` simulates differences of two arms over corpora and training seeds,
with known spreads of the items, of the trainings and of the corpora, and counts how often the
interval of :func:`mtrl_judge.experiments.effects.effect` contains the true difference. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
from itertools import product

import numpy as np

from mtrl_judge.experiments.effects import Unit, effect
from mtrl_judge.leaderboard.scores import Score
from mtrl_judge.metrics.bootstrap import Estimate

TRUTH = 0.1
DESIGNS = ((1, 2), (1, 3), (1, 5), (2, 1), (3, 1), (3, 2), (3, 3))
# Standard errors over items, and standard deviations over trainings and over corpora. The corpora
# differ only where there are several: with one, an effect is that on its base model.
SPREADS = ((0.01, 0.02, 0.0), (0.02, 0.01, 0.0), (0.01, 0.0, 0.0), (0.01, 0.02, 0.02))
DRAWS = 400


def coverage(
    corpora: int, seeds: int, items: float, trainings: float, between: float, repeats: int
) -> tuple[float, float]:
    """The share of intervals that contain the truth, and their mean width."""
    rng = np.random.default_rng(0)
    contained, width = 0, 0.0
    for _ in range(repeats):
        first: dict[Unit, Score] = {}
        second: dict[Unit, Score] = {}
        for corpus in range(corpora):
            of_corpus = TRUTH + rng.normal(0, between) + rng.normal(0, items)
            draws_B = rng.normal(0, items, DRAWS)
            for seed in range(seeds):
                value = of_corpus + rng.normal(0, trainings)
                first[Unit(corpus, seed)] = Score(Estimate(value), value + draws_B, clusters=1e6)
            second[Unit(corpus, None)] = Score(Estimate(0.0), np.zeros(DRAWS), clusters=1e6)
        found = effect(first, second)
        assert found is not None
        low, high = found.difference.low, found.difference.high
        assert low is not None
        assert high is not None
        contained += low <= TRUTH <= high
        width += high - low
    return contained / repeats, width / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000)
    repeats = parser.parse_args().repeats
    found = []
    for (corpora, seeds), spreads in product(DESIGNS, SPREADS):
        if corpora > 1 or not spreads[2]:
            share, width = coverage(corpora, seeds, *spreads, repeats)
            found.append({"corpora": corpora, "seeds": seeds, "coverage": share, "width": width})
            print(
                f"{corpora} corpora, {seeds} seeds; items {spreads[0]}, trainings {spreads[1]}, "
                f"corpora {spreads[2]}: coverage {share:.3f}, width {width:.3f}",
                flush=True,
            )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
