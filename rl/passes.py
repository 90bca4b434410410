"""The rows of a micro-batch cut into forward and backward passes of a number of tokens.

A row's tokens are counted as they are computed: where a group shares its prompt, the prompt counts
once. So a pass holds several times as many rows as one of TRL's that takes as much memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mtrl_judge.models.packing import unique_prefixes

from .generation_batch import prompts_and_completions

# Losses that TRL divides by the completions' tokens in the whole generation batch, or in the
# micro-batch; the others are means over its rows (``GRPOTrainer._compute_loss``).
_OVER_GENERATION_BATCH = ("cispo", "dapo", "vespo")
_OVER_TOKENS = ("bnpo",)


class Group(NamedTuple):
    """Rows that are computed together."""

    rows: list[int]
    tokens: int


def packed_groups(batch: Mapping[str, Any]) -> list[Group]:
    """The rows of each distinct prompt, and their tokens where it is computed once.

    Args:
        batch: as for :func:`.generation_batch.prompts_and_completions`.
    """
    prefixes, completions = prompts_and_completions(batch)
    distinct, inverse = unique_prefixes(prefixes)
    rows: list[list[int]] = [[] for _ in distinct]
    for row, number in enumerate(inverse):
        rows[number].append(row)
    return [
        Group(of, len(prefixes[index].ids_P) - 1 + sum(len(completions[row]) for row in of))
        for index, of in zip(distinct, rows, strict=True)
    ]


def padded_rows(batch: Mapping[str, Any], width: int) -> list[Group]:
    """Each row by itself, as TRL computes them.

    Args:
        width: the tokens of a row with padding, the same in all processes, so that their passes
            have equally many rows.
    """
    return [Group([row], width) for row in range(len(batch["input_ids"]))]


def fill_passes(groups: Sequence[Group], budget: int) -> list[list[Group]]:
    """The groups of each pass: whole ones, in up to so many tokens.

    A larger group has a pass of its own. First fit from the largest group down makes few passes:
    at most 11/9 of the fewest, plus one (Johnson 1973).

    >>> groups = [Group([0, 1], 40), Group([2], 50), Group([3], 130), Group([4], 60)]
    >>> [[group.rows for group in filled] for filled in fill_passes(groups, 100)]
    [[[3]], [[4], [0, 1]], [[2]]]
    """
    passes: list[list[Group]] = []
    for group in sorted(groups, key=lambda group: -group.tokens):
        for filled in passes:
            if sum(other.tokens for other in filled) + group.tokens <= budget:
                filled.append(group)
                break
        else:
            passes.append([group])
    return passes


def rows_of_passes(passes: Sequence[Sequence[Group]], count: int) -> list[list[int]]:
    """The rows of each pass, cut further into so many passes if they are fewer.

    All processes of a sharded model must run as many. A group is cut only where there is no other
    way.

    >>> passes = [[Group([0, 1], 9), Group([2, 3], 9)], [Group([4, 5, 6], 9)]]
    >>> rows_of_passes(passes, 2), rows_of_passes(passes, 4)
    ([[0, 1, 2, 3], [4, 5, 6]], [[0, 1], [2, 3], [4], [5, 6]])
    """
    cut = [[group.rows for group in filled] for filled in passes]
    while len(cut) < count:
        index = max(range(len(cut)), key=lambda n: (len(cut[n]), len(cut[n][0])))
        parts = cut[index]
        if len(parts) == 1:
            (rows,) = parts
            halves = [[rows[: len(rows) // 2]], [rows[len(rows) // 2 :]]]
        else:
            halves = [parts[: len(parts) // 2], parts[len(parts) // 2 :]]
        cut[index : index + 1] = halves
    return [sorted(row for rows in parts for row in rows) for parts in cut]


def share_of_loss(loss_type: str, mask_B_C: Any, rows: Sequence[int]) -> float:
    """What TRL's loss of some rows counts in its loss of all of them: the shares' sum is the loss.

    Args:
        mask_B_C: which tokens of the completions are trained on.
    """
    if loss_type in _OVER_GENERATION_BATCH:
        return 1.0
    if loss_type in _OVER_TOKENS:
        tokens_B = mask_B_C.sum(dim=1)
        return float(tokens_B[rows].sum() / tokens_B.sum().clamp(min=1))
    return len(rows) / len(mask_B_C)
