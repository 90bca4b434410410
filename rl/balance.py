"""Which tasks the prompts of a generation batch come from: ``balance: worst_task``.

MT-GRPO (arXiv 2602.05547) gives each task a weight that rises while the task is judged badly and
does not improve, and samples a task more often where many of its groups have zero variance, so that
its share of the *informative* groups is its weight. The constants are the paper's; what it leaves
open follows its code (github.com/rsshyam/MT-GRPO, verl/utils/auto_curriculum/priority_decay.py).

Axis suffixes: K tasks; M groups and N completions of a generation batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mtrl_judge.common.hashing import stable_hash

Floats: TypeAlias = NDArray[np.float64]

# η and λ of the paper. Its code takes the step with Adam; a plain step of this size would leave the
# weights nearly equal.
_STEP, _WORST = 0.025, 0.2
_MEAN_KEPT, _SQUARE_KEPT, _EPSILON = 0.9, 0.999, 1e-8
_ACCURACY_KEPT = 0.5  # of the running accuracy, per batch; `batch_acc_decay_rate` in the code
# A task that is never sampled is not measured: a tenth of the weight is divided equally.
_EQUAL = 0.1
_GROUPS_KEPT = 0.98  # of the counts of groups, per group: about the last 50 of a task
_LEAST_INFORMATIVE = 0.05  # below it, a task's share of the prompts grows no further
# What a task has supplied too few of, or too many, is made up for in the next batches, in each by a
# factor of 2 at most.
_DUE_KEPT, _LARGEST_FACTOR = 0.9, 2.0

_STATE = (
    *("_drawn_K", "_owed_K", "_groups_K", "_informative_K", "_due_K"),
    *("_accuracy_K", "_logits_K", "_mean_K", "_square_K"),
)
_NUMBERS = ("_steps", "_informative_groups")


class WorstTask:
    """Draws prompts by task, and learns from what they were worth.

    It depends on nothing but its seed and what it observed, so all processes draw alike.

    Args:
        tasks: the task of each row of the dataset.
        unit: neighboring rows that belong together, such as the two orders of a pair.
    """

    def __init__(self, tasks: Sequence[str], *, unit: int, seed: int) -> None:
        self.unit, self.seed = unit, seed
        self.names = list(dict.fromkeys(tasks))
        self._rows: list[list[int]] = [[] for _ in self.names]
        for row in range(0, len(tasks) - unit + 1, unit):
            self._rows[self.names.index(tasks[row])].append(row)
        self._orders: list[tuple[int, list[int]]] = [(-1, []) for _ in self.names]
        n_tasks = len(self.names)
        self._drawn_K = np.zeros(n_tasks, dtype=np.int64)
        self._owed_K = np.zeros(n_tasks)
        self._groups_K, self._informative_K = np.zeros(n_tasks), np.zeros(n_tasks)
        self._due_K, self._informative_groups = np.zeros(n_tasks), 0.0
        self._accuracy_K = np.full(n_tasks, np.nan)
        self._logits_K = np.zeros(n_tasks)
        self._mean_K, self._square_K, self._steps = np.zeros(n_tasks), np.zeros(n_tasks), 0
        self._weights_of_batch_K = self.weights()

    def _softmax(self) -> Floats:
        powers_K = np.exp(self._logits_K - self._logits_K.max())
        softmax_K: Floats = powers_K / powers_K.sum()
        return softmax_K

    def weights(self) -> Floats:
        """The share that each task should have of the informative groups."""
        weights_K: Floats = (1 - _EQUAL) * self._softmax() + _EQUAL / len(self.names)
        return weights_K

    def _aims(self) -> Floats:
        """The weights, and what recent batches left due, of as many groups as the last one had."""
        weights_K = self.weights()
        if not self._informative_groups:
            return weights_K
        factor_K = 1 + self._due_K / (weights_K * self._informative_groups)
        aims_K: Floats = weights_K * factor_K.clip(1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
        return aims_K

    def shares(self) -> Floats:
        """The share that each task gets of the prompts."""
        informative_K = (self._informative_K + 0.5) / (self._groups_K + 1)  # Jeffreys' prior
        corrected_K = self._aims() / informative_K.clip(_LEAST_INFORMATIVE)
        shares_K: Floats = corrected_K / corrected_K.sum()
        return shares_K

    def draw(self, prompts: int) -> list[int]:
        """Rows for a generation batch of so many prompts.

        Each task gets its share up to one unit, which it owes or is owed in the next batch. Its
        rows come in a shuffled order, and again in another one when all have come.
        """
        units = prompts // self.unit
        self._weights_of_batch_K = self.weights()
        self._owed_K += units * self.shares()
        drawn: list[tuple[int, int]] = []
        for _ in range(units):
            task = int(self._owed_K.argmax())
            self._owed_K[task] -= 1
            turn = int(self._drawn_K[task])
            self._drawn_K[task] += 1
            # Mixed, because each process gets a part.
            drawn.append((stable_hash("mixed", self.seed, task, turn), self._first_row(task, turn)))
        return [row + offset for _, row in sorted(drawn) for offset in range(self.unit)]

    def _first_row(self, task: int, turn: int) -> int:
        """The first row of the unit that a task has its turn with."""
        rows = self._rows[task]
        epoch, position = divmod(turn, len(rows))
        if self._orders[task][0] != epoch:
            order = sorted(rows, key=lambda row: stable_hash("order", self.seed, epoch, row))
            self._orders[task] = epoch, order
        return self._orders[task][1][position]

    def observe_accuracy(self, task_N: Sequence[str], correct_N: Sequence[float]) -> None:
        """Learn from the completions of a generation batch, of all processes.

        Args:
            correct_N: 1 for a correct completion, else 0.
        """
        names_N, hits_N = np.array(task_N), np.array(correct_N, dtype=float)
        improvement_K = np.zeros(len(self.names))
        for task, name in enumerate(self.names):
            if not (of_task_N := names_N == name).any():
                continue
            before, now = self._accuracy_K[task], hits_N[of_task_N].mean()
            if np.isnan(before):
                before = now
            self._accuracy_K[task] = _ACCURACY_KEPT * before + (1 - _ACCURACY_KEPT) * now
            improvement_K[task] = self._accuracy_K[task] - before
        if not np.isnan(self._accuracy_K).any():
            self._step(improvement_K + _WORST * (self._accuracy_K - 1))

    def observe_groups(self, task_M: Sequence[str], informative_M: Sequence[bool]) -> None:
        """Learn from the groups that are trained on, of all processes."""
        supplied_K = np.zeros(len(self.names))
        for name, informative in zip(task_M, informative_M, strict=True):
            task = self.names.index(name)
            self._groups_K[task] = _GROUPS_KEPT * self._groups_K[task] + 1
            kept = _GROUPS_KEPT * self._informative_K[task]
            self._informative_K[task] = kept + informative
            supplied_K[task] += informative
        self._informative_groups = float(supplied_K.sum())
        due_K = self._weights_of_batch_K * self._informative_groups - supplied_K
        self._due_K = _DUE_KEPT * self._due_K + due_K

    def _step(self, delta_K: Floats) -> None:
        """w ← w − η·(∂z/∂w)ᵀδ, by Adam."""
        softmax_K = self._softmax()
        gradient_K = softmax_K * (delta_K - softmax_K @ delta_K)
        self._steps += 1
        self._mean_K += (1 - _MEAN_KEPT) * (gradient_K - self._mean_K)
        self._square_K += (1 - _SQUARE_KEPT) * (gradient_K**2 - self._square_K)
        mean_K = self._mean_K / (1 - _MEAN_KEPT**self._steps)
        square_K = self._square_K / (1 - _SQUARE_KEPT**self._steps)
        self._logits_K -= _STEP * mean_K / (np.sqrt(square_K) + _EPSILON)

    def state(self) -> dict[str, Any]:
        arrays = {name: vars(self)[name].tolist() for name in _STATE}
        # JSON has no NaN.
        arrays["_accuracy_K"] = [None if np.isnan(a) else a for a in arrays["_accuracy_K"]]
        return {**arrays, **{name: vars(self)[name] for name in _NUMBERS}}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name in _STATE:
            vars(self)[name] = np.array(state[name], dtype=vars(self)[name].dtype)
        vars(self).update({name: state[name] for name in _NUMBERS})
