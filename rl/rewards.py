"""Scores as TRL reward functions: the paper's R_total = (1 − α)·R_acc + α·R_format.

TRL calls a reward function with the completions and every column of the dataset by keyword, each a
list with one entry per completion, and takes ``None`` for "this component does not apply to this
row" (trl/trainer/grpo_trainer.py). Correctness and form are decided by
:func:`mtrl_judge.judge_tasks.scoring.score`, as in evaluation.
"""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.judge_tasks.scoring import Score, score
from mtrl_judge.judge_tasks.verdicts import read_confidence

if TYPE_CHECKING:
    from .arguments import JudgeArguments

RewardFunction: TypeAlias = Callable[..., list[float | None]]

COLUMNS = ("task", "kind", "item_id", "label", "verdicts", "pair_id", "swapped", "facts")
"""What the training set says about every row, beside its prompt and its images."""
# By TRL: GRPOTrainer._calculate_rewards. It leaves out ``environments`` where there are none.
_BY_TRL = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
ALWAYS_GIVEN = (*COLUMNS, "images", *_BY_TRL)


def reward_functions(judge: JudgeArguments) -> tuple[list[RewardFunction], list[float]]:
    """The reward functions of a run and their weights.

    Raises:
        JudgeError: a reward function of the user's cannot be loaded, or the text judge that checks
            facts does not answer.
    """
    from .graded_rewards import OF_VERDICTS
    from .perception import perception, repetition

    functions: list[RewardFunction] = [OF_VERDICTS[judge.accuracy_reward], cast(Any, format)]
    weights = [1 - judge.alpha, judge.alpha]
    if judge.consistency_weight:
        functions.append(consistency)
        weights.append(judge.consistency_weight)
    if judge.confidence_weight:
        functions.append(confidence)
        weights.append((1 - judge.alpha) * judge.confidence_weight)
    if judge.perception_weight:
        functions.append(perception(judge))
        weights.append(judge.perception_weight)
    if judge.repetition_weight:
        functions.append(repetition(judge.repetition_ngram))
        weights.append(judge.repetition_weight)
    if judge.length_weight and judge.length_soft and judge.length_hard:
        functions.append(length(judge.length_soft, judge.length_hard))
        weights.append(judge.length_weight)
    for path, weight in (judge.user_rewards or {}).items():
        functions.append(user_reward(path))
        weights.append(weight)
    return functions, weights


