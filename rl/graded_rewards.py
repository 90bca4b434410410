"""Other rewards for answers that can be partly right, in place of how right they are.

``exact``     1 for an answer that is as right as one of the task's verdicts can be, else 0
``fidelity``  how well ratings order the items of a batch, as in VisualQuality-R1 (arXiv 2505.14460)

TRL calls them as it calls :mod:`.rewards`. Tasks whose answers are either right or wrong are
rewarded as ever.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import erf, sqrt
from typing import Any, NamedTuple

import numpy as np

from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.kinds.score import rating_values

from .rewards import RewardFunction, accuracy, scores


def exact(
    completions: Sequence[Any],
    kind: Sequence[str],
    label: Sequence[str | None],
    verdicts: Sequence[Sequence[str]],
    **_: Any,
) -> list[float | None]:
    """1.0 for an answer that is as right as can be, else 0.0; None for a row without a label.

    A label may lie between the levels of a scale: then it is as right as the closest level.

    >>> exact(["3", "2"], ["score"] * 2, ["3.2"] * 2, [["1", "2", "3"]] * 2)
    [1.0, 0.0]
    """
    rewards: list[float | None] = []
    for scored, of_row, name, names in zip(
        scores(completions, kind, label, verdicts), label, kind, verdicts, strict=True
    ):
        if scored.correct is None or of_row is None:
            rewards.append(None)
        else:
            rewards.append(float(scored.correct >= KINDS[name].attainable(of_row, names)))
    return rewards


def fidelity(
    completions: Sequence[Any],
    kind: Sequence[str],
    label: Sequence[str | None],
    verdicts: Sequence[Sequence[str]],
    task: Sequence[str],
    item_id: Sequence[str],
    **_: Any,
) -> list[float | None]:
    """How well each rating orders its item among the other items of its task in the batch.

    With the rating s of item i, and the mean μ and standard deviation σ of each item's ratings,
    p = Φ((s − μ_j) / √(σ_i² + σ_j²)) is how probably i is rated above j, and y is 1 if its label is
    the higher one, ½ if both are equal, else 0. The reward is the mean over the other items of
    √(p·y) + √((1 − p)(1 − y)). Without any variance, p is 1, ½ or 0. Labels are compared within a
    task only, so that tasks with different scales can be trained together. Of several aspects it is
    the mean.

    An answer without a rating gets 0.0. None for a row without a label, and for a rating if no
    other item of the task in the batch has one.

    >>> rewards = fidelity(["4", "2", "1", "1"], ["score"] * 4, ["5", "5", "2", "2"],
    ...                    [["1", "2", "3", "4", "5"]] * 4, ["t"] * 4, ["a", "a", "b", "b"])
    >>> [round(reward, 3) for reward in rewards]
    [0.999, 0.917, 0.989, 0.989]
    """
    scored = scores(completions, kind, label, verdicts)
    rewards = [each.correct for each in scored]
    items: defaultdict[tuple[str, int], dict[str, _Item]] = defaultdict(dict)  # by task and aspect
    for row, (each, name, of_row) in enumerate(zip(scored, kind, label, strict=True)):
        if KINDS[name].scaled and of_row is not None and each.verdict.value is not None:
            labels = rating_values(of_row, verdicts[row])
            ratings = rating_values(each.verdict.value, verdicts[row])
            for aspect, (of_label, rating) in enumerate(zip(labels, ratings, strict=True)):
                of_task = items[task[row], aspect]
                of_task.setdefault(item_id[row], _Item(of_label, {})).ratings[row] = rating
    fidelities: defaultdict[int, list[float]] = defaultdict(list)
    for of_task in items.values():
        for item in of_task.values():
            for row, rating in item.ratings.items():
                others = (other for other in of_task.values() if other is not item)
                fidelities[row] += [_fidelity(rating, item, other) for other in others]
    for row, values in fidelities.items():
        rewards[row] = float(np.mean(values)) if values else None
    return rewards


class _Item(NamedTuple):
    label: float
    ratings: dict[int, float]
    """By row."""

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.ratings.values())))

    @property
    def variance(self) -> float:
        return float(np.var(list(self.ratings.values())))


def _fidelity(rating: float, item: _Item, other: _Item) -> float:
    difference, variance = rating - other.mean, item.variance + other.variance
    if variance:
        p = (1 + erf(difference / sqrt(2 * variance))) / 2
    else:
        p = (1 + np.sign(difference)) / 2
    y = (1 + np.sign(item.label - other.label)) / 2
    return sqrt(p * y) + sqrt((1 - p) * (1 - y))


OF_VERDICTS: Mapping[str, RewardFunction] = {
    "proportional": accuracy,
    "exact": exact,
    "fidelity": fidelity,
}
"""The rewards for the verdict, by the name in ``accuracy_reward``."""
