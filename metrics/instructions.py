"""How judges differ across wordings of the instruction, and wordings across judges.

The measures of MM-BigBench (arXiv 2310.09036; `declare-lab/MM-BigBench`, `evaluation/`) over scores
of J judges on T tasks with I instructions, in points from 0 to 100.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEAST_MEAN = 1.0
"""Points. Relative to a mean close to zero, a gain can be as large as one likes."""
TOP = 3


def model_gains(points_J_T_I: Floats) -> Floats:
    """The mean relative gain of each judge on each task, J × T.

    How much better than the mean of all judges it is with the same instruction, in percent, as the
    mean over instructions.

    Returns:
        NaN where the mean of the judges is below :data:`LEAST_MEAN` for an instruction.
    """
    gains_J_T_I = _gains(points_J_T_I, points_J_T_I.mean(axis=0, keepdims=True))
    means_J_T: Floats = gains_J_T_I.mean(axis=2)
    return means_J_T


def instruction_gains(points_J_T_I: Floats) -> Floats:
    """The mean relative gain of each instruction on each task, T × I.

    How much better a judge is with it than with the mean instruction, in percent, as the mean over
    judges.

    Returns:
        NaN where the mean of a judge over instructions is below :data:`LEAST_MEAN`.
    """
    gains_J_T_I = _gains(points_J_T_I, points_J_T_I.mean(axis=2, keepdims=True))
    means_T_I: Floats = gains_J_T_I.mean(axis=0)
    return means_T_I


def model_stability(points_J_T_I: Floats) -> Floats:
    """The standard deviation of each judge's scores over instructions, J × T; 0 is stable."""
    deviations: Floats = np.std(points_J_T_I, axis=2)
    return deviations


def instruction_stability(points_J_T_I: Floats) -> Floats:
    """The standard deviation of the scores of each instruction over judges, T × I."""
    deviations: Floats = np.std(points_J_T_I, axis=0)
    return deviations


def spread_without_noise(points_N: Floats, draws_B_N: Floats) -> tuple[float, Floats]:
    """The standard deviation of N true scores, whose sample and draws differ from them by chance.

    Chance adds the noise of the sample to the variance of the scores, and that of the draw once
    more to the variance of a drawn set of scores. The noise is the variance over the N scores of
    what draws deviate by.

    Args:
        draws_B_N: drawn together, so that what the scores have in common adds nothing.

    Returns:
        The standard deviation, and its draws; 0 where the noise explains the whole variance.
    """
    noise = (draws_B_N - draws_B_N.mean(axis=0)).var(axis=1).mean()
    value = float(np.sqrt(np.clip(points_N.var() - noise, 0, None)))
    draws_B: Floats = np.sqrt(np.clip(draws_B_N.var(axis=1) - 2 * noise, 0, None))
    return value, draws_B


def noise_floor(points: Floats, again: Floats, n_instructions: int) -> Floats:
    """The stability over instructions that do not matter, given scores of one question asked twice.

    Of independent scores with variance σ², the mean variance over n instructions is σ²(n − 1)/n,
    and σ² is estimated as half the square of the difference of two.
    """
    floor: Floats = np.abs(points - again) * np.sqrt((n_instructions - 1) / (2 * n_instructions))
    return floor


def adaptability(points_J_T_I: Floats, top: int = TOP) -> Floats:
    """How often each instruction is among a judge's best ones on a task, in percent, J × I.

    Of equal instructions, the later one is better, as in MM-BigBench. A judge's shares add up to
    100, as long as there are at least ``top`` instructions.
    """
    n_tasks = points_J_T_I.shape[1]
    best_J_T_K = np.argsort(points_J_T_I, axis=2, kind="stable")[:, :, -top:]
    hits_J_I = np.stack(
        [(best_J_T_K == index).sum(axis=(1, 2)) for index in range(points_J_T_I.shape[2])], axis=1
    )
    hits_share_J_I: Floats = hits_J_I / (top * n_tasks) * 100
    return hits_share_J_I


def _gains(points: Floats, means: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        gains: Floats = 100 * (points - means) / means
    return np.where(means < LEAST_MEAN, np.nan, gains)