def accuracy(
    completions: Sequence[Any],
    kind: Sequence[str],
    label: Sequence[str | None],
    verdicts: Sequence[Sequence[str]],
    **_: Any,
) -> list[float | None]:
    """How right the verdict is, as the kind of task decides; None for a row without a label.

    1.0 where it is the label, 0.0 where it is wrong or missing, between where it is partly right.

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


def confidence(
    completions: Sequence[Any],
    kind: Sequence[str],
    label: Sequence[str | None],
    verdicts: Sequence[Sequence[str]],
    **_: Any,
) -> list[float | None]:
    """−(q − c)² with the stated confidence q and c = 1 for a correct verdict, else 0.

    With the weight of accuracy, the two are RLCR's reward c − (q − c)² (arXiv 2507.16806), whose
    expectation is largest for the verdict that is most probably correct and for q = P(c). An answer
    without a confidence costs as much as the worst one, 1. None for a row without a label.

    >>> confidence(["<think>x</think><answer>Yes</answer><confidence>0.9</confidence>", "Yes"],
    ...            ["pointwise"] * 2, ["No"] * 2, [["Yes", "No"]] * 2)
    [-0.81, -1.0]
    """
    scored = scores(completions, kind, label, verdicts)
    stated = [read_confidence(completion_text(text)) for text in completions]
    return [
        None if s.correct is None else -1.0 if q is None else -((q - s.correct) ** 2)
        for s, q in zip(scored, stated, strict=True)
    ]


def consistency(
    completions: Sequence[Any],
    kind: Sequence[str],
    label: Sequence[str | None],
    verdicts: Sequence[Sequence[str]],
    pair_id: Sequence[str | None],
    swapped: Sequence[bool],
    **_: Any,
) -> list[float | None]:
    """1.0 where both orders of a pair are judged correctly, else 0.0; None for what is no pair.

    The k-th completion of one order goes with the k-th of the other, and both get the reward (as
    in J1, arXiv 2505.10320, section 3). Both orders must be among the completions.

    Raises:
        ValueError: the orders of a pair have unequal numbers of completions.

    >>> consistency(["1", "2", "1", "1"], ["pairwise"] * 4, ["1", "2", "1", "2"],
    ...             [["1", "2"]] * 4, ["a", "a", "b", "b"], [False, True, False, True])
    [1.0, 1.0, 0.0, 0.0]
    """
    correct = [scored.correct == 1.0 for scored in scores(completions, kind, label, verdicts)]
    indices: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for index, (pair, order) in enumerate(zip(pair_id, swapped, strict=True)):
        if pair is not None:
            indices[pair][order].append(index)
    rewards: list[float | None] = [None] * len(completions)
    for pair, orders in indices.items():
        if len(orders[0]) != len(orders[1]):
            raise ValueError(
                f"pair {pair}: {len(orders[0])} completions of one order and {len(orders[1])} of "
                "the other; expected equal numbers in one batch"
            )
        for original, exchanged in zip(*orders, strict=True):
            reward = float(correct[original] and correct[exchanged])
            rewards[original] = rewards[exchanged] = reward
    return rewards


def length(soft: int, hard: int) -> RewardFunction:
    """A penalty on padding: 0 up to ``soft`` tokens, falling linearly to −1 at ``hard`` and beyond.

    DAPO's soft overlong punishment (arXiv 2503.14476, section 3.4).

    >>> length(100, 200)(completion_ids=[[0] * 50, [0] * 150, [0] * 900])
    [0.0, -0.5, -1.0]
    """

    def length_penalty(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float | None]:
        excess = (min(max(len(ids) - soft, 0) / (hard - soft), 1.0) for ids in completion_ids)
        return [0.0 - share for share in excess]

    return length_penalty


def user_reward(path: str) -> RewardFunction:
    """A user's own reward function by its dotted path, ``package.module:function``.

    TRL reads NaN as ``None``, "does not apply". Here it becomes infinity, which our
    trainer refuses.

    Raises:
        JudgeError: there is no such function.
    """
    module_name, _, name = path.partition(":")
    if not name:
        raise JudgeError(f"user_rewards: {path!r}; expected package.module:function")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise JudgeError(f"user_rewards: {path!r}: {error}; is it on the Python path?") from None
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, value in vars(module).items() if callable(value)]
        raise JudgeError(
            f"user_rewards: {path!r}: no function {name!r}; {did_you_mean(name, known)}"
        )
    return _without_nan(function)


class Named(NamedTuple):
    """The columns that a user's reward function names by its parameters."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    """Those that have a default."""


def named_columns(path: str) -> Named:
    """The columns beside those that every reward function gets.

    Raises:
        JudgeError: there is no such function.
    """
    function = user_reward(path)
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # of a function in C
        return Named((), ())
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [p for p in parameters if p.kind in by_name and p.name not in ALWAYS_GIVEN]
    return Named(
        tuple(p.name for p in named if p.default is inspect.Parameter.empty),
        tuple(p.name for p in named if p.default is not inspect.Parameter.empty),
    )


def _without_nan(function: Callable[..., Any]) -> RewardFunction:
    from trl.trainer.utils import is_async_callable

    def replaced(rewards: Sequence[float | None]) -> list[float | None]:
        return [math.inf if r is not None and math.isnan(r) else r for r in rewards]

    @wraps(function)
    def call(**columns: Any) -> list[float | None]:
        return replaced(function(**columns))

    @wraps(function)
    async def await_call(**columns: Any) -> list[float | None]:
        return replaced(await function(**columns))

    return cast(RewardFunction, await_call) if is_async_callable(function) else call


class _Row(NamedTuple):
    kind: str
    label: str | None
    verdicts: tuple[str, ...]


def scores(
    completions: Sequence[Any],
    kind: Sequence[str],
    label: Sequence[str | None],
    verdicts: Sequence[Sequence[str]],
) -> list[Score]:
    """The score of each completion against its row."""
    rows = map(_Row, kind, label, map(tuple, verdicts))
    return [_score(row, completion_text(text)) for row, text in zip(rows, completions, strict=True)]


@lru_cache(maxsize=4096)  # every reward function of a step scores the same texts
def _score(row: _Row, text: str) -> Score:
    return score(row, text)


def completion_text(completion: Any) -> str:
    """The text of a completion: a string, or TRL's messages of an assistant's turn."""
    if isinstance(completion, str):
        return completion
    return "".join(message["content"] for message in completion)
