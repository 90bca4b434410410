"""Temperature scaling: one parameter that calibrates a judge's verdict probabilities.

Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599), section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Where the verdicts separate the labels perfectly, the likelihood has no maximum: it keeps growing
# as the temperature falls (and, where every verdict is wrong, as it rises).
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
# Nats per row within which two temperatures are equally likely.
TOLERANCE = 1e-6


def probabilities(logps_N_V: Floats, temperature: float) -> Floats:
    """The probability of each verdict among the verdicts, N × V; each row adds up to 1."""
    scaled_N_V = logps_N_V / temperature
    scaled_N_V = scaled_N_V - scaled_N_V.max(axis=-1, keepdims=True)
    weights_N_V = np.exp(scaled_N_V)
    return np.asarray(weights_N_V / weights_N_V.sum(axis=-1, keepdims=True))


def negative_log_likelihood(
    logps_N_V: Floats, labels_N: Sequence[int], temperature: float
) -> float:
    """Mean negative log-likelihood of the labels over N rows, in nats."""
    scaled_N_V = logps_N_V / temperature
    max_N = scaled_N_V.max(axis=-1)
    total_N = max_N + np.log(np.exp(scaled_N_V - max_N[:, None]).sum(axis=-1))
    return float((total_N - scaled_N_V[np.arange(len(labels_N)), list(labels_N)]).mean())


def fit_temperature(logps_N_V: Floats, labels_N: Sequence[int]) -> float:
    """The maximum-likelihood temperature between MIN_TEMPERATURE and MAX_TEMPERATURE.

    Args:
        logps_N_V: log-probability of each verdict for N rows, N at least 1.
        labels_N: index of the correct verdict.
    """
    from scipy.optimize import minimize_scalar

    # The loss is convex in 1 / temperature, hence unimodal in the logarithm of the temperature.
    result = minimize_scalar(
        lambda log: negative_log_likelihood(logps_N_V, labels_N, float(np.exp(log))),
        bounds=(np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(result.x))


def bound_reached(logps_N_V: Floats, labels_N: Sequence[int], temperature: float) -> float | None:
    """The bound at which the labels are as likely as at the fitted temperature; None if neither.

    Then the labels do not determine a temperature. Close to a bound the likelihood may be flat, so
    the fitted temperature itself can be anywhere near.
    """
    fitted = negative_log_likelihood(logps_N_V, labels_N, temperature)
    for bound in (MIN_TEMPERATURE, MAX_TEMPERATURE):
        if negative_log_likelihood(logps_N_V, labels_N, bound) <= fitted + TOLERANCE:
            return bound
    return None
