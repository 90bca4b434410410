"""Temperature scaling: one number that makes a judge as sure as it is right.

Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599), section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Where the labels are parted without a fault, ever colder is ever likelier.
LEAST, MOST = 0.05, 20.0


def probabilities(logps_N_V: Floats, temperature: float) -> Floats:
    """The probability of each verdict among the verdicts, N × V; each row adds up to 1."""
    scaled_N_V = logps_N_V / temperature
    scaled_N_V = scaled_N_V - scaled_N_V.max(axis=-1, keepdims=True)
    weights_N_V = np.exp(scaled_N_V)
    return np.asarray(weights_N_V / weights_N_V.sum(axis=-1, keepdims=True))


def negative_log_likelihood(
    logps_N_V: Floats, labels_N: Sequence[int], temperature: float
) -> float:
    """Mean over N rows, in nats."""
    scaled_N_V = logps_N_V / temperature
    most_N = scaled_N_V.max(axis=-1)
    total_N = most_N + np.log(np.exp(scaled_N_V - most_N[:, None]).sum(axis=-1))
    return float((total_N - scaled_N_V[np.arange(len(labels_N)), list(labels_N)]).mean())


def fit_temperature(logps_N_V: Floats, labels_N: Sequence[int]) -> float:
    """The temperature at which the labels are likeliest, within LEAST and MOST.

    Args:
        logps_N_V: log-probability of each verdict for N rows, N at least 1.
        labels_N: which verdict is right.
    """
    from scipy.optimize import minimize_scalar

    # In 1 / temperature it is convex, so in the logarithm there is one minimum.
    found = minimize_scalar(
        lambda log: negative_log_likelihood(logps_N_V, labels_N, float(np.exp(log))),
        bounds=(np.log(LEAST), np.log(MOST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))
