"""Scores as TRL reward functions: the paper's R_total = (1 − α)·R_acc + α·R_format.

TRL calls a reward function with the completions and every column of the dataset by keyword, each a
list with one entry a completion, and takes ``None`` for "this component does not apply to this row"
(trl/trainer/grpo_trainer.py). What is right and what is well formed is decided by
:func:`mtrl_judge.judge_tasks.scoring.score`, as in evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias, cast

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.scoring import Score, score

RewardFunction: TypeAlias = Callable[..., list[float | None]]


class _Row(NamedTuple):
    kind: str
    label: str | None
    verdicts: tuple[str, ...]


def accuracy(
    completions: Sequence[Any],
    kind: Sequence[str],
    label: Sequence[str | None],
    verdicts: Sequence[Sequence[str]],
    **_: Any,
) -> list[float | None]:
    """1.0 where the verdict is the label, else 0.0; None for a row without a label.

    >>> accuracy(["<think>x</think><answer>Yes</answer>", "?"], ["pointwise"] * 2, ["Yes", "No"],
    ...          [["Yes", "No"]] * 2)
    [1.0, 0.0]
    """
    return [scored.correct for scored in scores(completions, kind, label, verdicts)]


def format(  # noqa: A001  the paper's name, which TRL shows in its logs
    completions: Sequence[Any],
    kind: Sequence[str],
    label: Sequence[str | None],
    verdicts: Sequence[Sequence[str]],
    **_: Any,
) -> list[float]:
    """1.0 where a completion reasons and then answers in exactly the required form, else 0.0.

    >>> format(["<think>x</think><answer>Yes</answer>", "Yes"], ["pointwise"] * 2, ["No"] * 2,
    ...        [["Yes", "No"]] * 2)
    [1.0, 0.0]
    """
    return [scored.format for scored in scores(completions, kind, label, verdicts)]


def consistency(
    completions: Sequence[Any],
    kind: Sequence[str],
    label: Sequence[str | None],
    verdicts: Sequence[Sequence[str]],
    pair_id: Sequence[str | None],
    swapped: Sequence[bool],
    **_: Any,
) -> list[float | None]:
    """1.0 where a pair is judged right in both orders, else 0.0; None for what is no pair.

    The k-th completion of one order stands with the k-th of the other, and both get the reward (as
    in J1, arXiv 2505.10320, section 3). Both orders must be among the completions.

    Raises:
        ValueError: an order is missing, or the orders have unequal numbers of completions.

    >>> consistency(["1", "2", "1", "1"], ["pairwise"] * 4, ["1", "2", "1", "2"],
    ...             [["1", "2"]] * 4, ["a", "a", "b", "b"], [False, True, False, True])
    [1.0, 1.0, 0.0, 0.0]
    """
    right = [scored.correct == 1.0 for scored in scores(completions, kind, label, verdicts)]
    places: dict[str, dict[bool, list[int]]] = {}
    for place, (pair, order) in enumerate(zip(pair_id, swapped, strict=True)):
        if pair is not None:
            places.setdefault(pair, {False: [], True: []})[order].append(place)
    rewards: list[float | None] = [None] * len(completions)
    for pair, orders in places.items():
        if len(orders[False]) != len(orders[True]):
            raise ValueError(
                f"pair {pair}: {len(orders[False])} completions of one order and "
                f"{len(orders[True])} of the other; both orders belong into one batch"
            )
        for straight, exchanged in zip(orders[False], orders[True], strict=True):
            both = float(right[straight] and right[exchanged])
            rewards[straight] = rewards[exchanged] = both
    return rewards


def length(soft: int, hard: int) -> RewardFunction:
    """A penalty on padding: 0 up to ``soft`` tokens, falling evenly to −1 at ``hard`` and beyond.

    DAPO's soft overlong punishment (arXiv 2503.14476, section 3.4).

    Raises:
        ValueError: unless 0 < soft < hard.

    >>> length(100, 200)(completion_ids=[[0] * 50, [0] * 150, [0] * 900])
    [0.0, -0.5, -1.0]
    """
    if not 0 < soft < hard:
        raise ValueError(f"length: soft is {soft} and hard is {hard}; 0 < soft < hard is right")

    def length_penalty(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float | None]:
        over = (min(max(len(ids) - soft, 0) / (hard - soft), 1.0) for ids in completion_ids)
        return [0.0 - share for share in over]

    return length_penalty


def user_reward(path: str) -> RewardFunction:
    """A user's own reward function by its dotted path, ``package.module:function``.

    Raises:
        JudgeError: there is no such function.
    """
    module_name, _, name = path.partition(":")
    if not name:
        raise JudgeError(f"reward {path!r}: write package.module:function")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise JudgeError(f"reward {path!r}: {error}; is it on the Python path?") from None
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, value in vars(module).items() if callable(value)]
        raise JudgeError(f"reward {path!r}: no function {name!r}; {did_you_mean(name, known)}")
    return cast(RewardFunction, function)


def weights(alpha: float) -> list[float]:
    """TRL's ``reward_weights`` for ``[accuracy, format]``.

    Raises:
        ValueError: alpha is no share.

    >>> weights(0.25)
    [0.75, 0.25]
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it is the share of the format reward, from 0 to 1")
    return [1 - alpha, alpha]


def scores(
    completions: Sequence[Any],
    kind: Sequence[str],
    label: Sequence[str | None],
    verdicts: Sequence[Sequence[str]],
) -> list[Score]:
    """The score of each completion against its row."""
    rows = zip(kind, label, map(tuple, verdicts), strict=True)
    return [
        _score(text_of(completion), *row) for completion, row in zip(completions, rows, strict=True)
    ]


@lru_cache(maxsize=4096)  # every reward of a step reads the same texts
def _score(text: str, kind: str, label: str | None, verdicts: tuple[str, ...]) -> Score:
    return score(_Row(kind, label, verdicts), text)


def text_of(completion: Any) -> str:
    """The text of a completion: a string, or TRL's messages of an assistant's turn.

    >>> text_of([{"role": "assistant", "content": "Yes"}])
    'Yes'
    """
    if isinstance(completion, str):
        return completion
    return "".join(message["content"] for message in completion)
