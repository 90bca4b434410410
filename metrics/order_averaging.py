"""One verdict from the probabilities of a pair in both orders.

A preference for a slot multiplies the probability of whatever the slot shows (Zheng et al. 2024,
"Large Language Models Are Not Robust Multiple Choice Selectors", arXiv 2309.03882, section 4). So
the geometric mean over both orders, which averages log-probabilities, cancels it exactly; the
arithmetic mean does not. With two verdicts both means prefer the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .calibration import checked_probabilities
from .slots import swapped as after_swap

# Stands for a probability of 0, so that a verdict excluded in both orders ties with another such.
_SMALLEST = np.finfo(np.float64).tiny


def average_orders(
    straight: Mapping[str, float], swapped: Mapping[str, float], classes: Sequence[str]
) -> dict[str, float]:
    """The probability of each verdict about the unswapped pair, averaged over both orders.

    Exchanging the orders and the slots gives the same numbers, so the verdict never flips.

    Args:
        straight: of each verdict, for the row as it is.
        swapped: the same with the candidates exchanged.
        classes: the task's verdicts; :func:`~.slots.swapped` says how they change.

    Raises:
        ValueError: probabilities are not one number in [0, 1] for each verdict with a sum of 1.

    >>> averaged = average_orders({"1": 0.9, "2": 0.1}, {"1": 0.8, "2": 0.2}, ["1", "2"])
    >>> {verdict: round(p, 3) for verdict, p in averaged.items()}
    {'1': 0.6, '2': 0.4}
    """
    straight_C = checked_probabilities(straight, classes, 0)
    mirrored = [str(after_swap(name, classes)) for name in classes]
    swapped_C = checked_probabilities(swapped, mirrored, 1)
    logs_C = (
        np.log(np.maximum(straight_C, _SMALLEST)) + np.log(np.maximum(swapped_C, _SMALLEST))
    ) / 2
    weights_C = np.exp(logs_C - logs_C.max())
    return dict(zip(classes, (weights_C / weights_C.sum()).tolist(), strict=True))


def most_probable(probabilities: Mapping[str, float]) -> str | None:
    """The most probable verdict; None if several are exactly as probable, since choosing the first
    would prefer a slot."""
    best = max(probabilities.values())
    verdicts = [verdict for verdict, p in probabilities.items() if p == best]
    return verdicts[0] if len(verdicts) == 1 else None
