"""Which groups teach nothing, and the prompts that replace them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mtrl_judge.common.hashing import stable_hash

if TYPE_CHECKING:
    from datasets import Dataset

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.floating[Any]]

LEARNED_FORM = 0.9
"""From this share of well-formed answers on, form no longer makes a group informative."""
_NEWEST = 0.1  # weight of the newest batch in the running share


def zero_variance(values_N: Floats, generations: int) -> Bools:
    """Which of the M groups have values that are all equal, M.

    Not by the standard deviation, as TRL's ``frac_reward_zero_std``: in float32 that of twenty
    times 0.9 is 6e-8.

    >>> zero_variance(np.array([0.9, 0.9, 0.0, 0.9]), generations=2).tolist()
    [True, False]
    """
    values_M_G = values_N.reshape(-1, generations)
    equal_M: Bools = np.isclose(np.ptp(values_M_G, axis=1), 0)
    return equal_M


def uninformative(
    correct_N: Floats, format_N: Floats, well_formed_rate: float, generations: int
) -> Bools:
    """Which of the M groups teach nothing: their answers are all right, or all wrong.

    By accuracy, as in DAPO's implementation (verl's ``filter_groups.metric: acc``), because any
    penalty or a single malformed answer makes the total rewards of a group differ. A model that
    cannot answer in form yet learns that first, so below :data:`LEARNED_FORM` a group also counts
    as informative if its answers differ in form.

    >>> correct_N, format_N = np.array([0, 0, 0, 1.0]), np.array([0, 1.0, 1.0, 1.0])
    >>> [uninformative(correct_N, format_N, rate, 2).tolist() for rate in (0.75, 0.95)]
    [[False, False], [True, False]]
    """
    uninformative_M = zero_variance(correct_N, generations)
    if well_formed_rate < LEARNED_FORM:
        uninformative_M &= zero_variance(format_N, generations)
    return uninformative_M


class WellFormedRate:
    """The running share of well-formed answers, an exponential average; saved with checkpoints.

    >>> rate = WellFormedRate()
    >>> [rate.add(newest) for newest in (0.5, 1.0)]
    [0.5, 0.55]
    """

    def __init__(self) -> None:
        self.now: float | None = None

    def add(self, newest: float) -> float:
        """Take the share of the newest batch in."""
        self.now = newest if self.now is None else (1 - _NEWEST) * self.now + _NEWEST * newest
        return self.now

    def state(self) -> dict[str, float | None]:
        return {"now": self.now}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.now = state["now"]


class OtherPrompts:
    """Draws prompts of a task whose items are not among those already seen.

    Args:
        dataset: the training set; its columns ``task`` and ``item_id`` are read.
        unit: neighboring rows that belong together, such as the two orders of a pair.
        seed: draws depend on this and on their key alone.
    """

    def __init__(self, dataset: Dataset, unit: int, seed: int) -> None:
        columns = dataset.with_format(None)
        self.unit, self.seed = unit, seed
        self._items = list(zip(columns["task"][:], columns["item_id"][:], strict=True))
        self._units: dict[str, list[int]] = defaultdict(list)
        for number in range(len(self._items) // unit):
            self._units[self._items[number * unit][0]].append(number)

    def draw(
        self, task: str, seen: Collection[tuple[str, str]], *key: object
    ) -> tuple[list[int], set[tuple[str, str]]] | None:
        """The row numbers of a unit and its items; None where every item has been seen."""
        units = self._units[task]
        start = stable_hash("draw again", self.seed, *key) % len(units)
        for offset in range(len(units)):
            first = units[(start + offset) % len(units)] * self.unit
            rows = list(range(first, first + self.unit))
            items = {self._items[row] for row in rows}
            if items.isdisjoint(seen):
                return rows, items
        return None
