"""Calibration of a judge's verdict probabilities: one temperature, or also a bias for each verdict.

Temperature scaling is that of Guo et al., "On Calibration of Modern Neural Networks" (arXiv
1706.04599), section 4.2. With a bias it is the same with a constant for each verdict (there: vector
scaling with equal weights), which removes what a judge prefers whatever it is shown, such as Yes or
the first slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Method: TypeAlias = Literal["temperature", "bias"]

# Where the verdicts separate the labels perfectly, the likelihood has no maximum: it keeps growing
# as the temperature falls (and, where every verdict is wrong, as it rises).
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
# Nats per row within which two temperatures are equally likely.
TOLERANCE = 1e-6


class Calibration(NamedTuple):
    """Verdicts have the probabilities softmax(log-probabilities / temperature + bias)."""

    temperature: float
    bias_V: tuple[float, ...]
    """In nats; they add up to 0."""

    @classmethod
    def identity(cls, verdicts: int) -> Calibration:
        return cls(1.0, (0.0,) * verdicts)

    def probabilities(self, logps_N_V: Floats) -> Floats:
        """The probability of each verdict among the verdicts, N × V; each row adds up to 1."""
        scaled_N_V = self._shifted(logps_N_V) / self.temperature
        # Equal ones stay equal, because exp(0) is exactly 1.
        weights_N_V = np.exp(scaled_N_V - scaled_N_V.max(axis=-1, keepdims=True))
        return np.asarray(weights_N_V / weights_N_V.sum(axis=-1, keepdims=True))

    def verdicts(self, logps_N_V: Floats) -> NDArray[np.int64]:
        """The index of the most probable verdict, the first of several, N.

        Without a bias it is that before calibration, whatever division by the temperature rounds.
        """
        best_N: NDArray[np.int64] = self._shifted(logps_N_V).argmax(axis=-1)
        return best_N

    def negative_log_likelihood(self, logps_N_V: Floats, labels_N: Sequence[int]) -> float:
        """Of the labels, the mean over N rows in nats."""
        return _cross_entropy(self._log_probabilities(logps_N_V), _one_hot(logps_N_V, labels_N))

    def _shifted(self, logps_N_V: Floats) -> Floats:
        return logps_N_V + self.temperature * np.array(self.bias_V)

    def _log_probabilities(self, logps_N_V: Floats) -> Floats:
        return _log_softmax(self._shifted(logps_N_V) / self.temperature)


def fit_calibration(logps_N_V: Floats, labels_N: Sequence[int], method: Method) -> Calibration:
    """The maximum-likelihood calibration with a temperature within its bounds.

    With a bias, the labels are smoothed as in Platt (1999), "Probabilistic Outputs for Support
    Vector Machines", section 2.2, here for V verdicts: each of the n_v rows with label v counts as
    (n_v + 1) / (n_v + V) rows of v and 1 / (n_v + V) rows of each other verdict. So there is a
    maximum even where some bias separates the labels perfectly.

    Args:
        logps_N_V: log-probability of each verdict for N rows, N at least 1.
        labels_N: index of the correct verdict.
    """
    targets_N_V = _targets(logps_N_V, labels_N, method)
    return _fit(logps_N_V, targets_N_V, method, MIN_TEMPERATURE, MAX_TEMPERATURE)


def bound_reached(
    logps_N_V: Floats, labels_N: Sequence[int], fitted: Calibration, method: Method
) -> float | None:
    """The bound of the temperature at which the labels are as likely as fitted; None if neither.

    Then the labels do not determine a temperature. Close to a bound the likelihood may be flat, so
    the fitted temperature itself can be anywhere near.
    """
    targets_N_V = _targets(logps_N_V, labels_N, method)

    def loss(calibration: Calibration) -> float:
        return _cross_entropy(calibration._log_probabilities(logps_N_V), targets_N_V)

    for bound in (MIN_TEMPERATURE, MAX_TEMPERATURE):
        if loss(_fit(logps_N_V, targets_N_V, method, bound, bound)) <= loss(fitted) + TOLERANCE:
            return bound
    return None


def _fit(
    logps_N_V: Floats, targets_N_V: Floats, method: Method, low: float, high: float
) -> Calibration:
    """The temperature between `low` and `high`, and the bias, with the least cross-entropy."""
    from scipy.optimize import minimize

    rows, verdicts = logps_N_V.shape
    # Without what all verdicts of a row share, so that the parameters have a similar scale.
    centered_N_V = logps_N_V - logps_N_V.mean(axis=1, keepdims=True)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        """The loss, which is convex in 1 / temperature and the bias, and its gradient."""
        inverse, bias_V = parameters[0], parameters[1:]
        logps = _log_softmax(inverse * centered_N_V + bias_V)
        residuals_N_V = (np.exp(logps) - targets_N_V) / rows
        slopes = [(residuals_N_V * centered_N_V).sum(), *residuals_N_V.sum(axis=0)]
        return _cross_entropy(logps, targets_N_V), np.array(slopes)

    free = (None, None) if method == "bias" else (0.0, 0.0)
    result = minimize(
        loss,
        [float(np.clip(1.0, 1 / high, 1 / low)), *[0.0] * verdicts],
        jac=True,
        bounds=[(1 / high, 1 / low), *[free] * verdicts],
        method="L-BFGS-B",
        options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000},
    )
    # A constant added to all biases changes nothing.
    bias_V = result.x[1:] - result.x[1:].mean()
    return Calibration(float(1 / result.x[0]), tuple(bias_V.tolist()))


def _targets(logps_N_V: Floats, labels_N: Sequence[int], method: Method) -> Floats:
    labels_N_V = _one_hot(logps_N_V, labels_N)
    if method == "temperature":
        return labels_N_V
    n_N = (labels_N_V @ labels_N_V.sum(axis=0))[:, None]
    smoothed_N_V: Floats = (labels_N_V * n_N + 1) / (n_N + labels_N_V.shape[1])
    return smoothed_N_V


def _one_hot(logps_N_V: Floats, labels_N: Sequence[int]) -> Floats:
    labels_N_V: Floats = np.eye(logps_N_V.shape[1])[list(labels_N)]
    return labels_N_V


def _log_softmax(logits_N_V: Floats) -> Floats:
    shifted_N_V = logits_N_V - logits_N_V.max(axis=-1, keepdims=True)
    logps_N_V: Floats = shifted_N_V - np.log(np.exp(shifted_N_V).sum(axis=-1, keepdims=True))
    return logps_N_V


def _cross_entropy(logps_N_V: Floats, targets_N_V: Floats) -> float:
    return float(-(targets_N_V * logps_N_V).sum(axis=1).mean())
