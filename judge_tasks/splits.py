"""Cut splits out of another: exact sizes, independent of row order, whole groups, even strata."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

from mtrl_judge.common.hashing import stable_hash


def cut_folds(
    item_ids_N: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
    strata_N: Sequence[Hashable] | None = None,
    groups_N: Sequence[Hashable] | None = None,
) -> list[str | None]:
    """Assign each item to a fold, or to None, which is the source split.

    Within a stratum, groups (single items without ``groups_N``) are ranked by a hash of seed and
    name and assigned in that order, so that a fold gets ``round(fraction · items)`` items, or as
    close to it as whole groups allow. A group belongs to the stratum of most of its items.

    Returns:
        N names of ``fractions`` or None, in the order of the items.

    >>> folds = cut_folds([str(i) for i in range(10)], {"test": 0.2}, seed=0)
    >>> folds.count("test")
    2
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, item_id in enumerate(item_ids_N):
        members[item_id if groups_N is None else groups_N[index]].append(index)
    by_stratum: dict[Hashable, list[Hashable]] = defaultdict(list)
    for group, indices in members.items():
        stratum = None
        if strata_N is not None:
            counts = Counter(strata_N[i] for i in indices)
            stratum = min(counts, key=lambda value: (-counts[value], str(value)))
        by_stratum[stratum].append(group)
    quotas = _quotas(
        {s: sum(len(members[g]) for g in groups) for s, groups in by_stratum.items()}, fractions
    )
    folds: list[str | None] = [None] * len(item_ids_N)
    for stratum, groups in by_stratum.items():
        ranked = sorted(groups, key=lambda group: (stable_hash(seed, group), str(group)))
        for group, fold in zip(
            ranked, _fill([len(members[g]) for g in ranked], quotas[stratum]), strict=True
        ):
            for index in members[group]:
                folds[index] = fold
    return folds


def _quotas(
    sizes: Mapping[Hashable, int], fractions: Mapping[str, float]
) -> dict[Hashable, dict[str, int]]:
    """Items that each stratum gives to each fold, by largest remainders: the totals are exact."""
    quotas: dict[Hashable, dict[str, int]] = {stratum: {} for stratum in sizes}
    total = sum(sizes.values())
    for fold, fraction in fractions.items():
        for stratum, size in sizes.items():
            quotas[stratum][fold] = int(size * fraction)
        missing = round(total * fraction) - sum(quotas[s][fold] for s in sizes)
        by_remainder = sorted(sizes, key=lambda s: (-(sizes[s] * fraction % 1), str(s)))
        for stratum in by_remainder[:missing]:
            quotas[stratum][fold] += 1
    return quotas


def _fill(sizes_G: Sequence[int], quotas: Mapping[str, int]) -> list[str | None]:
    """Assign ranked groups to the folds, one fold after another, until each has its quota."""
    left = dict(quotas)
    assigned: list[str | None] = []
    for size in sizes_G:
        fold = next((name for name, n in left.items() if n > 0 and 2 * n >= size), None)
        assigned.append(fold)
        if fold is not None:
            left[fold] -= size
    return assigned
