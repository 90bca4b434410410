"""Whether comparisons of pairs are consistent: A over B and B over C, but C over A is a cycle.

The share of cyclic triples is one minus Kendall and Babington Smith's coefficient of consistence up
to its normalization (1940, doi:10.1093/biomet/31.3-4.324); a judge that answers at random has a
quarter of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import NamedTuple


class Compared(NamedTuple):
    """One comparison of two candidates."""

    cluster: Hashable
    """What the candidates have in common, such as a prompt; only within it are triples formed."""
    first: Hashable
    second: Hashable
    side: int
    """1 where the first is preferred, -1 where the second is, 0 where neither is."""


class Triples(NamedTuple):
    """Of three candidates each, of which each is preferred to another or not."""

    cyclic: int
    total: int

    @property
    def share(self) -> float | None:
        return self.cyclic / self.total if self.total else None


def intransitive_triples(comparisons: Iterable[Compared]) -> Triples:
    """The triples of candidates whose three pairs are decided, and those that are cycles.

    Several comparisons of a pair, such as its two orders, decide by their majority; where they
    balance, the pair is not decided.

    >>> wins = [("a", "b"), ("b", "c"), ("c", "a"), ("d", "a"), ("d", "b")]
    >>> intransitive_triples(Compared("p", better, worse, 1) for better, worse in wins)
    Triples(cyclic=1, total=2)
    """
    sums: defaultdict[tuple[int, int], int] = defaultdict(int)
    numbers: dict[Hashable, int] = {}
    for cluster, first, second, side in comparisons:
        a, b = (numbers.setdefault((cluster, name), len(numbers)) for name in (first, second))
        if a != b:
            sums[min(a, b), max(a, b)] += side if a < b else -side
    beats: defaultdict[int, dict[int, bool]] = defaultdict(dict)  # of a pair, by its lower number
    for (a, b), total in sums.items():
        if total:
            beats[a][b] = total > 0
    cyclic = found = 0
    for of_a in list(beats.values()):
        for b, a_over_b in of_a.items():
            of_b = beats.get(b, {})
            for c in of_b.keys() & of_a.keys():
                found += 1
                cyclic += a_over_b == of_b[c] != of_a[c]
    return Triples(cyclic, found)
